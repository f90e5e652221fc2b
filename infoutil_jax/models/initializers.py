"""PyTorch's default initialisers, so that a recipe published for PyTorch starts from the same distribution here.

NumPy draws on the host, seeded by the key: XLA spends seconds compiling one random generator per parameter (13 s for
ResNet-101 against 3 s), and values then depend on the key alone, not on the device.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def _draw(sample, key, shape, dtype):
    """sample(numpy Generator) -> array of `shape`, as a JAX value that works inside jit."""

    def host_draw(words):
        return sample(np.random.default_rng(np.asarray(words))).astype(dtype)

    result = jax.ShapeDtypeStruct(shape, dtype)
    return jax.pure_callback(host_draw, result, jax.random.key_data(key), vmap_method="sequential")


def uniform_fan_in(fan_in=None):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what `torch.nn.Conv2d` and `torch.nn.Linear` give weights and biases.

    fan_in: inputs per output unit; None takes it from a kernel of shape (..., in, out). A bias must name it.
    """

    def init(key, shape, dtype=jnp.float32):
        bound = 1 / math.sqrt(fan_in or math.prod(shape[:-1]))
        return _draw(lambda generator: generator.uniform(-bound, bound, shape), key, shape, dtype)

    return init


def normal_fan_out(key, shape, dtype=jnp.float32):
    """N(0, 2 / fan_out), He et al. 2015 (arXiv 1502.01852): torchvision's choice for the convolutions of a ResNet.

    shape: (kh, kw, in, out); fan_out = kh * kw * out.
    """
    deviation = math.sqrt(2 / (shape[0] * shape[1] * shape[3]))
    return _draw(lambda generator: generator.normal(0, deviation, shape), key, shape, dtype)
