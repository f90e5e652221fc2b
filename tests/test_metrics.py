"""Metrics against NumPy's argsort and the standard library."""

import statistics

import jax.numpy as jnp
import numpy as np
import pytest

from infoutil_jax import metrics


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_top_k_is_membership_among_the_k_largest(k):
    rng = np.random.default_rng(k)
    logits_BK = rng.permuted(np.tile(np.arange(7, dtype=np.float32), (40, 1)), axis=1)
    labels_B = rng.integers(0, 7, 40).astype(np.int32)
    largest = np.argsort(logits_BK, axis=1)[:, ::-1][:, :k]
    expected = [label in row for label, row in zip(labels_B, largest)]
    np.testing.assert_array_equal(metrics.top_k_correct(jnp.asarray(logits_BK), jnp.asarray(labels_B), k), expected)


def test_mean_of_unequal_batches_is_the_mean_of_all_values():
    values = np.random.default_rng(0).uniform(size=11)
    mean = metrics.Mean()
    for batch in np.split(values, [1, 8]):
        mean = mean.add(batch)
    assert mean.count == 11
    assert mean.value == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert metrics.Mean().add(np.array([True, False, True, True])) == (3.0, 4)


def test_mean_and_sample_deviation():
    values = [0.25, 0.5, 0.3, 0.9]
    assert metrics.mean_std(values) == pytest.approx((statistics.mean(values), statistics.stdev(values)), rel=1e-12)
    assert metrics.mean_std([0.7]) == (0.7, 0.0)
