"""The distilled set's on-disk format: a directory of TFRecord shards, TFDS metadata, and `manifest.json`, written last.

`tfds.builder_from_directory(directory)` loads a set unchanged where TensorFlow is installed; `read` needs none.
A record is a `tf.train.Example` with the features of `Layout.features`, one `types.DistilledImage`. Equal examples give
equal bytes. Letters: H W image, k patches, K classes.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from infoutil_jax import durable, tfrecord
from infoutil_jax.errors import ConfigError, CorruptArtifact, DataError
from infoutil_jax.examples import SPLIT, Layout, decode_example, encode_example, hits, implausible
from infoutil_jax.types import DistilledImage, DistilledSet

FORMAT = 2  # 1: the manifest holds no SHA-256 of itself; such sets are still read, and never rewritten
MANIFEST = "manifest.json"
METADATA = ("dataset_info.json", "features.json", "label.labels.txt")  # what TFDS reads
SEAL = "sha256"  # the manifest's key with the hash of all the others
_OWN_KEYS = ("format", "layout", "metadata", "shards", SEAL)  # of the manifest; all others are the run's


def write_shard(directory: str | PathLike, index: int, examples: Sequence[DistilledImage], layout: Layout) -> dict:
    """Writes shard `index` of a set whole or not at all -> {"file", "records", "bytes", "sha256", "hits"} for `finish`.

    "hits" are the patches whose largest logit is that of their class; shards of earlier versions have none.

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
    line = {"file": path.name, "records": len(examples), "bytes": path.stat().st_size, "sha256": tfrecord.sha256(path)}
    return line | {"hits": sum(map(hits, examples))}


