"""SIGKILL at the worst moments of a real run, and the same command again: nothing is lost, no byte differs."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infoutil_jax import durable, records

ROOT = Path(__file__).resolve().parents[1]
CONFIG = """
from configs import digits

def get_config():
    c = digits.get_config(ipc=1)
    c.update_from_flattened_dict({
        "name": "tiny", "candidates": 6, "methods": ("infoutil",), "teacher.width": 8, "teacher.epochs": 1,
        "teacher.early_epoch": 1, "teacher.min_times_chance": 0.0, "attribute.grid": 2, "attribute.budget": 16,
        "attribute.micro_batch": 16, "crop.window": 1, "crop.per_image": 3, "evaluate.width": 8, "evaluate.epochs": 1,
        "evaluate.test_every": 1, "evaluate.seeds": 1, "evaluate.hard_seeds": 0,
    })
    return c
"""
KILLS = {  # where -> what is there then, and what is not yet
    "renamed:/attribute/:2": (["artifacts/attribute/*/1.npz", "artifacts/score/*/0.npz"], ["artifacts/score/*/1.npz"]),
    "synced:tfrecord-00002": (["distilled/.tmp-*tfrecord-00002*"], ["distilled/*tfrecord-00002*", "shards/*/*/2.json"]),
    "renamed:tfrecord-00005": (["distilled/*tfrecord-00005*", "shards/*/*/4.json"], ["shards/*/*/5.json"]),
    "before:manifest.json": (["distilled/features.json", "shards/*/*/9.json"], ["distilled/manifest.json"]),
}
ARTIFACTS = [f"artifacts/{stage}" for stage in ("attribute", "score", "evaluate")]
RESULTS = ("config.json", "data.json", "distilled", "shards", *ARTIFACTS)


# A process that has imported everything and, for every line it reads, forks one that is main.py with that crash point:
# real processes, which really die, but JAX is imported once. No device is touched before the fork.
STARTER = """
import os, runpy, sys
import jinja2, orbax.checkpoint, sklearn.datasets, tensorflow_datasets
from infoutil_jax import compilation, pipeline
main, file, log = sys.argv[1:]
for line in sys.stdin:
    workdir, crash_at = line.rstrip(chr(10)).split(" ")
    child = os.fork()
    if not child:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["INFOUTIL_CRASH_AT"], sys.argv = crash_at, [main, f"--config={file}", f"--workdir={workdir}"]
        try:
            runpy.run_path(main, run_name="__main__")
        except SystemExit as leaving:
            sys.stdout.flush()
            os._exit(leaving.code)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """start(workdir, crash_at="") -> (exit code of the run, what it printed)."""
    (tmp_path / "tiny.py").write_text(CONFIG)
    log = tmp_path / "log"
    # without git no commit, which may change meanwhile
    environ = os.environ | {"PATH": "", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    command = [sys.executable, "-c", STARTER, str(ROOT / "main.py"), str(tmp_path / "tiny.py"), str(log)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(command, cwd=tmp_path, env=environ, **pipes) as starter:

        def start(workdir, crash_at=""):
            starter.stdin.write(f"{workdir} {crash_at}\n")
            return int(starter.stdout.readline()), log.read_text()

        yield start
        starter.stdin.close()


def files(workdir, *folders):
    """Every file that is no temporary one or lock, by its path."""
    paths = [path for folder in folders or [""] for path in [workdir / folder, *(workdir / folder).rglob("*")]]
    return {str(p.relative_to(workdir)): p for p in paths if p.is_file() and not p.name.startswith(".")}


def finished(workdir):
    """What nobody has to do again, with a stamp that changes when it is written again."""
    kept = files(workdir, "artifacts/attribute", "artifacts/score", "distilled", "shards")
    stamps = {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in kept.items()}
    return {name: stamp for name, stamp in stamps.items() if Path(name).name not in records.METADATA}


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(start, tmp_path):
    whole, killed, acknowledged = tmp_path / "whole", tmp_path / "killed", {}
    for crash_at, (there, not_yet) in KILLS.items():
        code, printed = start(killed, crash_at)
        assert code == -signal.SIGKILL, (crash_at, printed)
        for pattern in there:
            assert list(killed.glob(pattern)), (crash_at, pattern)
        for pattern in not_yet:
            assert not [p for p in killed.glob(pattern) if not p.name.startswith(".")], (crash_at, pattern)
        assert acknowledged.items() <= finished(killed).items(), crash_at
        acknowledged = finished(killed)
    code, printed = start(killed)
    assert code == 0 and "warning" not in printed, printed
    assert acknowledged.items() <= finished(killed).items()
    assert not list(killed.rglob(f"{durable.TEMPORARY}*")) and not list(killed.rglob("*.damaged*"))

    code, printed = start(whole)
    assert code == 0, printed
    hashes = lambda of: {k: hashlib.sha256(p.read_bytes()).hexdigest() for k, p in files(of, *RESULTS).items()}
    assert hashes(killed) == hashes(whole) and len(hashes(whole)) > 40
