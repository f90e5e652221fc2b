"""The latent codec as a float model, to be trained: docs/rate_utility.md, "The latent codec", has its formulas.

A sample is L integers on grids of halving side. An autoregressive network (ARM) gives each one a Laplace law from those
before it on its grid; a synthesis network turns all grids, at full size, into pixels. Both belong to a unit: the n
samples of a class, or the whole set. After COOL-CHIC and DD-RUO (arXiv 2507.17221), in matrix products alone: compilers
are slow at convolutions grouped by class.

Letters: U units, n samples of each, L latents, C context, P = S * n * S pixels of a unit, rows first, then samples.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax.checks import in_range, one_of
from infoutil_jax.errors import ConfigError
from infoutil_jax.keys import key_for
from infoutil_jax.rate import grids

SCOPES = ("class", "dataset")  # their places are in the container
SCALE_RANGE = -6, 7  # log2 of a Laplace law's scale: 1/64 is certainty, 128 more than any latent
# Bits that a symbol costs at most. A coder's cheapest way to an unlikely symbol costs about this much; a lower cap
# (DD-RUO: 16) promises up to 3.5 % less than the file has, and without one a single surprise rules the gradient.
MAX_BITS = 24


@dataclass(frozen=True)
class Settings:
    side: int  # of the images: a power of two below 64, a multiple of 32 from there on
    scope: str = "class"  # who shares networks: the samples of a class, or of the dataset
    context: int = 8  # latents that the law of one depends on
    arm_depth: int = 2  # hidden layers of the ARM, as wide as the context
    widths: tuple[int, ...] = (24,)  # of the synthesis network's 1 x 1 layers
    gain: float = 16.0  # integers per unit of a latent: 1 / step

    def __post_init__(self):
        one_of("codec.scope", self.scope, SCOPES)
        in_range("codec.context", self.context, 1, len(grids.offsets(1000)))
        in_range("codec.arm_depth", self.arm_depth, 0, 255)  # as the container writes it, and widths
        in_range("codec.widths (their number)", len(self.widths), 0, 255)
        in_range("codec.widths", min(self.widths, default=1), 1, 65535)
        in_range("codec.widths", max(self.widths, default=1), 1, 65535)
        in_range("codec.side", self.side, 2)
        in_range("codec.gain", self.gain, 1)
        if self.side & (self.side - 1) if self.side < 64 else self.side % 32:
            raise ConfigError(f"codec.side={self.side}: give a power of two below 64, or a multiple of 32")


def n_units(settings: Settings, n_classes: int) -> int:
    return n_classes if settings.scope == "class" else 1


def shapes(settings: Settings) -> dict[str, list[tuple[int, int]]]:
    """(out, in) of each layer: `arm`, hidden layers and one to mean and scale; `synthesis`, 1 x 1 layers, the last to
    three channels, and two of 3 x 3 pixels."""
    c, widths = settings.context, [len(grids.sides(settings.side)), *settings.widths, 3]
    mixing = [*zip(widths[1:], widths[:-1], strict=True)]
    return {"arm": [(c, c)] * settings.arm_depth + [(2, c)], "synthesis": [*mixing, (3, 27), (3, 27)]}


def n_values(settings: Settings) -> dict[str, int]:
    """Numbers that are stored: latents of a sample; parameters of a unit's `arm` and `synthesis`."""
    counts = {name: sum(out * (n_in + 1) for out, n_in in layers) for name, layers in shapes(settings).items()}
    return {"latents": grids.n_latents(settings.side)} | counts


def init(settings: Settings, n_units: int, n_samples: int, seed: int) -> dict:
    """Untrained parameters, float32: {"latents": (U, n, L), "arm": layers, "synthesis": layers}, a layer being
    {"kernel": (U, out, in), "bias": (U, out)}.

    Latents are small, images begin as grey and do not depend on the gain, laws have mean 0 and scale 1. Residual layers
    (the ARM's hidden ones, the 3 x 3 ones) begin as no change.
    """
    layers = shapes(settings)
    arm = [_zeros(n_units, shape) for shape in layers["arm"]]
    *mixing, first, second = layers["synthesis"]
    synthesis = [_draw(seed, n_units, f"synthesis{i}", shape) for i, shape in enumerate(mixing)]
    synthesis[0]["kernel"] /= settings.gain  # sees units, not integers: less loss early on
    synthesis[-1]["bias"] += 0.5
    synthesis += [_zeros(n_units, first), _zeros(n_units, second)]
    key, shape = key_for(seed, "codec", "latents"), (n_units, n_samples, grids.n_latents(settings.side))
    latents_UnL = jax.random.uniform(key, shape, minval=-0.05, maxval=0.05)
    return {"latents": latents_UnL, "arm": arm, "synthesis": synthesis}


def _zeros(n_units, shape):
    return {"kernel": jnp.zeros((n_units, *shape)), "bias": jnp.zeros((n_units, shape[0]))}


def _draw(seed, n_units, name, shape):
    """The same layer for every unit: only data tells units apart."""
    kernel = jax.random.normal(key_for(seed, "codec", name), shape) / shape[1] ** 0.5
    return _zeros(n_units, shape) | {"kernel": jnp.tile(kernel, (n_units, 1, 1))}


def hard(settings: Settings, latents: jax.Array) -> jax.Array:
    """The integers that are coded, as float32."""
    return jnp.round(settings.gain * latents)


def noisy(settings: Settings, latents: jax.Array, temperature: float, sigma: float, key) -> jax.Array:
    """What stands for the integers in training: soft rounding, Gaussian noise of `sigma`, soft rounding. The lower the
    temperature, the closer to rounding."""
    once = _soft_round(settings.gain * latents, temperature)
    return _soft_round(once + sigma * jax.random.normal(key, latents.shape), temperature)


