"""Batches cover every example once, and are loaded one ahead, in order."""

import contextlib
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from infoutil_jax import clock
from infoutil_jax.clock import CLOCK
from infoutil_jax.data import batches
from infoutil_jax.data.batches import epoch_batches, load_ahead


@pytest.mark.parametrize(("n", "batch_size"), [(0, 4), (1, 4), (3, 4), (4, 4), (5, 4), (12, 4), (7, 1)])
def test_an_epoch_has_every_example_once(n, batch_size):
    batches = epoch_batches(np.random.default_rng(0), n, batch_size)
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert len(batches) == -(-n // batch_size)


def test_the_order_is_the_generators():
    first, again, other = (np.concatenate(epoch_batches(np.random.default_rng(s), 30, 7)) for s in (0, 0, 1))
    assert (first == again).all() and (first != other).any() and (first != np.arange(30)).any()


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_loaded_batches_come_in_order(n):
    assert list(load_ahead(lambda i: i * i, range(n))) == [i * i for i in range(n)]


def test_the_next_batch_is_loaded_while_this_one_is_used_and_no_more():
    started = [threading.Event() for _ in range(4)]
    stream = load_ahead(lambda i: (started[i].set(), i)[1], range(4))
    assert next(stream) == 0
    assert started[1].wait(10)
    assert not started[2].is_set()
    assert list(stream) == [1, 2, 3]


def test_a_failed_load_is_raised_at_its_batch():
    def load(i):
        if i == 2:
            raise OSError("unreadable")
        return i

    stream = load_ahead(load, range(4))
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(OSError, match="unreadable"):
        next(stream)


def test_only_what_the_work_does_not_hide_is_waiting(monkeypatch):
    now, ready = [0], [0]

    def submit(load, batch):  # one after the other, 5 seconds each
        ready.append(max(ready[-1], now[0]) + 5)
        return SimpleNamespace(result=lambda at=ready[-1]: now.__setitem__(0, max(now[0], at)) or load(batch))

    pool = contextlib.nullcontext(SimpleNamespace(submit=submit))
    monkeypatch.setattr(batches, "ThreadPoolExecutor", lambda workers: pool)
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    CLOCK.restart()
    with CLOCK.stage("teacher"):
        for work in load_ahead(lambda seconds: seconds, [2, 7, 4]):
            now[0] += work
    # 5 for the first batch, 5 - 2 for the second, none for the third
    assert CLOCK.read()[1] == {"stage": "teacher", "working": 13, "waiting": 8, "compiling": 0}
