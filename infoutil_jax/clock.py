"""Where a run's seconds go: stage by stage, split into work, waiting for input and what JAX spends on compiling."""

import contextlib
import functools
import threading
import time

from jax import monitoring

ACTIVITIES = WORKING, WAITING, COMPILING = "working", "waiting", "compiling"
COMPILES = "/jax/core/compile/"  # jax.monitoring's events of tracing, lowering and compiling; some lie inside others
OTHER = "other"


class Clock:
    """Books every second of one thread to one activity of one stage. A stage inside another is called 'outer/inner'."""

    def __init__(self):
        self._clear()

    def _clear(self):
        self._spent, self._stack = {}, [(OTHER, WORKING)]
        self._since, self._thread = time.monotonic(), threading.get_ident()

    def restart(self) -> None:
        """Forgets everything; from now on the calling thread is timed."""
        _hear_the_compiler()
        self._clear()

    @contextlib.contextmanager
    def stage(self, name: str):
        """A context, or a function's decorator: its seconds belong to stage `name`."""
        outer = self._stack[-1][0]
        self._enter(name if outer == OTHER else f"{outer}/{name}", WORKING)
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def waiting(self):
        """A context in which the current stage waits for input."""
        self._enter(self._stack[-1][0], WAITING)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, stage, activity):
        self._book()
        self._stack.append((stage, activity))

    def _leave(self):
        self._book()
        self._stack.pop()

    def _book(self):
        now, place = time.monotonic(), self._stack[-1]
        self._spent[place] = self._spent.get(place, 0.0) + now - self._since
        self._since = now

    def _compiler(self, *, begins: bool):
        if threading.get_ident() != self._thread:
            return
        if begins:
            self._enter(self._stack[-1][0], COMPILING)
        else:
            self._leave()

    def read(self) -> list[dict]:
        """{'stage', 'working', 'waiting', 'compiling'} (seconds) of every stage so far, in the order they began, with
        'other' for what lies in none; empty if there was no stage."""
        self._book()
        stages = dict.fromkeys(stage for stage, _ in self._spent)
        seconds = lambda stage, activity: round(self._spent.get((stage, activity), 0.0), 3)
        records = [{"stage": stage, **{a: seconds(stage, a) for a in ACTIVITIES}} for stage in stages]
        return records if len(records) > 1 else []


CLOCK = Clock()  # of the run in this process


@functools.cache
def _hear_the_compiler():
    """Once a process: jax.monitoring says when tracing, lowering or compiling begins and ends."""

    def listener(begins):
        return lambda event, *_, **__: event.startswith(COMPILES) and CLOCK._compiler(begins=begins)

    monitoring.register_scalar_listener(listener(True))
    monitoring.register_event_duration_secs_listener(listener(False))


def add(*timings: list[dict]) -> list[dict]:
    """The sum of several `Clock.read()`, stage by stage."""
    total = {}
    for record in (record for timing in timings for record in timing):
        kept = total.setdefault(record["stage"], dict.fromkeys(ACTIVITIES, 0.0))
        for activity in ACTIVITIES:
            kept[activity] = round(kept[activity] + record[activity], 3)
    return [{"stage": stage, **seconds} for stage, seconds in total.items()]
