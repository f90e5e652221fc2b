"""Image files to RGB arrays of one size: every mode that the formats hold, nothing that a hostile file can abuse."""

import contextlib
import io
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from infoutil_jax.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # decided by content; Pillow's other plugins never see the bytes
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
WHITE = (255, 255, 255, 255)
ORIENTATION, UPRIGHT = 0x0112, 1  # the EXIF tag and its harmless value
LONGEST = 8  # times the shorter side; what lies beyond is cut before the resize


def map_in_threads(fn, items):
    """Yields fn(item) in order from at most 8 threads; the first exception cancels what has not started."""
    with ThreadPoolExecutor(min(8, max(2, os.cpu_count() or 2))) as pool:
        yield from pool.map(fn, items)


@contextlib.contextmanager
def _blaming(name: str):
    """Turns whatever Pillow raises into a DataError naming the image; what the system says is no fault of the image."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # the plugins stumble over malformed bytes in many ways: SyntaxError, struct.error, ...
        if getattr(error, "errno", None):
            raise
        raise DataError(f"{name!r}: {_why(error)}; delete or replace it.") from error


def _why(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image of {', '.join(FORMATS)}"
    return f"unreadable ({type(error).__name__}: {error})"


def open_image(file, name: str, *, max_megapixels: float) -> Image.Image:
    """Reads the header only. Raises DataError naming `name` when it is no image of FORMATS or is too large."""
    with _blaming(name):
        image = Image.open(file, formats=FORMATS)
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        size = f"{image.width} x {image.height} = {megapixels:.4g} megapixels"
        raise DataError(f"{name!r}: {size}, more than data.max_megapixels={max_megapixels:g}; shrink it or raise that.")
    return image


class Header(NamedTuple):
    """What an image's header says."""

    size: tuple[int, int]  # width, height
    has_frames: bool  # more than one
    is_turned: bool  # by EXIF
    is_deep: bool  # 16 bits


def look(file, name: str, *, max_megapixels: float) -> Header:
    """What the header says. Raises DataError as open_image."""
    with _blaming(name), open_image(file, name, max_megapixels=max_megapixels) as image:
        # getexif() decodes the whole file where the header has no EXIF
        is_turned = "exif" in image.info and image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT
        return Header(image.size, getattr(image, "is_animated", False), is_turned, image.mode in SIXTEEN_BIT)


def check_body(file, name: str, *, max_megapixels: float) -> None:
    """Decodes what `look` has seen, a JPEG at an eighth of its size. Raises DataError where that fails."""
    with _blaming(name), open_image(file, name, max_megapixels=max_megapixels) as image:
        image.draft(None, tuple(max(1, side // 8) for side in image.size))
        image.load()


def decode(data: bytes, name: str, *, exif: bool, max_megapixels: float) -> np.ndarray:
    """(H, W, 3) uint8 of an encoded image, the first frame of an animated one.

    Raises DataError naming `name` when the image is truncated, broken, too large or of a mode without a range.
    """
    with _blaming(name):
        return to_rgb_u8(open_image(io.BytesIO(data), name, max_megapixels=max_megapixels), exif=exif)


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


def fit(image_u8: np.ndarray, size: int, crop_share: float = 0.0, interpolation: str = "bilinear") -> np.ndarray:
    """(size, size, 3) uint8 of (H, W, 3) uint8: unchanged if it already fits, else resized and cropped at the centre.

    The shorter side becomes floor(size / crop_share), timm's rule; with a crop_share of 0 size // 7 * 8 (224 -> 256,
    never less than size) as in the test transform of RDED (Sun et al. 2024). `interpolation` is bilinear or bicubic,
    with antialias. Of images longer than 8 times their width only the middle is resized.
    """
    if image_u8.shape[:2] == (size, size):
        return image_u8
    image = Image.fromarray(_middle(image_u8, LONGEST * min(image_u8.shape[:2])))
    shorter = math.floor(size / crop_share) if crop_share else max(size, size // 7 * 8)
    width, height = (side * shorter // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling[interpolation.upper()])
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def _middle(image_u8: np.ndarray, longest: int) -> np.ndarray:
    """The middle of an image, no side longer than `longest`: a line of 1 x 3000 must not grow to 256 x 768000."""
    top, left = (max(0, side - longest) // 2 for side in image_u8.shape[:2])
    return image_u8[top : top + longest, left : left + longest]
