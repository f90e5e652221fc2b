"""Masked images and coalition values against loops over pixels and over coalitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from infoutil_jax.attribution import games

RNG = np.random.default_rng(0)
SIDE, K = 7, 4
IMAGE = RNG.normal(size=(SIDE, SIDE, 3)).astype(np.float32)
WEIGHT = RNG.normal(size=(SIDE * SIDE * 3, K)).astype(np.float32)
ALL_MASKS = np.array(list(itertools.product([False, True], repeat=4)))
GAME = dict(baseline="zero", value="logit", target="label", micro_batch=3)


def logits_fn(images):
    return jnp.sin(images).reshape(len(images), -1) @ WEIGHT


def numpy_logits(image):
    return np.sin(image.astype(np.float64)).reshape(-1) @ WEIGHT


def masked_by_loops(image, absent, mask, grid):
    out, side = absent.astype(np.float64).copy(), len(image)
    for y, x in itertools.product(range(side), repeat=2):
        if mask[(y * grid // side) * grid + x * grid // side]:
            out[y, x] = image[y, x]
    return out


def values(masks_SP=ALL_MASKS, image=IMAGE, label=2, **changes):
    image, label = jnp.asarray(image)[None], jnp.full(1, label, jnp.int32)
    return games.coalition_values(logits_fn, image, jnp.asarray(masks_SP), label, **GAME | changes)[0]


@pytest.mark.parametrize(("side", "grid"), [(8, 2), (7, 2), (9, 4), (16, 3), (32, 4), (5, 5)])
def test_cells_are_contiguous_and_differ_by_a_pixel_at_most(side, grid):
    cells = np.asarray(games.cell_of_pixel(side, grid))
    sizes = np.bincount(cells, minlength=grid)
    assert (np.diff(cells) >= 0).all() and len(sizes) == grid and sizes.max() - sizes.min() <= (side % grid > 0)


@pytest.mark.parametrize(("side", "grid"), [(8, 2), (7, 3), (9, 4)])
def test_expand_is_the_mask_of_each_pixels_cell(side, grid):
    mask = np.random.default_rng(side).random(grid * grid) < 0.5
    expected = masked_by_loops(np.ones((side, side)), np.zeros((side, side)), mask, grid)
    np.testing.assert_array_equal(games.expand(jnp.asarray(mask), side)[:, :, 0], expected)


def blurred_by_loops(image):
    side, sigma = len(image), len(image) / 8
    out = np.zeros(image.shape)
    for y, x in itertools.product(range(side), repeat=2):
        row = np.exp(-0.5 * ((np.arange(side) - y) / sigma) ** 2)
        column = np.exp(-0.5 * ((np.arange(side) - x) / sigma) ** 2)
        weight = np.outer(row, column)
        out[y, x] = (weight[:, :, None] * image).sum((0, 1)) / weight.sum()
    return out


BASELINE_ORACLES = {
    "zero": np.zeros_like,
    "mean_colour": lambda image: np.broadcast_to(image.reshape(-1, 3).mean(0), image.shape),
    "blur": blurred_by_loops,
}


@pytest.mark.parametrize("baseline", games.BASELINES)
def test_values_equal_those_of_images_masked_pixel_by_pixel(baseline):
    absent = BASELINE_ORACLES[baseline](IMAGE)
    np.testing.assert_allclose(games.baseline_image(jnp.asarray(IMAGE), baseline), absent, rtol=1e-4, atol=1e-5)
    expected = [numpy_logits(masked_by_loops(IMAGE, absent, mask, 2))[2] for mask in ALL_MASKS]
    np.testing.assert_allclose(values(baseline=baseline), expected, rtol=1e-4, atol=1e-4)


def test_a_grid_that_does_not_divide_the_side():
    masks = np.random.default_rng(3).random((5, 9)) < 0.5
    expected = [numpy_logits(masked_by_loops(IMAGE, np.zeros_like(IMAGE), mask, 3))[1] for mask in masks]
    np.testing.assert_allclose(values(masks, label=1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("micro_batch", [1, 3, 16])
def test_the_micro_batch_changes_nothing(micro_batch):
    masks = ALL_MASKS[[5, 15, 0, 9, 5]]
    one_by_one = [values(mask[None], micro_batch=1)[0] for mask in masks]
    together = values(masks, micro_batch=min(micro_batch, 5))
    assert together.shape == (5,) and together[0] == together[4]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-5)


def test_probabilities_and_predicted_targets():
    logits = np.array([numpy_logits(masked_by_loops(IMAGE, np.zeros_like(IMAGE), mask, 2)) for mask in ALL_MASKS])
    predicted = logits[-1].argmax()
    label = (predicted + 1) % K
    for target, chosen in (("label", label), ("predicted", predicted)):
        np.testing.assert_allclose(values(label=label, target=target), logits[:, chosen], rtol=1e-4, atol=1e-4)
        probability = values(label=label, target=target, value="probability")
        np.testing.assert_allclose(probability, softmax(logits, axis=1)[:, chosen], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"target": "predicted", "baseline": "mean_colour"}, {"baseline": "blur"}])
@pytest.mark.parametrize("micro_batch", [1, 5, 16, 40, 1000])
def test_many_images_at_once_are_each_image_alone(changes, micro_batch):
    images, labels = RNG.normal(size=(3, SIDE, SIDE, 3)).astype(np.float32), np.array([3, 0, 2], np.int32)
    game = GAME | changes | {"micro_batch": micro_batch}
    together = jax.jit(lambda *args: games.coalition_values(logits_fn, *args, **game))(images, ALL_MASKS, labels)
    alone = [values(image=image, label=label, **changes) for image, label in zip(images, labels)]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("n_coalitions", "micro_batch", "n_batches"), [(16, 16, 3), (16, 20, 3), (5, 4, 4), (5, 99, 1)]
)
def test_no_more_masked_copies_than_a_micro_batch_and_padding_in_the_last_one_only(
    n_coalitions, micro_batch, n_batches
):
    seen = []
    counted = lambda images: (
        jax.debug.callback(lambda _: seen.append(len(images)), images[0, 0, 0, 0]) or logits_fn(images)
    )
    images, labels = jnp.zeros((3, SIDE, SIDE, 3)), jnp.zeros(3, jnp.int32)
    game = GAME | {"micro_batch": micro_batch}
    jax.block_until_ready(
        games.coalition_values(counted, images, jnp.asarray(ALL_MASKS[:n_coalitions]), labels, **game)
    )
    jax.effects_barrier()
    assert seen == [min(micro_batch, 3 * n_coalitions)] * n_batches
