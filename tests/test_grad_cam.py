"""Grad-CAM of small networks against their gradients written out in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoutil_jax import models, train
from infoutil_jax.attribution import grad_cam
from infoutil_jax.errors import ConfigError, NumericError
from infoutil_jax.stages import attribute

SIDE, MEAN, STD = 8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
IMAGES_U8 = np.random.default_rng(0).integers(0, 256, (37, SIDE, SIDE, 3)).astype(np.uint8)
LABELS = np.arange(37) % 4


class Squares(nn.Module):
    """Patches of 2 x 2 pixels, 5 channels; the logits are linear in their squares. The pooled map is no module's."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        maps = nn.Conv(5, (2, 2), strides=2, padding=0, dtype=self.dtype, name="conv")(images_norm)
        squares = jnp.square(maps).astype(jnp.float32)
        return nn.Dense(4, name="classifier")(squares.reshape(len(squares), -1))


@pytest.fixture(scope="module")
def squares():
    network = train.Network(Squares(), MEAN, STD)
    return network, models.initialize(network.model, jax.random.key(0), SIDE)


def settings(**changes):
    fields = dict(grid=4, baseline="zero", value="logit", target="label", estimator="grad_cam", budget=2)
    return attribute.Settings(**fields | dict(precision="float32", micro_batch=0) | changes)


def features_by_hand(variables, images_u8):
    """(N, 4, 4, 5)."""
    images = ((images_u8 / 255 - MEAN) / STD).reshape(len(images_u8), 4, 2, 4, 2, 3)
    conv = variables["params"]["conv"]
    return np.einsum("nyaxbc,abck->nyxk", images, np.asarray(conv["kernel"], np.float64)) + np.asarray(conv["bias"])


def maps_by_hand(variables, images_u8, classes):
    """ReLU(sum_k mean_gradient_k A_k) of logit = sum W A^2 + b, whose gradient is 2 W A."""
    features = features_by_hand(variables, images_u8)
    weights = np.asarray(variables["params"]["classifier"]["kernel"], np.float64).reshape(4, 4, 5, 4)
    gradients = 2 * features * np.moveaxis(weights, -1, 0)[classes]
    return np.maximum(np.einsum("nyxk,nk->nyx", features, gradients.mean(axis=(1, 2))), 0)


def logits_of(squares, images_u8):
    network, variables = squares
    return np.asarray(network.logits(variables, (images_u8 / 255).astype(np.float32)))


def cells_by_repeating(maps, grid):
    """Means over grid cells: every pixel repeated until cells hold whole pixels."""
    size = maps.shape[1]
    many = maps.repeat(grid, axis=1).repeat(grid, axis=2)
    return many.reshape(len(maps), grid, size, grid, size).mean(axis=(2, 4))


@pytest.mark.parametrize("grid", [2, 3, 4, 5])
def test_maps_equal_the_gradients_by_hand(squares, grid):
    result = attribute.run(settings(grid=grid), *squares, None, IMAGES_U8, LABELS)
    by_hand = maps_by_hand(squares[1], IMAGES_U8, LABELS)
    assert (by_hand == 0).any() and (by_hand > 0).any()
    np.testing.assert_allclose(result.phi, cells_by_repeating(by_hand, grid), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.full, logits_of(squares, IMAGES_U8)[np.arange(37), LABELS], rtol=1e-4, atol=1e-5)
    assert result.phi.dtype == np.float32 and np.isnan(result.empty).all()


def test_the_predicted_class_and_probabilities(squares):
    logits = logits_of(squares, IMAGES_U8)
    result = attribute.run(settings(target="predicted"), *squares, None, IMAGES_U8, LABELS)
    np.testing.assert_allclose(result.phi, maps_by_hand(squares[1], IMAGES_U8, logits.argmax(1)), rtol=1e-4, atol=1e-5)
    result = attribute.run(settings(value="probability"), *squares, None, IMAGES_U8, LABELS)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.full, probabilities[np.arange(37), LABELS], rtol=1e-4)


def test_the_map_is_that_of_the_last_module_with_four_axes():
    """A residual network's last block, whose own layers come before it: by differentiating what follows it."""
    model = models.build("resnet18_cifar", 4, width=4)
    variables = jax.tree.map(np.asarray, models.initialize(model, jax.random.key(0), 16))
    images = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)
    score = lambda images: model.apply(variables, images, train=False)[:, 2]
    maps, scores = grad_cam.cell_maps(score, images, 2)
    _, state = model.apply(variables, images, train=False, capture_intermediates=True, mutable=["intermediates"])
    features = np.asarray(state["intermediates"]["stage4_block2"]["__call__"][0], np.float64)
    kernel = np.asarray(variables["params"]["classifier"]["kernel"], np.float64)
    assert features.shape == (3, 2, 2, 32)
    by_hand = np.maximum((features * kernel[:, 2] / 4).sum(axis=-1), 0)  # a pooled mean's gradient is the kernel / hw
    np.testing.assert_allclose(maps, by_hand, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scores, score(images), rtol=1e-5)


def test_an_images_map_depends_on_no_other_image(squares):
    all_together = attribute.run(settings(), *squares, None, IMAGES_U8, LABELS).phi
    alone = attribute.run(settings(micro_batch=1), *squares, None, IMAGES_U8[20:21], LABELS[20:21]).phi
    np.testing.assert_allclose(all_together[20:21], alone, rtol=1e-4, atol=1e-6)


def test_bfloat16_is_near_and_not_the_same(squares):
    full, half = (attribute.run(settings(precision=p), *squares, None, IMAGES_U8, LABELS) for p in attribute.PRECISIONS)
    assert half.phi.dtype == np.float32 and not np.array_equal(half.phi, full.phi)
    assert np.corrcoef(half.phi.ravel(), full.phi.ravel())[0, 1] > 0.99


def test_no_coalitions_are_drawn_and_no_budget_is_checked():
    assert attribute.design(settings(budget=0), 0) is None
    with pytest.raises(ConfigError, match="attribute.budget"):
        settings(budget=0, estimator="odd_gp")


def test_networks_without_feature_maps_are_refused():
    dense = nn.Dense(4)
    variables = dense.init(jax.random.key(0), jnp.zeros((1, 192)))
    score = lambda images: dense.apply(variables, images.reshape(len(images), -1))[:, 0]
    with pytest.raises(ConfigError, match="attribute.estimator=grad_cam needs"):
        grad_cam.cell_maps(score, jnp.zeros((2, 8, 8, 3)), 2)


def test_a_broken_network_is_named_with_its_class(squares):
    network, variables = squares
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), variables)
    with pytest.raises(NumericError, match="attribute: class 0, candidate 0: .* not finite"):
        attribute.run(settings(), network, broken, None, IMAGES_U8, LABELS)


def test_a_network_of_tokens_has_no_feature_map_worth_showing():
    model = models.build("vit_b_16", 4, depth=1, width=12, n_heads=2, mlp_width=8)
    variables = models.initialize(model, jax.random.key(0), 32)
    scores = lambda images: model.apply(variables, images, train=False)[:, 0]
    with pytest.raises(ConfigError, match="grad_cam needs a network with feature maps"):
        grad_cam.cell_maps(scores, jnp.zeros((2, 32, 32, 3)), 4)
