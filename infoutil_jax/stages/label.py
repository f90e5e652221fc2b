"""Soft labels: the logits of the chosen teacher on every patch at full size (InfoUtil Algorithm 1, y_jk)."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import parallel, train
from infoutil_jax.checks import one_of
from infoutil_jax.data import augment
from infoutil_jax.errors import NumericError

VERSION = 1


@dataclass(frozen=True)
class Settings:
    teacher: str  # early | converged: labels the set and, on line, students' batches (App. B.2: early for IPC <= 10)

    def __post_init__(self):
        one_of("label.teacher", self.teacher, ("early", "converged"))


@functools.lru_cache(maxsize=None)
def _logits_fn(network: train.Network, side: int):
    def logits(variables, tiles_u8):
        images = jax.vmap(functools.partial(augment.resize, side=side))(tiles_u8.astype(jnp.float32) / 255)
        return network.logits(variables, images)

    return logits


def run(network: train.Network, variables, tiles_u8, side: int) -> np.ndarray:
    """Logits (n, K) float32 of tiles (n, h, h, 3) uint8 resampled to the network's `side` pixels."""
    logits = parallel.map_batches(_logits_fn(network, side), 16, variables, tiles_u8)
    if not np.isfinite(logits).all():
        raise NumericError("label: the teacher's logits are not finite; check its weights.")
    return logits
