"""SIGKILL, SIGTERM, flipped bits, exchanged artifacts and bad input: what was tried, survived, detected, lost.

    python experiments/faults/run.py [--kills=200] [--stops=50] [--flips=2000] [--swaps=50]
                                     [--only=SIGKILL,SIGTERM,flips,swap,inputs]
    python experiments/faults/run.py --smoke      # a few of each

Processes are real (starter.py forks main.py and signals it after a random time); the same command goes on until the run
is finished, and every byte of its sets, scores and curves is compared with a run that was left alone. Flips and swaps
are made one at a time in a finished run and looked for by `verify` (damage.py). Bad inputs are tests (inputs.py).
Writes results.json and results.md; each part has the commit that it is of.
"""

import argparse
import collections
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from experiments.faults import inputs  # noqa: E402
from experiments.faults.damage import files, flip, hashes, swap  # noqa: E402
from infoutil_jax import provenance, records, store  # noqa: E402

RESULTS = (
    "config.json",
    "data.json",
    "distilled",
    "controls",
    "shards",
    "artifacts/attribute",
    "artifacts/score",
    "artifacts/evaluate",
)
ACKNOWLEDGED = ("artifacts/attribute", "artifacts/score", "artifacts/evaluate", "distilled", "controls", "shards")
PARTS = ("SIGKILL", "SIGTERM", "flips", "swap", "inputs")
STARTS = 100  # of one run, before it is given up as stuck


class Starter:
    """start(workdir, seconds, signal) -> (exit code, seconds it lived); `printed` is what the last one said."""

    def __init__(self, scratch: Path):
        self._log = scratch / "log"
        environ = os.environ | {
            "PATH": "", "PYTHONPATH": str(ROOT),  # without git no commit, which may change meanwhile
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }  # fmt: skip
        command = [sys.executable, HERE / "starter.py", ROOT / "main.py", HERE / "tiny.py", self._log]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self._process = subprocess.Popen(list(map(str, command)), cwd=scratch, env=environ, **pipes)

    def __call__(self, workdir: Path, seconds: float = 1e6, name: str = "SIGKILL") -> tuple[int, float]:
        self._process.stdin.write(f"{workdir} {seconds} {name}\n")
        code, lived = self._process.stdout.readline().split()
        return int(code), float(lived)

    @property
    def printed(self) -> str:
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def acknowledged(workdir: Path) -> dict[str, str]:
    """What is finished: all under its final name but TFDS's metadata, written anew until the manifest, and saves."""
    names = {name: Path(name) for name in files(workdir, ACKNOWLEDGED)}
    saves = {name for name, path in names.items() if path.parts[1] == "evaluate" and len(path.parts) > 3}
    found = hashes(workdir, ACKNOWLEDGED)
    return {n: h for n, h in found.items() if names[n].name not in records.METADATA and n not in saves}


def stage(workdir: Path) -> str:
    """What a run was at, by what it had left."""
    count = lambda pattern: len(list(workdir.glob(pattern)))
    if not (workdir / "config.json").exists():
        return "start"
    if count("artifacts/teacher/*/epoch*.json") < 2:
        return "teacher"
    if count("shards/*/*/*.json") < 20:
        return "distil"
    if count("**/manifest.json") < 2:
        return "manifest"
    return "evaluate" if count("artifacts/evaluate/*.json") < 5 else "report"


