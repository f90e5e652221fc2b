"""Informativeness: Shapley values of every candidate's patches under the converged teacher (InfoUtil section 3.1), or
Grad-CAM in their place (its Table 8)."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import parallel, train
from infoutil_jax.attribution import games, grad_cam, shapley
from infoutil_jax.checks import in_range, one_of
from infoutil_jax.errors import ConfigError, NumericError
from infoutil_jax.keys import key_for

VERSION = 2
GRAD_CAM = "grad_cam"
PRECISIONS = ("float32", "bfloat16")
CPU_MICRO_BATCH = 16  # the fastest of 8 to 256 for ConvNet-3 and ResNet-18 (docs/performance.md)
LARGEST_MICRO_BATCH = 1024  # an accelerator is busy long before
GRAD_CAM_ROWS = 16  # images per call and device; their activations are kept for the gradient
MEMORY_SHARE = 0.25  # of a device's memory, for the activations of a micro-batch
PADDING = 0.01  # at most this share of the forward passes is of padding, where few images a call can have it


@dataclass(frozen=True)
class Settings:
    grid: int  # players are the cells of a grid x grid partition of the image
    baseline: str  # what replaces an absent patch: zero (in normalised space) | mean_colour | blur; not for grad_cam
    value: str  # logit | probability of the target class
    target: str  # label | predicted
    estimator: str  # a name in attribution.shapley.METHODS | grad_cam
    budget: int  # teacher evaluations per image, empty and full coalition included; 2**(grid*grid) or more is exact;
    #              grad_cam takes one and its gradient
    precision: str  # of the forward passes: float32 | bfloat16 (weights, sums and logits stay float32)
    micro_batch: int  # masked images per forward pass and device; 0 = 16 on a CPU, else what a quarter of memory holds

    def __post_init__(self):
        one_of("attribute.baseline", self.baseline, games.BASELINES)
        one_of("attribute.value", self.value, games.VALUES)
        one_of("attribute.target", self.target, games.TARGETS)
        one_of("attribute.estimator", self.estimator, (*shapley.METHODS, GRAD_CAM))
        in_range("attribute.grid", self.grid, 2, 16)
        one_of("attribute.precision", self.precision, PRECISIONS)
        in_range("attribute.micro_batch", self.micro_batch, 0)
        if self.estimator != GRAD_CAM:
            self._check_budget()

    def _check_budget(self):
        try:
            shapley.check(self.grid**2, self.budget, self.estimator)
        except ValueError as error:
            raise ConfigError(f"attribute.budget={self.budget}, attribute.grid={self.grid}: {error}.") from error


class Attribution(NamedTuple):
    """Shapley values of a class's candidates, or Grad-CAM."""

    phi: np.ndarray  # (M, G, G) float32, row-major over the grid
    full: np.ndarray  # (M,) float32, v(N): the target score of the whole image
    empty: np.ndarray  # (M,) float32, v(empty coalition); NaN for grad_cam


def design(settings: Settings, seed: int):
    """The coalitions of all images of a run and the way from their values to Shapley values (`shapley.design`); None
    for grad_cam, which has none."""
    if settings.estimator == GRAD_CAM:
        return None
    return shapley.design(settings.grid**2, settings.budget, key_for(seed, "attribute"), settings.estimator)


def _model(network: train.Network, precision: str):
    return network.model if precision == "float32" else network.model.clone(dtype=precision)


def images_per_call(n_coalitions: int, micro_batch: int) -> int:
    """The fewest images, at most 16, whose coalitions fill micro-batches with next to no padding."""
    padding = lambda images: -(images * n_coalitions) % micro_batch / (images * n_coalitions)
    counts = range(1, 17)
    return next((n for n in counts if padding(n) <= PADDING), min(counts, key=padding))


def micro_batch(settings: Settings, network: train.Network, side: int) -> int:
    """`settings.micro_batch`, or what suits the device: a power of two on an accelerator, 16 on a CPU."""
    memory = parallel.memory_of_device()
    if settings.micro_batch or not memory:
        return settings.micro_batch or CPU_MICRO_BATCH
    fits = int(MEMORY_SHARE * memory / _bytes_per_image(network, settings.precision, side))
    return min(1 << max(fits, 1).bit_length() - 1, LARGEST_MICRO_BATCH)


