"""Progress with rate and time left: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time

SECONDS_BETWEEN_LINES = 10.0


def say(text: str) -> None:
    """A line for whoever watches, on stdout, at once."""
    print(text, flush=True)


def track(items, label: str, *, total: int, unit: str = "it"):
    """Yields `items`, reporting on stderr how many of `total` are done, the rate and the time left."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=label, total=total, unit=unit)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or (done == total and now - start >= 1):
            last, rate = now, done / (now - start)
            line = f"{label}: {done}/{total} {unit}, {rate:.3g} {unit}/s, {(total - done) / rate:.0f} s left"
            print(line, file=sys.stderr, flush=True)
