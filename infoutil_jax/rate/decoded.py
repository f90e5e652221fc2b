"""A distilled set whose images or labels went through a coder and back: students train on what was decoded."""

import hashlib

import numpy as np

from infoutil_jax.errors import DataError
from infoutil_jax.types import DistilledSet


def with_images(distilled: DistilledSet, images_u8) -> DistilledSet:
    """The set with other pixels, (N, H, W, 3) uint8 as before; DataError for another shape or dtype."""
    return _replace(distilled, images_u8=images_u8)


def with_logits(distilled: DistilledSet, patch_logits) -> DistilledSet:
    """The set with other soft labels, (N, k, K) float32 as before; DataError for another shape or dtype."""
    return _replace(distilled, patch_logits=patch_logits)


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
