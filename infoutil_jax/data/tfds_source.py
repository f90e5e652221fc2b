"""Datasets prepared by tensorflow-datasets, read without TensorFlow: array_record files only."""

import hashlib
import io
import re
import zlib
from typing import NamedTuple

import numpy as np

from infoutil_jax import checks
from infoutil_jax.data.decode import check_body, decode, fit
from infoutil_jax.data.integrity import copies, ends_whole, warn_of, warn_of_copies
from infoutil_jax.data.settings import Dataset, Settings, Split, content_id
from infoutil_jax.errors import ConfigError, DataError, EnvironmentFault
from infoutil_jax.progress import track

RECORDS_PER_READ = 512


class Part(NamedTuple):
    """A split's records that can be used."""

    records: object  # all of the split, random access
    where: str
    rows: np.ndarray  # (N,) those of `records` that can be used
    labels: np.ndarray  # (N,) int64
    ids: list[str]
    ends: list[tuple[int, int]]  # size and checksum of the end of each image's bytes

    def images(self, rows) -> list[bytes]:
        return [record["image"] for record in _read(self.records, [int(self.rows[row]) for row in rows], self.where)]


def open_tfds(settings: Settings) -> Dataset:
    """The prepared dataset `name` under `path`, or the one whose directory `path` is when `name` is empty.

    Raises ConfigError for an unknown name, version or split, EnvironmentFault when the dataset is not prepared or
    is stored as tfrecord, DataError when it has no image and label. Records are read once, at about 10,000 a second:
    labels, whether each image ends as its format does (else it is left out with a warning, with `strict` an error),
    and copies, which are warned of.
    """
    builder = _builder(settings)
    info = builder.info
    _check_features(info)
    parts = [_part(settings, builder, spec) for spec in (settings.train_split, settings.val_split)]
    _warn_of_copies(*parts)
    splits = [_split(settings, part) for part in parts]
    stored = [(key, split.num_bytes, split.shard_lengths) for key, split in sorted(info.splits.items())]
    content = (content for split in splits for content in (split.labels, split.ids))
    identity = content_id(info.full_name, stored, *content, *settings.resize_id)
    return Dataset(info.full_name, tuple(info.features["label"].names), *splits, content_id=identity, notes=())


def _builder(settings: Settings):
    """Found from its files alone, so that no dataset's own code (and what that imports) is run."""
    import tensorflow_datasets as tfds

    if not settings.name:
        return _builder_of_directory(settings.path)
    try:
        return tfds.core.read_only_builder.builder_from_files(settings.name, data_dir=settings.path or None)
    except tfds.core.registered.DatasetNotFoundError as error:
        where = settings.path or tfds.core.constants.DATA_DIR
        raise _not_found(settings.name, where) from error
    except ValueError as error:
        raise ConfigError(f"data.name={settings.name!r}: {_one_line(error)}") from error
    except Exception as error:  # of the parsers
        raise _damaged(settings.name, error) from error


def _damaged(which: str, error: Exception) -> DataError:
    return DataError(f"{which!r}: metadata or records damaged ({_one_line(error)}); prepare the dataset again.")


def _not_found(name: str, where: str) -> Exception:
    from tensorflow_datasets.core import registered

    known, dataset = registered.list_imported_builders(), re.split("[:/]", name)[0]
    if dataset in known:
        return EnvironmentFault(f"{name!r} is not prepared in {where!r}; {_recipe(name, where)}")
    near = checks.nearest(dataset, known) or "; see tensorflow.org/datasets/catalog"
    return ConfigError(f"data.name={name!r} is no dataset that TFDS knows or that is prepared in {where!r}{near}")


def _builder_of_directory(path: str):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(path)
    except OSError as error:
        raise ConfigError(
            f"data.path={path!r} is no prepared TFDS dataset (no readable dataset_info.json) and data.name is ''; "
            "give the directory of one version, such as .../cifar10/3.0.2, or set data.name."
        ) from error
    except Exception as error:  # of the parsers
        raise _damaged(path, error) from error


def _recipe(name: str, where: str) -> str:
    build = f"tfds build {name} --data_dir={where} --file_format=array_record"
    return f"prepare it once, in any environment: pip install tensorflow-cpu && {build}"


