"""A set's images in a standard format, the control of any other codec: real bytes, and the pixels that come back.

The bytes are `HEADER | images per class, K uint32 | length of each file, uint32 | the files`, little endian. A file is
an image, or a sheet of all images of a class or of the set. Images are in class order, so the counts are the hard
labels.
Letters: N images, H W image, K classes.
"""

import io
import math
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from infoutil_jax.checks import in_range, one_of
from infoutil_jax.errors import CorruptArtifact, DataError

FORMATS = ("png", "jpeg", "webp", "avif")
LOSSLESS, LOSSY = ("png", "webp"), ("jpeg", "webp", "avif")
PER = ("image", "class", "set")  # what a file holds
SUBSAMPLING = ("4:2:0", "4:4:4")
MAGIC = b"IUI1"
# what damaged bytes end in, here and in Pillow's decoders
UNREADABLE = ValueError, IndexError, struct.error, OSError, SyntaxError, RuntimeError, Image.DecompressionBombError
HEADER = struct.Struct("<4sBBHHI")  # magic | place in FORMATS | place in PER | H | W | K
AVIF_SPEED = 4  # 0 slowest and smallest, 10 fastest


@dataclass(frozen=True)
class Settings:
    format: str  # one of FORMATS
    quality: int | None = None  # 0 to 100; None = lossless, which jpeg and avif cannot
    per: str = "image"  # one of PER: more images in a file share its headers and tables
    subsampling: str = "4:2:0"  # of colour, of jpeg and avif: 4:4:4 pays from about 90 on

    def __post_init__(self):
        one_of("images.format", self.format, FORMATS)
        one_of("images.per", self.per, PER)
        one_of("images.subsampling", self.subsampling, SUBSAMPLING)
        if self.quality is None:
            one_of("images.format (without a quality)", self.format, LOSSLESS)
        else:
            one_of("images.format (with a quality)", self.format, LOSSY)
            in_range("images.quality", self.quality, 0, 100)


def encode(images_u8, labels_N, n_classes: int, settings: Settings) -> bytes:
    """Images (N, H, W, 3) uint8 as bytes. DataError where labels are not those of n_classes in class order or a sheet
    is too large."""
    labels_N = np.asarray(labels_N)
    if len(labels_N) != len(images_u8) or (np.diff(labels_N) < 0).any() or not len(labels_N):
        raise DataError(f"images: {len(labels_N)} labels for {len(images_u8)} images, in class order; sort the set")
    if labels_N[0] < 0 or labels_N[-1] >= n_classes:
        raise DataError(f"images: labels {labels_N[0]} to {labels_N[-1]}, {n_classes} classes; give those of the set")
    counts_K = np.bincount(labels_N, minlength=n_classes)
    files = [_save(picture, settings) for picture in _sheets(images_u8, _sizes(settings.per, counts_K))]
    numbers = np.array([*counts_K, *map(len, files)], "<u4").tobytes()
    kind = FORMATS.index(settings.format), PER.index(settings.per)
    return b"".join([HEADER.pack(MAGIC, *kind, *images_u8.shape[1:3], len(counts_K)), numbers, *files])


def decode(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, H, W, 3) uint8, labels (N,) int32). Raises CorruptArtifact for what no decoder accepts; there is no
    checksum, and these formats show many kinds of damage as other pixels."""
    try:
        magic, number, per, height, width, n_classes = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise ValueError("it does not begin as one")
        counts_K = np.frombuffer(data, "<u4", n_classes, HEADER.size).astype(np.int64)
        sizes, start = _sizes(PER[per], counts_K), HEADER.size + 4 * n_classes
        lengths = np.frombuffer(data, "<u4", len(sizes), start).astype(np.int64)
        ends = start + 4 * len(sizes) + np.cumsum(lengths)
        if ends[-1] != len(data):
            raise ValueError(f"{len(data)} bytes, {ends[-1]} due")
        files = [data[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        tiles = [_load(f, FORMATS[number], *_grid(n), height, width) for f, n in zip(files, sizes, strict=True)]
    except UNREADABLE as error:
        raise CorruptArtifact(f"coded images: {error}; restore them from a copy") from error
    return np.concatenate(tiles), np.repeat(np.arange(n_classes, dtype=np.int32), counts_K)


def image_bytes(data: bytes) -> int:
    """Bytes of the files alone, without header and index."""
    _, _, per, _, _, n_classes = HEADER.unpack_from(data)
    counts_K = np.frombuffer(data, "<u4", n_classes, HEADER.size)
    return len(data) - HEADER.size - 4 * n_classes - 4 * len(_sizes(PER[per], counts_K))


def _sizes(per: str, counts_K) -> np.ndarray:
    """Images in each file."""
    n = int(counts_K.sum())  # damaged bytes can claim any number: ones that take no memory
    return {"image": np.broadcast_to(1, n), "class": counts_K[counts_K > 0], "set": np.array([n])}[per]


def _grid(n: int) -> tuple[int, int]:
    """Rows and columns of a sheet: as square as n images fill it."""
    rows = next(r for r in range(math.isqrt(n), 0, -1) if n % r == 0)
    return rows, int(n) // rows


def _sheets(images_u8, sizes):
    """A picture of so many images each."""
    _, height, width, _ = images_u8.shape
    for part in np.split(images_u8, np.cumsum(sizes)[:-1]):
        rows, columns = _grid(len(part))
        tiles = part.reshape(rows, columns, height, width, 3)
        yield tiles.swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def _save(picture_u8, settings: Settings) -> bytes:
    """The smallest of what the format's encoder makes of its options at this quality."""
    quality, subsampling = {"quality": settings.quality}, {"subsampling": settings.subsampling}
    options = {
        "png": [{"optimize": True}],
        "jpeg": [{**quality, **subsampling, "optimize": True, "progressive": p} for p in (False, True)],
        "webp": [{"method": 6, **({"lossless": True, "quality": 100} if settings.quality is None else quality)}],
        "avif": [{**quality, **subsampling, "speed": AVIF_SPEED, "max_threads": 1}],
    }
    return min((_saved(picture_u8, settings.format, **o) for o in options[settings.format]), key=len)


def _saved(picture_u8, format_: str, **options) -> bytes:
    file = io.BytesIO()
    try:
        Image.fromarray(np.ascontiguousarray(picture_u8)).save(file, format_, **options)
    except (OSError, ValueError) as error:
        fault = f"{format_} of {picture_u8.shape[0]} x {picture_u8.shape[1]} pixels: {error}"
        raise DataError(f"images: {fault}; use single files or another format") from error
    return file.getvalue()


def _load(file: bytes, format_: str, rows: int, columns: int, height: int, width: int) -> np.ndarray:
    """The tiles of a file, (rows * columns, H, W, 3)."""
    with Image.open(io.BytesIO(file), formats=(format_,)) as image:
        if image.size != (columns * width, rows * height):  # asked before any pixel is decoded
            raise ValueError(f"a file of {image.size} pixels, {(columns * width, rows * height)} due")
        pixels = np.asarray(image.convert("RGB"))
    return pixels.reshape(rows, height, columns, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
