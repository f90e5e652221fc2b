"""Where to cut: the windows of every candidate with the highest (noisy) mean Shapley value, or a control's rule
(InfoUtil App. B.1; RDED's synthesis)."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import parallel
from infoutil_jax.checks import in_range, one_of
from infoutil_jax.data import augment
from infoutil_jax.keys import example_keys, key_for

VERSION = 1
RULES = ("shapley", "random_window", "random_resized", "whole")


@dataclass(frozen=True)
class Settings:
    rule: str  # shapley | random_window (same size, anywhere) | random_resized (RDED: area 0.08-1, square) | whole
    window: int  # side of the window in grid cells: 2 of 4 is the paper's half side; the pooling kernel has this size, stride 1
    per_image: int  # crops per candidate; 'whole' gives one
    alpha: float  # noise on the pooled map, in standard deviations of that map; the last crop has none

    def __post_init__(self):
        one_of("crop.rule", self.rule, RULES)
        in_range("crop.window", self.window, 1, 16)
        in_range("crop.per_image", self.per_image, 1)
        in_range("crop.alpha", self.alpha, 0)


class Crops(NamedTuple):
    """Boxes of a class's crops."""

    boxes: np.ndarray  # (M, R, 4) int32, y x h w in pixels
    pooled: np.ndarray  # (M, R) float32, mean Shapley value of the box's cells; NaN where the rule does not look at it


def pool(phi_GG, window: int):
    """Mean over every window x window block of cells, stride 1: (G - window + 1,) * 2."""
    n = phi_GG.shape[0] - window + 1
    rows = jnp.arange(n)[:, None] + jnp.arange(window)[None, :]
    return phi_GG[rows].mean(axis=1)[:, rows].mean(axis=2)


def window_boxes(cells_R2, window: int, grid: int, side: int):
    """Boxes (R, 4) in pixels of the windows whose top-left cells are `cells_R2`; equal sizes, inside the image."""
    length = round(window * side / grid)
    start = jnp.minimum(jnp.round(cells_R2 * side / grid).astype(jnp.int32), side - length)
    return jnp.concatenate([start, jnp.full_like(start, length)], axis=1)


def shapley_boxes(key, phi_GG, settings: Settings, side: int):
    """(boxes (R, 4), pooled (R,)) of one image: best window of the pooled map, with fresh noise N(0, (alpha std)^2) on each of
    its entries for all crops but the last. Ties go to the first window in row-major order."""
    grid, r = phi_GG.shape[0], settings.per_image
    pooled = pool(phi_GG, settings.window)
    noise = jax.random.normal(key, (r, *pooled.shape)) * (settings.alpha * pooled.std())
    noise = noise.at[-1].set(0.0)
    best = jnp.argmax((pooled[None] + noise).reshape(r, -1), axis=1)
    cells = jnp.stack([best // pooled.shape[1], best % pooled.shape[1]], axis=1)
    return window_boxes(cells, settings.window, grid, side), pooled.reshape(-1)[best]


def control_boxes(key, settings: Settings, grid: int, side: int):
    """Boxes (R, 4) of one image for a rule that does not look at it."""
    if settings.rule == "whole":
        return jnp.array([[0, 0, side, side]], jnp.int32)
    keys = jax.random.split(key, settings.per_image)
    if settings.rule == "random_resized":
        return jax.vmap(lambda k: augment.random_resized_box(k, side, (0.08, 1.0), (1.0, 1.0)))(keys)
    length = round(settings.window * side / grid)
    start = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, side - length + 1))(keys)
    return jnp.concatenate([start, jnp.full_like(start, length)], axis=1)


def run(settings: Settings, seed: int, ids, side: int, grid: int, phi_MGG=None) -> Crops:
    """Boxes for candidates `ids` (M) of `side` pixels. The draws of an image depend on (seed, rule, its id) only."""
    keys = example_keys(key_for(seed, "crop", settings.rule), ids)
    if settings.rule == "shapley":
        boxes, pooled = jax.vmap(functools.partial(shapley_boxes, settings=settings, side=side))(keys, jnp.asarray(phi_MGG))
        return Crops(np.asarray(boxes), np.asarray(pooled))
    boxes = np.asarray(jax.vmap(functools.partial(control_boxes, settings=settings, grid=grid, side=side))(keys))
    return Crops(boxes, np.full(boxes.shape[:2], np.nan, np.float32))


@functools.lru_cache(maxsize=None)
def _cut_fn(tile: int):
    def cut(_, images_u8, boxes):
        crop = lambda image, box: augment.crop_and_resize(image.astype(jnp.float32), box, tile)
        crops = jax.vmap(jax.vmap(crop, (None, 0)))(images_u8, boxes)
        return jnp.round(jnp.clip(crops, min=0, max=255)).astype(jnp.uint8)

    return cut


def cut(images_u8, boxes, tile: int) -> np.ndarray:
    """The crops (M, R, tile, tile, 3) uint8 of images (M, H, W, 3) at boxes (M, R, 4), resampled where sizes differ."""
    return parallel.map_batches(_cut_fn(tile), 16, np.float32(0), images_u8, boxes)
