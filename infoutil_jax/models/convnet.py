"""ConvNet-d: the small network of the distillation literature, with the BatchNorm of RDED (arXiv 2312.03526)."""

import math
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from infoutil_jax.errors import ConfigError
from infoutil_jax.models.batch_norm import BatchNorm
from infoutil_jax.models.convolution import convolve
from infoutil_jax.models.initializers import uniform_fan_in
from infoutil_jax.models.layout import Layout


class ConvNet(nn.Module):
    """`depth` blocks of [3x3 convolution, normalisation, ReLU, 2x2 average pool], then one dense layer.

    norm: 'batch' (eps 1e-5, running statistics) or 'instance' (per image and channel, no statistics).
    bn_momentum: weight of the old running statistics, 1 minus PyTorch's `momentum`.
    dtype: of the activations; parameters, statistics and the classifier stay float32.
    """

    n_classes: int
    depth: int = 3
    width: int = 128
    norm: str = "batch"
    bn_momentum: float = 0.9
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        """Logits (B, K) of standardised images (B, H, W, 3). ConfigError where H or W is below 2^depth."""
        if min(images_norm.shape[1:3]) < 2**self.depth:
            size = "x".join(map(str, images_norm.shape[1:3]))
            raise ConfigError(f"ConvNet depth={self.depth} needs images of {2**self.depth} pixels or more, got {size}")
        x = images_norm
        for block in range(self.depth):
            x = nn.relu(self._normalise(self._convolve(x, block), block, train=train))
            x = _halve(x)
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        bias_init = uniform_fan_in(x.shape[-1])
        return nn.Dense(self.n_classes, kernel_init=uniform_fan_in(), bias_init=bias_init, name="classifier")(x)

    def _convolve(self, x, block):
        return nn.Conv(
            self.width,
            (3, 3),
            padding=1,
            kernel_init=uniform_fan_in(),
            bias_init=uniform_fan_in(9 * x.shape[-1]),
            conv_general_dilated=convolve,
            dtype=self.dtype,
            name=f"conv{block + 1}",
        )(x)

    def _normalise(self, x, block, *, train):
        name = f"norm{block + 1}"
        if self.norm == "batch":
            return BatchNorm(not train, self.bn_momentum, self.dtype, name=name)(x)
        if self.norm != "instance":
            raise ConfigError(f"ConvNet norm={self.norm!r} is unknown; known: batch, instance")
        norm = nn.GroupNorm(num_groups=None, group_size=1, epsilon=1e-5, dtype=self.dtype, name=name)
        return norm(x.astype(jnp.float32))


def _halve(x):
    """2x2 average pool, an odd last row or column dropped."""
    height, width = (size // 2 * 2 for size in x.shape[1:3])
    return _mean_of_4(x[:, :height, :width])


@jax.custom_vjp
def _mean_of_4(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def _spread(_, grad):
    return (jnp.repeat(jnp.repeat(grad / 4, 2, axis=1), 2, axis=2),)


_mean_of_4.defvjp(lambda x: (_mean_of_4(x), None), _spread)


MODELS = {f"convnet{depth}": partial(ConvNet, depth=depth) for depth in (3, 4, 5, 6)}
MODELS |= {f"{name}_in": partial(convnet, norm="instance") for name, convnet in MODELS.items()}


def _rename_rded(key):
    """layers.conv.0.weight -> conv1.weight."""
    path, _, last = key.rpartition(".")
    found = re.fullmatch(r"layers\.(conv|norm)\.(\d+)", path)
    if last == "num_batches_tracked":
        return None
    return f"{found[1]}{int(found[2]) + 1}.{last}" if found else key


def _channels_last(tensors):
    """The columns of RDED's classifier follow the flat (C, H, W), ours (H, W, C)."""
    weight, n_channels = tensors["classifier.weight"], len(tensors["layers.conv.0.weight"])
    side = math.isqrt(weight.shape[1] // n_channels)
    maps = weight.reshape(len(weight), n_channels, side, side).transpose(0, 2, 3, 1)
    return {**tensors, "classifier.weight": maps.reshape(weight.shape)}


LAYOUTS = {"rded": Layout(_rename_rded, _channels_last)}
