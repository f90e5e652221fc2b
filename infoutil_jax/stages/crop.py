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
from infoutil_jax.keys import generator

VERSION = 1
RULES = ("shapley", "random_window", "random_resized", "whole")


@dataclass(frozen=True)
class Settings:
    rule: str  # shapley | random_window (same size, anywhere) | random_resized (RDED: area 0.08-1, square) | whole
    window: int  # side of the window in grid cells (2 of 4: the paper's half side); the pooling kernel has this size
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


def pool(phi_GG, window: int) -> np.ndarray:
    """Mean over every window x window block of cells, stride 1: (G - window + 1,) * 2."""
    blocks = np.lib.stride_tricks.sliding_window_view(phi_GG, (window, window))
    return blocks.mean(axis=(-2, -1))


def window_boxes(cells_R2, window: int, grid: int, side: int) -> np.ndarray:
    """Boxes (R, 4) int32 in pixels of the windows whose top-left cells are `cells_R2`: equal sizes, inside the image.

    A box begins at the first pixel of its first cell (`games.cell_of_pixel`), or as far down or right as it fits.
    """
    length = round(window * side / grid)
    start = np.minimum(-(-np.asarray(cells_R2) * side // grid), side - length)
    return np.concatenate([start, np.full_like(start, length)], axis=1).astype(np.int32)


def shapley_boxes(rng, settings: Settings, phi_GG, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(boxes (R, 4), pooled (R,)) of one image: the best window of its pooled map.

    All crops but the last see fresh noise N(0, (alpha std)^2) on each entry of the map. Ties go to the first window in
    row-major order.
    """
    pooled = pool(np.asarray(phi_GG, np.float64), settings.window)
    noise = rng.normal(size=(settings.per_image, *pooled.shape)) * (settings.alpha * pooled.std())
    noise[-1] = 0
    best = (pooled + noise).reshape(settings.per_image, -1).argmax(axis=1)
    cells = np.stack(np.unravel_index(best, pooled.shape), axis=1)
    return window_boxes(cells, settings.window, len(phi_GG), side), pooled.reshape(-1)[best]


def control_boxes(rng, settings: Settings, grid: int, side: int) -> np.ndarray:
    """Boxes (R, 4) int32 of one image for a rule that does not look at it."""
    if settings.rule == "whole":
        return np.array([[0, 0, side, side]], np.int32)
    if settings.rule == "random_resized":
        length = np.round(side * np.sqrt(rng.uniform(0.08, 1.0, settings.per_image)))
    else:
        length = np.full(settings.per_image, round(settings.window * side / grid))
    y, x = np.floor(rng.uniform(size=(2, settings.per_image)) * (side - length + 1))
    return np.stack([y, x, length, length], axis=1).astype(np.int32)


def run(settings: Settings, seed: int, ids, side: int, grid: int, phi_MGG=None) -> Crops:
    """Boxes for candidates `ids` (M) of `side` pixels. The draws of an image depend on (seed, rule, its id) only."""
    rngs = [generator(seed, "crop", settings.rule, i) for i in ids]
    if settings.rule == "shapley":
        found = [shapley_boxes(rng, settings, phi, side) for rng, phi in zip(rngs, phi_MGG, strict=True)]
        boxes, pooled = (np.stack(part) for part in zip(*found))
        return Crops(boxes, pooled.astype(np.float32))
    boxes = np.stack([control_boxes(rng, settings, grid, side) for rng in rngs])
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