@functools.lru_cache(maxsize=None)
def _bytes_per_image(network: train.Network, precision: str, side: int, *, probe: int = 16) -> float:
    """Device memory of a forward pass per image, as the compiler plans it."""
    images = jax.ShapeDtypeStruct((probe, side, side, 3), jnp.float32)
    model = _model(network, precision)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    forward = jax.jit(functools.partial(model.apply, train=False)).lower(variables, images).compile()
    return forward.memory_analysis().temp_size_in_bytes / probe + 4 * side * side * 3


@functools.lru_cache(maxsize=None)
def _values_fn(settings: Settings, network: train.Network, micro_batch: int):
    """(variables, masks (S, P)), images (B, H, W, 3) uint8, labels (B,) -> values (B, S)."""
    model = _model(network, settings.precision)
    game = dict(baseline=settings.baseline, value=settings.value, target=settings.target, micro_batch=micro_batch)

    def values(shared, images_u8, labels):
        variables, masks_SP = shared
        logits_fn = lambda images_norm: model.apply(variables, images_norm, train=False)
        images_norm = network.normalize(images_u8.astype(jnp.float32) / 255)
        return games.coalition_values(logits_fn, images_norm, masks_SP, labels, **game)

    return values


def values(settings: Settings, network, variables, masks_SP, images_u8, labels) -> np.ndarray:
    """v(S) of images (M, H, W, 3) uint8 for classes `labels` (M,) and every coalition, (M, S) float32.

    Raises NumericError when the network's output is not finite.
    """
    labels = np.asarray(labels, np.int32)
    build = lambda size: (_values_fn(settings, network, size), images_per_call(len(masks_SP), size))
    size = micro_batch(settings, network, images_u8.shape[1])
    values_MS = parallel.map_sized(build, size, (variables, masks_SP), images_u8, labels)
    _require_finite(values_MS, labels)
    return values_MS


def _require_finite(values_MS, labels) -> None:
    bad = np.flatnonzero(~np.isfinite(values_MS).all(axis=1))
    if bad.size:
        raise NumericError(
            f"attribute: class {labels[bad[0]]}, candidate {bad[0]}: the teacher's output is not finite; "
            "check its weights."
        )


@functools.lru_cache(maxsize=None)
def _grad_cam_fn(settings: Settings, network: train.Network):
    """variables, images (B, H, W, 3) uint8, labels (B,) -> maps (B, G, G), scores (B,)."""
    model = _model(network, settings.precision)

    def maps(variables, images_u8, labels):
        def scores(images_norm):
            logits = model.apply(variables, images_norm, train=False)
            chosen = labels if settings.target == "label" else logits.argmax(axis=1)
            values = logits if settings.value == "logit" else jax.nn.softmax(logits)
            return jnp.take_along_axis(values, chosen[:, None], axis=1)[:, 0]

        return grad_cam.cell_maps(scores, network.normalize(images_u8.astype(jnp.float32) / 255), settings.grid)

    return maps


def _run_grad_cam(settings: Settings, network, variables, images_u8, labels) -> Attribution:
    labels, rows = np.asarray(labels, np.int32), settings.micro_batch or GRAD_CAM_ROWS
    phi, full = parallel.map_batches(_grad_cam_fn(settings, network), rows, variables, images_u8, labels)
    _require_finite(np.column_stack([full, phi.reshape(len(phi), -1)]), labels)
    return Attribution(phi, full, np.full_like(full, np.nan))


def run(settings: Settings, network, variables, coalitions, images_u8, labels) -> Attribution:
    """The Attribution of images (M, H, W, 3) uint8 for classes `labels` (M,): all coalitions, then one product.

    `coalitions` is what `design` gave for the same settings.
    """
    if settings.estimator == GRAD_CAM:
        return _run_grad_cam(settings, network, variables, images_u8, labels)
    masks = coalitions.masks_SP
    values_MS = values(settings, network, variables, masks, images_u8, labels)
    phi = coalitions.solve(values_MS.T.astype(np.float64)).T
    full, empty = (values_MS[:, np.flatnonzero(which)[0]] for which in (masks.all(axis=1), ~masks.any(axis=1)))
    return Attribution(phi.reshape(-1, settings.grid, settings.grid).astype(np.float32), full, empty)