def _one_line(error: BaseException) -> str:
    text = re.sub(r"\s+", " ", str(error))[:300]
    return text if text.isprintable() else ascii(text)


def _check_features(info) -> None:
    from tensorflow_datasets import features as kinds

    needed = {"image": kinds.Image, "label": kinds.ClassLabel}
    has = dict(info.features.items())
    if not all(isinstance(has.get(key), kind) for key, kind in needed.items()):
        found = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in sorted(has.items()))
        raise DataError(f"{info.full_name}: needs the features image: Image and label: ClassLabel, has {found}.")


def _records(settings: Settings, builder, spec: str):
    """A random-access sequence of records with the image as encoded bytes."""
    import tensorflow_datasets as tfds

    try:
        return builder.as_data_source(split=spec, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        recipe = _recipe(settings.name or builder.info.name, "ANOTHER_DIR")
        raise EnvironmentFault(f"{builder.data_dir}: stored as tfrecord, which needs TensorFlow; {recipe}") from error
    except ValueError as error:
        raise ConfigError(f"split {spec!r} of {builder.info.full_name}: {_one_line(error)}") from error


def _split(settings: Settings, part: Part) -> Split:
    def read(rows: np.ndarray) -> list[np.ndarray]:
        return [_image(data, part.ids[row], settings) for row, data in zip(rows, part.images(rows), strict=True)]

    return Split(part.labels, part.ids, read, image_size=settings.image_size, cache_gib=settings.cache_gib)


def _read(records, rows: list[int], where: str) -> list[dict]:
    try:
        return records.__getitems__(rows)
    except RuntimeError as error:  # array_record checks hashes and names the file or the byte
        raise DataError(f"{where}: file missing or damaged ({_one_line(error)}); prepare the dataset again.") from error
    except Exception as error:  # records that are not what features.json says fail in many ways
        raise _damaged(where, error) from error


def _part(settings: Settings, builder, spec: str) -> Part:
    """Reads all records once."""
    records, where = _records(settings, builder, spec), f"{builder.info.full_name} {spec}"
    n = len(records)
    starts = range(0, n, RECORDS_PER_READ)
    read = (r for start in starts for r in _read(records, list(range(n)[start : start + RECORDS_PER_READ]), where))
    rows, labels, ids, ends, unreadable = [], [], [], [], []
    for row, record in enumerate(track(read, f"records of {where}", total=n, unit="records")):
        data, name = record.get("image"), f"{spec}/{row:07d}"
        if not isinstance(data, bytes) or record.get("label") is None:
            has = ", ".join(sorted(key for key, value in record.items() if value is not None))
            raise DataError(f"{where}: {name!r} has no image or no label, only {has!r}; prepare the dataset again.")
        fault = _fault(data, name, settings)
        if fault:
            unreadable.append(fault)
            continue
        rows.append(row)
        labels.append(record["label"])
        ids.append(name)
        ends.append((len(data), zlib.crc32(data[-64:])))
    warn_of("unreadable images left out", unreadable)
    return Part(records, where, np.array(rows, np.int64), np.array(labels, np.int64), ids, ends)


def _fault(data: bytes, name: str, settings: Settings) -> str:
    """What is wrong with an image that does not end as its format does; '' where nothing is."""
    if ends_whole(data[:12], data[-64:], len(data)):
        return ""
    try:
        check_body(io.BytesIO(data), name, max_megapixels=settings.max_megapixels)
    except DataError as error:
        if settings.strict:
            raise
        return str(error)
    return ""


def _warn_of_copies(train: Part, val: Part) -> None:
    n = len(train.ids)

    def digests(rows: list[int]):
        for part, of_part in ((train, [r for r in rows if r < n]), (val, [r - n for r in rows if r >= n])):
            for start in range(0, len(of_part), RECORDS_PER_READ):
                for data in part.images(of_part[start : start + RECORDS_PER_READ]):
                    yield hashlib.sha256(data).hexdigest()

    groups = copies(train.ends + val.ends, digests)
    warn_of_copies(groups, [*train.labels, *val.labels], train.ids + val.ids, n)


def _image(data: bytes, name: str, settings: Settings) -> np.ndarray:
    rgb_u8 = decode(data, name, exif=settings.exif, max_megapixels=settings.max_megapixels)
    return fit(rgb_u8, settings.image_size, settings.crop_share, settings.interpolation)
