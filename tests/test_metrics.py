"""Metrics against NumPy's argsort, the standard library and numbers worked out by hand."""

import math
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


def test_the_label_robust_score_is_its_formula():
    # HLR = 0.9 - 0.5 = 0.4, IOR = 0.7 - 0.45 = 0.25, alpha = -0.075: (0.927743 - 0.367879) / 2.350402
    assert metrics.label_robust_score(0.9, 0.5, 0.7, 0.45) == pytest.approx(0.238199, abs=1e-6)
    # weight 0.8: alpha = 0.8 * 0.25 - 0.2 * 0.4 = 0.12: (1.127497 - 0.367879) / 2.350402
    assert metrics.label_robust_score(0.9, 0.5, 0.7, 0.45, weight=0.8) == pytest.approx(0.323186, abs=1e-6)


def test_the_augmentation_robust_score_is_its_formula():
    # beta = (0.7 - 0.4) / 2 + (0.5 - 0.3) / 2 = 0.25: (1.284025 - 0.367879) / 2.350402
    assert metrics.augmentation_robust_score(0.7, 0.4, 0.5, 0.3) == pytest.approx(0.389782, abs=1e-6)
    # weight 0.8: beta = 0.24 + 0.04 = 0.28: (1.323130 - 0.367879) / 2.350402
    assert metrics.augmentation_robust_score(0.7, 0.4, 0.5, 0.3, weight=0.8) == pytest.approx(0.406420, abs=1e-6)


SCORES = [(metrics.label_robust_score, (-1, 1, 1, -1)), (metrics.augmentation_robust_score, (1, -1, 1, -1))]


@pytest.mark.parametrize(("score", "signs"), SCORES)
def test_robust_scores_fill_the_unit_interval_and_go_the_right_way(score, signs):
    best = [float(sign > 0) for sign in signs]
    assert score(*best) == pytest.approx(1) and score(*[1 - a for a in best]) == pytest.approx(0)
    assert score(0.6, 0.6, 0.6, 0.6) == pytest.approx((1 - 1 / math.e) / (math.e - 1 / math.e))
    for i, sign in enumerate(signs):
        higher = [0.5 + 0.1 * (i == k) for k in range(4)]
        assert np.sign(score(*higher) - score(0.5, 0.5, 0.5, 0.5)) == sign


@pytest.mark.parametrize("score", [score for score, _ in SCORES])
def test_robust_scores_take_seeds_and_refuse_percentages(score):
    rng = np.random.default_rng(0)
    accuracies = rng.uniform(size=(4, 5))
    np.testing.assert_allclose(score(*accuracies), [score(*column) for column in accuracies.T], rtol=1e-12)
    for bad in (69.8, -0.1, np.nan):
        with pytest.raises(ValueError, match="fractions"):
            score(0.5, 0.5, [0.5, bad], 0.5)
