"""Mosaics pixel by pixel, and which rank goes where."""

import numpy as np
import pytest

from infoutil_jax.errors import ConfigError
from infoutil_jax.stages import compose


@pytest.mark.parametrize(("n", "factor", "tile"), [(2, 1, 4), (3, 2, 4), (1, 3, 2), (0, 2, 4)])
def test_tiles_are_laid_row_by_row_and_come_back(n, factor, tile):
    tiles = np.random.default_rng(0).integers(0, 256, (n, factor**2, tile, tile, 3)).astype(np.uint8)
    mosaics = compose.stitch(tiles)
    rows = [[np.concatenate(image[i * factor : (i + 1) * factor], axis=1) for i in range(factor)] for image in tiles]
    expected = [np.concatenate(image, axis=0) for image in rows]
    assert mosaics.shape == (n, factor * tile, factor * tile, 3) and mosaics.dtype == np.uint8
    np.testing.assert_array_equal(mosaics, np.reshape(expected, mosaics.shape))
    np.testing.assert_array_equal(compose.unstitch(mosaics, factor), tiles)


def test_consecutive_ranks_share_an_image():
    np.testing.assert_array_equal(compose.arrange(3, 4, "consecutive"), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])


def test_rank_blocks_give_every_image_one_of_each_block():
    np.testing.assert_array_equal(compose.arrange(3, 4, "rank_blocks"), [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])


def test_with_one_patch_an_image_both_orders_are_the_ranking():
    for order in ("consecutive", "rank_blocks"):
        np.testing.assert_array_equal(compose.arrange(5, 1, order), np.arange(5)[:, None])


@pytest.mark.parametrize("change", [{"factor": 0}, {"order": "random"}])
def test_impossible_settings_are_refused(change):
    with pytest.raises(ConfigError, match=f"compose.{next(iter(change))}"):
        compose.Settings(**dict(factor=2, order="consecutive") | change)
