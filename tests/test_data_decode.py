"""Every mode, the formats allowed and no other, broken and hostile files, and the resize against a matrix product."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from infoutil_jax.data.decode import decode, fit, look, map_in_threads, to_rgb_u8
from infoutil_jax.errors import DataError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (7, 5, 3), np.uint8)


def encode(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def decode_any(data: bytes, *, exif: bool = False, max_megapixels: float = 64.0) -> np.ndarray:
    return decode(data, "some/file", exif=exif, max_megapixels=max_megapixels)


def over_white(rgb, alpha):
    """Composition in float64; Pillow rounds each product, so one level of difference is allowed."""
    a = alpha[..., None] / 255
    return rgb * a + 255 * (1 - a)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "WEBP"])
def test_rgb_is_unchanged(image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    np.testing.assert_array_equal(decode_any(encode(Image.fromarray(RGB), image_format, **options)), RGB)


def test_grey_and_bilevel():
    grey = RGB[..., 0]
    np.testing.assert_array_equal(decode_any(encode(Image.fromarray(grey))), np.stack([grey] * 3, -1))
    bits = grey > 127
    np.testing.assert_array_equal(decode_any(encode(Image.fromarray(bits))), np.stack([bits * 255] * 3, -1))


def test_palette_with_and_without_transparency():
    colours, rows = RGB.reshape(-1, 3)[:4], np.array([[0, 1], [2, 3]], np.uint8)
    image = Image.frombytes("P", (2, 2), rows.tobytes())
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(decode_any(encode(image)), colours[rows])
    expected = colours[rows].copy()
    expected[1, 0] = 255  # the third palette entry is transparent, so white shows
    np.testing.assert_array_equal(decode_any(encode(image, transparency=2)), expected)
    alphas = bytes([255, 0, 128, 255])
    expected = over_white(colours[rows].astype(float), np.frombuffer(alphas, np.uint8)[rows].astype(float))
    assert abs(decode_any(encode(image, transparency=alphas)) - expected).max() <= 1


def test_alpha_is_composed_over_white():
    alpha = RNG.integers(0, 256, RGB.shape[:2], np.uint8)
    alpha[0] = [0, 255, 1, 254, 128]
    rgba = np.concatenate([RGB, alpha[..., None]], -1)
    assert abs(decode_any(encode(Image.fromarray(rgba))) - over_white(RGB, alpha)).max() <= 1
    grey_alpha = Image.merge("LA", [Image.fromarray(RGB[..., 0]), Image.fromarray(alpha)])
    expected = over_white(np.stack([RGB[..., 0]] * 3, -1), alpha)
    assert abs(decode_any(encode(grey_alpha)) - expected).max() <= 1


@pytest.mark.parametrize("space", ["CMYK", "YCCK"])
def test_cmyk_jpeg(space):
    cmyk = np.broadcast_to(np.array([40, 90, 200, 60], np.uint8), (16, 16, 4))
    image = Image.frombytes("CMYK", (16, 16), cmyk.tobytes())
    data = encode(image, "JPEG", quality=100)
    if space == "YCCK":  # tell the decoder, through Adobe's marker, that the four planes hold YCbCr and K
        at = data.index(b"Adobe") + 11
        data = data[:at] + b"\2" + data[at + 1 :]
    planes = np.asarray(Image.open(io.BytesIO(data))).astype(float)
    expected = (255 - planes[..., :3]) * (255 - planes[..., 3:]) / 255
    assert abs(decode_any(data) - expected).max() <= 1
    if space == "CMYK":
        assert abs(decode_any(data)[8, 8] - (255 - cmyk[0, 0, :3].astype(float)) * (255 - 60) / 255).max() <= 4


@pytest.mark.parametrize("mode, dtype", [("I;16", "<u2"), ("I;16B", ">u2"), ("I", "<i4")])
def test_sixteen_bits_keep_their_high_byte(mode, dtype):
    values = np.array([[0, 255, 256], [4660, 40000, 65535]])
    image = Image.frombytes(mode, (3, 2), values.astype(dtype).tobytes())
    expected = np.array([[0, 0, 1], [18, 156, 255]])
    np.testing.assert_array_equal(to_rgb_u8(image), np.stack([expected] * 3, -1))


def test_sixteen_bit_png_file():
    values = np.array([[0, 300], [40000, 65535]], np.uint16)
    data = encode(Image.fromarray(values))
    np.testing.assert_array_equal(decode_any(data)[..., 1], [[0, 1], [156, 255]])
    assert look(io.BytesIO(data), "f", max_megapixels=1).is_deep


@pytest.mark.parametrize("image", [Image.new("F", (2, 2)), Image.new("I", (2, 2), 70000), Image.new("I", (2, 2), -1)])
def test_pixels_without_a_range_are_refused(image):
    with pytest.raises(ValueError, match="pixels"):
        to_rgb_u8(image)


def turned(image_u8: np.ndarray, orientation: int) -> np.ndarray:
    """What EXIF 2.3 says: orientation names where row 0 and column 0 of the file lie in the scene."""
    return {
        1: image_u8,
        2: image_u8[:, ::-1],
        3: image_u8[::-1, ::-1],
        4: image_u8[::-1],
        5: image_u8.transpose(1, 0, 2),
        6: image_u8.transpose(1, 0, 2)[:, ::-1],
        7: image_u8.transpose(1, 0, 2)[::-1, ::-1],
        8: image_u8.transpose(1, 0, 2)[::-1],
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_only_when_asked(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(RGB), exif=exif)
    np.testing.assert_array_equal(decode_any(data), RGB)
    np.testing.assert_array_equal(decode_any(data, exif=True), turned(RGB, orientation))
    assert look(io.BytesIO(data), "f", max_megapixels=1) == ((5, 7), False, orientation != 1, False)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(image_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    assert look(io.BytesIO(data), "f", max_megapixels=1) == ((8, 8), True, False, False)
    np.testing.assert_array_equal(decode_any(data), np.broadcast_to([200, 0, 0], (8, 8, 3)))


@pytest.mark.parametrize("image_format", ["TIFF", "PPM", "PCX", "ICO", "TGA"])
def test_other_formats_are_not_opened(image_format):
    with pytest.raises(DataError, match="'some/file': not an image of JPEG, PNG, WEBP, BMP, GIF"):
        decode_any(encode(Image.fromarray(RGB), image_format))


@pytest.mark.parametrize("data", [b"", b"\xff", b"<!DOCTYPE html>", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_no_image_names_the_file(data):
    with pytest.raises(DataError, match="'some/file'"):
        decode_any(data)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_truncation_names_the_file(image_format):
    data = encode(Image.fromarray(np.tile(RGB, (20, 20, 1))), image_format)
    decode_any(data)
    with pytest.raises(DataError, match="'some/file': unreadable"):
        decode_any(data[: len(data) // 2])


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be large and holds almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_pixel_limit_is_checked_before_decoding(monkeypatch):
    loaded = []
    monkeypatch.setattr(Image.Image, "convert", lambda self, *a, **k: loaded.append(self))
    with pytest.raises(DataError, match="'some/file': 9000 x 8000 = 72 megapixels.*data.max_megapixels=64"):
        decode_any(png_header(9000, 8000))
    for side in (11000, 20000, 100000):  # where Pillow only warns, and where it refuses by itself
        with pytest.raises(DataError, match="'some/file'"):
            decode_any(png_header(side, side))
    with pytest.raises(DataError, match="megapixels=3e-05"):
        decode_any(encode(Image.fromarray(RGB)), max_megapixels=3e-5)
    assert not loaded


def test_fit_leaves_the_right_size_alone():
    square = RNG.integers(0, 256, (32, 32, 3), np.uint8)
    assert fit(square, 32) is square


def triangle_resize(side: int, resized: int) -> np.ndarray:
    """(resized, side) weights of a linear resize whose kernel widens when it shrinks (antialias), in float64."""
    scale = side / resized
    centres = (np.arange(resized) + 0.5) * scale - 0.5
    distance = abs(np.arange(side)[None] - centres[:, None]) / max(scale, 1)
    weights = np.maximum(0, 1 - distance)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [8, 13, 20, 27, 32, 64, 224])
@pytest.mark.parametrize("height, width", [(40, 61), (300, 200), (33, 32), (9, 9), (224, 225), (5, 40)])
def test_fit_is_antialiased_resize_then_centre_crop(height, width, size):
    image_u8 = RNG.integers(0, 256, (height, width, 3), np.uint8)
    short = {8: 8, 13: 13, 20: 20, 27: 27, 32: 32, 64: 72, 224: 256}[size]
    new_height, new_width = (int(short * side / min(height, width)) for side in (height, width))
    rows, columns = triangle_resize(height, new_height), triangle_resize(width, new_width)
    top, left = int(round((new_height - size) / 2.0)), int(round((new_width - size) / 2.0))
    expected = np.einsum("yh,xw,hwc->yxc", rows[top : top + size], columns[left : left + size], image_u8, optimize=True)
    actual = fit(image_u8, size)
    assert actual.shape == (size, size, 3) and actual.dtype == np.uint8
    assert abs(actual - expected).max() <= 1.1  # Pillow rounds to 8 bits after each of its two passes


# (size, crop share) -> the shorter side after the resize: 256 of torchvision's 224, 235 of timm's 0.95, 260 of Swin's
SHARES = [
    (224, 0.875, 256),
    (224, 0.95, 235),
    (224, 1.0, 224),
    (256, 256 / 260, 260),
    (32, 0.875, 36),
    (224, 224 / 232, 232),
]


@pytest.mark.parametrize("size, share, shorter", SHARES)
def test_fit_takes_the_given_share(size, share, shorter, monkeypatch):
    resize, seen = Image.Image.resize, []
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a: seen.append(a) or resize(self, *a))
    image_u8 = RNG.integers(0, 256, (300, 400, 3), np.uint8)
    fitted = fit(image_u8, size, share, "bicubic")
    resized = np.asarray(resize(Image.fromarray(image_u8), (400 * shorter // 300, shorter), Image.Resampling.BICUBIC))
    top, left = round((shorter - size) / 2), round((resized.shape[1] - size) / 2)
    assert seen == [((400 * shorter // 300, shorter), Image.Resampling.BICUBIC)]
    np.testing.assert_array_equal(fitted, resized[top : top + size, left : left + size])
    assert not np.array_equal(fitted, fit(image_u8, size, share))  # bilinear is another


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 3), (31, 32)])
def test_fit_of_extreme_shapes(shape, monkeypatch):
    resize, sizes = Image.Image.resize, []
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *a: sizes.append(size) or resize(self, size, *a))
    flat = np.full((*shape, 3), 77, np.uint8)
    np.testing.assert_array_equal(fit(flat, 224), np.full((224, 224, 3), 77, np.uint8))
    assert max(max(size) for size in sizes) <= 8 * 256  # no wide intermediate image, however long the line


def test_the_middle_of_an_extreme_shape_is_what_remains():
    line = np.zeros((1, 3000, 3), np.uint8)
    line[0, 1499:1501] = 255
    assert (fit(line, 32)[:, 8:-8] == 255).all()


def test_threads_keep_the_order_and_pass_errors_on():
    assert list(map_in_threads(lambda x: x * x, range(100))) == [x * x for x in range(100)]
    with pytest.raises(ZeroDivisionError):
        list(map_in_threads(lambda x: 1 // x, [1, 0, 2]))


def test_out_of_memory_is_not_blamed_on_the_file(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    data = encode(Image.fromarray(RGB))
    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    with pytest.raises(MemoryError):
        decode_any(data, exif=True)
