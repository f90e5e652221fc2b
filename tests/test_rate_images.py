"""The set in standard image formats: real bytes that hold all that is needed, and the pixels that come back."""

import contextlib
import struct

import numpy as np
import pytest

from infoutil_jax.errors import ConfigError, CorruptArtifact, DataError
from infoutil_jax.rate import decoded, image_codecs
from infoutil_jax.rate.image_codecs import PER, Settings
from infoutil_jax.types import DistilledSet

COUNTS = (6, 0, 5, 1)  # images per class: a sheet of 2 x 3, no sheet, one of 1 x 5, one image
LABELS = np.repeat(np.arange(4), COUNTS)
N = len(LABELS)
LOSSY = [Settings(f, 60, per) for f in ("jpeg", "webp", "avif") for per in PER]
EXACT = [Settings(f, None, per) for f in ("png", "webp") for per in PER]


def smooth_images(seed=0, height=16, width=24):
    """Random planes of colour, as any image format likes them, every image another."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 24
    a, b, c = rng.uniform(-60, 60, (3, N, 1, 1, 3))
    return (128 + a * y[..., None] + b * x[..., None] + c).clip(0, 255).round().astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("settings", EXACT, ids=str)
def test_lossless_is_exact_on_noise(settings):
    images = np.random.default_rng(1).integers(0, 256, (N, 16, 24, 3), np.uint8)
    back, labels = image_codecs.decode(image_codecs.encode(images, LABELS, 4, settings))
    assert back.dtype == np.uint8 and np.array_equal(back, images)
    assert labels.dtype == np.int32 and np.array_equal(labels, LABELS)


@pytest.mark.parametrize("settings", LOSSY, ids=str)
def test_every_image_comes_back_in_its_place(settings):
    images = smooth_images()
    back, labels = image_codecs.decode(image_codecs.encode(images, LABELS, 4, settings))
    assert back.shape == images.shape and back.dtype == np.uint8 and np.array_equal(labels, LABELS)
    for i, image in enumerate(back):
        *_, second, best = sorted((psnr(image, other), j) for j, other in enumerate(images))
        assert best[1] == i and best[0] > second[0] + 4


@pytest.mark.parametrize("format_", ["jpeg", "webp", "avif"])
def test_more_quality_costs_more_and_looks_better(format_):
    images = smooth_images(2) // 2 + np.random.default_rng(3).integers(0, 99, (N, 16, 24, 3), np.uint8)
    low, high = (image_codecs.encode(images, LABELS, 4, Settings(format_, q, "class")) for q in (20, 90))
    assert len(low) < len(high)
    assert psnr(image_codecs.decode(low)[0], images) + 1 < psnr(image_codecs.decode(high)[0], images)


@pytest.mark.parametrize("format_", ["jpeg", "avif"])
def test_colour_at_full_resolution_is_asked_for_by_name(format_):
    images = np.random.default_rng(4).integers(0, 256, (N, 16, 24, 3), np.uint8)
    settings = [Settings(format_, 95, "class", subsampling) for subsampling in image_codecs.SUBSAMPLING]
    halved, full = (image_codecs.encode(images, LABELS, 4, s) for s in settings)
    assert psnr(image_codecs.decode(halved)[0], images) + 6 < psnr(image_codecs.decode(full)[0], images)


def test_a_sheet_is_the_images_side_by_side():
    images = smooth_images(5)
    first, second, third = image_codecs._sheets(images, image_codecs._sizes("class", np.array(COUNTS)))
    assert np.array_equal(first, np.vstack([np.hstack(images[:3]), np.hstack(images[3:6])]))
    assert np.array_equal(second, np.hstack(images[6:11]))
    assert np.array_equal(third, images[11])
    (whole,) = image_codecs._sheets(images, image_codecs._sizes("set", np.array(COUNTS)))
    assert np.array_equal(whole, np.vstack([np.hstack(images[row : row + 4]) for row in (0, 4, 8)]))


@pytest.mark.parametrize("per, n_files", [("image", N), ("class", 3), ("set", 1)])
def test_the_bytes_are_files_and_a_small_index(per, n_files):
    data = image_codecs.encode(smooth_images(), LABELS, 4, Settings("png", None, per))
    assert struct.unpack_from("<4sBBHHI", data) == (b"IUI1", 0, PER.index(per), 16, 24, 4)
    assert struct.unpack_from("<4I", data, 14) == COUNTS
    sizes = struct.unpack_from(f"<{n_files}I", data, 14 + 16)
    start = 14 + 16 + 4 * n_files
    assert sum(sizes) == len(data) - start == image_codecs.image_bytes(data)
    for size in sizes:
        assert data[start : start + 4] == b"\x89PNG"
        start += size


def test_equal_sets_give_equal_bytes():
    for settings in [*LOSSY, *EXACT]:
        one, two = (image_codecs.encode(smooth_images(), LABELS, 4, settings) for _ in range(2))
        assert one == two, settings


@pytest.mark.parametrize(
    "given, words",
    [(("gif", 50), "'gif' is not known"), (("jpeg", None), "without a quality"), (("png", 50), "with a quality"),
     (("webp", 101), "out of range"), (("png", None, "row"), "images.per"),
     (("avif", 50, "image", "4:1:1"), "subsampling")],
)  # fmt: skip
def test_settings_are_checked(given, words):
    with pytest.raises(ConfigError, match=words):
        Settings(*given)


def test_labels_out_of_order_are_refused():
    with pytest.raises(DataError, match="class order"):
        image_codecs.encode(smooth_images(), LABELS[::-1], 4, Settings("png"))


def test_a_label_of_no_class_is_refused():
    with pytest.raises(DataError, match="labels 0 to 3, 3 classes"):
        image_codecs.encode(smooth_images(), LABELS, 3, Settings("png"))


def test_a_sheet_that_the_format_cannot_hold_is_refused():
    tall = np.zeros((2, 4, 8192, 3), np.uint8)  # side by side beyond webp's 16383 pixels
    with pytest.raises(DataError, match="webp of 4 x 16384 pixels"):
        image_codecs.encode(tall, np.zeros(2, int), 1, Settings("webp", 50, "class"))


@pytest.mark.parametrize(
    "harm",
    [lambda d: b"X" + d[1:], lambda d: d[:-1], lambda d: d[:9], lambda d: d[:30] + bytes(12) + d[42:],
     lambda d: d[:6] + b"\x11" + d[7:], lambda d: d[:6] + d[8:10] + d[6:8] + d[10:], lambda d: d[:4] + b"\x09" + d[5:]],
)  # fmt: skip
def test_what_no_decoder_accepts_is_named(harm):
    data = image_codecs.encode(smooth_images(), LABELS, 4, Settings("png", None, "class"))
    with pytest.raises(CorruptArtifact, match="coded images: "):
        image_codecs.decode(harm(data))


@pytest.mark.parametrize("settings", [s for s in LOSSY + EXACT if s.per == "class"])
def test_damage_of_any_format_is_named_or_shows_as_other_pixels(settings):
    data = image_codecs.encode(smooth_images(), LABELS, 4, settings)
    for at in range(0, len(data), max(len(data) // 60, 1)):
        with contextlib.suppress(CorruptArtifact):
            image_codecs.decode(data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :])


# Back to a set


def a_set():
    zeros = np.zeros((N, 4), np.float32)
    logits = np.random.default_rng(6).normal(size=(N, 4, 4)).astype(np.float32)
    origin = {"patch_ids": (("",) * 4,) * N, "patch_boxes": np.zeros((N, 4, 4), np.int32)}
    manifest = {"label_teacher": "early", "shards": [{"sha256": "ab"}, {"sha256": "cd"}]}
    return DistilledSet(smooth_images(), LABELS.astype(np.int32), logits, **origin, patch_shapley=zeros,
                        patch_gradient_norm=zeros, manifest=manifest)  # fmt: skip


def test_a_decoded_set_is_the_set_with_other_pixels_and_another_name():
    distilled = a_set()
    images, _ = image_codecs.decode(image_codecs.encode(distilled.images_u8, LABELS, 4, Settings("jpeg", 30)))
    back = decoded.with_images(distilled, images)
    assert back.images_u8 is images and back.patch_logits is distilled.patch_logits
    assert back.manifest["label_teacher"] == "early" and distilled.manifest["shards"][0] == {"sha256": "ab"}
    sets = [distilled, back, decoded.with_images(distilled, distilled.images_u8)]
    sets += [decoded.with_logits(s, s.patch_logits) for s in (distilled, back)]
    names = [s.manifest["shards"] for s in sets]
    assert len({str(name) for name in names}) == 5  # each was made otherwise
    assert names[1] == decoded.with_images(distilled, images.copy()).manifest["shards"]


@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: x.astype(np.float32), lambda x: x[:, :8]])
def test_other_shapes_are_no_decoded_set(change):
    with pytest.raises(DataError, match="cannot stand for uint8"):
        decoded.with_images(a_set(), change(smooth_images()))
