"""Training of the latent codec on one set: bits per pixel + lambda * utility (docs/rate_utility.md).

First a warm-up with the mean squared error, then stages with the utility that is asked for, each with its own lambda.
Gradients are clipped unit by unit, then Adam; after DD-RUO (arXiv 2507.17221). Steps are dispatched one by one, since
gradients of convolutions inside a compiled loop are slow on a CPU.

Letters: N images, K classes, U units, n images of a unit, m of a unit in a step.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from infoutil_jax.checks import in_range
from infoutil_jax.errors import ConfigError, DataError, NumericError
from infoutil_jax.keys import generator, key_for
from infoutil_jax.progress import say, track
from infoutil_jax.rate import codec, objectives
from infoutil_jax.utility import square_sum

PASSES = 10  # over all images, from one point of the history to the next
MOST_STEERED = 30.0  # in log(lambda): a target out of reach ends in a poor set, not in an overflow
MISSED = 0.05  # of a target that is worth a word
# Of log(target / bits): what it adds to log(lambda) at once, and for good at every point. Without the first, bits swing
# about the target; a tenth of the second is too slow for 1,000 steps.
AT_ONCE, FOR_GOOD = 4.0, 0.8


@dataclass(frozen=True)
class Settings:
    """Lambda is what a unit of utility is worth in bits per pixel. With `target_bpc` all of them, beta too, are
    multiplied by a factor that begins at 1 and is steered."""

    warmup_steps: int = 400
    beta: float = 1e3  # lambda of the warm-up, of mean squared error over [0, 1]
    steps: tuple[int, ...] = (500, 500)  # of each stage with the utility
    lambdas: tuple[float, ...] = (1e3, 1e3)
    warmup_rate: float = 1e-2  # learning rates
    rate: float = 1e-3
    clip: float = 0.1  # greatest norm of a unit's gradient
    temperature: float = 0.3  # of soft rounding
    sigma: float = 0.25  # of its noise
    batch: int = 0  # images of each class in a step, 0 = all
    target_bpc: float = 0.0  # bits of latents per class to end at, without networks and labels; 0 = not steered

    def __post_init__(self):
        if len(self.steps) != len(self.lambdas):
            raise ConfigError(f"fit.steps={self.steps} and fit.lambdas={self.lambdas}: give one of each for a stage")
        for name in ("warmup_steps", "sigma", "batch", "target_bpc"):
            in_range(f"fit.{name}", getattr(self, name), 0)
        for name in ("beta", "warmup_rate", "rate", "clip", "temperature"):
            in_range(f"fit.{name}", getattr(self, name), 1e-12)
        in_range("fit.steps", min(self.steps, default=0), 0)
        in_range("fit.lambdas", min(self.lambdas, default=1.0), 1e-12)


class Point(NamedTuple):
    stage: str  # warm-up, joint 1, joint 2, ...
    step: int  # of the stage, done so far
    bits_per_class: float  # of the rounded latents of all images, by the model
    utility: float  # the stage's loss in the last step, on what soft rounding and noise made
    lam: float  # what the last step used


class Fitted(NamedTuple):
    params: dict  # as codec.init
    history: list[Point]


class _Stage(NamedTuple):
    name: str
    utility: objectives.Utility
    steps: int
    rate: float
    lam: float


def fit(codec_settings: codec.Settings, settings: Settings, images_u8, labels_N, utility, seed: int) -> Fitted:
    """Parameters of the codec for images (N, S, S, 3) uint8 in class order, the same number of each class.

    utility: objectives.Utility, asked about rows of `images_u8`. DataError for other images or labels, NumericError
    when bits or utility are not finite. Two fits from one seed are equal on one machine.
    """
    n_classes = _count_classes(images_u8, labels_N, codec_settings.side, settings.batch)
    n_units = codec.n_units(codec_settings, n_classes)
    params = codec.init(codec_settings, n_units, len(images_u8) // n_units, seed)
    stages = [_Stage("warm-up", objectives.mse(images_u8), settings.warmup_steps, settings.warmup_rate, settings.beta)]
    for number, (steps, lam) in enumerate(zip(settings.steps, settings.lambdas, strict=True), start=1):
        stages.append(_Stage(f"joint {number}", utility, steps, settings.rate, lam))
    history = []
    for stage in stages:
        params = _run(codec_settings, settings, stage, params, n_classes, seed, history)
    _tell_of_a_miss(settings.target_bpc, history)
    return Fitted(params, history)


def _tell_of_a_miss(target: float, history) -> None:
    if target and history and abs(history[-1].bits_per_class / target - 1) > MISSED:
        reached = f"{history[-1].bits_per_class:,.0f} bits per class of latents, {target:,.0f} asked for"
        say(f"codec: {reached}; more steps come closer, or the images hold no more")


def _count_classes(images_u8, labels_N, side: int, batch: int) -> int:
    labels_N, shape = np.asarray(labels_N), np.shape(images_u8)
    n_classes = int(labels_N.max(initial=0)) + 1
    if not len(labels_N) or not np.array_equal(labels_N, np.repeat(np.arange(n_classes), len(labels_N) // n_classes)):
        raise DataError("codec: labels are not in class order, the same number of each class; choose or sort images")
    if shape != (len(labels_N), side, side, 3):
        raise DataError(f"codec: images {shape} for {len(labels_N)} labels; give as many, of {side} x {side} pixels")
    if batch > len(labels_N) // n_classes:
        raise DataError(f"codec: a step takes {batch} images of a class, which has {len(labels_N) // n_classes}")
    return n_classes


def _run(codec_settings, settings, stage, params, n_classes, seed, history):
    """The parameters after a stage from `params` on, whose points are appended to the history."""
    optimizer = optax.adam(stage.rate)
    step = _make_step(codec_settings, settings, stage.utility.loss, optimizer)
    opt_state = optimizer.init(params)
    n_units, n = params["latents"].shape[:2]
    key = key_for(seed, "codec", stage.name)
    of_class = n_units * n // n_classes
    every = PASSES * math.ceil(of_class / (settings.batch or of_class))
    for number in track(range(stage.steps), f"codec, {stage.name}", total=stage.steps, unit="steps"):
        rng = generator(seed, "codec", stage.name, number)
        rows_Um = _rows(rng, n_classes, n_units * n, settings.batch).reshape(n_units, -1)
        lam = stage.lam * _factor(settings, history)
        at = jnp.float32(lam), jax.random.fold_in(key, number), rows_Um.astype(np.int32)
        params, opt_state, utility = step(params, opt_state, stage.utility.data, *at)
        if (number + 1) % every == 0 or number + 1 == stage.steps:
            bits = float(_hard_bits(codec_settings, params)) / n_classes
            history.append(Point(stage.name, number + 1, bits, float(utility), lam))
            if not np.isfinite([bits, history[-1].utility]).all():
                raise NumericError(f"codec, {stage.name}: not finite at step {number + 1}; lower the learning rate")
    return params


def _rows(rng, n_classes: int, n_images: int, batch: int) -> np.ndarray:
    """Images of a step, in class order: `batch` of each class, all of them for 0."""
    n = n_images // n_classes
    chosen = np.argsort(rng.random((n_classes, n)), axis=1)[:, : batch or n]
    return (np.sort(chosen, axis=1) + n * np.arange(n_classes)[:, None]).reshape(-1)


def _factor(settings: Settings, history) -> float:
    """What lambdas are multiplied by to meet the target: proportional and integral control of the logarithm."""
    if not settings.target_bpc or not history:
        return 1.0
    bounded = lambda steered: min(max(steered, -MOST_STEERED), MOST_STEERED)
    lacking = [math.log(settings.target_bpc / max(point.bits_per_class, 1.0)) for point in history]
    steered = 0.0
    for of_point in lacking:  # bounded every time, so that it comes back at once from a target out of reach
        steered = bounded(steered + FOR_GOOD * of_point)
    return math.exp(bounded(steered + AT_ONCE * lacking[-1]))


def _make_step(codec_settings, settings, loss, optimizer):
    """(params, opt_state, utility's data, lambda, key, rows (U, m) of the set) -> params, opt_state, utility."""

    def objective(params, data, lam, key, rows_Um):
        k_noise, k_utility = jax.random.split(key)
        n_units, n = params["latents"].shape[:2]
        of_unit_Um1 = (rows_Um - n * jnp.arange(n_units)[:, None])[..., None]
        latents_UmL = jnp.take_along_axis(params["latents"], of_unit_Um1, axis=1)
        latents_q = codec.noisy(codec_settings, latents_UmL, settings.temperature, settings.sigma, k_noise)
        images = as_pixels(codec.synthesise(codec_settings, params, latents_q)).reshape(
            -1, *(codec_settings.side,) * 2, 3
        )
        utility = loss(data, images, rows_Um.reshape(-1), k_utility)
        bits_per_pixel = codec.bits(codec_settings, params, latents_q).mean() / codec_settings.side**2
        return bits_per_pixel + lam * utility, utility

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state, data, lam, key, rows_Um):
        grads, utility = jax.grad(objective, has_aux=True)(params, data, lam, key, rows_Um)
        grads = jax.vmap(functools.partial(_clip, settings.clip))(grads)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its integer step count with floats
            updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, utility

    return step


def _clip(most: float, grads):
    """One unit's gradient, shortened to a norm of `most`."""
    scale = most / jnp.maximum(jnp.sqrt(square_sum(grads)), most)
    return jax.tree.map(lambda g: g * scale, grads)


def as_pixels(images):
    """What is left of floats in uint8, over 255; the gradient is that of the identity, so that a pixel beyond black or
    white can come back."""
    pixels = jnp.round(255 * jnp.clip(images, 0.0, 1.0)) / 255
    return images + jax.lax.stop_gradient(pixels - images)


@functools.partial(jax.jit, static_argnums=0)
def _hard_bits(codec_settings, params):
    return codec.bits(codec_settings, params, codec.hard(codec_settings, params["latents"])).sum()
