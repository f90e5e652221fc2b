"""From an image and coalitions of its patches to the values v(S) of a cooperative game (InfoUtil section 3.1, App. E).

The only place that knows what a player is: one cell of a G x G grid over the image, present or replaced by a baseline.
"""

import functools

import jax
import jax.numpy as jnp

BASELINES = ("zero", "mean_colour", "blur")
VALUES = ("logit", "probability")
TARGETS = ("label", "predicted")


def cell_of_pixel(side: int, grid: int):
    """Which of `grid` cells each of `side` pixels belongs to, (side,) int32; cells differ by at most one pixel."""
    return (jnp.arange(side) * grid) // side


def expand(mask_P, side: int):
    """A coalition (P,) bool, row-major over the grid, as a mask of pixels (side, side, 1)."""
    grid = round(mask_P.shape[0] ** 0.5)
    at = cell_of_pixel(side, grid)
    return mask_P.reshape(grid, grid)[at][:, at][:, :, None]


def _blur(image_norm):
    side = image_norm.shape[0]
    at = jnp.arange(side, dtype=jnp.float32)
    distance = at[:, None] - at[None, :]
    kernel = jnp.exp(-0.5 * jnp.square(distance / (side / 8)))
    kernel = kernel / kernel.sum(axis=1, keepdims=True)
    return jnp.einsum("yh,hwc,xw->yxc", kernel, image_norm, kernel)


def baseline_image(image_norm, kind: str):
    """What stands where a patch is absent, in normalised space like `image_norm` (H, W, 3): 'zero' (the data set's mean
    colour: Captum's default on a standardised input), 'mean_colour' (this image's own) or 'blur' (sigma = side / 8)."""
    if kind == "zero":
        return jnp.zeros_like(image_norm)
    if kind == "mean_colour":
        return jnp.broadcast_to(image_norm.mean(axis=(0, 1), keepdims=True), image_norm.shape)
    return _blur(image_norm)


def _value(logits_K, target, kind: str):
    scores = logits_K if kind == "logit" else jax.nn.softmax(logits_K)
    return scores[target]


def coalition_values(logits_fn, image_norm, masks_SP, label, *, baseline, value, target, micro_batch: int):
    """v(S) for every coalition of one image, (S,) float32.

    `logits_fn` maps normalised images (B, H, W, 3) to logits (B, K). image_norm (H, W, 3), masks_SP bool, label int32.
    `target`: the class whose score is the value, the true 'label' or the class 'predicted' on the whole image. At most
    `micro_batch` masked copies exist at a time. The value of a coalition does not depend on the others in the batch.
    """
    absent = baseline_image(image_norm, baseline)
    if target == "predicted":
        label = jnp.argmax(logits_fn(image_norm[None])[0])

    def masked(mask_P):
        return jnp.where(expand(mask_P, image_norm.shape[0]), image_norm, absent)

    def values(masks):
        logits = logits_fn(jax.vmap(masked)(masks))
        return jax.vmap(functools.partial(_value, target=label, kind=value))(logits)

    n = masks_SP.shape[0]
    n_chunks = -(-n // micro_batch)
    padded = jnp.pad(masks_SP, ((0, n_chunks * micro_batch - n), (0, 0)))
    chunks = padded.reshape(n_chunks, micro_batch, -1)
    return jax.lax.map(values, chunks).reshape(-1)[:n]
