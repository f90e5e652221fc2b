"""Random views of one image, float32 (H, W, 3) in [0, 1], each from its own key; `vmap` makes batches of them."""

import math

import jax
import jax.numpy as jnp


def resize_matrix(start, length, size_in: int, size_out: int):
    """Weights (size_out, size_in) that resample the interval [start, start + length) of `size_in` pixels to `size_out`.

    Triangle kernel, widened when shrinking (antialias), renormalised at the interval's ends: what cutting first and
    then resizing with PIL's or torch's antialiased bilinear filter does. `start` and `length`: float32, may be traced.
    """
    step = length / size_out
    centre = start + (jnp.arange(size_out, dtype=jnp.float32) + 0.5) * step
    pixel = jnp.arange(size_in, dtype=jnp.float32) + 0.5
    weight = jnp.maximum(0.0, 1 - jnp.abs(pixel[None, :] - centre[:, None]) / jnp.maximum(step, 1.0))
    inside = (pixel > start) & (pixel < start + length)
    weight = jnp.where(inside[None, :], weight, 0.0)
    return weight / weight.sum(axis=1, keepdims=True)


def crop_and_resize(image, box, side: int):
    """The part `box` = (y, x, h, w) of an image (H, W, C), in whole pixels, resampled to (side, side, C)."""
    box = box.astype(jnp.float32)
    rows = resize_matrix(box[0], box[2], image.shape[0], side)
    columns = resize_matrix(box[1], box[3], image.shape[1], side)
    precise = jax.lax.Precision.HIGHEST
    return jnp.einsum("yh,hwc,xw->yxc", rows, image, columns, precision=precise)


def resize(image, side: int):
    """The whole image resampled to (side, side, C)."""
    return crop_and_resize(image, jnp.array([0, 0, *image.shape[:2]]), side)


def random_flip(key, image):
    """Mirrored left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def pad_crop(key, image, pad: int = 4):
    """Zero-padded by `pad` pixels and cut back to its size at a random place (the CIFAR classic)."""
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    y, x = jax.random.randint(key, (2,), 0, 2 * pad + 1)
    return jax.lax.dynamic_slice(padded, (y, x, jnp.zeros_like(x)), image.shape)


def random_resized_box(key, side: int, scale: tuple[float, float], *, ratio=(3 / 4, 4 / 3), tries: int = 10):
    """torchvision's RandomResizedCrop on a square image: box (4,) int32 y x h w.

    Area share uniform in `scale`, aspect log-uniform in `ratio`; the first of `tries` draws that fits, else the whole
    image. (With scale (1, 1) no smaller box fits: RDED's factor-1 setting returns whole images.)
    """
    k_area, k_ratio, k_place = jax.random.split(key, 3)
    area = side * side * jax.random.uniform(k_area, (tries,), minval=scale[0], maxval=scale[1])
    aspect = jnp.exp(jax.random.uniform(k_ratio, (tries,), minval=math.log(ratio[0]), maxval=math.log(ratio[1])))
    w = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    h = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (w > 0) & (w <= side) & (h > 0) & (h <= side)
    first = jnp.argmax(fits)
    h, w = (jnp.where(fits.any(), v[first], side) for v in (h, w))
    u = jax.random.uniform(k_place, (2,))
    y, x = (jnp.floor(u_i * (side - v + 1).astype(jnp.float32)).astype(jnp.int32) for u_i, v in zip(u, (h, w)))
    return jnp.stack([y, x, h, w])


def shuffle_patches(key, image, factor: int):
    """RDED's ShufflePatches: the `factor` row strips and the `factor` column strips each in a random order."""
    k_rows, k_columns = jax.random.split(key)
    side = image.shape[0] // factor
    order = lambda k: (jax.random.permutation(k, factor)[:, None] * side + jnp.arange(side)[None, :]).reshape(-1)
    return image[order(k_rows)][:, order(k_columns)]


def cutmix_box(key, side: int):
    """CutMix's box (4,) int32 y0 y1 x0 x1: its share drawn from Beta(1, 1), centred anywhere, clipped at the border."""
    k_share, k_centre = jax.random.split(key)
    cut = jnp.floor(side * jnp.sqrt(1 - jax.random.uniform(k_share))).astype(jnp.int32)
    cy, cx = jax.random.randint(k_centre, (2,), 0, side)
    clip = lambda v: jnp.clip(v, min=0, max=side)
    return jnp.stack([clip(cy - cut // 2), clip(cy + cut // 2), clip(cx - cut // 2), clip(cx + cut // 2)])


def inside_box(box, side: int):
    """Which pixels (side, side) bool lie in a box y0 y1 x0 x1."""
    at = jnp.arange(side)
    rows, columns = (at >= box[0]) & (at < box[1]), (at >= box[2]) & (at < box[3])
    return rows[:, None] & columns[None, :]
