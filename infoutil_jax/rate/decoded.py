"""A distilled set whose images or labels went through a coder and back: students train on what was decoded."""

import hashlib
from pathlib import Path

import numpy as np

from infoutil_jax import records
from infoutil_jax.errors import DataError
from infoutil_jax.rate import accounting, container
from infoutil_jax.types import DistilledImage, DistilledSet

_OF_THE_FILES = ("format", "layout", "metadata", "shards", "rate", records.SEAL)  # keys of a manifest


def with_images(distilled: DistilledSet, images_u8) -> DistilledSet:
    """The set with other pixels, (N, H, W, 3) uint8 as before; DataError for another shape or dtype."""
    return _replace(distilled, images_u8=images_u8)


def with_logits(distilled: DistilledSet, patch_logits) -> DistilledSet:
    """The set with other soft labels, (N, k, K) float32 as before; DataError for another shape or dtype."""
    return _replace(distilled, patch_logits=patch_logits)


def with_container(distilled: DistilledSet, data: bytes) -> DistilledSet:
    """The set with the pixels and soft labels of a container; without some in it, they are NaN and students need a
    teacher on line. Raises CorruptArtifact for damaged bytes, DataError for the container of another run or of other
    hard labels. What the container costs is in the manifest and so in every report of the set."""
    found = container.decode(data)
    due = container.run_hash(distilled.manifest)
    if found.run != due or not np.array_equal(found.labels, distilled.labels):
        fault = "container: of another config, of other data or of other hard labels"
        raise DataError(f"{fault}; give the set that it was made of")
    if found.patch_logits is not None and _loss(distilled) == "mse":
        fault = "container: its label stream has differences of logits, and evaluate.loss = mse sees logits"
        raise DataError(f"{fault}; take kl, or a container without soft labels and labels on line")
    soft = np.full_like(distilled.patch_logits, np.nan) if found.patch_logits is None else found.patch_logits
    back = _replace(distilled, images_u8=found.images_u8, patch_logits=soft)
    return back._replace(manifest=back.manifest | {"container": found.sizes})


def write(distilled: DistilledSet, directory) -> None:
    """The set as files that `records.load`, `verify` and every report take for any other set, a shard per class."""
    manifest, directory = distilled.manifest, Path(directory)
    classes, fields = np.unique(distilled.labels), manifest["layout"]
    layout = records.Layout(**{**fields, "class_names": tuple(fields["class_names"]), "n_shards": len(classes)})
    columns = {"image_u8": distilled.images_u8, "label": distilled.labels.tolist()}
    columns |= {name: getattr(distilled, name) for name in DistilledImage._fields if name not in columns}
    examples = [DistilledImage(*row) for row in zip(*(columns[n] for n in DistilledImage._fields), strict=True)]
    rows = [np.flatnonzero(distilled.labels == c) for c in classes]
    shards = [records.write_shard(directory, i, [examples[n] for n in at], layout) for i, at in enumerate(rows)]
    own = {name: value for name, value in manifest.items() if name not in _OF_THE_FILES}
    own |= {"decoded": manifest["shards"], "rate": accounting.of_shards(directory, layout, shards)}
    records.finish(directory, layout, shards, own)


def _loss(distilled) -> str:
    return distilled.manifest.get("config", {}).get("evaluate", {}).get("loss", "")


def _replace(distilled, **arrays):
    """The manifest names the new content in place of the shards, so that no student of the original is taken for one
    of this set (students on disk are found by these hashes)."""
    for name, new in arrays.items():
        old = getattr(distilled, name)
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            raise DataError(f"{name}: {new.dtype}{new.shape} cannot stand for {old.dtype}{old.shape}; decode it again")
    shards = [shard["sha256"] for shard in distilled.manifest["shards"]]
    content = [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
    name = hashlib.sha256("".join([*shards, *arrays]).encode() + b"".join(content)).hexdigest()
    return distilled._replace(**arrays, manifest=distilled.manifest | {"shards": [{"sha256": name}]})
