"""VGG-11 without BatchNorm (Simonyan and Zisserman 2014, arXiv 1409.1556) as torchvision has it."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from infoutil_jax.errors import ConfigError
from infoutil_jax.models.convolution import convolve
from infoutil_jax.models.initializers import normal, normal_fan_out
from infoutil_jax.models.layout import Layout, rename_modules

_POOLED = 7


class VGG(nn.Module):
    """Stages of 3x3 convolutions with ReLU, each ending in a 2x2 max pool; average pool to 7x7; three dense layers.

    stages: the widths of each stage's convolutions.
    dropout: rate after both hidden dense layers; training draws from the rng named 'dropout', eval mode needs none.
    bn_momentum: unused, there is no BatchNorm.
    dtype: of the activations; parameters and the classifier, the last dense layer, stay float32.
    """

    n_classes: int
    stages: tuple[tuple[int, ...], ...]
    dropout: float = 0.5
    bn_momentum: float = 0.9
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        """Logits (B, K) of standardised images (B, H, W, 3). ConfigError where H or W is below 2^stages."""
        smallest = 2 ** len(self.stages)
        if min(images_norm.shape[1:3]) < smallest:
            size = "x".join(map(str, images_norm.shape[1:3]))
            raise ConfigError(f"VGG needs images of {smallest} pixels or more, got {size}")
        x = adaptive_average_pool(self._convolve(images_norm), _POOLED)
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # PyTorch's order (C, H, W), so that its weights fit
        for name in ("hidden1", "hidden2"):
            x = nn.relu(nn.Dense(4096, kernel_init=normal(0.01), dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout_{name}")(x)
        return nn.Dense(self.n_classes, kernel_init=normal(0.01), name="classifier")(x.astype(jnp.float32))

    def _convolve(self, x):
        conv = partial(nn.Conv, kernel_size=(3, 3), padding=1, kernel_init=normal_fan_out, dtype=self.dtype)
        n_convs = 0
        for widths in self.stages:
            for width in widths:
                n_convs += 1
                x = nn.relu(conv(width, conv_general_dilated=convolve, name=f"conv{n_convs}")(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return x


def adaptive_average_pool(x, size):
    """(B, H, W, C) of any dtype -> (B, size, size, C) float32, PyTorch's `AdaptiveAvgPool2d`.

    Output i of n inputs is the mean of inputs floor(i n / size) to ceil((i + 1) n / size) - 1; windows overlap where
    size does not divide n, and repeat inputs where n is below size.
    """
    rows, columns = (_pooling_matrix(n, size) for n in x.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x.astype(jnp.float32), columns, precision="highest")


def _pooling_matrix(n, size):
    outputs, inputs = np.arange(size)[:, None], np.arange(n)
    inside = (inputs >= outputs * n // size) & (inputs < -(-(outputs + 1) * n // size))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


MODELS = {"vgg11": partial(VGG, stages=((64,), (128,), (256, 256), (512, 512), (512, 512)))}

_DENSE = {"classifier.0": "hidden1", "classifier.3": "hidden2", "classifier.6": "classifier"}
_CONVS = {f"features.{i}": f"conv{k}" for k, i in enumerate((0, 3, 6, 8, 11, 13, 16, 18), start=1)}
LAYOUTS = {"torchvision": Layout(partial(rename_modules, _CONVS | _DENSE))}
