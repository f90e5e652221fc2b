"""The latent codec as encoder and decoder run it: numpy int64, one unit at a time, the same on every machine.

Nothing that the entropy coder or a pixel depends on is a float. Activations are multiples of 2 ** -BITS. A layer's
products and sums are exact, then rounded to that, halves up; what would not fit 64 bits wraps round, in the encoder as
in the decoder. Letters as in codec.py; activations are (channels, P), P rows of contexts or pixels.
"""

import itertools
from typing import NamedTuple

import numpy as np

from infoutil_jax.rate import codec, entropy, grids

BITS = 16  # of an activation's fraction; no parameter's step is finer


class Module(NamedTuple):
    """A network in integers: value = integer * 2 ** step, steps from -BITS to 0."""

    kernels: tuple[np.ndarray, ...]  # int64 (out, in) of each layer
    biases: tuple[np.ndarray, ...]  # int64 (out,)
    kernel_step: int  # log2
    bias_step: int  # log2


class Quantised(NamedTuple):
    """The networks of one unit."""

    settings: codec.Settings
    arm: Module
    synthesis: Module


def flat(module: Module) -> tuple[np.ndarray, np.ndarray]:
    """Its kernels and its biases as they are coded: layer by layer, outputs first."""
    kernels, biases = module[:2]
    return np.concatenate([k.ravel() for k in kernels]), np.concatenate(biases)


def unflat(shapes, kernels, biases, kernel_step: int, bias_step: int) -> Module:
    """A module of `codec.shapes(settings)[name]` from what `flat` gave."""
    ends = list(itertools.accumulate(out * n_in for out, n_in in shapes))
    rows = list(itertools.accumulate(out for out, _ in shapes))
    parts = (part.reshape(shape) for part, shape in zip(np.split(kernels, ends[:-1]), shapes, strict=True))
    return Module(tuple(parts), tuple(np.split(biases, rows[:-1])), kernel_step, bias_step)


def parameter_scale(integers) -> int:
    """Index of the scale of the Laplace law about 0 by which parameters are coded: of their mean deviation."""
    return int(entropy.scale_index(entropy.ONE * int(np.abs(integers).sum()) // len(integers)))


def parameter_bits(integers) -> float:
    """Bits of kernels or biases by that law."""
    zeros = np.zeros(len(integers), np.int64)
    return entropy.bits(integers, zeros, zeros + parameter_scale(integers))


def contexts(settings: codec.Settings, latents_nL: np.ndarray) -> np.ndarray:
    """Contexts (L, n, C) of all latents; those of the l-th are latents before it."""
    padded_Ln = np.pad(np.asarray(latents_nL, np.int64).T, ((0, 1), (0, 0)))
    return padded_Ln[grids.contexts(settings.side, settings.context)].swapaxes(1, 2)


def arm(quantised: Quantised, contexts_PC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Laws of latents given their contexts, int64 -> means in 1/64 of a symbol and indices of `entropy`'s scales, both
    int64 (P,). A row's law depends on that row alone."""
    module = quantised.arm
    x_CP = np.asarray(contexts_PC, np.int64).T << BITS
    for i in range(len(module.kernels) - 1):
        x_CP = np.maximum(x_CP + _mix(module, i, x_CP), 0)
    means_P, log2_scales_P = _mix(module, -1, x_CP)
    least, most = codec.SCALE_RANGE  # entropy's scales, too, begin at 1/64
    scales_P = _shifted(log2_scales_P * entropy.OCTAVE, BITS) - least * entropy.OCTAVE
    return _shifted(means_P * entropy.ONE, BITS), np.clip(scales_P, 0, (most - least) * entropy.OCTAVE)


def write(quantised: Quantised, latents_nL: np.ndarray, encoder) -> None:
    """Codes latents, integers (n, L): the l-th ones of all samples in the l-th call."""
    latents_nL = np.asarray(latents_nL, np.int64)
    for latents_n, contexts_nC in zip(latents_nL.T, contexts(quantised.settings, latents_nL), strict=True):
        encoder.encode(latents_n, *arm(quantised, contexts_nC))


def read(quantised: Quantised, n_samples: int, decoder) -> np.ndarray:
    """Latents (n, L) int64 as `write` coded them."""
    table_LC = grids.contexts(quantised.settings.side, quantised.settings.context)
    padded_Ln = np.zeros((len(table_LC) + 1, n_samples), np.int64)
    for latents_n, places_C in zip(padded_Ln, table_LC, strict=False):  # the last row is the zero outside
        latents_n[:] = decoder.decode(*arm(quantised, padded_Ln[places_C].T))
    return padded_Ln[:-1].T


def bits(quantised: Quantised, latents_nL: np.ndarray) -> float:
    """What `write` comes to, by its laws."""
    context_PC = contexts(quantised.settings, latents_nL).reshape(-1, quantised.settings.context)
    return entropy.bits(np.asarray(latents_nL, np.int64).T.ravel(), *arm(quantised, context_PC))


def images(quantised: Quantised, latents_nL: np.ndarray) -> np.ndarray:
    """Latents, integers (n, L), as pixels uint8 (n, S, S, 3)."""
    return np.stack([_image(quantised, latents_L) for latents_L in np.asarray(latents_nL, np.int64)])


def _image(quantised, latents_L):
    module, side = quantised.synthesis, quantised.settings.side
    x_CP = _full_size(side, latents_L)
    for i in range(len(module.kernels) - 3):
        x_CP = np.maximum(_mix(module, i, x_CP), 0)
    x_CP = _mix(module, -3, x_CP)
    x_CP = np.maximum(x_CP + _mix(module, -2, _windows(x_CP, side)), 0)
    x_CP = x_CP + _mix(module, -1, _windows(x_CP, side))
    return np.clip(_shifted(255 * x_CP, BITS), 0, 255).astype(np.uint8).reshape(3, side, side).transpose(1, 2, 0)


def _mix(module, i, x_CP):
    """A layer: kernel @ x + bias, as multiples of 2 ** -BITS."""
    products_CP = module.kernels[i] @ x_CP
    bias_C = module.biases[i] << (BITS - module.kernel_step + module.bias_step)
    return _shifted(products_CP + bias_C[:, None], -module.kernel_step)


def _shifted(x, n):
    """x / 2 ** n, rounded, halves up."""
    return (x + (1 << n >> 1)) >> n


def _full_size(side, latents_L):
    """All grids interpolated to full size: (grids, S * S)."""
    found = []
    for s, start in zip(grids.sides(side), grids.starts(side), strict=True):
        up_Ss = grids.upsampling(side, s)
        found.append(up_Ss @ latents_L[start : start + s * s].reshape(s, s) @ up_Ss.T)
    return _shifted(np.stack(found), 2 * grids.UP_BITS - BITS).reshape(len(found), -1)


def _windows(x_CP, side):
    """The 3 x 3 pixels about each, edges repeated: (9 C, P), positions row by row, then channels."""
    padded = np.pad(x_CP.reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)), mode="edge")
    shifted = [padded[:, y : y + side, x : x + side] for y in range(3) for x in range(3)]
    return np.concatenate(shifted).reshape(-1, side * side)
