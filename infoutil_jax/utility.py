"""Per-example gradient norms: the upper bound of a sample's utility (InfoUtil Theorem 1; GraNd, Paul et al. 2021)."""

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import losses


def _square_sum(tree):
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))


def gradient_norms(logits_fn, variables, images, labels):
    """L2 norm over all parameters of each example's cross-entropy gradient, shape (B,) float32, >= 0.

    `logits_fn(variables, images)` gives logits (B, K) with BatchNorm in eval mode, so that examples do not mix; the norm is over
    variables['params'] only. images (B, H, W, 3), labels int32 (B,). All B gradients are alive at once: choose B by memory.
    Never call it on rows that the compiler may spread over devices; `parallel.map_batches` is the safe way.
    """

    def loss(params, image, label):
        logits = logits_fn({**variables, "params": params}, image[None])
        return losses.cross_entropy(logits, label[None])[0]

    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(variables["params"], images, labels)
    return jnp.sqrt(jax.vmap(_square_sum)(gradients))


def gradient_norms_one_by_one(logits_fn, variables, images, labels) -> np.ndarray:
    """The same numbers from a Python loop of `jax.grad` over single examples: slow, and right on any device."""

    def loss(params, image, label):
        logits = logits_fn({**variables, "params": params}, image[None])
        return losses.cross_entropy(logits, label[None])[0]

    gradient = jax.jit(jax.grad(loss))
    rows = (gradient(variables["params"], image, label) for image, label in zip(images, labels))
    return np.array([np.sqrt(sum(np.sum(np.square(np.asarray(g, np.float64))) for g in jax.tree.leaves(row))) for row in rows])