def interrupt(start: Starter, name: str, wanted: int, scratch: Path, whole: dict, longest: float, rng):
    """`wanted` signals, each at a random time of the first `longest` seconds, in as many runs as that takes; yields the
    figures so far after every run."""
    tried, after, faults, left = collections.Counter(), [], [], 0
    runs = 0
    while sum(tried.values()) < wanted:
        workdir, kept = scratch / f"{name}{runs}", {}
        for _ in range(STARTS):
            seconds = rng.uniform(0.05, longest)
            code, lived = start(workdir, seconds, name)
            now = acknowledged(workdir)
            changed = [n for n, h in kept.items() if now.get(n) != h]
            faults += [f"run {runs}: {n} was finished and changed" for n in changed]
            kept = now
            if code == 0:
                break
            begun = code != -15 or start.printed  # before, no handler is there and nothing to save
            if begun and code not in (-9, 75):
                faults.append(f"run {runs}: exit code {code}: {start.printed[-500:]}")
            tried[stage(workdir) if begun else "imports"] += 1
            after.append(lived - seconds)
        else:
            faults.append(f"run {runs}: not finished after {STARTS} starts")
        ended = hashes(workdir, RESULTS)
        differing = {n for n in whole.keys() | ended.keys() if whole.get(n) != ended.get(n)}
        faults += [f"run {runs}: {n} differs from the run left alone" for n in sorted(differing)]
        left += len(list(workdir.rglob(".tmp-*"))) + len(list(workdir.rglob("*.damaged*")))
        shutil.rmtree(workdir)
        runs += 1
        print(f"{name}: {sum(tried.values())} signals, {runs} finished runs, {len(faults)} faults", flush=True)
        seconds = (
            {"median": sorted(after)[len(after) // 2], "largest": max(after)} if name == "SIGTERM" and after else {}
        )
        yield {"tried": sum(tried.values()), "by_stage": dict(tried), "runs": runs, "lost": len(faults), "faults": faults[:20],
                "left_over_files": left, **({"seconds_to_exit": seconds} if seconds else {})}  # fmt: skip


def markdown(results: dict) -> str:
    lines = ["| fault | tried | survived or detected | lost or silent | |", "|---|---|---|---|---|"]
    for name in ("SIGKILL", "SIGTERM"):
        if row := results.get(name):
            stages = ", ".join(
                f"{stage} {n}" for stage, n in sorted(row["by_stage"].items(), key=lambda item: -item[1])
            )
            more = row.get("seconds_to_exit")
            more = f"; exit after {more['median']:.1f} s (median), {more['largest']:.1f} s (largest)" if more else ""
            more += "".join(f"; {' '.join(fault.split())}" for fault in row["faults"])
            lines.append(
                f"| {name} | {row['tried']} | {row['tried'] - row['lost']} | {row['lost']} | in {stages}{more} |"
            )
    for part, what in (("flips", "a bit"), ("swap", "exchanged")):
        for title, row in results.get(part, {}).items():
            named = f"right file named: {row['right_file_named']}"
            lines.append(
                f"| {what}: {title} | {row['tried']} | {row['detected']} | {row['tried'] - row['detected']} | {named} |"
            )
    if rows := results.get("inputs"):
        lines += ["", "Bad input, by the rows of [docs/input.md](../../docs/input.md), which has the outcomes:", ""]
        lines += ["| row | input | tests | as stated | not | short of the fault matrix |", "|---|---|---|---|---|---|"]
        for number, row in sorted(rows.items(), key=lambda item: int(item[0])):
            failed = f"{len(row['failed'])}: {', '.join(row['failed'])}" if row["failed"] else "0"
            counts = f"{row['tried']} | {row['as_stated']} | {failed}" if row["tried"] else "not tested | | "
            lines.append(f"| {number} | {row['input']} | {counts} | {row['short']} |")
    commits = ", ".join(f"{part} {commit[:12]}{commit[40:]}" for part, commit in results["commits"].items())
    lines += ["", f"Of the commits (+: with changes, at least of this driver): {commits}."]
    return "\n".join(lines) + "\n"


def write(flags, new: dict) -> dict:
    """Adds `new` to what --out holds: parts may run one by one, and side by side."""
    path = flags.out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    environment = provenance.environment()
    commits = results.get("commits", {}) | {part: environment["git"] for part in new}
    setting = {"seed": flags.seed, "cpu_cores": os.cpu_count(), "environment": environment, "commits": commits}
    results |= new | setting | {"command": "python experiments/faults/run.py"}
    store.write_plain_json(path, results)
    (flags.out / "results.md").write_text(markdown(results))
    return results


def harm(flags, scratch: Path) -> None:
    """All that is done to runs."""
    rng = random.Random(flags.seed)
    start = Starter(scratch)
    whole = scratch / "whole"
    code, lived = start(whole)
    if code:
        sys.exit(f"error: the run that is left alone ended with {code}: {start.printed[-2000:]}")
    alone = hashes(whole, RESULTS)
    campaigns = [(n, count) for n, count in (("SIGKILL", flags.kills), ("SIGTERM", flags.stops)) if n in flags.only]
    for name, count in campaigns:
        for figures in interrupt(start, name, count, scratch, alone, lived / 2, rng):
            write(flags, {name: figures})
    start.close()
    for name, damage, count in (("flips", flip, flags.flips), ("swap", swap, flags.swaps)):
        if name in flags.only:
            write(flags, {name: damage(whole, count, rng)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in (("kills", 200), ("stops", 50), ("flips", 2000), ("swaps", 50)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--only", type=lambda text: text.split(","), default=PARTS)
    parser.add_argument("--smoke", action="store_true", help="a few of each")
    parser.add_argument("--out", type=Path, help="by default beside this file, with --smoke runs/faults")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    if unknown := set(flags.only) - set(PARTS):
        parser.error(f"--only: no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if flags.smoke:
        flags.kills, flags.stops, flags.flips, flags.swaps = 3, 1, 30, 10
    flags.out = flags.out or (ROOT / "runs" / "faults" if flags.smoke else HERE)
    if set(flags.only) - {"inputs"}:
        with tempfile.TemporaryDirectory() as folder:
            harm(flags, Path(folder))
    if "inputs" in flags.only:
        few = {row: inputs.TESTS[row] for row in (41, 42)}
        write(flags, {"inputs": inputs.run(few if flags.smoke else inputs.TESTS)})
    print((flags.out / "results.md").read_text())
    return int(fell_short(json.loads((flags.out / "results.json").read_text())))


def fell_short(results: dict) -> bool:
    """Whether anything was lost, not detected, not named, or not as stated; what is not tested or not promised is not."""
    harmed = [row for part in ("flips", "swap") for row in results.get(part, {}).values()]
    return (
        any(results.get(name, {}).get("lost") for name in ("SIGKILL", "SIGTERM"))
        or any(row["detected"] < row["tried"] or row["right_file_named"] < row["tried"] for row in harmed)
        or any(row["failed"] for row in results.get("inputs", {}).values())
    )


if __name__ == "__main__":
    sys.exit(main())
