"""Random views against PIL, NumPy slicing, enumeration and simulation."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from infoutil_jax.data import augment

KEYS = jax.random.split(jax.random.key(0), 2000)
BOXES = {  # (y, x, h, w) in an image of 24 x 20 pixels, to 12 pixels
    "whole": (0, 0, 24, 20),
    "shrunk": (1, 2, 23, 17),
    "enlarged": (5, 3, 4, 7),
    "one pixel": (23, 19, 1, 1),
    "shrunk along, enlarged across": (2, 11, 22, 5),
    "kept": (7, 6, 12, 12),
}


def image_u8(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def numbered(side):
    """An image whose pixels are all different, (side, side, 1)."""
    return np.arange(side * side, dtype=np.float32).reshape(side, side, 1)


def pil_crop_and_resize(image, box, side):
    y, x, h, w = box
    channels = [Image.fromarray(c).crop((x, y, x + w, y + h)) for c in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(c.resize((side, side), Image.Resampling.BILINEAR)) for c in channels], axis=-1)


crop_to_12 = jax.jit(partial(augment.crop_and_resize, side=12))


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_crop_and_resize_is_pils_crop_then_antialiased_resize(box):
    pixels_u8 = image_u8(24, 20, 3)
    view = crop_to_12(pixels_u8.astype(np.float32) / 255, np.array(box, np.int32))
    assert np.abs(view - pil_crop_and_resize(pixels_u8, box, 12) / 255.0).max() <= 1.5 / 255
    exact = pil_crop_and_resize(pixels_u8.astype(np.float32) / 255, box, 12)  # PIL's float images know no rounding
    np.testing.assert_allclose(view, exact, atol=2e-6)


def test_a_crop_at_its_own_size_is_a_copy():
    image = image_u8(24, 20, 3).astype(np.float32) / 255
    np.testing.assert_array_equal(crop_to_12(image, np.array(BOXES["kept"], np.int32)), image[7:19, 6:18])
    square = image[:20]
    np.testing.assert_array_equal(augment.resize(square, 20), square)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_nothing_bleeds_in_from_outside_the_box(box):
    y, x, h, w = box
    image = np.full((24, 20, 3), 1e6, np.float32)
    image[y : y + h, x : x + w] = 0.5
    np.testing.assert_allclose(crop_to_12(image, np.array(box, np.int32)), 0.5, atol=1e-5)


def test_resize_is_the_whole_image():
    pixels = image_u8(9, 9, 3).astype(np.float32)
    np.testing.assert_allclose(augment.resize(pixels, 5), pil_crop_and_resize(pixels, (0, 0, 9, 9), 5), rtol=1e-5)
    np.testing.assert_allclose(augment.resize(pixels, 16), pil_crop_and_resize(pixels, (0, 0, 9, 9), 16), rtol=1e-5)


def random_boxes(side, scale, **options):
    draw = partial(augment.random_resized_box, side=side, scale=scale, **options)
    boxes = np.asarray(jax.jit(jax.vmap(draw))(KEYS))
    assert boxes.dtype == np.int32
    y, x, h, w = boxes.T
    assert (boxes >= 0).all() and (h > 0).all() and (w > 0).all() and (y + h <= side).all() and (x + w <= side).all()
    return boxes


def test_random_resized_boxes_have_uniform_area_and_log_uniform_aspect():
    side = 224
    y, x, h, w = random_boxes(side, (0.1, 0.7)).T
    rounding = (h + w) / side**2
    share, aspect = h * w / side**2, w / h
    assert (share >= 0.1 - rounding).all() and (share <= 0.7 + rounding).all()
    assert (aspect >= 0.72).all() and (aspect <= 1.39).all()
    assert stats.kstest(share, stats.uniform(0.1, 0.6).cdf).pvalue > 0.01
    log_aspect = stats.uniform(np.log(3 / 4), np.log(16 / 9))
    assert stats.kstest(np.log(aspect), log_aspect.cdf).pvalue > 0.01
    for start, length in ((y, h), (x, w)):  # every place is equally likely, both borders included
        assert (start == 0).any() and (start + length == side).any()
        assert stats.kstest((start + 0.5) / (side - length + 1), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(y / (side - h + 1), x / (side - w + 1))[0, 1]) < 0.08


def test_where_no_draw_fits_the_box_is_the_whole_image():
    whole = np.tile([0, 0, 32, 32], (len(KEYS), 1))
    np.testing.assert_array_equal(random_boxes(32, (1.0, 1.0)), whole)
    np.testing.assert_array_equal(random_boxes(32, (0.9, 1.0), ratio=(3.0, 4.0)), whole)


def test_flip_mirrors_left_to_right_half_of_the_time():
    image = numbered(4)
    views = np.asarray(jax.vmap(augment.random_flip, (0, None))(KEYS, image))
    mirrored = (views == image[:, ::-1]).all(axis=(1, 2, 3))
    assert ((views == image).all(axis=(1, 2, 3)) ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(KEYS))


def test_pad_crop_cuts_every_place_of_the_padded_image_equally_often():
    image = 1 + numbered(4)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    places = {padded[y : y + 4, x : x + 4].tobytes(): 0 for y in range(5) for x in range(5)}
    for view in np.asarray(jax.vmap(partial(augment.pad_crop, pad=2), (0, None))(KEYS, image)):
        places[view.tobytes()] += 1
    assert len(places) == 25 and stats.chisquare(list(places.values())).pvalue > 0.01


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_shuffled_patches_are_whole_strips_each_once(factor):
    image, strip = numbered(6), 6 // factor
    orders = [np.concatenate([np.arange(i * strip, (i + 1) * strip) for i in p]) for p in permutations(factor)]
    arrangements = {image[rows][:, columns].tobytes(): 0 for rows in orders for columns in orders}
    shuffle = jax.vmap(partial(augment.shuffle_patches, factor=factor), (0, None))
    for view in np.asarray(shuffle(KEYS, jnp.asarray(image))):
        arrangements[view.tobytes()] += 1  # KeyError: not a permutation of strips
    counts = list(arrangements.values())
    assert len(counts) == len(orders) ** 2
    assert stats.chisquare(counts).pvalue > 0.01 if factor > 1 else counts == [len(KEYS)]


def permutations(n):
    return itertools.permutations(range(n))


def simulated_cutmix_shares(side, n):
    rng = np.random.default_rng(1)
    cut = (side * np.sqrt(1 - rng.beta(1, 1, n))).astype(int)
    centres = rng.integers(0, side, (2, n))
    low, high = (np.clip(centres + sign * (cut // 2), 0, side) for sign in (-1, 1))
    return np.prod(high - low, axis=0) / side**2


def test_cutmix_boxes_follow_the_papers_draw():
    side = 64
    boxes = np.asarray(jax.vmap(partial(augment.cutmix_box, side=side))(KEYS))
    y0, y1, x0, x1 = boxes.T
    assert (boxes >= 0).all() and (boxes <= side).all() and (y0 <= y1).all() and (x0 <= x1).all()
    inner = (y0 > 0) & (y1 < side) & (x0 > 0) & (x1 < side)
    assert ((y1 - y0) == (x1 - x0))[inner].all()  # square where it was not clipped
    share = (y1 - y0) * (x1 - x0) / side**2
    assert stats.ks_2samp(share, simulated_cutmix_shares(side, 20000)).pvalue > 0.01


def test_inside_box_marks_the_pixels_of_a_slice():
    for box in ((1, 4, 2, 5), (0, 7, 6, 7), (3, 3, 2, 5), (0, 7, 0, 7)):
        expected = np.zeros((7, 7), bool)
        expected[box[0] : box[1], box[2] : box[3]] = True
        np.testing.assert_array_equal(augment.inside_box(jnp.array(box), 7), expected)
