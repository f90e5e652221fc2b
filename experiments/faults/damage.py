"""Bits flipped and artifacts exchanged in a finished run, one at a time, and whether `verify` ends with 5 and names the
file. The run is left as it was."""

import collections
import contextlib
import hashlib
import io
import itertools
import shutil
from pathlib import Path

from infoutil_jax import records, store, verify

TEACHER = "artifacts/teacher/" + "0" * 16
UNREAD = ("results.json", "report.html")


def files(workdir: Path, folders) -> dict[str, Path]:
    """Every file below `folders` that is no temporary one or lock, by its path."""
    paths = [path for folder in folders for path in [workdir / folder, *(workdir / folder).rglob("*")]]
    return {str(p.relative_to(workdir)): p for p in paths if p.is_file() and not p.name.startswith(".")}


def hashes(workdir: Path, folders) -> dict[str, str]:
    found = files(workdir, folders).items()
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found}


def kind(name: str) -> str:
    """The kind of artifact that a file is."""
    path = Path(name)
    if ".tfrecord" in path.name:
        return "shard"
    if path.name in records.METADATA:
        return "TFDS metadata"
    if "snapshots" in path.parts or "saves" in path.parts:
        return "checkpoint's hashes" if path.suffix == ".sha256" else "checkpoint"
    if path.name.startswith("correct"):
        return "forgetting history"
    if path.name.startswith("epoch"):
        return "teacher's accuracy"
    folder = path.parts[1] if path.parts[0] == "artifacts" else path.parts[0]
    return {"attribute": "attribution", "score": "scores", "evaluate": "curve", "shards": "shard's line"}.get(
        folder, path.name
    )


def by_kind(workdir: Path) -> dict[str, list[Path]]:
    """The files that a later stage or run reads."""
    found = collections.defaultdict(list)
    for name, path in sorted(files(workdir, [""]).items()):
        if path.stat().st_size and path.name not in UNREAD:
            found[kind(name)].append(path)
    return dict(sorted(found.items()))


def flip(workdir: Path, wanted: int, rng) -> dict:
    """Flipped bits, the same number for each kind of file."""
    kinds = by_kind(workdir)

    @contextlib.contextmanager
    def flipped(path: Path):
        content = path.read_bytes()
        at = rng.randrange(8 * len(content))
        path.write_bytes(content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :])
        yield [path]
        path.write_bytes(content)

    return _campaign(workdir, kinds, -(-wanted // len(kinds)), rng, flipped)


def swap(workdir: Path, wanted: int, rng) -> dict:
    """Exchanges of two files of a kind, whose bytes differ, and of two steps of a checkpoint with their hashes."""
    kinds = by_kind(workdir)
    del kinds["checkpoint"]  # it goes with its hashes; alone each file has a hash there
    differing = lambda pair: pair[0].read_bytes() != pair[1].read_bytes()
    pairs = {title: list(filter(differing, itertools.combinations(paths, 2))) for title, paths in kinds.items()}
    pairs = {title.replace("'s hashes", ""): members for title, members in pairs.items() if members}
    pairs |= _histories(workdir)

    @contextlib.contextmanager
    def swapped(pair: tuple[Path, Path]):
        _exchange(*pair)
        yield pair
        _exchange(*pair)

    table = _campaign(workdir, pairs, -(-wanted // len(pairs)), rng, swapped)
    shutil.rmtree(workdir / TEACHER, ignore_errors=True)
    return table


def _histories(workdir: Path) -> dict[str, list]:
    """Every epoch's forgetting history and that of a second teacher, made here; the tiny run has but one teacher."""
    pairs = []
    for path in sorted(workdir.glob("artifacts/teacher/*/correct*.npz")):
        other = workdir / TEACHER / path.name
        store.save_arrays(other, {name: values[::-1] for name, values in store.load_arrays(path).items()})
        pairs.append((path, other))
    return {"forgetting history, of another teacher": pairs} if pairs else {}


def _exchange(one: Path, other: Path) -> None:
    between = one.with_name(".tmp-swap")
    for a, b in [(one, other)] + [(one.with_suffix(""), other.with_suffix(""))] * (one.suffix == ".sha256"):
        a.rename(between)
        b.rename(a)
        between.rename(b)


def _campaign(workdir: Path, kinds: dict[str, list], each: int, rng, damaged) -> dict:
    """`each` times for each kind: what verify says while damaged(a member of the kind), which tells the files, holds."""
    table = {}
    for title, members in kinds.items():
        detected = named = 0
        for _ in range(each):
            with damaged(rng.choice(members)) as paths, contextlib.redirect_stdout(io.StringIO()) as said:
                code = verify.run(workdir)
            faults = [line for line in said.getvalue().splitlines() if "FAULT" in line]
            detected += code == 5
            named += any(f"{path}:" in line for path in paths for line in faults)
        table[title] = {"tried": each, "detected": detected, "right_file_named": named}
        print(title, table[title], flush=True)
    return table
