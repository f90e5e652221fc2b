"""(seed, purpose, ids) -> random numbers: a draw depends on what it is for, never on a position in a batch, the batch
size or the number of devices.

Draws on the device come from JAX keys; the few on the host (orders, places of crops) from numpy generators, which cost
no compilation for each new number of candidates.
"""

import hashlib

import jax
import numpy as np


def _words(*names) -> np.ndarray:
    """64 bits of a hash of the names, as two uint32."""
    text = "\0".join(map(str, names)).encode("utf-8", "surrogateescape")
    return np.frombuffer(hashlib.blake2s(text, digest_size=8).digest(), np.uint32)


def key_for(seed: int, *names):
    """The JAX key of a purpose, e.g. `key_for(0, 'teacher', 'init')`."""
    high, low = _words(*names)
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), high), low)


def generator(seed: int, *names) -> np.random.Generator:
    """The numpy generator of a purpose, e.g. `generator(0, 'crop', 'train/dog/1.jpg')`."""
    return np.random.default_rng([seed, *_words(*names).tolist()])
