"""The distilled set's on-disk format: a directory of TFRecord shards, TFDS metadata, and `manifest.json`, written last.

`tfds.builder_from_directory(directory)` loads a set unchanged where TensorFlow is installed; `read` needs none.
A record is a `tf.train.Example` with the features of `Layout.features`, one `types.DistilledImage`. Equal examples give
equal bytes. Letters: H W image, k patches, K classes.
"""

import dataclasses
import io
import json
import re
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from infoutil_jax import tfrecord
from infoutil_jax.checks import in_range
from infoutil_jax.errors import ConfigError, CorruptArtifact, DataError, NumericError
from infoutil_jax.types import DistilledImage, DistilledSet

FORMAT = 1  # raised whenever an older reader could not read the files
MANIFEST = "manifest.json"
METADATA = ("dataset_info.json", "features.json", "label.labels.txt")  # what TFDS reads
SPLIT = "train"
_OWN_KEYS = ("format", "layout", "metadata", "shards")  # of the manifest; all others are the run's


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

    @property
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

        return tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(self.image_size, self.image_size, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=self.class_names),
            "patch_ids": tfds.features.Tensor(shape=(self.n_patches,), dtype=np.str_),
            **{field: tfds.features.Tensor(shape=s, dtype=d) for field, (s, d) in self.patch_arrays.items()},
        })

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


def write_shard(directory: str | PathLike, index: int, examples: Sequence[DistilledImage], layout: Layout) -> dict:
    """Writes shard `index` of a set whole or not at all -> {"file", "records", "bytes", "sha256"}, for `finish`.

    A shard already there is left alone when it has the same content; DataError is raised when it has another. Raises
    DataError or NumericError naming record and field for an example that does not fit `layout`.
    """
    if not 0 <= index < layout.n_shards or not examples:
        fault = f"shard {index} of {layout.n_shards} with {len(examples)} examples cannot be"
        raise DataError(f"{directory}: {fault}; give an index below n_shards and at least one example")
    path = Path(directory) / layout.shard_names[index]
    for number, example in enumerate(examples):
        layout.check(example, f"{path}: record {number}")
    path.parent.mkdir(parents=True, exist_ok=True)
    tfrecord.write_once(path, (tfrecord.frame(encode_example(example)) for example in examples))
    n_bytes = path.stat().st_size
    return {"file": path.name, "records": len(examples), "bytes": n_bytes, "sha256": tfrecord.sha256(path)}


def finish(directory: str | PathLike, layout: Layout, shards: Sequence[dict], manifest: dict) -> None:
    """Makes the shards a set: TFDS metadata, then `manifest.json`: `manifest` plus format, layout, metadata and shards.

    `shards` are the results of `write_shard`, in any order; `manifest` holds what JSON can. Finishing twice alike
    changes nothing. Raises DataError for missing shards, own keys in `manifest`, or another manifest already there.
    """
    directory = Path(directory)
    shards = sorted(shards, key=lambda shard: shard["file"])
    if [shard["file"] for shard in shards] != layout.shard_names:
        raise DataError(f"{directory}: {len(shards)} shards given, {layout.n_shards} due; give each shard once")
    if taken := set(_OWN_KEYS) & set(manifest):
        raise DataError(f"{directory}: manifest keys {sorted(taken)} are the format's own; rename them")
    tfrecord.check_names(directory, layout.shard_names)
    if not (directory / MANIFEST).exists():
        _write_metadata(directory, layout, shards)
    hashes = {name: tfrecord.sha256(directory / name) for name in METADATA}
    own = {"format": FORMAT, "layout": dataclasses.asdict(layout), "metadata": hashes, "shards": shards}
    text = json.dumps({**manifest, **own}, indent=2, sort_keys=True, allow_nan=False) + "\n"
    tfrecord.write_once(directory / MANIFEST, [text.encode()])


