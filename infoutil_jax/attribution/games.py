"""From an image and coalitions of its patches to the values v(S) of a cooperative game (InfoUtil section 3.1, App. E).

The only place that knows what a player is: one cell of a G x G grid over the image, present or replaced by a baseline.
"""

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


def coalition_values(logits_fn, images_norm, masks_SP, labels, *, baseline, value, target, micro_batch: int):
    """v(S) of every image for every coalition, (B, S) float32.

    `logits_fn` maps normalised images (N, H, W, 3) to logits (N, K). images_norm (B, H, W, 3), masks_SP bool, labels
    int32 (B,). `target`: the class whose score is the value, the true 'label' or the class 'predicted' on the whole
    image. Pairs of an image and a coalition go through the network in batches of `micro_batch`, whichever image they
    are of: no more masked copies exist at a time, and only the last batch may hold padding.
    """
    n_images, n_coalitions = len(images_norm), len(masks_SP)
    absent = jax.vmap(lambda image: baseline_image(image, baseline))(images_norm)
    if target == "predicted":
        labels = jnp.argmax(logits_fn(images_norm), axis=1)

    def masked(image, coalition):
        pixels = expand(masks_SP[coalition], images_norm.shape[1])
        return jnp.where(pixels, images_norm[image], absent[image])

    def values(pair):
        image, coalition = pair // n_coalitions, pair % n_coalitions
        logits = logits_fn(jax.vmap(masked)(image, coalition))
        scores = logits if value == "logit" else jax.nn.softmax(logits)
        return jnp.take_along_axis(scores, labels[image][:, None], axis=1)[:, 0]

    n_pairs = n_images * n_coalitions
    micro_batch = min(micro_batch, n_pairs)
    n_batches = -(-n_pairs // micro_batch)
    pairs = jnp.arange(n_batches * micro_batch).clip(max=n_pairs - 1).reshape(n_batches, micro_batch)
    return jax.lax.map(values, pairs).reshape(-1)[:n_pairs].reshape(n_images, n_coalitions)
