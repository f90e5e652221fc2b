"""Imports everything once; for every line WORKDIR SECONDS SIGNAL it reads, forks a process that is main.py and sends it
that signal after so long. Prints the exit code (negative: the signal that ended it) and the seconds it lived."""

import os
import runpy
import signal
import sys
import time
from pathlib import Path

import jinja2  # noqa: F401  (these are slow to import, and no device is touched before the fork)
import orbax.checkpoint  # noqa: F401
import sklearn.datasets  # noqa: F401
import tensorflow_datasets  # noqa: F401

from infoutil_jax import compilation, pipeline  # noqa: F401


def become_main(main: str, arguments: list[str], log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [main, *arguments]
    sys.path.insert(0, str(Path(main).parent))
    try:
        runpy.run_path(main, run_name="__main__")
    except SystemExit as leaving:
        sys.stdout.flush()
        os._exit(leaving.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def wait(child: int, seconds: float, number: int) -> int:
    """The child's exit code; it gets the signal when it lives longer than `seconds`."""
    end, sent = time.monotonic() + seconds, False
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if not sent and time.monotonic() >= end:
            os.kill(child, number)
            sent = True
        time.sleep(0.005)


def main(program: str, config: str, log: str) -> None:
    for line in sys.stdin:
        workdir, seconds, name = line.split()
        child, began = os.fork(), time.monotonic()
        if not child:
            become_main(program, [f"--config={config}", f"--workdir={workdir}"], log)
        code = wait(child, float(seconds), signal.Signals[name])
        print(code, time.monotonic() - began, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
