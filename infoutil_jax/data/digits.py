"""Real scanned digits that ship with scikit-learn (UCI, 1797 scans of 8 x 8): no download, minutes on a CPU.

`digits` shows them alone; `digits_in_photos` puts each at half size somewhere on a crop of a photograph, where only a
known part of the image says what the class is.
"""

import functools

import numpy as np
from PIL import Image

from infoutil_jax.data.settings import Dataset, Settings, Split, content_id

LEVELS = 16  # a scan's grey levels run from 0 to 16
VAL_EVERY = 5  # one digit in five validates: 1437 train, 360 val
SPLIT_SEED, PHOTO_SEED = 0, 1
DIM = 0.6  # photographs are darkened, so that white strokes stay legible on a pale sky


def open_digits(settings: Settings) -> Dataset:
    """The digits, alone or in photographs as `settings.source` says; classes '0'..'9', ids 'digits/0001'."""
    scans, labels, draw = _scans(settings)
    splits = [_split(settings, draw, labels, rows) for rows in split_rows(labels)]
    identity = content_id(settings.source, scans, *(part for s in splits for part in (s.labels, s.ids)))
    names = tuple(str(digit) for digit in range(10))
    return Dataset(settings.source, names, *splits, content_id=identity, notes=())


def split_rows(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of train and of val, sorted: classes one after the other, each shuffled, and every fifth row validates."""
    rng = np.random.default_rng(SPLIT_SEED)
    by_class = np.concatenate([rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)])
    val = by_class[::VAL_EVERY]
    return np.setdiff1d(by_class, val), np.sort(val)


def photo_boxes(settings: Settings) -> np.ndarray:
    """(N, 4) int32 `y x h w`: where each training digit of `digits_in_photos` lies, in the order of the split."""
    train, _ = split_rows(_load_scans()[1])
    return np.stack([_place(int(row), settings.image_size) for row in train])


def _scans(settings: Settings):
    scans, labels = _load_scans()
    if settings.source == "digits":
        return scans, labels, lambda row: _alone(scans[row], settings.image_size)
    photos = _load_photos()
    return scans, labels, lambda row: _in_photo(scans[row], photos, row, settings.image_size)


def _split(settings: Settings, draw, labels: np.ndarray, rows: np.ndarray) -> Split:
    return Split(
        labels[rows],
        [f"digits/{row:04d}" for row in rows],
        lambda wanted: [draw(int(rows[i])) for i in wanted],
        image_size=settings.image_size,
        cache_gib=settings.cache_gib,
    )


@functools.cache
def _load_scans() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int32)


@functools.cache
def _load_photos() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def _grey(scan: np.ndarray, side: int) -> np.ndarray:
    """(side, side) float32 in [0, 1] of an 8 x 8 scan, bilinear."""
    image = Image.fromarray(scan.astype(np.float32) / LEVELS)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _alone(scan: np.ndarray, size: int) -> np.ndarray:
    grey_u8 = np.round(_grey(scan, size) * 255).astype(np.uint8)
    return np.repeat(grey_u8[..., None], 3, axis=-1)


def _in_photo(scan: np.ndarray, photos: list[np.ndarray], row: int, size: int) -> np.ndarray:
    """White strokes over the photograph: photo * (1 - a) + 255 * a, with a = the scan's grey in [0, 1]."""
    canvas = _background(photos, row, size)
    y, x, h, w = _place(row, size)
    alpha = _grey(scan, h)[..., None]
    canvas[y : y + h, x : x + w] = canvas[y : y + h, x : x + w] * (1 - alpha) + 255 * alpha
    return np.round(canvas).astype(np.uint8)


def _place(row: int, size: int) -> np.ndarray:
    """(4,) int32 `y x h w` of the digit of `row`: half the image's side, anywhere inside."""
    side = size // 2
    y, x = np.random.default_rng((PHOTO_SEED, row, 0)).integers(0, size - side + 1, 2)
    return np.array([y, x, side, side], np.int32)


def _background(photos: list[np.ndarray], row: int, size: int) -> np.ndarray:
    """(size, size, 3) float32 in [0, 255]: a random square of a random photograph, at half resolution if it is
    large enough, darkened."""
    rng = np.random.default_rng((PHOTO_SEED, row, 1))
    photo = photos[rng.integers(len(photos))]
    side = min(2 * size, *photo.shape[:2])
    y, x = rng.integers(0, np.array(photo.shape[:2]) - side + 1)
    crop = Image.fromarray(photo[y : y + side, x : x + side])
    return np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR), np.float32) * DIM
