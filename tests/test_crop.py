"""Windows against brute force; boxes inside the image; draws that depend on the id alone."""

import itertools

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from infoutil_jax.stages import crop

IDS = tuple(f"train/{i}" for i in range(40))
SIZES = [(32, 4, 2), (32, 4, 3), (9, 4, 2), (10, 4, 3), (11, 3, 1), (7, 5, 5), (13, 4, 4)]  # side, grid, window


def settings(rule="shapley", **changes):
    return crop.Settings(**dict(rule=rule, window=2, per_image=5, alpha=2.0) | changes)


def maps(grid, n=len(IDS)):
    return np.random.default_rng(0).normal(size=(n, grid, grid)).astype(np.float32)


def best_window(phi, window):
    """(row, column, mean) of the best window, one by one; the first one wins."""
    places = range(len(phi) - window + 1)
    means = {(i, j): phi[i : i + window, j : j + window].mean(dtype=float) for i in places for j in places}
    return max(means, key=means.get), max(means.values())


@pytest.mark.parametrize(("side", "grid", "window"), SIZES)
def test_without_noise_every_crop_is_the_best_window(side, grid, window):
    phi = maps(grid)
    boxes, pooled = crop.run(settings(window=window, alpha=0.0), 0, IDS, side, grid, phi)
    cell = np.arange(side) * grid // side  # as the game sees the pixels
    for m in range(len(IDS)):
        assert (boxes[m] == boxes[m, 0]).all()
        (row, column), mean = best_window(phi[m], window)
        for start, length, first in zip(boxes[m, 0, :2], boxes[m, 0, 2:], (row, column)):
            pixels = np.flatnonzero((cell >= first) & (cell < first + window))
            assert start == min(pixels[0], side - length)
            assert length == round(window * side / grid) and abs(length - len(pixels)) <= 1
        np.testing.assert_allclose(pooled[m], mean, rtol=1e-6)


def test_the_last_crop_has_no_noise_and_the_others_have():
    phi = maps(4)
    noisy, pooled = crop.run(settings(), 0, IDS, 32, 4, phi)
    plain, best = crop.run(settings(alpha=0.0), 0, IDS, 32, 4, phi)
    np.testing.assert_array_equal(noisy[:, -1], plain[:, -1])
    assert (pooled <= best).all()
    differs = (noisy[:, :-1] != plain[:, :-1]).any(axis=-1).mean(axis=0)
    assert (differs > 0.3).all()
    for m, r in itertools.product(range(len(IDS)), range(5)):  # pooled is the value of the box, without its noise
        i, j = noisy[m, r, :2] // 8
        np.testing.assert_allclose(pooled[m, r], phi[m, i : i + 2, j : j + 2].mean(), rtol=1e-5)


def test_noise_is_in_standard_deviations_of_each_map():
    phi = maps(4)
    boxes, _ = crop.run(settings(), 0, IDS, 32, 4, phi)
    same, _ = crop.run(settings(), 0, IDS, 32, 4, phi * 1000 + 5)
    np.testing.assert_array_equal(boxes, same)
    drawn = crop.run(settings(alpha=100.0, per_image=60), 0, IDS, 32, 4, phi)[0][:, :-1, :2].reshape(-1, 2) // 8
    counts = np.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9)  # overwhelming noise: any window
    assert stats.chisquare(counts).pvalue > 0.01
    phi = np.zeros((1, 4, 4), np.float32)
    phi[0, 0, 0] = 1.0
    pooled = crop.pool(phi[0].astype(float), 2)
    found = crop.run(settings(alpha=1.0, per_image=4001), 0, IDS[:1], 32, 4, phi)[0][0, :-1, :2]
    rng = np.random.default_rng(5)
    simulated = (pooled + rng.normal(size=(20000, 3, 3)) * pooled.std()).reshape(-1, 9).argmax(1)
    assert abs((found == 0).all(1).mean() - (simulated == 0).mean()) < 0.03


def test_ties_go_to_the_first_window():
    boxes, _ = crop.run(settings(alpha=0.0), 0, IDS[:1], 32, 4, np.ones((1, 4, 4)))
    np.testing.assert_array_equal(boxes[0, -1], [0, 0, 16, 16])


@pytest.mark.parametrize("rule", crop.RULES)
@pytest.mark.parametrize(("side", "grid", "window"), SIZES)
def test_boxes_are_squares_inside_the_image(rule, side, grid, window):
    boxes, pooled = crop.run(settings(rule, window=window), 0, IDS, side, grid, maps(grid))
    assert boxes.dtype == np.int32 and boxes.shape == (len(IDS), 1 if rule == "whole" else 5, 4)
    y, x, h, w = np.moveaxis(boxes, -1, 0)
    assert (h == w).all() and (h > 0).all() and (boxes >= 0).all() and (y + h <= side).all() and (x + w <= side).all()
    assert np.isnan(pooled).all() == (rule != "shapley")
    if rule in ("shapley", "random_window"):
        assert (h == round(window * side / grid)).all()
    if rule == "whole":
        assert (h == side).all()


@pytest.mark.parametrize("rule", crop.RULES)
def test_draws_depend_on_the_id_alone(rule):
    order = np.random.default_rng(2).permutation(len(IDS))[:17]
    phi = maps(4)
    boxes, pooled = crop.run(settings(rule), 0, IDS, 32, 4, phi)
    some, some_pooled = crop.run(settings(rule), 0, [IDS[i] for i in order], 32, 4, phi[order])
    np.testing.assert_array_equal(some, boxes[order])
    np.testing.assert_array_equal(some_pooled, pooled[order])
    if rule != "whole":
        assert (crop.run(settings(rule), 1, IDS, 32, 4, phi)[0] != boxes).any()


def test_random_places_are_uniform_and_areas_are_rdeds():
    many = settings("random_window", per_image=100)
    y, x, *_ = np.moveaxis(crop.run(many, 0, IDS, 8, 4)[0], -1, 0)
    assert stats.chisquare(np.bincount((y * 5 + x).ravel(), minlength=25)).pvalue > 0.01
    y, x, length, _ = np.moveaxis(crop.run(settings("random_resized", per_image=100), 0, IDS, 224, 4)[0], -1, 0)
    assert stats.kstest((length / 224).ravel() ** 2, stats.uniform(0.08, 0.92).cdf).pvalue > 0.01
    assert stats.kstest(((y + 0.5) / (225 - length)).ravel(), "uniform").pvalue > 0.01


def test_cut_copies_at_size_and_resamples_like_pil():
    rng = np.random.default_rng(3)
    images_u8 = rng.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    boxes = np.array([[0, 0, 8], [3, 7, 8], [0, 0, 16], [5, 1, 11], [8, 8, 8], [2, 2, 3]], np.int32)[:, [0, 1, 2, 2]]
    boxes = boxes.reshape(3, 2, 4)
    crops = crop.cut(images_u8, boxes, 8)
    assert crops.dtype == np.uint8 and crops.shape == (3, 2, 8, 8, 3)
    for m, r in itertools.product(range(3), range(2)):
        y, x, h, w = boxes[m, r].tolist()
        channels = np.moveaxis(images_u8[m, y : y + h, x : x + w], -1, 0).astype(np.float32)
        exact = [np.asarray(Image.fromarray(c).resize((8, 8), Image.Resampling.BILINEAR)) for c in channels]
        assert np.abs(crops[m, r] - np.stack(exact, axis=-1)).max() <= (0.501 if h != 8 else 0)
