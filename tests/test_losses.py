"""Losses against SciPy in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr, softmax

from infoutil_jax import losses

B, K = 6, 5


@pytest.fixture(params=[1.0, 30.0, 2000.0], ids="spread {}".format)
def logits_BK(request):
    return (np.random.default_rng(0).normal(size=(B, K)) * request.param).astype(np.float32)


def some_targets():
    targets = np.random.default_rng(1).dirichlet(np.full(K, 0.5), size=B).astype(np.float32)
    targets[0] = np.eye(K)[2]  # zeros must add nothing
    return targets


def test_cross_entropy(logits_BK):
    labels_B = np.arange(B, dtype=np.int32) % K
    expected = -log_softmax(logits_BK.astype(np.float64), axis=1)[np.arange(B), labels_B]
    loss_B = losses.cross_entropy(jnp.asarray(logits_BK), jnp.asarray(labels_B))
    np.testing.assert_allclose(loss_B, expected, rtol=1e-5, atol=1e-5)


def test_soft_cross_entropy(logits_BK):
    targets_BK = some_targets()
    expected = [-(t * log_softmax(row)).sum() for t, row in zip(targets_BK.astype(float), logits_BK.astype(float))]
    loss_B = losses.soft_cross_entropy(jnp.asarray(logits_BK), jnp.asarray(targets_BK))
    np.testing.assert_allclose(loss_B, expected, rtol=1e-5, atol=1e-5)


def test_squared_error_is_a_mean_over_classes(logits_BK):
    target_BK = np.random.default_rng(1).normal(size=(B, K)).astype(np.float32)
    expected = ((logits_BK.astype(np.float64) - target_BK) ** 2).sum(1) / K
    np.testing.assert_allclose(
        losses.squared_error(jnp.asarray(logits_BK), jnp.asarray(target_BK)), expected, rtol=1e-5
    )


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_distillation_is_the_divergence_from_the_target(logits_BK, temperature):
    targets_BK = some_targets()
    log_q = log_softmax(logits_BK.astype(np.float64) / temperature, axis=1)
    entropy = rel_entr(targets_BK.astype(np.float64), 1.0).sum(1)
    loss_B = losses.distillation(jnp.asarray(logits_BK), jnp.asarray(targets_BK), temperature)
    np.testing.assert_allclose(loss_B, entropy - (targets_BK * log_q).sum(1), rtol=1e-5, atol=1e-5)


def test_distillation_is_zero_only_at_the_teacher():
    logits_BK = np.random.default_rng(2).normal(size=(B, K)).astype(np.float32) * 5
    same = softmax(logits_BK / 4, axis=1)
    np.testing.assert_allclose(losses.distillation(jnp.asarray(logits_BK), jnp.asarray(same), 4.0), 0, atol=1e-6)
    assert (losses.distillation(jnp.asarray(logits_BK), jnp.asarray(same[::-1]), 4.0) > 1e-2).all()
