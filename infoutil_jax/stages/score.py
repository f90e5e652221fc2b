"""Utility: gradient norm, loss and correctness of every crop under the teacher (InfoUtil section 3.2); or its features,
which coresets look at."""

import functools
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import layerwise, losses, parallel, train, utility
from infoutil_jax.checks import in_range, one_of
from infoutil_jax.data import augment
from infoutil_jax.errors import NumericError
from infoutil_jax.types import Scores

VERSION = 2
NORMS = ("layerwise", "vmap")
LAST_LAYER = "classifier"  # in every model of infoutil_jax.models


@dataclass(frozen=True)
class Settings:
    teacher: str  # converged (the paper's) | early
    fit: str  # a crop smaller than the network's input is resized, or put on the middle of a zero canvas (pad: RDED's)
    norms: str  # layerwise | vmap (the same numbers from all gradients at once, slower: the reference)
    batch_size: int  # crops per call and device

    def __post_init__(self):
        one_of("score.teacher", self.teacher, ("converged", "early"))
        one_of("score.fit", self.fit, ("resize", "pad"))
        one_of("score.norms", self.norms, NORMS)
        in_range("score.batch_size", self.batch_size, 1)


def _to_input(network: train.Network, fit: str, side: int, crops_u8):
    """Crops (B, h, h, 3) uint8 as normalised network input (B, side, side, 3)."""
    images = crops_u8.astype(jnp.float32) / 255
    small = images.shape[1]
    if small == side:
        return network.normalize(images)
    if fit == "resize":
        return network.normalize(jax.vmap(functools.partial(augment.resize, side=side))(images))
    before = (side - small) // 2
    margin = (before, side - small - before)
    return jnp.pad(network.normalize(images), ((0, 0), margin, margin, (0, 0)))


@functools.lru_cache(maxsize=None)
def _score_fn(network: train.Network, fit: str, side: int, norms: str | None):
    logits_fn = lambda variables, images_norm: network.model.apply(variables, images_norm, train=False)

    def score(variables, crops_u8, labels):
        inputs = _to_input(network, fit, side, crops_u8)
        if norms == "layerwise":
            norms_B, logits_BK = layerwise.gradient_norms(logits_fn, variables, inputs, labels)
        else:
            logits_BK, norms_B = logits_fn(variables, inputs), jnp.full(labels.shape, jnp.nan)
        if norms == "vmap":
            norms_B = utility.gradient_norms(logits_fn, variables, inputs, labels)
        return losses.cross_entropy(logits_BK, labels), logits_BK.argmax(axis=1) == labels, norms_B

    return score


def run(settings: Settings, network, variables, crops_u8, label: int, side: int, *, with_gradients: bool) -> Scores:
    """Scores of crops (M, R, h, h, 3) uint8 that all belong to class `label`, for a network with `side`-pixel input.

    Raises NumericError when a score is not finite.
    """
    shape = crops_u8.shape[:2]
    rows = crops_u8.reshape(-1, *crops_u8.shape[2:])
    labels = np.full(len(rows), label, np.int32)
    fn = _score_fn(network, settings.fit, side, settings.norms if with_gradients else None)
    loss, correct, norms = parallel.map_batches(fn, settings.batch_size, variables, rows, labels)
    bad = ~np.isfinite(loss) | (with_gradients & ~np.isfinite(norms))
    if bad.any():
        first = np.flatnonzero(bad)[0]
        raise NumericError(
            f"score: class {label}, crop {first}: loss or gradient norm is not finite; check the teacher's weights."
        )
    return Scores(*(a.reshape(shape) for a in (loss, correct, norms)))


def last_layer_input(apply) -> jax.Array:
    """Features (B, D) float32: what the last layer is given while apply() runs a network."""
    seen = []

    def watch(call, args, kwargs, context):
        if context.module.name == LAST_LAYER:
            seen.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        apply()
    return seen[-1].astype(jnp.float32)


@functools.lru_cache(maxsize=None)
def _features_fn(network: train.Network, fit: str, side: int):
    def features(variables, crops_u8):
        inputs = _to_input(network, fit, side, crops_u8)
        return last_layer_input(lambda: network.model.apply(variables, inputs, train=False))

    return features


def features(settings: Settings, network, variables, crops_u8, label: int, side: int) -> np.ndarray:
    """What the last layer is given for crops (M, R, h, h, 3) uint8 of class `label`: (M, R, D) float32.

    Raises NumericError when one is not finite.
    """
    rows, fn = crops_u8.reshape(-1, *crops_u8.shape[2:]), _features_fn(network, settings.fit, side)
    features_ND = parallel.map_batches(fn, settings.batch_size, variables, rows)
    if not np.isfinite(features_ND).all():
        raise NumericError(f"score: class {label}: a feature is not finite; check the teacher's weights.")
    return features_ND.reshape(*crops_u8.shape[:2], -1)
