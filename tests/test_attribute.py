"""Shapley values of images against an independent loop over all coalitions."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from infoutil_jax import models, parallel, train
from infoutil_jax.attribution import exact
from infoutil_jax.errors import ConfigError, NumericError
from infoutil_jax.stages import attribute

SIDE = 8
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
IMAGES_U8 = np.random.default_rng(0).integers(0, 256, (10, SIDE, SIDE, 3)).astype(np.uint8)
LABELS = np.arange(10) % 4


def settings(**changes):
    fields = dict(grid=2, baseline="zero", value="logit", target="label", estimator="exact", budget=16)
    fields |= dict(precision="float32", micro_batch=8)
    return attribute.Settings(**fields | changes)


@pytest.fixture(scope="module")
def convnet():
    network = train.Network(models.build("convnet3", 4, width=4), MEAN, STD)
    return network, models.initialize(network.model, jax.random.key(0), SIDE)


def run(chosen, network, variables, images_u8=IMAGES_U8, labels=LABELS):
    return attribute.run(chosen, network, variables, attribute.design(chosen, 0), images_u8, labels)


def values_by_loop(network, variables, image_u8, label, grid):
    """(2**P,) logits of `label`, coalition by coalition: cell (i, j) is player i * grid + j, bit by bit."""
    image_norm = ((image_u8 / 255 - MEAN) / STD).astype(np.float32)
    cell = np.arange(SIDE) * grid // SIDE
    player = cell[:, None] * grid + cell[None, :]
    copies = [np.where((bits >> player & 1)[:, :, None], image_norm, 0) for bits in range(2 ** (grid * grid))]
    return np.asarray(network.model.apply(variables, np.stack(copies).astype(np.float32), train=False))[:, label]


@pytest.mark.parametrize(("grid", "n"), [(2, 10), (3, 2)])
def test_exact_values_equal_an_independent_loop(convnet, grid, n):
    result = run(settings(grid=grid, budget=2 ** (grid * grid)), *convnet, IMAGES_U8[:n], LABELS[:n])
    assert result.phi.shape == (n, grid, grid) and result.phi.dtype == np.float32
    for m in range(n):
        values = values_by_loop(*convnet, IMAGES_U8[m], LABELS[m], grid)
        np.testing.assert_allclose(result.phi[m].ravel(), exact.shapley_values(values), rtol=1e-3, atol=2e-6)
        np.testing.assert_allclose([result.empty[m], result.full[m]], values[[0, -1]], rtol=1e-4, atol=1e-6)


def test_every_estimator_is_efficient_and_sees_the_same_ends(convnet):
    reference = run(settings(), *convnet)
    np.testing.assert_allclose(reference.phi.sum((1, 2)), reference.full - reference.empty, rtol=1e-4, atol=1e-5)
    for estimator in ("odd_gp", "leverage_shap", "permutation"):
        sampled = run(settings(estimator=estimator, budget=8), *convnet)
        np.testing.assert_allclose(sampled.phi.sum((1, 2)), reference.full - reference.empty, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(sampled.full, reference.full, rtol=1e-5)


def test_permuting_the_candidates_permutes_the_result(convnet):
    order = np.random.default_rng(1).permutation(10)
    there, back = run(settings(), *convnet), run(settings(), *convnet, IMAGES_U8[order], LABELS[order])
    for one, other in zip(there, back):
        np.testing.assert_array_equal(one[order], other)


class OneCorner(nn.Module):
    """Logits of the bottom-left quarter alone."""

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        return nn.Dense(4)(images_norm[:, SIDE // 2 :, : SIDE // 2].reshape(len(images_norm), -1))


def test_patches_that_the_network_does_not_look_at_get_nothing():
    network = train.Network(OneCorner(), MEAN, STD)
    result = run(settings(), network, models.initialize(network.model, jax.random.key(1), SIDE))
    np.testing.assert_allclose(result.phi[:, 1, 0], result.full - result.empty, rtol=1e-5)
    assert (np.abs(result.phi[:, 1, 0]) > 1e-3).all()
    np.testing.assert_allclose(result.phi[:, [0, 0, 1], [0, 1, 1]], 0, atol=1e-7)


def test_a_broken_network_is_named_with_its_class(convnet):
    network, variables = convnet
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), variables)
    with pytest.raises(NumericError, match="attribute: class 0, candidate 0: .* not finite"):
        run(settings(), network, broken)


class Hungry(OneCorner):
    """Has memory for batches of four."""

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        if len(images_norm) > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return super().__call__(images_norm, train=train)


def test_where_memory_runs_out_the_micro_batch_is_halved(capsys):
    plain, hungry = (train.Network(model, MEAN, STD) for model in (OneCorner(), Hungry()))
    variables, large = models.initialize(plain.model, jax.random.key(1), SIDE), settings(micro_batch=16)
    for one, other in zip(run(large, plain, variables), run(large, hungry, variables)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in told] == [
        f"warning: attribute: out of memory with batches of {size}" for size in (16, 8)
    ]


@pytest.mark.parametrize("change", [{"baseline": "black"}, {"grid": 1}, {"budget": 15}, {"budget": 2**26, "grid": 5}, {"micro_batch": -1}, {"precision": "half"}])
def test_impossible_settings_are_refused(change):
    with pytest.raises(ConfigError, match=f"attribute.{next(iter(change))}"):
        settings(**change)


def test_calls_hold_the_fewest_images_that_fill_micro_batches():
    sizes = {(128, 16): 1, (127, 16): 1, (25, 16): 7, (24, 16): 2, (128, 1024): 8, (100, 128): 14, (4, 1024): 16}
    assert {case: attribute.images_per_call(*case) for case in sizes} == sizes


def test_the_micro_batch_follows_the_devices_memory(convnet, monkeypatch):
    automatic, network = settings(micro_batch=0), convnet[0]
    assert attribute.micro_batch(automatic, network, SIDE) == attribute.CPU_MICRO_BATCH
    assert attribute.micro_batch(settings(micro_batch=5), network, SIDE) == 5
    sizes = []
    for memory in (2**10, 2**20, 2**21, 2**22, 2**40):
        monkeypatch.setattr(parallel, "memory_of_device", lambda: memory)
        sizes.append(attribute.micro_batch(automatic, network, SIDE))
    assert sizes[0] == 1 and sizes[-1] == attribute.LARGEST_MICRO_BATCH
    assert sizes[2] == 2 * sizes[1] and sizes[3] == 4 * sizes[1]
    images_and_first_layer = sizes[1] * 4 * SIDE * SIDE * (3 + 4)
    assert attribute.MEMORY_SHARE * 2**20 / 8 < images_and_first_layer < attribute.MEMORY_SHARE * 2**20


def test_bfloat16_is_near_and_not_the_same(convnet):
    full, half = (run(settings(precision=precision), *convnet) for precision in attribute.PRECISIONS)
    assert half.phi.dtype == np.float32 and not np.array_equal(half.full, full.full)
    np.testing.assert_allclose(half.full, full.full, atol=0.02 * np.abs(full.full).max())
    assert np.corrcoef(half.phi.ravel(), full.phi.ravel())[0, 1] > 0.99
