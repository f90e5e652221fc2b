"""Selected tiles to distilled images: F x F mosaics, or the tiles themselves when F = 1."""

from dataclasses import dataclass

import numpy as np

from infoutil_jax.checks import in_range, one_of

VERSION = 1


@dataclass(frozen=True)
class Settings:
    factor: int  # F: an image is F x F tiles of 1/F side (the paper: 1 for CIFAR and Tiny-ImageNet, else 2)
    order: str  # consecutive: image j holds ranks jk .. jk+k-1 (Algorithm 1) | rank_blocks: j, j+I, j+2I .. (RDED)

    def __post_init__(self):
        in_range("compose.factor", self.factor, 1, 16)
        one_of("compose.order", self.order, ("consecutive", "rank_blocks"))


def arrange(n_images: int, n_patches: int, order: str) -> np.ndarray:
    """Which rank goes where: (I, k) ranks, patches row-major in their image."""
    ranks = np.arange(n_images * n_patches)
    return ranks.reshape(n_images, n_patches) if order == "consecutive" else ranks.reshape(n_patches, n_images).T


def stitch(tiles_u8) -> np.ndarray:
    """Tiles (I, k, h, h, 3), k = F * F, row-major -> mosaics (I, F h, F h, 3)."""
    n, k, h = tiles_u8.shape[:3]
    f = round(k**0.5)
    grid = tiles_u8.reshape(n, f, f, h, h, 3).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(n, f * h, f * h, 3)


def unstitch(images_u8, factor: int) -> np.ndarray:
    """The inverse: images (I, H, H, 3) -> tiles (I, F * F, H / F, H / F, 3)."""
    n, side = images_u8.shape[:2]
    h = side // factor
    grid = images_u8.reshape(n, factor, h, factor, h, 3).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(n, factor * factor, h, h, 3)
