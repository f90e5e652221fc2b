"""Every second is booked once: to a stage, as work, as waiting for input or as compiling."""

import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax import monitoring

from infoutil_jax import clock
from infoutil_jax.clock import CLOCK

TRACE, COMPILE = "/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def passing(monkeypatch):
    """`passing(3)` lets three seconds pass."""
    now = [100.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    CLOCK.restart()
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def record(stage, working, waiting, compiling):
    return {"stage": stage, "working": working, "waiting": waiting, "compiling": compiling}


def test_seconds_go_to_the_innermost_stage_and_what_it_does(passing):
    passing(1)
    with CLOCK.stage("distil"):
        passing(2)
        with CLOCK.waiting():
            passing(4)
        with CLOCK.stage("score"):
            passing(8)
            with CLOCK.waiting():
                passing(16)
            passing(32)
        passing(64)
    passing(128)
    with CLOCK.stage("evaluate"):
        passing(256)
    assert CLOCK.read() == [
        record("other", 129, 0, 0), record("distil", 66, 4, 0), record("distil/score", 40, 16, 0),
        record("evaluate", 256, 0, 0),
    ]  # fmt: skip


def test_compiling_is_counted_apart_and_once_where_one_part_lies_in_another(passing):
    def compiling(event, work):
        monitoring.record_scalar(event, 0.0, fun_name="f")
        work()
        monitoring.record_event_duration_secs(event, 0.0, fun_name="f")

    def outer():
        passing(2)
        compiling(TRACE, lambda: passing(4))
        passing(8)

    with CLOCK.stage("teacher"):
        passing(1)
        compiling(TRACE, outer)
        compiling(COMPILE, lambda: passing(16))
        compiling("/jax/compilation_cache/other", lambda: passing(32))
        passing(64)
    assert CLOCK.read()[1:] == [record("teacher", 97, 0, 30)]


def test_jax_says_when_it_compiles_in_this_thread_and_another_thread_counts_as_nothing():
    def compile_in_a_stage(name, run):
        x = jnp.arange(float(len(name)))
        with CLOCK.stage(name):
            run(lambda: jax.jit(lambda x: jnp.sin(x) * len(name))(x))

    def in_a_thread(work):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    CLOCK.restart()
    compile_in_a_stage("here", lambda work: work())
    compile_in_a_stage("elsewhere", in_a_thread)
    seconds = {r["stage"]: r for r in CLOCK.read()}
    assert 0 < seconds["here"]["compiling"] and seconds["elsewhere"]["compiling"] == 0 < seconds["elsewhere"]["working"]


def test_a_stage_is_left_when_it_fails_and_a_decorated_function_is_one(passing):
    @CLOCK.stage("score")
    def score():
        passing(2)
        raise ValueError

    for outer in ("distil", "report"):
        with pytest.raises(ValueError), CLOCK.stage(outer):
            with CLOCK.waiting():
                passing(1)
            score()
    passing(4)
    assert CLOCK.read() == [
        record("other", 4, 0, 0), record("distil", 0, 1, 0), record("distil/score", 2, 0, 0),
        record("report", 0, 1, 0), record("report/score", 2, 0, 0),
    ]  # fmt: skip


def test_without_a_stage_there_is_nothing_to_tell_and_a_restart_forgets(passing):
    with CLOCK.stage("teacher"):
        passing(1)
    CLOCK.restart()
    with CLOCK.waiting():
        passing(1)
    assert CLOCK.read() == []


def test_timings_add_up_stage_by_stage():
    first = [record("other", 1, 0, 0.5), record("teacher", 2, 0.25, 1)]
    second = [record("other", 4, 0, 0), record("distil", 8, 1, 2), record("teacher", 16, 0.5, 0)]
    both = [record("other", 5, 0, 0.5), record("teacher", 18, 0.75, 1), record("distil", 8, 1, 2)]
    assert clock.add(first, second) == both and clock.add([], first) == first and clock.add() == []
