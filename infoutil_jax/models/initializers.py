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


def uniform_fan_out(key, shape, dtype=jnp.float32):
    """U(-1/sqrt(fan_out), 1/sqrt(fan_out)), shape (in, out): the classifier of torchvision's EfficientNet."""
    bound = 1 / math.sqrt(shape[-1])
    return _draw(lambda generator: generator.uniform(-bound, bound, shape), key, shape, dtype)


def normal(deviation):
    """N(0, deviation^2): the dense layers of torchvision's MobileNetV2 and VGG."""

    def init(key, shape, dtype=jnp.float32):
        return _draw(lambda generator: deviation * generator.standard_normal(shape, np.float32), key, shape, dtype)

    return init


def xavier_uniform(key, shape, dtype=jnp.float32):
    """U(-b, b) with b^2 = 6 / (fan_in + fan_out), Glorot & Bengio 2010: for dense kernels, shape (in, out)."""
    bound = math.sqrt(6 / sum(shape))
    return _draw(lambda generator: generator.uniform(-bound, bound, shape), key, shape, dtype)


def lecun_normal(key, shape, dtype=jnp.float32):
    """Variance 1 / fan_in, fan_in = size / shape[-1], from a normal cut at two deviations: timm's and Flax's own."""
    deviation = math.sqrt(shape[-1] / math.prod(shape)) / 0.87962566103423978  # that of N(0, 1) cut at -2 and 2

    def sample(generator):
        draws = generator.normal(size=shape)
        while (outside := np.abs(draws) > 2).any():
            draws[outside] = generator.normal(size=outside.sum())
        return deviation * draws

    return _draw(sample, key, shape, dtype)
