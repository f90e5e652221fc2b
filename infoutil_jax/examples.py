"""One record of a distilled set: what all of a set have in common, a record's bytes, and what cannot be in one.

Letters: H W image, k patches, K classes.
"""

import dataclasses
import functools
import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

from infoutil_jax.checks import in_range
from infoutil_jax.errors import ConfigError, CorruptArtifact, DataError, NumericError
from infoutil_jax.types import DistilledImage

SPLIT = "train"
LARGEST_LOGIT = float(np.finfo(np.float16).max)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What every record of a set has in common: the name, the classes, the shapes. Raises ConfigError if impossible."""

    name: str  # of the dataset: lower-case letters, digits and underscores
    class_names: tuple[str, ...]  # K
    n_shards: int
    image_size: int  # H = W, pixels
    n_patches: int  # k
    n_classes: int  # K

    def __post_init__(self):
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name):
            raise ConfigError(f"layout.name={self.name!r} is no TFDS name; use a-z, 0-9 and _, a letter first")
        for field in ("n_shards", "image_size", "n_patches", "n_classes"):
            in_range(f"layout.{field}", getattr(self, field), 1, 99_999)
        if not len(self.class_names) == len(set(self.class_names)) == self.n_classes:
            raise ConfigError(f"layout.class_names are not {self.n_classes} different names; give one per class")
        for name in self.class_names:  # TFDS keeps them as the lines of a text file, stripped
            if not name or name != name.strip() or not name.isprintable():
                raise ConfigError(f"layout.class_names: {name!r} is not one line of visible text; rename the class")

    @functools.cached_property
    def shard_names(self) -> list[str]:
        """The file names of the shards, in order, as TFDS expects them."""
        return [f"{self.name}-{SPLIT}.tfrecord-{i:05d}-of-{self.n_shards:05d}" for i in range(self.n_shards)]

    @property
    def patch_arrays(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and dtype of each array of an example that has a row per patch."""
        return {
            "patch_logits": ((self.n_patches, self.n_classes), np.float32),
            "patch_boxes": ((self.n_patches, 4), np.int32),
            "patch_shapley": ((self.n_patches,), np.float32),
            "patch_gradient_norm": ((self.n_patches,), np.float32),
        }

    def features(self):
        """The `tfds.features.FeaturesDict` of a record."""
        import tensorflow_datasets as tfds

        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(self.image_size, self.image_size, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=self.class_names),
                "patch_ids": tfds.features.Tensor(shape=(self.n_patches,), dtype=np.str_),
                **{field: tfds.features.Tensor(shape=s, dtype=d) for field, (s, d) in self.patch_arrays.items()},
            }
        )

    def check(self, example: DistilledImage, where: str) -> None:
        """Raises DataError or NumericError, naming `where` and the field, unless `example` fits."""
        image = {"image_u8": ((self.image_size, self.image_size, 3), np.uint8)}
        for field, (shape, dtype) in {**image, **self.patch_arrays}.items():
            array = np.asarray(getattr(example, field))
            if array.shape != shape or array.dtype != dtype:
                is_, due = f"{array.dtype}{array.shape}", f"{np.dtype(dtype)}{shape}"
                raise DataError(f"{where}: {field} is {is_}, expected {due}; mend the example or the layout")
        if type(example.label) is bool or not isinstance(example.label, (int, np.integer)):
            raise DataError(f"{where}: label is {type(example.label).__name__}, expected an integer")
        if not 0 <= example.label < self.n_classes:
            raise DataError(f"{where}: label {example.label} is outside 0..{self.n_classes - 1}; mend the label")
        if len(example.patch_ids) != self.n_patches or not all(map(_is_storable, example.patch_ids)):
            raise DataError(f"{where}: patch_ids {example.patch_ids!r} are not {self.n_patches} strings of UTF-8 text")
        if not np.isfinite(example.patch_logits).all():
            raise NumericError(f"{where}: patch_logits hold NaN or Inf; check the label teacher")
        if (largest := np.abs(example.patch_logits).max()) > LARGEST_LOGIT:
            limit = f"more than float16, in which many store them, holds ({LARGEST_LOGIT:,.0f})"
            raise NumericError(f"{where}: patch_logits reach {largest:.3g}, {limit}; check the label teacher")


