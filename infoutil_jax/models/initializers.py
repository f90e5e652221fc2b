"""PyTorch's default initialisers, so that a recipe published for PyTorch starts from the same distribution here."""

import math

import jax
import jax.numpy as jnp


def uniform_fan_in(fan_in=None):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what `torch.nn.Conv2d` and `torch.nn.Linear` give weights and biases.

    fan_in: inputs per output unit; None takes it from a kernel of shape (..., in, out). A bias must name it.
    """

    def init(key, shape, dtype=jnp.float32):
        bound = 1 / math.sqrt(fan_in or math.prod(shape[:-1]))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def normal_fan_out(key, shape, dtype=jnp.float32):
    """N(0, 2 / fan_out), He et al. 2015 (arXiv 1502.01852): torchvision's choice for the convolutions of a ResNet.

    shape: (kh, kw, in, out); fan_out = kh * kw * out.
    """
    fan_out = shape[0] * shape[1] * shape[3]
    return jax.random.normal(key, shape, dtype) * math.sqrt(2 / fan_out)
