"""Deterministic batches: which examples, in which order, loaded one batch ahead of the device."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from infoutil_jax.clock import CLOCK


def epoch_batches(rng: np.random.Generator, n: int, batch_size: int) -> list[np.ndarray]:
    """A random order of range(n) cut into batches; the last one may be smaller, nothing is dropped."""
    order = rng.permutation(n)
    return [order[i : i + batch_size] for i in range(0, n, batch_size)]


def load_ahead(load, batches):
    """Yields load(batch) for each batch, loading the next one in a thread meanwhile; what that leaves to wait for is
    booked as waiting."""
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for batch in batches:
            following = pool.submit(load, batch)
            if pending is not None:
                yield _await(pending)
            pending = following
        if pending is not None:
            yield _await(pending)


def _await(future):
    with CLOCK.waiting():
        return future.result()