def _soft_round(x, temperature):
    """Agustsson and Theis, arXiv 2006.09952, with 1 / (2 T) in the place of their alpha / 2."""
    whole = jnp.floor(x)
    return whole + 0.5 + 0.5 * jnp.tanh((x - whole - 0.5) / temperature) / jnp.tanh(0.5 / temperature)


@functools.partial(jax.jit, static_argnums=0)
def bits(settings: Settings, params: dict, latents_q: jax.Array) -> jax.Array:
    """Bits of each sample's latents (U, n, L) by the Laplace laws of the ARM -> (U, n)."""
    of_unit = functools.partial(_unit_bits, settings)
    return jax.lax.map(lambda unit: of_unit(*unit), (params["arm"], latents_q))


def _unit_bits(settings, arm, latents_nL):
    latents_Ln = latents_nL.T
    means_Ln, log2_scales_Ln = _laws(arm, _gather(settings, latents_Ln))
    return symbol_bits(latents_Ln - means_Ln, log2_scales_Ln).sum(0)


def _laws(arm, contexts_CLn):
    x_CP = contexts_CLn.reshape(len(contexts_CLn), -1)
    *hidden, last = arm
    for layer in hidden:
        x_CP = jax.nn.relu(x_CP + _mix(layer, x_CP))
    return _mix(last, x_CP).reshape(2, *contexts_CLn.shape[1:])


def _mix(layer, x_CP):
    return jnp.matmul(layer["kernel"], x_CP, precision="highest") + layer["bias"][:, None]


def symbol_bits(distance: jax.Array, log2_scale: jax.Array) -> jax.Array:
    """-log2 of a Laplace law's mass on the unit interval about `distance` from its mean, at most MAX_BITS. With d the
    distance and b the scale it is 1 - (e^(-(1/2 - d) / b) + e^(-(1/2 + d) / b)) / 2 up to d = 1/2; from there on it
    falls as e^(-d / b)."""
    inverse = jnp.exp2(-jnp.clip(log2_scale, *SCALE_RANGE))
    near, far = jnp.minimum(jnp.abs(distance), 0.5), jnp.maximum(jnp.abs(distance) - 0.5, 0.0)
    mass = -0.5 * (jnp.expm1((near - 0.5) * inverse) + jnp.expm1((-near - 0.5) * inverse))
    return jnp.minimum((far * inverse - jnp.log(mass)) / np.log(2.0).astype(np.float32), float(MAX_BITS))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(settings, latents_Ln):
    """Contexts (C, L, n). Its gradient is a gather too: a scatter would cost more than the rest of the model."""
    table_LC = grids.contexts(settings.side, settings.context)
    return jnp.pad(latents_Ln, ((0, 1), (0, 0)))[table_LC.T]


def _gather_backward(settings, _, gradients_CLn):
    readers_LC = grids.readers(settings.side, settings.context)
    n_context, n_latents, n = gradients_CLn.shape
    rows = readers_LC.T + (n_latents + 1) * np.arange(n_context)[:, None]
    padded = jnp.pad(gradients_CLn, ((0, 0), (0, 1), (0, 0))).reshape(-1, n)
    return (padded[rows].sum(0),)


_gather.defvjp(lambda settings, latents_Ln: (_gather(settings, latents_Ln), None), _gather_backward)


@functools.partial(jax.jit, static_argnums=0)
def synthesise(settings: Settings, params: dict, latents_q: jax.Array) -> jax.Array:
    """Latents (U, n, L) as images (U, n, S, S, 3) float32, meant for [0, 1] and not clipped to it."""
    of_unit = functools.partial(_unit_images, settings)
    return jax.lax.map(lambda unit: of_unit(*unit), (params["synthesis"], latents_q))


def _unit_images(settings, synthesis, latents_nL):
    side, n = settings.side, len(latents_nL)
    *mixing, first, second = synthesis
    *hidden, last = mixing
    x_CP = _full_size(side, latents_nL).reshape(-1, side * n * side)
    for layer in hidden:
        x_CP = jax.nn.relu(_mix(layer, x_CP))
    x_CP = _mix(last, x_CP)
    x_CP = jax.nn.relu(x_CP + _mix(first, _windows(x_CP, side)))
    x_CP = x_CP + _mix(second, _windows(x_CP, side))
    return x_CP.reshape(3, side, n, side).transpose(2, 1, 3, 0)


def _full_size(side, latents_nL):
    """All grids interpolated to full size: (grids, S, n, S)."""
    n, found = len(latents_nL), []
    for s, start in zip(grids.sides(side), grids.starts(side), strict=True):
        up_Ss = (grids.upsampling(side, s) / 2**grids.UP_BITS).astype(np.float32)
        grid_sns = latents_nL[:, start : start + s * s].reshape(n, s, s).swapaxes(0, 1)
        wide_snS = jnp.matmul(grid_sns, up_Ss.T, precision="highest")
        found.append(jnp.matmul(up_Ss, wide_snS.reshape(s, n * side), precision="highest").reshape(side, n, side))
    return jnp.stack(found)


def _windows(x_CP, side):
    """The 3 x 3 pixels about each, edges repeated: (9 C, P), positions row by row, then channels."""
    x_CSnS = x_CP.reshape(len(x_CP), side, -1, side)
    padded = jnp.pad(x_CSnS, ((0, 0), (1, 1), (0, 0), (1, 1)), mode="edge")
    shifted = [padded[:, y : y + side, :, x : x + side] for y in range(3) for x in range(3)]
    return jnp.concatenate(shifted).reshape(-1, x_CP.shape[1])