def _write_metadata(directory, layout, shards):
    import tensorflow_datasets as tfds

    lengths, n_bytes = [shard["records"] for shard in shards], sum(shard["bytes"] for shard in shards)
    files = tfds.core.ShardedFileTemplate(directory, dataset_name=layout.name, split=SPLIT, filetype_suffix="tfrecord")
    split = tfds.core.SplitInfo(name=SPLIT, shard_lengths=lengths, num_bytes=n_bytes, filename_template=files)
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=layout.features(),
        split_infos=[split],
        version="1.0.0",
        supervised_keys=("image", "label"),
        check_data=False,  # it would need TensorFlow
    )
    for name in METADATA:
        tfrecord.sync(directory / name)


def read_manifest(directory: str | PathLike) -> dict:
    """A finished set's manifest. Raises DataError if absent or of a newer format, CorruptArtifact if unreadable."""
    path = Path(directory) / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] > FORMAT:
            raise DataError(f"{path}: format {manifest['format']} is newer than {FORMAT}; upgrade infoutil_jax")
        _check_manifest(manifest)
    except (FileNotFoundError, NotADirectoryError) as error:
        way_out = "give the directory of a finished set, or resume the run that writes it"
        raise DataError(f"{path}: not found, so this is no distilled set or an unfinished one; {way_out}") from error
    except (ValueError, TypeError, KeyError, ConfigError) as error:
        raise tfrecord.corrupt(path, f"unreadable manifest ({type(error).__name__}: {error})") from error
    return manifest


def _check_manifest(manifest):
    names = [shard["file"] for shard in manifest["shards"] if {"records", "sha256"} <= set(shard)]
    if names != _layout(manifest).shard_names or set(manifest["metadata"]) != set(METADATA):
        raise ValueError("shards or metadata do not match the layout")


def _layout(manifest: dict) -> Layout:
    fields = manifest["layout"]
    return Layout(**{**fields, "class_names": tuple(fields["class_names"])})


def read(directory: str | PathLike) -> Iterator[DistilledImage]:
    """The images of a set in the order of its files, every CRC, content and record count checked on the way.

    Raises CorruptArtifact naming file, record and byte offset. What only a hash tells is left to `verify`.
    """
    manifest = read_manifest(directory)
    layout = _layout(manifest)
    tfrecord.check_names(Path(directory), layout.shard_names)
    for shard in manifest["shards"]:
        yield from _read_shard(Path(directory) / shard["file"], shard["records"], layout)


def _read_shard(path, n_records, layout) -> Iterator[DistilledImage]:
    n_read = 0
    for record in tfrecord.read_records(path):
        try:
            example = decode_example(record.payload, layout)
        except CorruptArtifact as error:
            raise tfrecord.corrupt_record(path, record.number, record.offset, str(error)) from error
        yield example
        n_read += 1
    tfrecord.check_count(path, n_read, n_records)


def load(directory: str | PathLike) -> DistilledSet:
    """A whole set in memory, read and checked as by `read`."""
    images = list(read(directory))
    columns = dict(zip(DistilledImage._fields, zip(*images), strict=True))
    ids, labels = columns.pop("patch_ids"), np.array(columns.pop("label"), np.int32)
    arrays = {"images_u8" if name == "image_u8" else name: np.stack(column) for name, column in columns.items()}
    return DistilledSet(labels=labels, patch_ids=ids, manifest=read_manifest(directory), **arrays)


def verify(directory: str | PathLike) -> None:
    """Proves that a set is what was written: names, metadata, each frame, record count, SHA-256 and content.

    Raises CorruptArtifact naming the file, the check and, where one record is at fault, its number and byte offset.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    layout = _layout(manifest)
    tfrecord.check_names(directory, layout.shard_names)
    for name in METADATA:
        tfrecord.check_hash(directory / name, manifest["metadata"][name], fault="changed since it was written")
    for shard in manifest["shards"]:
        path = directory / shard["file"]
        tfrecord.check_count(path, sum(1 for _ in tfrecord.read_records(path)), shard["records"])
        tfrecord.check_hash(path, shard["sha256"], fault="foreign shard, of another set or place")
        for _ in _read_shard(path, shard["records"], layout):
            pass
