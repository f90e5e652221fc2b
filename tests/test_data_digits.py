"""The embedded data: an exact split, pixels against the scans, and digits where `photo_boxes` says they are."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images
from test_data_settings import make_settings

from infoutil_jax.data import digits, open_dataset

DIGITS = load_digits()


@pytest.fixture(scope="module", params=["digits", "digits_in_photos"])
def data(request):
    return open_dataset(make_settings(source=request.param))


def rows_of(split):
    return np.array([int(name.removeprefix("digits/")) for name in split.ids])


def test_split_is_stratified_disjoint_and_complete(data):
    train, val = rows_of(data.train), rows_of(data.val)
    assert (len(train), len(val)) == (1437, 360)
    assert sorted([*train, *val]) == list(range(1797)) and (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    np.testing.assert_array_equal(data.train.labels, DIGITS.target[train])
    np.testing.assert_array_equal(data.val.labels, DIGITS.target[val])
    per_class = np.bincount(DIGITS.target)
    assert (abs(np.bincount(data.val.labels) - per_class / 5) < 1).all()
    assert data.class_names == tuple("0123456789")


def test_split_is_the_same_for_ever():
    """Golden: a change of this hash changes every result on the digits; state it in the changelog when it must."""
    _, val = digits.split_rows(DIGITS.target)
    assert hashlib.sha256(np.asarray(val, "<i8").tobytes()).hexdigest()[:16] == "62cddbf54f9cbbd6"


def test_content_ids_differ_by_source_only():
    choices = [(source, size) for source in ("digits", "digits_in_photos") for size in (16, 32)]
    assert len({open_dataset(make_settings(source=s, image_size=n)).content_id for s, n in choices}) == 2


@pytest.mark.parametrize("size", [8, 32, 224])
def test_digits_are_the_scans_upsampled(size):
    split = open_dataset(make_settings(image_size=size)).train
    images_u8 = split.images([0, 700, 1436])
    assert images_u8.shape == (3, size, size, 3) and (images_u8 == images_u8[..., :1]).all()
    centres = (np.arange(size) + 0.5) * 8 / size - 0.5
    at = np.clip(centres, 0, 7)
    low = np.minimum(at.astype(int), 6)
    weight = np.zeros((size, 8))
    weight[np.arange(size), low], weight[np.arange(size), low + 1] = 1 - (at - low), at - low
    scans = DIGITS.images[rows_of(split)[[0, 700, 1436]]]
    expected = np.einsum("yh,nhw,xw->nyx", weight, scans, weight) * 255 / 16
    assert abs(images_u8[..., 0] - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("size", [32, 33, 224])
def test_photo_boxes_hold_the_whole_digit(size):
    settings = make_settings(source="digits_in_photos", image_size=size)
    split = open_dataset(settings).train
    boxes = digits.photo_boxes(settings)
    assert boxes.shape == (1437, 4) and boxes.dtype == np.int32
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= size).all()
    assert (boxes[:, 2:] == size // 2).all()
    for i in range(0, 1437, 100):
        y, x, h, w = boxes[i]
        image = split.images([i])[0].astype(int)
        photo = digits._background(load_sample_images().images, int(rows_of(split)[i]), size)
        outside = np.ones((size, size), bool)
        outside[y : y + h, x : x + w] = False
        assert abs(image - photo)[outside].max() <= 0.5
        added = (image - photo)[y : y + h, x : x + w] / (255 - photo[y : y + h, x : x + w])
        scan = open_dataset(make_settings(image_size=h)).train.images([i])[0] / 255
        assert abs(added - scan).max() <= 0.01


def test_digits_in_photos_vary_and_stay_legible():
    settings = make_settings(source="digits_in_photos")
    boxes = digits.photo_boxes(settings)
    images_u8 = open_dataset(settings).train.images(slice(None))
    assert len(np.unique(boxes[:, :2], axis=0)) == 17 * 17
    assert len({image.tobytes() for image in images_u8}) == 1437
    for i, (y, x, h, w) in enumerate(boxes):
        inside = images_u8[i, y : y + h, x : x + w]
        assert inside.max() >= 200 > 0.65 * 255 >= np.median(images_u8[i])


def test_backgrounds_are_random_squares_of_every_photograph():
    columns = np.broadcast_to(np.arange(90, dtype=np.uint8)[None, :, None], (60, 90, 3))
    crops = [digits._background([columns, columns + 100], row, 8) for row in range(300)]
    photo_of = np.array([crop.min() >= 60 for crop in crops])  # 100 at DIM = 0.6
    assert 100 < photo_of.sum() < 200
    lefts = {round(float(crop[0, 0, 0] / 0.6 - 100 * second)) for crop, second in zip(crops, photo_of, strict=True)}
    assert min(lefts) <= 3 and max(lefts) >= 70 and len(lefts) > 60  # a square of 16 in 90 columns starts at 0..74
    np.testing.assert_allclose(np.diff(crops[0][0, 1:-1, 0]), 2 * 0.6, atol=0.61)  # half resolution, rounded to levels
