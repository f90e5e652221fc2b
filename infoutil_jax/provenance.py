"""What a result may depend on besides the config: versions and devices; and those that worked on a run so far."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from infoutil_jax import __version__, parallel, store
from infoutil_jax.progress import warn

HISTORY = "history.json"  # of a workdir: [{"part", "environment"}, ...], each once, in the order they came
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy", "pillow")
OF_BYTES = ("infoutil_jax", "devices", "jax", "jaxlib")  # another of these, and last digits may be others


def environment() -> dict:
    """What a result may depend on besides the config."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    own = {"infoutil_jax": __version__, "git": _git_commit()}
    return {**own, "python": platform.python_version(), "devices": parallel.describe(), **versions}


def _git_commit() -> str:
    """The commit of the checkout this package lies in, with '+' where files differ from it; or 'unknown'."""
    git = functools.partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    try:
        head, dirty = git(["git", "rev-parse", "HEAD"]), git(["git", "status", "--porcelain"])
    except FileNotFoundError:
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else "unknown"


def history(workdir: Path) -> list[dict]:
    """Who worked in a workdir, and where; [] where nobody did."""
    return store.undamaged(store.read_json, Path(workdir) / HISTORY) or []


def enter(workdir: Path, part: str) -> None:
    """Puts `part` and this environment on the workdir's list; warns when the run was begun in one that may give other
    bytes. One process at a time (`processes.holding`)."""
    past, now = history(workdir), environment()
    begun = past[0]["environment"] if past else now
    changed = [f"{name}: {begun[name]} -> {now[name]}" for name in OF_BYTES if begun[name] != now[name]]
    if changed:
        same = "what is finished stays; the same draws, scores to 6 digits, but last digits and so bytes may differ"
        warn(f"{workdir}: this run was begun in another environment ({'; '.join(changed)}): {same}")
    entry = {"part": part, "environment": now}
    if entry not in past:
        store.write_json(Path(workdir) / HISTORY, [*past, entry])


def of_set(workdir: Path) -> dict:
    """For a manifest: this environment and, where there were others, those that also worked on the run."""
    now = environment()
    others = []
    for entry in history(workdir):
        if entry["environment"] not in [now, *others]:
            others.append(entry["environment"])
    return {"environment": now} | ({"also_made_in": others} if others else {})