def _is_storable(id_) -> bool:
    """Whether a string survives as bytes; bytes that are no UTF-8 come as surrogate escapes, as file names do."""
    try:
        return id_.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == id_
    except (AttributeError, UnicodeEncodeError):
        return False


def encode_example(example: DistilledImage) -> bytes:
    """A `DistilledImage` as a serialised `tf.train.Example`: the same bytes in every process, the image as PNG."""
    from tensorflow_datasets.proto import tf_example_pb2 as examples
    from tensorflow_datasets.proto import tf_feature_pb2 as protos

    def floats(array):
        return protos.Feature(float_list=protos.FloatList(value=np.ravel(array).tolist()))

    def ints(array):
        return protos.Feature(int64_list=protos.Int64List(value=np.ravel(array).tolist()))

    def strings(values):
        return protos.Feature(bytes_list=protos.BytesList(value=values))

    png = io.BytesIO()
    Image.fromarray(np.asarray(example.image_u8)).save(png, "PNG")
    feature = {
        "image": strings([png.getvalue()]),
        "label": ints(example.label),
        "patch_ids": strings([id_.encode("utf-8", "surrogateescape") for id_ in example.patch_ids]),
        "patch_boxes": ints(example.patch_boxes),
        **{name: floats(getattr(example, name)) for name in ("patch_logits", "patch_shapley", "patch_gradient_norm")},
    }
    return examples.Example(features=protos.Features(feature=feature)).SerializeToString(deterministic=True)


def decode_example(payload: bytes, layout: Layout) -> DistilledImage:
    """The inverse of `encode_example`. Raises CorruptArtifact naming the fault when `payload` is no such example."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        feature = tf_example_pb2.Example.FromString(payload).features.feature
        (png,) = feature["image"].bytes_list.value
        (label,) = feature["label"].int64_list.value
        patches = {name: _to_array(feature[name], *spec) for name, spec in layout.patch_arrays.items()}
        ids = tuple(id_.decode("utf-8", "surrogateescape") for id_ in feature["patch_ids"].bytes_list.value)
        example = DistilledImage(_decode_png(png, layout.image_size), label, patch_ids=ids, **patches)
        layout.check(example, "content")
    except (DecodeError, ValueError, OverflowError, DataError, NumericError) as error:
        raise CorruptArtifact(f"does not decode: {error}") from error
    return example


def _to_array(feature, shape, dtype) -> np.ndarray:
    values = feature.int64_list.value if dtype is np.int32 else feature.float_list.value
    return np.array(list(values), dtype).reshape(shape)  # from a list, numbers beyond int32 raise instead of wrapping


def _decode_png(png: bytes, size: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.size != (size, size) or image.mode != "RGB":  # asked before any pixel is decoded
                raise ValueError(f"image is {image.mode} {image.size}, expected RGB {(size, size)}")
            return np.array(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's ways to say: broken file
        raise ValueError(f"image: {error}") from error


def hits(example: DistilledImage) -> int:
    """Patches whose largest logit is that of their class; of equal ones the first counts."""
    return int((example.patch_logits.argmax(axis=-1) == example.label).sum())


def implausible(example: DistilledImage, layout: Layout, label: int | None = None) -> Iterator[str]:
    """What is wrong with an example that decodes; `label` is that of its shard's class, None where shards are mixed.

    Boxes have to lie inside the image, gradient norms to be finite and at least 0, Shapley values to be finite or NaN
    (none computed), ids to have a text.
    """
    norms_k = example.patch_gradient_norm
    corners_k2, sides_k2 = np.split(example.patch_boxes.astype(np.int64), 2, axis=-1)
    if label not in (None, example.label):
        yield f"label {example.label} in the shard of class {label}"
    if (corners_k2 < 0).any() or (sides_k2 < 1).any() or (corners_k2 + sides_k2 > layout.image_size).any():
        yield f"patch_boxes {example.patch_boxes.tolist()} leave the image of {layout.image_size} px"
    if not (np.isfinite(norms_k) & (norms_k >= 0)).all():
        yield f"patch_gradient_norm {norms_k.tolist()} is negative or not finite"
    if np.isinf(example.patch_shapley).any():
        yield f"patch_shapley {example.patch_shapley.tolist()} is infinite"
    if "" in example.patch_ids:
        yield f"patch_ids {example.patch_ids} hold an empty one"
