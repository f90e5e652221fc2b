"""Networks of a trained codec as integers: the coarsest power-of-two steps that pay, module by module.

As DD-RUO does it: a step for a module's kernels and one for its biases, by what the container then holds. Coarser
synthesis networks change the images, which is bounded; coarser ARMs change nothing but what the latents cost.
"""

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax.rate import codec, integer
from infoutil_jax.rate.integer import Module, Quantised

ARM_KERNEL_STEPS, ARM_BIAS_STEPS = range(-8, 1), range(-16, 1)  # log2
SYNTHESIS_STEPS = range(-15, 1)


def quantise(settings: codec.Settings, params: dict, max_mse: float = 1e-5):
    """-> the units' networks, their latents (U, n, L) int64, and bits, each (U,): `latents`, `arm`, `synthesis`, by the
    laws that a container codes them with.

    `max_mse` bounds the mean squared change of a unit's images, clipped to [0, 1], by the synthesis network's steps;
    where none keep to it they are the finest.
    """
    latents_q = codec.hard(settings, params["latents"])
    latents_UnL = np.asarray(latents_q).astype(np.int64)
    arms = _arms(settings, params["arm"], latents_q)
    syntheses = _syntheses(settings, params["synthesis"], latents_q, max_mse)
    units = [Quantised(settings, *modules) for modules in zip(arms, syntheses, strict=True)]
    latent_bits = [integer.bits(unit, latents_nL) for unit, latents_nL in zip(units, latents_UnL, strict=True)]
    return units, latents_UnL, {"latents": np.array(latent_bits), "arm": _bits(arms), "synthesis": _bits(syntheses)}


def as_layers(modules: list[Module]) -> list[dict]:
    """Modules of U units as the float model's layers, float32."""

    def stacked(tensors, steps):
        return np.stack([np.ldexp(x, step) for x, step in zip(tensors, steps, strict=True)]).astype(np.float32)

    kernels, biases, kernel_steps, bias_steps = zip(*modules, strict=True)
    tensors = zip(zip(*kernels, strict=True), zip(*biases, strict=True), strict=True)
    return [{"kernel": stacked(k, kernel_steps), "bias": stacked(b, bias_steps)} for k, b in tensors]


def as_modules(layers: list[dict], kernel_steps_U, bias_steps_U) -> list[Module]:
    """Layers of the float model rounded to steps, log2, of each unit."""

    def rounded(name, unit, step):
        tensors = (np.asarray(layer[name][unit], np.float64) for layer in layers)
        return tuple(np.rint(np.ldexp(x, -step)).astype(np.int64) for x in tensors)

    steps = enumerate(zip(kernel_steps_U.tolist(), bias_steps_U.tolist(), strict=True))
    return [Module(rounded("kernel", u, k), rounded("bias", u, b), k, b) for u, (k, b) in steps]


def _arms(settings, layers, latents_q):
    """First kernels, with the finest biases, then biases: each time what makes latents and network cheapest."""
    latent_bits = jax.jit(lambda arm: codec.bits(settings, {"arm": arm}, latents_q).sum(1))

    def cheapest(choices):
        totals = [np.asarray(latent_bits(as_layers(modules))) + _bits(modules) for modules in choices]
        return np.argmin(totals, axis=0)

    def every(step):
        return np.full(len(latents_q), step)

    finest = every(ARM_BIAS_STEPS[0])
    kernel_U = ARM_KERNEL_STEPS[0] + cheapest(as_modules(layers, every(step), finest) for step in ARM_KERNEL_STEPS)
    bias_U = ARM_BIAS_STEPS[0] + cheapest(as_modules(layers, kernel_U, every(step)) for step in ARM_BIAS_STEPS)
    return as_modules(layers, kernel_U, bias_U)


def _syntheses(settings, layers, latents_q, max_mse):
    """The cheapest of all pairs that change a unit's images by at most `max_mse`, looked for from the cheapest on."""
    decoded = jax.jit(lambda synthesis: jnp.clip(codec.synthesise(settings, {"synthesis": synthesis}, latents_q), 0, 1))
    before, steps, n_units = decoded(layers), np.array(SYNTHESIS_STEPS), len(latents_q)
    same = [as_modules(layers, *np.full((2, n_units), step)) for step in steps]  # for kernels and biases
    bits_SU2 = np.array([[[*map(integer.parameter_bits, integer.flat(m))] for m in modules] for modules in same])
    cost_SSU = bits_SU2[:, None, :, 0] + bits_SU2[None, :, :, 1]
    pairs_2P = np.stack([grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij")])
    chosen_U, pending_U = np.zeros(n_units, np.int64), np.ones(n_units, bool)  # 0: both the finest
    for pair_U in cost_SSU.reshape(-1, n_units).argsort(axis=0, kind="stable"):
        rounded = as_layers(as_modules(layers, *pairs_2P[:, pair_U]))
        found_U = pending_U & (np.asarray(((decoded(rounded) - before) ** 2).mean((1, 2, 3, 4))) <= max_mse)
        chosen_U, pending_U = np.where(found_U, pair_U, chosen_U), pending_U & ~found_U
        if not pending_U.any():
            break
    return as_modules(layers, *pairs_2P[:, chosen_U])


def _bits(modules) -> np.ndarray:
    """Bits (U,) of kernels and of biases; steps and scales are the container's."""
    return np.array([sum(map(integer.parameter_bits, integer.flat(module))) for module in modules])
