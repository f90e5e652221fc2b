"""(seed, stage, ids) -> PRNG keys. Nobody else folds or splits keys across examples, so that a draw depends on what it is for
and never on a position in a batch, the batch size or the number of devices."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np


def _words(name) -> np.ndarray:
    """64 bits of a hash of `name`, as two uint32."""
    digest = hashlib.blake2s(str(name).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return np.frombuffer(digest, np.uint32)


def _fold(key, words):
    return jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1])


def key_for(seed: int, *names):
    """The key of a purpose, e.g. `key_for(0, 'teacher', 'epoch', 3)`."""
    key = jax.random.key(seed)
    for name in names:
        key = _fold(key, _words(name))
    return key


def example_keys(key, ids):
    """One key per example id, shape (len(ids),): equal ids get equal keys whatever stands around them."""
    words = jnp.asarray(np.stack([_words(i) for i in ids]))
    return jax.vmap(_fold, in_axes=(None, 0))(key, words)
