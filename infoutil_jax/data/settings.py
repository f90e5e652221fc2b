"""What a data source takes (Settings) and gives (a Dataset of two Splits). Images are fitted to one square size."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from infoutil_jax import checks
from infoutil_jax.data.decode import map_in_threads
from infoutil_jax.errors import ConfigError, DataError

SOURCES = ("digits", "digits_in_photos", "tfds", "folder")
INTERPOLATIONS = ("bilinear", "bicubic")
ROWS_PER_TASK = 64
LISTED = 5  # offenders in an error


def fits_memory(n: int, image_size: int, cache_gib: float) -> bool:
    """Whether n decoded images of a split are kept."""
    return n * image_size * image_size * 3 <= cache_gib * 2**30


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which images, and how they are read. Raises ConfigError for a value that is not allowed."""

    source: str  # one of SOURCES
    name: str  # tfds: 'cifar10' or 'cifar10:3.0.2'; '' when `path` is a prepared dataset's own directory
    path: str  # folder: root of the two splits' folders; tfds: data_dir, '' = TFDS's default
    train_split: str  # tfds: a split such as 'train' or 'train[:90%]'; folder: name of the sub-folder
    val_split: str
    image_size: int  # pixels, height = width
    crop_share: float  # image_size / shorter side of the resized image, whose middle is kept; 0: see decode.fit
    interpolation: str  # one of INTERPOLATIONS
    mean: tuple[float, float, float]  # of the channels, images in [0, 1]
    std: tuple[float, float, float]
    flip: bool  # a mirrored image is still of the same class
    exif: bool  # apply the EXIF rotation; False reads files as torchvision does
    max_megapixels: float  # larger images are not decoded; Pillow itself refuses more than 178
    strict: bool  # an unreadable image is an error instead of a counted note
    cache_gib: float  # a split whose decoded images fit is decoded once and kept in memory; per split

    def __post_init__(self):
        checks.one_of("data.source", self.source, SOURCES)
        checks.in_range("data.image_size", self.image_size, 8, 2048)
        if self.crop_share:
            checks.in_range("data.crop_share", self.crop_share, 0.1, 1)
        checks.one_of("data.interpolation", self.interpolation, INTERPOLATIONS)
        checks.in_range("data.max_megapixels", self.max_megapixels, 1e-6, 178)
        checks.in_range("data.cache_gib", self.cache_gib, 0)
        for field, low in (("mean", 0.0), ("std", 1e-3)):
            _check_channels(f"data.{field}", getattr(self, field), low)
        if self.source == "folder" and not self.path:
            raise ConfigError("data.path='' but data.source='folder' needs the root of the images.")
        if self.source == "tfds" and not (self.name or self.path):
            raise ConfigError("data.name='' and data.path='' but data.source='tfds' needs a name or a directory.")
        if self.source in ("tfds", "folder"):
            _check_splits(self.train_split, self.val_split)

    @property
    def resize_id(self) -> tuple:
        """What the resize rule adds to a content id; nothing where it is the default."""
        rule = (self.crop_share, self.interpolation)
        return () if rule == (0, "bilinear") else rule


def _check_channels(field: str, values, low: float) -> None:
    if len(values) != 3:
        raise ConfigError(f"{field}={values!r} has {len(values)} values; it must have 3, for red, green and blue.")
    for value in values:
        checks.in_range(field, value, low, 1.0)


def _check_splits(train: str, val: str) -> None:
    if not train or not val or train == val:
        raise ConfigError(f"data.train_split={train!r} and data.val_split={val!r} must be two different names.")


def _whole_numbers(labels, ids: Sequence[str]) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        labels_i32 = np.asarray(labels).astype(np.int32)
    bad = np.flatnonzero(labels_i32 != labels)
    if len(bad):
        listed = ", ".join(f"{ids[row]!r} with {labels[row]}" for row in bad[:LISTED])
        raise DataError(f"{len(bad)} labels are no whole numbers of 32 bits: {listed}; mend them.")
    return labels_i32


