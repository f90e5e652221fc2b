"""Image files to RGB arrays of one size: every mode that the formats hold, nothing that a hostile file can abuse."""

import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from infoutil_jax.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # decided by content; Pillow's other plugins never see the bytes
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
WHITE = (255, 255, 255, 255)


def map_in_threads(fn, items):
    """Yields fn(item) in order from at most 8 threads; the first exception cancels what has not started."""
    with ThreadPoolExecutor(min(8, max(2, os.cpu_count() or 2))) as pool:
        yield from pool.map(fn, items)


def open_image(file, name: str, *, max_megapixels: float) -> Image.Image:
    """Reads the header only. Raises DataError naming `name` when it is no image of FORMATS or is too large."""
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name!r}: not an image ({', '.join(FORMATS)}); delete or replace it.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name!r}: more pixels than data.max_megapixels={max_megapixels:g}; delete or shrink it.") from error
    except Exception as error:  # Pillow's plugins raise whatever malformed bytes make them stumble over
        raise DataError(f"{name!r}: header unreadable ({error}); delete or replace it.") from error
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        size = f"{image.width}x{image.height} = {megapixels:.3g} megapixels"
        raise DataError(f"{name!r}: {size} exceed data.max_megapixels={max_megapixels:g}; shrink it or raise the limit.")
    return image


def decode(data: bytes, name: str, *, exif: bool, max_megapixels: float) -> np.ndarray:
    """(H, W, 3) uint8 of an encoded image, the first frame of an animated one.

    Raises DataError naming `name` when the image is truncated, broken, too large or of a mode without a range.
    """
    image = open_image(io.BytesIO(data), name, max_megapixels=max_megapixels)
    try:
        return to_rgb_u8(image, exif=exif)
    except Exception as error:  # as in open_image
        raise DataError(f"{name!r}: cannot be decoded ({error}); delete or replace it.") from error


def to_rgb_u8(image: Image.Image, *, exif: bool = False) -> np.ndarray:
    """(H, W, 3) uint8. Alpha is composed over white; 16 bits keep their high byte (Pillow would clip to white).

    CMYK and YCCK become RGB by Pillow's formula, as in torchvision. `exif` applies the EXIF rotation.
    Raises ValueError for floating-point images and 32-bit ones beyond 16 bits: their range is unknown.
    """
    image = ImageOps.exif_transpose(image) if exif else image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode in SIXTEEN_BIT:
        return np.repeat(_high_byte(image)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        foreground = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", foreground.size, WHITE), foreground)
    return np.asarray(image.convert("RGB"))


def _high_byte(image: Image.Image) -> np.ndarray:
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError("integer pixels outside 0..65535")
    return (values >> 8).astype(np.uint8)


def fit(image_u8: np.ndarray, size: int) -> np.ndarray:
    """(size, size, 3) uint8 of (H, W, 3) uint8: unchanged if it already fits, else resized and cropped at the centre.

    The shorter side becomes size // 7 * 8 (224 -> 256, never less than size), bilinear with antialias, as in the
    test transform of RDED (Sun et al. 2024). Only the pixels of the crop are computed, so 1 x 3000 costs no more.
    """
    height, width = image_u8.shape[:2]
    if height == width == size:
        return image_u8
    short = max(size, size // 7 * 8)
    top, bottom = _centre(height, min(height, width), short, size)
    left, right = _centre(width, min(height, width), short, size)
    image = Image.fromarray(image_u8).resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    return np.asarray(image)


def _centre(side: int, shorter: int, short: int, size: int) -> tuple[float, float]:
    """The centre crop's limits along one side, in source pixels, for a resize that takes `shorter` to `short`."""
    resized = side * short // shorter
    start = round((resized - size) / 2)
    return start * side / resized, min((start + size) * side / resized, side)
