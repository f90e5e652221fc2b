"""Does memory grow with the number of classes? The whole program on 10, 100 and 1,000 of them.

python experiments/scaling/run.py            # some 5 minutes on 2 quiet cores; writes results.json here
python experiments/scaling/run.py --smoke    # 2 classes, in seconds once its programs are compiled; shows that it runs
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from experiments.benchmarks import machine  # noqa: E402  (found through the line above)
from experiments.scaling import source  # noqa: E402
from infoutil_jax import store  # noqa: E402

RUNS = ((10, 0.0), (100, 0.0), (1000, 0.0), (1000, 4.0))  # (classes, data.cache_gib)
SMOKE = ((2, 0.0),)
QUICK = ("--config.methods=('random_crops',)", "--config.score.norms=vmap")  # of --smoke: little to compile
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow")
EVERY_RUN_COMPILES = {"JAX_COMPILATION_CACHE_DIR": ""}  # or one that finds its programs on disk would need less
ALLOWED = 1.1  # times the memory of the smallest run


def measure(n_classes: int, cache_gib: float, *changes: str, compiles: bool = True) -> dict:
    """One run in a process of its own, on a source and in a workdir that are deleted afterwards. `changes`: flags."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source.make(folder / "images", n_classes)
        flags = [f"--config={HERE / 'tiny.py'}", f"--config.data.path={folder / 'images'}"]
        flags += [f"--config.data.cache_gib={cache_gib}", f"--workdir={folder / 'run'}", *changes]
        command = [sys.executable, str(HERE / "watch.py"), str(folder / "watched.json"), *flags]
        usage = spent(command, EVERY_RUN_COMPILES if compiles else {})
        return {
            "classes": n_classes,
            "cache_gib": cache_gib,
            **usage,
            **json.loads((folder / "watched.json").read_text()),
            "timing": store.read_json(folder / "run" / "timing.json"),
            "bytes_written": {name: bytes_of(folder / "run" / name) for name in ("distilled", "controls", "artifacts")},
        }


def spent(command: list[str], environ=EVERY_RUN_COMPILES) -> dict:
    """Peak memory, processor and wall seconds of a command, as the kernel counts them; SystemExit where it fails."""
    began = time.perf_counter()
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environ}, **pipes)
    with child.stdout as pipe:
        printed = pipe.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{printed[-2000:]}\nerror: {' '.join(command)} ended with {child.returncode}")
    return {
        "peak_bytes": 1024 * usage.ru_maxrss,
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_seconds": round(time.perf_counter() - began, 1),
    }


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def hardware() -> dict:
    versions = {name: metadata.version(name) for name in PACKAGES}
    cores, memory = len(os.sched_getaffinity(0)), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    here = {"processor": machine.processor(), "cores": cores, "memory_gib": round(memory / 2**30)}
    return {**here, "python": platform.python_version(), **versions}


def table(runs: list[dict]) -> str:
    """Markdown: MiB held at most in every stage of every run."""
    stages = list(dict.fromkeys(stage["stage"] for run in runs for stage in run["stages"]))
    mib = lambda n: f"{n / 2**20:,.0f}"
    lines = [f"| classes | cache | peak, MiB | {' | '.join(stages)} | drift in distil | programs | CPU-s |"]
    lines.append("|---" * (len(stages) + 6) + "|")
    for run in runs:
        held = {stage["stage"]: stage for stage in run["stages"]}
        cells = [mib(held[name]["peak_bytes"]) if name in held else "" for name in stages]
        cells = [f"{run['classes']:,}", f"{run['cache_gib']:g} GiB", mib(run["peak_bytes"]), *cells]
        cells += [mib(held["distil"]["drift_bytes"]), str(run["programs"]), f"{run['cpu_seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def commit() -> str:
    """Of the code that is measured, with '+' where files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()


def earlier(path: Path, asked: dict) -> list[dict]:
    """The runs that `path` holds of the same code on the same hardware."""
    old = json.loads(path.read_text()) if path.exists() else {}
    return old["runs"] if all(old.get(key) == value for key, value in asked.items()) else []


def ratio(runs: list[dict]) -> float:
    """Memory of the hungriest run over that of the one with the fewest classes, of those that keep no decoded images: a
    cache grows with the data, up to what it was given."""
    runs = [run for run in runs if not run["cache_gib"]]
    return max(run["peak_bytes"] for run in runs) / min(runs, key=lambda run: run["classes"])["peak_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="2 classes, nothing is written")
    parser.add_argument("--out", type=Path, default=HERE / "results.json", help="runs of this commit in it stay")
    flags = parser.parse_args()
    asked = {"command": "python experiments/scaling/run.py", "commit": commit(), "hardware": hardware()}
    asked |= {"seeds": {"source": source.SEED, "run": 0}, "side": source.SIDE, "images_per_class": source.SPLITS}
    runs = [] if flags.smoke else earlier(flags.out, asked)
    done = {(run["classes"], run["cache_gib"]) for run in runs}
    for n_classes, cache_gib in SMOKE if flags.smoke else [run for run in RUNS if run not in done]:
        runs.append(measure(n_classes, cache_gib, *(QUICK if flags.smoke else ()), compiles=not flags.smoke))
        print(f"{n_classes} classes, cache {cache_gib:g} GiB: {runs[-1]['peak_bytes'] / 2**20:.0f} MiB", flush=True)
        if not flags.smoke:
            runs.sort(key=lambda run: (run["cache_gib"], run["classes"]))
            flags.out.write_text(json.dumps({**asked, "ratio": ratio(runs), "runs": runs}, indent=1) + "\n")
    print(f"\n{table(runs)}\n\nlargest over smallest run without cache: {ratio(runs):.3f} (allowed: {ALLOWED})")
    sys.exit(0 if ratio(runs) <= ALLOWED else 1)


if __name__ == "__main__":
    main()