class Split:
    """Labelled images, decoded when they are asked for.

    labels: (N,) int32. ids: N stable names, unique within the dataset. Raises DataError for labels of another kind.
    """

    def __init__(
        self,
        labels: np.ndarray,
        ids: Sequence[str],
        read: Callable[[np.ndarray], Sequence[np.ndarray]],
        *,
        image_size: int,
        cache_gib: float,
    ):
        """`read` turns row numbers into their images, (image_size, image_size, 3) uint8 each, from any thread."""
        self.ids = tuple(ids)
        self.labels = _whole_numbers(labels, self.ids)
        self._read = read
        self._shape = (image_size, image_size, 3)
        fits = fits_memory(len(self), image_size, cache_gib)
        self._cache_u8 = np.empty((len(self), *self._shape), np.uint8) if fits else None
        self._cached = np.zeros(len(self), bool)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices) -> np.ndarray:
        """(n, H, W, 3) uint8 of the rows `indices`, any 1-D index. Raises DataError naming an unreadable image."""
        rows = np.arange(len(self))[indices]
        if self._cache_u8 is None:
            images_u8 = np.empty((len(rows), *self._shape), np.uint8)
            self._decode(rows, into=images_u8, at=np.arange(len(rows)))
            return images_u8
        missing = np.unique(rows[~self._cached[rows]])
        self._decode(missing, into=self._cache_u8, at=missing)
        self._cached[missing] = True
        return self._cache_u8[rows]

    def _decode(self, rows: np.ndarray, *, into: np.ndarray, at: np.ndarray) -> None:
        def decode_some(some: slice) -> None:
            for place, image_u8 in zip(at[some], self._read(rows[some]), strict=True):
                into[place] = image_u8

        pieces = [slice(start, start + ROWS_PER_TASK) for start in range(0, len(rows), ROWS_PER_TASK)]
        for _ in map_in_threads(decode_some, pieces):
            pass


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Two splits of the same classes. Raises DataError for labels, classes or ids that cannot be used."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    content_id: str  # sha256 hex; the same data give the same id
    notes: tuple[str, ...]  # what was left out or is unusual, with counts

    def __post_init__(self):
        self._check_names()
        if len(self.class_names) < 2:
            raise DataError(f"{self.name}: found {len(self.class_names)} class; a classifier needs at least 2.")
        for split in (self.train, self.val):
            self._check_labels(split)
        if not len(self.val):
            raise DataError(f"{self.name}: no validation image; choose another data.val_split or mend its files.")
        counts = np.bincount(self.train.labels, minlength=len(self.class_names))
        if not counts.all():
            empty = self.class_names[int(np.argmin(counts))]
            raise DataError(f"{self.name}: class {empty!r} has no training image; add some or leave the class out.")
        ids = self.train.ids + self.val.ids
        if len(set(ids)) != len(ids):
            raise DataError(f"{self.name}: {len(ids) - len(set(ids))} ids occur twice; records need unique names.")

    def _check_names(self) -> None:
        """What the written set can hold, and no text that acts on a terminal."""
        bad = [name for name in self.class_names if not name or name != name.strip() or not name.isprintable()]
        if bad:
            listed = ", ".join(map(ascii, bad[:LISTED]))
            raise DataError(f"{self.name}: {len(bad)} class names are not one line of visible text: {listed}; rename.")
        if len(set(self.class_names)) < len(self.class_names):
            raise DataError(f"{self.name}: two classes have the same name; rename one.")

    def _check_labels(self, split: Split) -> None:
        bad = np.flatnonzero((split.labels < 0) | (split.labels >= len(self.class_names)))
        if len(bad):
            listed = ", ".join(f"{split.ids[row]!r} with {split.labels[row]}" for row in bad[:LISTED])
            allowed = f"0..{len(self.class_names) - 1}"
            raise DataError(
                f"{self.name}: {len(bad)} records have a label outside {allowed}, first {listed}; "
                "choose a labelled split (data.train_split, data.val_split)."
            )


def content_id(*parts) -> str:
    """sha256 hex over `parts`: arrays by their bytes, anything else by its ascii() form."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.tobytes() if isinstance(part, np.ndarray) else ascii(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