def finish(directory: str | PathLike, layout: Layout, shards: Sequence[dict], manifest: dict) -> None:
    """Makes the shards a set: TFDS metadata, then `manifest.json`: `manifest` and the format's own keys.

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
    finished = (directory / MANIFEST).exists()
    if not finished:
        _write_metadata(directory, layout, shards)
    hashes = {name: tfrecord.sha256(directory / name) for name in METADATA}
    version = read_manifest(directory)["format"] if finished else FORMAT
    own = {"format": version, "layout": dataclasses.asdict(layout), "metadata": hashes, "shards": shards}
    tfrecord.write_once(directory / MANIFEST, [_sealed({**manifest, **own})])


def _sealed(content: dict) -> bytes:
    """A manifest's text, which holds the SHA-256 of the text without it."""
    text = lambda value: (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
    if content["format"] == 1:
        return text(content)
    return text({**content, SEAL: hashlib.sha256(text(content)).hexdigest()})


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
        durable.sync(directory / name)


def read_manifest(directory: str | PathLike) -> dict:
    """A finished set's manifest. Raises DataError if absent or of a newer format, CorruptArtifact if a byte changed."""
    path = Path(directory) / MANIFEST
    try:
        text = path.read_bytes()
        manifest = json.loads(text)
        if _sealed({key: value for key, value in manifest.items() if key != SEAL}) != text:
            raise ValueError("its SHA-256 does not match its content")
        if manifest["format"] > FORMAT:
            raise DataError(f"{path}: format {manifest['format']} is newer than {FORMAT}; upgrade infoutil_jax")
        _check_manifest(manifest)
    except (FileNotFoundError, NotADirectoryError) as error:
        way_out = "give the directory of a finished set, or resume the run that writes it"
        raise DataError(f"{path}: not found, so this is no distilled set or an unfinished one; {way_out}") from error
    except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
        raise tfrecord.corrupt(path, f"unreadable manifest ({type(error).__name__}: {error})") from error
    return manifest


def _check_manifest(manifest):
    names = [shard["file"] for shard in manifest["shards"] if {"records", "bytes", "sha256"} <= set(shard)]
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


def load(directory: str | PathLike, *, with_logits: bool = True) -> DistilledSet:
    """A whole set in memory, read and checked as by `read`. Without logits, whose size grows with the square of the
    number of classes, `patch_logits` keeps its shape, holds NaN and takes no memory."""
    manifest = read_manifest(directory)
    layout, n = _layout(manifest), sum(shard["records"] for shard in manifest["shards"])
    shapes = {"image_u8": ((layout.image_size, layout.image_size, 3), np.uint8), "label": ((), np.int32)}
    shapes |= layout.patch_arrays
    kept = [name for name in shapes if with_logits or name != "patch_logits"]
    arrays = {name: np.empty((n, *shapes[name][0]), shapes[name][1]) for name in kept}
    ids = []
    for row, example in enumerate(read(directory)):
        ids.append(example.patch_ids)
        for name in kept if row < n else ():  # `read` raises at the end of a shard with too many records
            arrays[name][row] = getattr(example, name)
    if not with_logits:
        arrays["patch_logits"] = np.broadcast_to(np.float32(np.nan), (n, *shapes["patch_logits"][0]))
    images_u8, labels = arrays.pop("image_u8"), arrays.pop("label")
    return DistilledSet(images_u8=images_u8, labels=labels, patch_ids=tuple(ids), manifest=manifest, **arrays)


def verify(directory: str | PathLike) -> None:
    """Proves that a set is what was written. Raises CorruptArtifact for the first of its `faults`."""
    for fault in faults(directory):
        raise tfrecord.corrupt(*fault)


def faults(directory: str | PathLike, look=lambda path, number, example: None) -> Iterator[tfrecord.Fault]:
    """All that is not what was written in a finished set: names, metadata, each frame, record count, SHA-256, content.

    `look` is shown every record that decodes. Raises as `read_manifest`.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    layout, lines = _layout(manifest), manifest["shards"]
    owners = {line["sha256"]: line["file"] for line in lines}
    missing, extra = tfrecord.names_off(directory, layout.shard_names)
    yield from (tfrecord.Fault(directory / name, "missing shard") for name in missing)
    for name in extra:
        copy_of = owners.get(tfrecord.sha256(directory / name))
        origin = f"a copy of {copy_of}" if copy_of else "not of this set"
        yield tfrecord.Fault(directory / name, f"extra shard, {origin}")
    for name, expected in manifest["metadata"].items():
        if check := tfrecord.hash_fault(directory / name, expected, "changed since it was written"):
            yield tfrecord.Fault(directory / name, check)
    for index, line in enumerate(lines):
        if line["file"] not in missing:
            path = directory / line["file"]
            label = index if layout.n_shards == layout.n_classes else None  # a run writes one shard a class
            yield from _labelled_faults(path, line, owners, layout, label, look)


def _labelled_faults(path, line, owners, layout, label, look) -> Iterator[tfrecord.Fault]:
    """Those of a shard, and where it has none, other soft labels than were written."""
    n_hits, found = 0, False

    def look_and_count(path, number, example):
        nonlocal n_hits
        n_hits += hits(example)
        look(path, number, example)

    content = functools.partial(_content_faults, path, layout, label, look_and_count)
    for fault in shard_faults(path, line, owners, content):
        found = True
        yield fault
    if not found and n_hits != (written := line.get("hits", n_hits)):
        yield tfrecord.Fault(path, f"soft labels: {n_hits} have their maximum at the class, {written} when written")


def shard_faults(path: Path, line: dict, owners: dict[str, str], content=lambda record: ()) -> Iterator[tfrecord.Fault]:
    """All that is not what `line`, from `write_shard`, says of a shard: swapped, truncated, changed, foreign.

    `owners` maps the SHA-256 of the set's shards to their names; content(record) gives the faults in a whole record.
    """
    foreign = tfrecord.hash_fault(path, line["sha256"], "foreign shard, of another run")
    if foreign and (owner := owners.get(tfrecord.sha256(path))):
        yield tfrecord.Fault(path, f"swapped shard: this is the content of {owner}")
        return
    n_read, checks = 0, set()
    for record, check in tfrecord.scan(path):
        checks.add(check)
        n_read += 1
        for text in [check] if check else content(record):
            yield tfrecord.Fault(path, tfrecord.at(record.number, record.offset, text))
    if not checks & set(tfrecord.LOST) and n_read != line["records"]:
        yield tfrecord.Fault(path, tfrecord.count_fault(n_read, line["records"]))
    elif foreign and not any(checks):
        yield tfrecord.Fault(path, foreign)


def _content_faults(path, layout, label, look, record) -> Iterator[str]:
    try:
        example = decode_example(record.payload, layout)
    except CorruptArtifact as error:
        yield str(error)
        return
    look(path, record.number, example)
    yield from implausible(example, layout, label)
