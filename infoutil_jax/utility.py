"""Per-example gradient norms: the upper bound of a sample's utility (InfoUtil Theorem 1; GraNd, Paul et al. 2021)."""

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import losses


def _loss(params, logits_fn, variables, image, label):
    logits = logits_fn({**variables, "params": params}, image[None])
    return losses.cross_entropy(logits, label[None])[0]


def square_sum(tree):
    """The squared L2 norm over all leaves together."""
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))


def gradient_norms(logits_fn, variables, images, labels):
    """L2 norm over all parameters of each example's cross-entropy gradient, shape (B,) float32, >= 0.

    `logits_fn(variables, images)` gives logits (B, K) with BatchNorm in eval mode, so that examples do not mix; the
    norm is over variables['params'] only. images (B, H, W, 3), labels int32 (B,). All B gradients are alive at once:
    choose B by memory. Never call it on rows that the compiler may spread over devices; `parallel.map_batches` is safe.
    """
    per_example = jax.vmap(jax.grad(_loss), in_axes=(None, None, None, 0, 0))
    gradients = per_example(variables["params"], logits_fn, variables, images, labels)
    return jnp.sqrt(jax.vmap(square_sum)(gradients))


def gradient_norms_one_by_one(logits_fn, variables, images, labels) -> np.ndarray:
    """The same numbers from a Python loop of `jax.grad` over single examples: slow, and right on any device."""
    gradient = jax.jit(jax.grad(_loss), static_argnums=1)

    def norm(image, label):
        leaves = jax.tree.leaves(gradient(variables["params"], logits_fn, variables, image, label))
        return np.sqrt(sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in leaves))

    return np.array([norm(image, label) for image, label in zip(images, labels, strict=True)])
