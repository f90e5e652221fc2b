"""Progress with rate and time left: a bar on a terminal, a plain line now and then elsewhere."""

import contextlib
import os
import signal
import sys
import time
from types import SimpleNamespace

from infoutil_jax.errors import DataError
from infoutil_jax.guard import raise_if_stopped

SECONDS_BETWEEN_LINES = 10.0
_warnings = SimpleNamespace(strict=False, count=0)  # of the run in this process


def say(text: str) -> None:
    """A line for whoever watches, on stdout, at once."""
    print(text, flush=True)


@contextlib.contextmanager
def readers_may_leave():
    """Where nobody reads what is printed any more (`| head`), the process ends without a word, as by SIGPIPE."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)


def restart(*, strict: bool = False) -> None:
    """Forgets the warnings so far; with `strict` the next one is an error."""
    _warnings.strict, _warnings.count = strict, 0


def warn(text: str) -> None:
    """Prints `warning: text` on stderr, at once, and counts it; under --strict raises DataError instead."""
    if _warnings.strict:
        raise DataError(f"{text} (a warning, but for --strict)")
    _warnings.count += 1
    print(f"warning: {text}", file=sys.stderr, flush=True)


def warned() -> int:
    """How many warnings there were since `restart`."""
    return _warnings.count


def track(items, label: str, *, total: int, unit: str = "it"):
    """Yields `items`, reporting on stderr how many of `total` are done, the rate and the time left."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        for item in tqdm(items, desc=label, total=total, unit=unit):
            yield item
            raise_if_stopped()
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        raise_if_stopped()
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or (done == total and now - start >= 1):
            last, rate = now, done / (now - start)
            line = f"{label}: {done}/{total} {unit}, {rate:.3g} {unit}/s, {(total - done) / rate:.0f} s left"
            print(line, file=sys.stderr, flush=True)
