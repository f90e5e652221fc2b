"""Informativeness: Shapley values of every candidate's patches under the converged teacher (InfoUtil section 3.1)."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from infoutil_jax import parallel, train
from infoutil_jax.attribution import games, shapley
from infoutil_jax.checks import in_range, one_of
from infoutil_jax.errors import NumericError
from infoutil_jax.keys import key_for

VERSION = 1


@dataclass(frozen=True)
class Settings:
    grid: int  # players are the cells of a grid x grid partition of the image
    baseline: str  # what replaces an absent patch: zero (in normalised space) | mean_colour | blur
    value: str  # logit | probability of the target class
    target: str  # label | predicted
    estimator: str  # a name in attribution.shapley.METHODS
    budget: int  # teacher evaluations per image, empty and full coalition included; 2**(grid*grid) or more is exact
    micro_batch: int  # masked images per forward pass and device

    def __post_init__(self):
        one_of("attribute.baseline", self.baseline, games.BASELINES)
        one_of("attribute.value", self.value, games.VALUES)
        one_of("attribute.target", self.target, games.TARGETS)
        one_of("attribute.estimator", self.estimator, shapley.METHODS)
        in_range("attribute.grid", self.grid, 2, 16)
        in_range("attribute.budget", self.budget, shapley.least_budget(self.grid**2, self.estimator))
        in_range("attribute.micro_batch", self.micro_batch, 1)


class Attribution(NamedTuple):
    """Shapley values of a class's candidates."""

    phi: np.ndarray  # (M, G, G) float32, row-major over the grid
    full: np.ndarray  # (M,) float32, v(N): the target score of the whole image
    empty: np.ndarray  # (M,) float32, v(empty coalition)


def design(settings: Settings, seed: int) -> shapley.Design:
    """The coalitions and the matrix that all images of a run share."""
    return shapley.design(settings.grid**2, settings.budget, key_for(seed, "attribute"), settings.estimator)


@functools.lru_cache(maxsize=None)
def _values_fn(settings: Settings, network: train.Network):
    """(variables, masks), one image (1, H, W, 3), its label (1,) -> values (1, S)."""

    def values(shared, images_u8, labels):
        variables, masks_SP = shared
        logits_fn = lambda images_norm: network.model.apply(variables, images_norm, train=False)
        image_norm = network.normalize(images_u8[0].astype(jnp.float32) / 255)
        game = dict(baseline=settings.baseline, value=settings.value, target=settings.target)
        micro_batch = min(settings.micro_batch, masks_SP.shape[0])
        return games.coalition_values(logits_fn, image_norm, masks_SP, labels[0], micro_batch=micro_batch, **game)[None]

    return values


def run(settings: Settings, network, variables, coalitions: shapley.Design, images_u8, labels) -> Attribution:
    """The Attribution of images (M, H, W, 3) uint8 for classes `labels` (M,): all coalitions, then one product.

    Raises NumericError when the network's output is not finite.
    """
    fn, labels = _values_fn(settings, network), np.asarray(labels, np.int32)
    values_MS = parallel.map_batches(fn, 1, (variables, coalitions.masks_SP), images_u8, labels)
    bad = np.flatnonzero(~np.isfinite(values_MS).all(axis=1))
    if bad.size:
        raise NumericError(
            f"attribute: class {labels[bad[0]]}, candidate {bad[0]}: the teacher's output is not finite; "
            "check its weights."
        )
    phi = values_MS.astype(np.float64) @ coalitions.matrix_PS.T
    masks = coalitions.masks_SP
    full, empty = (values_MS[:, np.flatnonzero(which)[0]] for which in (masks.all(axis=1), ~masks.any(axis=1)))
    return Attribution(phi.reshape(-1, settings.grid, settings.grid).astype(np.float32), full, empty)
