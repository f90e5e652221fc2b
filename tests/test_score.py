"""Scores of crops against NumPy on logits made one image at a time."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax

from infoutil_jax import layerwise, models, train, utility
from infoutil_jax.errors import ConfigError, NumericError
from infoutil_jax.stages import score

SIDE, LABEL = 8, 2
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
NETWORK = train.Network(models.build("convnet3", 4, width=4), MEAN, STD)
SETTINGS = score.Settings(teacher="converged", fit="resize", norms="layerwise", batch_size=2)
PAD = score.Settings(teacher="converged", fit="pad", norms="layerwise", batch_size=1)
VMAP = dataclasses.replace(SETTINGS, norms="vmap")


def apply(variables, images_norm):
    return NETWORK.model.apply(variables, images_norm, train=False)


@pytest.fixture(scope="module")
def variables():
    fresh = models.initialize(NETWORK.model, jax.random.key(0), SIDE)
    return jax.tree.map(lambda leaf: leaf * 3, fresh)  # far from uniform logits: some crops right, some wrong


def random_crops(tile, shape=(4, 3)):
    return np.random.default_rng(tile).integers(0, 256, (*shape, tile, tile, 3)).astype(np.uint8)


def normalised(images):
    return ((images - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def enlarged(crops_u8):
    channels = np.moveaxis(crops_u8.reshape(-1, *crops_u8.shape[2:]), -1, 1).astype(np.float32)
    resize = lambda channel: Image.fromarray(channel).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.stack([[np.asarray(resize(channel)) for channel in image] for image in channels]).transpose(0, 2, 3, 1)


def padded(crops_u8):
    """In the middle of zeros, after normalisation."""
    rows = crops_u8.reshape(-1, *crops_u8.shape[2:])
    tile = rows.shape[1]
    at = (SIDE - tile) // 2
    canvas = np.zeros((len(rows), SIDE, SIDE, 3), np.float32)
    canvas[:, at : at + tile, at : at + tile] = normalised(rows / 255)
    return canvas


@pytest.mark.parametrize(
    ("settings", "tile", "make_input"),
    [
        (SETTINGS, 8, lambda crops: normalised(crops.reshape(-1, 8, 8, 3) / 255)),
        (SETTINGS, 4, lambda crops: normalised(enlarged(crops) / 255)),
        (PAD, 4, padded),
        (PAD, 5, padded),
    ],
)
def test_loss_and_correctness_equal_numpys(variables, settings, tile, make_input):
    crops_u8 = random_crops(tile)
    scores = score.run(settings, NETWORK, variables, crops_u8, LABEL, SIDE, with_gradients=False)
    logits = np.asarray(apply(variables, make_input(crops_u8)), np.float64)
    np.testing.assert_allclose(scores.loss.ravel(), -log_softmax(logits, axis=1)[:, LABEL], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(scores.correct.ravel(), logits.argmax(1) == LABEL)
    assert scores.loss.shape == scores.correct.shape == scores.gradient_norm.shape == (4, 3)
    assert np.isnan(scores.gradient_norm).all()


def test_correctness_sees_both_outcomes(variables):
    crops_u8 = random_crops(8)
    found = [score.run(SETTINGS, NETWORK, variables, crops_u8, k, SIDE, with_gradients=False).correct for k in range(4)]
    np.testing.assert_array_equal(np.sum(found, axis=0), 1)  # one class a crop
    assert len({part.sum() for part in found}) > 1


@pytest.mark.parametrize("settings", [SETTINGS, VMAP])
def test_gradient_norms_equal_single_gradients(variables, settings):
    crops_u8 = random_crops(8)
    scores = score.run(settings, NETWORK, variables, crops_u8, LABEL, SIDE, with_gradients=True)
    rows = normalised(crops_u8.reshape(-1, 8, 8, 3) / 255)
    single = utility.gradient_norms_one_by_one(apply, variables, rows, np.full(12, LABEL, np.int32))
    np.testing.assert_allclose(scores.gradient_norm, single.reshape(4, 3), rtol=1e-4)
    plain = score.run(SETTINGS, NETWORK, variables, crops_u8, LABEL, SIDE, with_gradients=False)
    np.testing.assert_allclose(scores.loss, plain.loss, rtol=1e-5)
    np.testing.assert_array_equal(scores.correct, plain.correct)


@pytest.mark.parametrize(("settings", "module"), [(SETTINGS, layerwise), (VMAP, utility)])
def test_the_setting_chooses_who_computes_the_norms(variables, settings, module, monkeypatch):
    calls, original = [], module.gradient_norms
    monkeypatch.setattr(module, "gradient_norms", lambda *args: (calls.append(1), original(*args))[1])
    score._score_fn.cache_clear()
    score.run(settings, NETWORK, variables, random_crops(8, (1, 1)), LABEL, SIDE, with_gradients=True)
    assert calls


def test_an_unknown_way_to_the_norms_is_refused():
    with pytest.raises(ConfigError, match="score.norms='layer'.*Allowed: layerwise, vmap"):
        dataclasses.replace(SETTINGS, norms="layer")


@pytest.mark.parametrize("with_gradients", [True, False])
def test_broken_weights_stop_the_run(variables, with_gradients):
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), variables)
    with pytest.raises(NumericError, match="score: class 2, crop 0: .* not finite"):
        score.run(SETTINGS, NETWORK, broken, random_crops(8), LABEL, SIDE, with_gradients=with_gradients)


def test_features_are_what_the_last_layer_is_given(variables):
    crops_u8 = random_crops(4)
    features = score.features(SETTINGS, NETWORK, variables, crops_u8, LABEL, SIDE)
    assert features.dtype == np.float32 and features.shape == (4, 3, 4)
    layer = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"]["classifier"])
    logits = apply(variables, normalised(enlarged(crops_u8) / 255))
    np.testing.assert_allclose(features.reshape(12, -1) @ layer["kernel"] + layer["bias"], logits, rtol=1e-3, atol=1e-3)
    small = score.features(PAD, NETWORK, variables, crops_u8, LABEL, SIDE)
    assert not np.allclose(small, features)
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), variables)
    with pytest.raises(NumericError, match="score: class 2: a feature is not finite"):
        score.features(SETTINGS, NETWORK, broken, crops_u8, LABEL, SIDE)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_names_its_last_layer_as_features_need_it(name):
    model = models.build(name, 10)
    shapes = jax.eval_shape(lambda: models.initialize(model, jax.random.key(0), 224))
    assert shapes["params"][score.LAST_LAYER]["kernel"].shape[1] == 10
