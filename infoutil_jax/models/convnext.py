"""ConvNeXt-T (Liu et al. 2022, arXiv 2201.03545) as torchvision has it."""

import re

import flax.linen as nn
import jax.numpy as jnp

from infoutil_jax.errors import ConfigError
from infoutil_jax.models.convolution import convolve
from infoutil_jax.models.initializers import normal
from infoutil_jax.models.layout import Layout
from infoutil_jax.models.vit import Mlp, layer_norm

# PyTorch's trunc_normal_, which cuts a hundred deviations away, at -2 and 2
_INIT = dict(kernel_init=normal(0.02), bias_init=nn.initializers.zeros)


def _shrink(x, width, size, dtype, *, name):
    """A convolution of patches of `size`^2 pixels, which do not overlap; a rest is dropped."""
    options = dict(strides=size, padding=0, conv_general_dilated=convolve, dtype=dtype, name=name)
    return nn.Conv(width, (size, size), **_INIT, **options)(x)


class Block(nn.Module):
    """Depthwise 7x7 convolution, LayerNorm and MLP on (B, H, W, C), scaled, left out for some images in training."""

    layer_scale: float
    drop_rate: float
    dtype: str

    @nn.compact
    def __call__(self, x, *, train: bool):
        channels = x.shape[-1]
        options = dict(padding=3, feature_group_count=channels, dtype=self.dtype, name="conv")
        y = nn.Conv(channels, (7, 7), **_INIT, **options)(x)
        y = layer_norm(y, 1e-6, self.dtype, name="norm")
        y = Mlp(4 * channels, self.dtype, **_INIT, name="mlp")(y, train=train)
        scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (channels,))
        y = y * scale.astype(y.dtype).reshape(1, 1, 1, -1)
        return x + nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), deterministic=not train)(y)


class ConvNeXt(nn.Module):
    """4x4 patches, stages of blocks with a 2x2 convolution of stride 2 between them, global average pool, one dense.

    depths, widths: blocks and channels of each stage.
    layer_scale: what the branches of the blocks are multiplied with at first.
    stochastic_depth: how often the last block is left out for an image in training; 0 of the first, linear between.
    bn_momentum: unused, there is no BatchNorm.
    dtype: of the activations; parameters and the classifier stay float32.
    """

    n_classes: int
    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    layer_scale: float = 1e-6
    stochastic_depth: float = 0.1
    bn_momentum: float = 0.9
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        """Logits (B, K) of standardised images (B, H, W, 3). ConfigError where nothing would be left of H or W."""
        smallest = 4 * 2 ** (len(self.depths) - 1)
        if min(images_norm.shape[1:3]) < smallest:
            size = "x".join(map(str, images_norm.shape[1:3]))
            raise ConfigError(f"ConvNeXt needs images of {smallest} pixels or more, got {size}")
        x = _shrink(images_norm, self.widths[0], 4, self.dtype, name="conv_stem")
        x = layer_norm(x, 1e-6, self.dtype, name="norm_stem")
        done, last = 0, max(sum(self.depths) - 1, 1)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), start=1):
            if stage > 1:
                x = layer_norm(x, 1e-6, self.dtype, name=f"norm_shrink{stage - 1}")
                x = _shrink(x, width, 2, self.dtype, name=f"conv_shrink{stage - 1}")
            for i in range(depth):
                drop_rate = self.stochastic_depth * (done + i) / last
                x = Block(self.layer_scale, drop_rate, self.dtype, name=f"stage{stage}_block{i + 1}")(x, train=train)
            done += depth
        x = layer_norm(jnp.mean(x, axis=(1, 2), dtype=jnp.float32), 1e-6, "float32", name="norm")
        return nn.Dense(self.n_classes, **_INIT, name="classifier")(x)


_TORCHVISION = {
    "features.0.0": "conv_stem",
    "features.0.1": "norm_stem",
    **{f"features.{2 * i}.0": f"norm_shrink{i}" for i in (1, 2, 3)},
    **{f"features.{2 * i}.1": f"conv_shrink{i}" for i in (1, 2, 3)},
    "classifier.0": "norm",
    "classifier.2": "classifier",
}
_TORCHVISION_BLOCK = {
    "block.0": "conv.",
    "block.2": "norm.",
    "block.3": "mlp.dense1.",
    "block.5": "mlp.dense2.",
    "": "",
}


def _rename_torchvision(key):
    path, _, last = key.rpartition(".")
    if block := re.fullmatch(r"features\.([1357])\.(\d+)\.?(.*)", path):
        stage, i, part = block.groups()
        name = f"stage{int(stage) // 2 + 1}_block{int(i) + 1}"
        return f"{name}.{_TORCHVISION_BLOCK[part]}{last}" if part in _TORCHVISION_BLOCK else key
    return f"{_TORCHVISION[path]}.{last}" if path in _TORCHVISION else key


def _flatten_scales(tensors):
    return {key: value.reshape(-1) if key.endswith("layer_scale") else value for key, value in tensors.items()}


MODELS = {"convnext_t": ConvNeXt}
LAYOUTS = {"torchvision": Layout(_rename_torchvision, _flatten_scales)}
