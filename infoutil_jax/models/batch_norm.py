"""Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167), written so that a CPU differentiates it fast."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

_EPSILON = 1e-5


class BatchNorm(nn.Module):
    """`flax.linen.BatchNorm` of the last axis: the same parameters and statistics, float32 inside, (..., C) in `dtype`.

    Every channel is multiplied and shifted once. Flax subtracts the mean first; XLA's CPU backend fuses the gradient of
    that worse, which with a ReLU behind it takes one and a half times as long.
    """

    use_running_average: bool
    momentum: float
    dtype: str

    @nn.compact
    def __call__(self, x):
        x, shape = x.astype(jnp.float32), x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean, var = self._statistics(x, shape)
        factor = scale * lax.rsqrt(var + _EPSILON)
        factor, shift = (values.reshape((1,) * (x.ndim - 1) + shape) for values in (factor, bias - mean * factor))
        return (x * factor + shift).astype(self.dtype)

    def _statistics(self, x, shape):
        """Mean and variance (C,): the running ones, or the batch's own, by which the running ones move."""
        running = [self.variable("batch_stats", "mean", jnp.zeros, shape)]
        running += [self.variable("batch_stats", "var", jnp.ones, shape)]
        if self.use_running_average:
            return [variable.value for variable in running]
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes)
        statistics = mean, jnp.maximum(jnp.square(x).mean(axes) - jnp.square(mean), 0)
        if not self.is_initializing():
            for variable, value in zip(running, statistics):
                variable.value = self.momentum * variable.value + (1 - self.momentum) * value
        return statistics
