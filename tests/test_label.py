"""Soft labels against the network on images that PIL enlarged."""

import jax
import numpy as np
import pytest
from PIL import Image

from infoutil_jax import models, train
from infoutil_jax.errors import ConfigError, NumericError
from infoutil_jax.stages import label

SIDE = 8
NETWORK = train.Network(models.build("convnet3", 4, width=4), (0.4, 0.5, 0.6), (0.2, 0.25, 0.5))


@pytest.fixture(scope="module")
def variables():
    return models.initialize(NETWORK.model, jax.random.key(0), SIDE)


def enlarged(tiles_u8):
    channels = np.moveaxis(tiles_u8, -1, 1).astype(np.float32) / 255
    resize = lambda channel: Image.fromarray(channel).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.stack([[np.asarray(resize(channel)) for channel in image] for image in channels]).transpose(0, 2, 3, 1)


@pytest.mark.parametrize(("tile", "n"), [(4, 1), (4, 19), (8, 3)])
def test_labels_are_the_logits_of_the_enlarged_tiles(variables, tile, n):
    tiles_u8 = np.random.default_rng(tile).integers(0, 256, (n, tile, tile, 3)).astype(np.uint8)
    logits = label.run(NETWORK, variables, tiles_u8, SIDE)
    assert logits.shape == (n, 4) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, NETWORK.logits(variables, enlarged(tiles_u8)), rtol=1e-4, atol=1e-5)


def test_broken_weights_and_unknown_teachers_are_refused(variables):
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.inf, np.float32), variables)
    with pytest.raises(NumericError, match="label: .* not finite"):
        label.run(NETWORK, broken, np.zeros((1, 4, 4, 3), np.uint8), SIDE)
    with pytest.raises(ConfigError, match="label.teacher"):
        label.Settings(teacher="late")
