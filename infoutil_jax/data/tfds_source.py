"""Datasets prepared by tensorflow-datasets, read without TensorFlow: array_record files only."""

import re

import numpy as np

from infoutil_jax import checks
from infoutil_jax.data.decode import decode, fit
from infoutil_jax.data.settings import Dataset, Settings, Split, content_id
from infoutil_jax.errors import ConfigError, DataError, EnvironmentFault
from infoutil_jax.progress import track

RECORDS_PER_READ = 512


def open_tfds(settings: Settings) -> Dataset:
    """The prepared dataset `name` under `path`, or the one whose directory `path` is when `name` is empty.

    Raises ConfigError for an unknown name, version or split, EnvironmentFault when the dataset is not prepared or
    is stored as tfrecord, DataError when it has no image and label. Labels are read once, at about 10,000 a second.
    """
    builder = _builder(settings)
    info = builder.info
    _check_features(info)
    splits = [_split(settings, builder, spec) for spec in (settings.train_split, settings.val_split)]
    stored = [(key, split.num_bytes, split.shard_lengths) for key, split in sorted(info.splits.items())]
    parts = (part for split in splits for part in (split.labels, split.ids))
    identity = content_id(info.full_name, stored, *parts, *settings.resize_id)
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


def _recipe(name: str, where: str) -> str:
    build = f"tfds build {name} --data_dir={where} --file_format=array_record"
    return f"prepare it once, in any environment: pip install tensorflow-cpu && {build}"


def _one_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error))[:300]


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


def _split(settings: Settings, builder, spec: str) -> Split:
    records = _records(settings, builder, spec)
    where = f"{builder.info.full_name} {spec}"
    ids = [f"{spec}/{row:07d}" for row in range(len(records))]

    def read(rows: np.ndarray) -> list[np.ndarray]:
        found = _read(records, [int(row) for row in rows], where)
        return [_image(record["image"], ids[row], settings) for row, record in zip(rows, found, strict=True)]

    return Split(_labels(records, where), ids, read, image_size=settings.image_size, cache_gib=settings.cache_gib)


def _read(records, rows: list[int], where: str) -> list[dict]:
    try:
        return records.__getitems__(rows)
    except RuntimeError as error:  # array_record checks hashes and names the file or the byte
        raise DataError(f"{where}: file missing or damaged ({_one_line(error)}); prepare the dataset again.") from error


def _labels(records, where: str) -> np.ndarray:
    n = len(records)
    rows = (list(range(start, min(start + RECORDS_PER_READ, n))) for start in range(0, n, RECORDS_PER_READ))
    labels = (record["label"] for some in rows for record in _read(records, some, where))
    return np.fromiter(track(labels, f"labels of {where}", total=n, unit="records"), np.int32, count=n)


def _image(data: bytes, name: str, settings: Settings) -> np.ndarray:
    rgb_u8 = decode(data, name, exif=settings.exif, max_megapixels=settings.max_megapixels)
    return fit(rgb_u8, settings.image_size, settings.crop_share, settings.interpolation)
