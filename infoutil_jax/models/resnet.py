"""ResNet-18/50/101 (He et al. 2015, arXiv 1512.03385), torchvision's layout 'v1.5': a bottleneck strides in its 3x3."""

from functools import partial
from itertools import product

import flax.linen as nn
import jax.numpy as jnp

from infoutil_jax.errors import ConfigError
from infoutil_jax.models.batch_norm import BatchNorm
from infoutil_jax.models.convolution import convolve
from infoutil_jax.models.initializers import normal_fan_out, uniform_fan_in
from infoutil_jax.models.layout import Layout, rename_modules

STEMS = ("imagenet", "cifar")


def _conv(width, size, *, stride=1, dtype, name):
    """A bias-free convolution with PyTorch's explicit padding; SAME would shift the grid when stride is 2."""
    return nn.Conv(
        width,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=normal_fan_out,
        conv_general_dilated=convolve,
        dtype=dtype,
        name=name,
    )


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 with a four times wider output where `bottleneck`."""

    width: int
    stride: int
    bottleneck: bool
    bn_momentum: float
    dtype: str

    @nn.compact
    def __call__(self, x, *, train: bool):
        norm = partial(BatchNorm, not train, self.bn_momentum, self.dtype)
        conv = partial(_conv, dtype=self.dtype)
        layers = _bottleneck_layers if self.bottleneck else _basic_layers
        residual, y = x, x
        for i, (width, size, stride) in enumerate(layers(self.width, self.stride), start=1):
            y = y if i == 1 else nn.relu(y)
            y = norm(name=f"norm{i}")(conv(width, size, stride=stride, name=f"conv{i}")(y))
        if residual.shape != y.shape:
            shortcut = conv(y.shape[-1], 1, stride=self.stride, name="conv_shortcut")
            residual = norm(name="norm_shortcut")(shortcut(x))
        return nn.relu(y + residual)


def _basic_layers(width, stride):
    return [(width, 3, stride), (width, 3, 1)]


def _bottleneck_layers(width, stride):
    return [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]


class ResNet(nn.Module):
    """Stem, four stages of residual blocks (widths 1, 2, 4, 8 times `width`), global average pool, one dense layer.

    stage_sizes: blocks per stage.
    stem: 'imagenet' (7x7 stride 2, then 3x3 max pool stride 2) or 'cifar' (3x3 stride 1, no pool).
    bn_momentum: weight of the old running statistics, 1 minus PyTorch's `momentum`.
    dtype: of the activations; parameters, statistics and the classifier stay float32.
    """

    n_classes: int
    stage_sizes: tuple[int, ...]
    bottleneck: bool
    stem: str = "imagenet"
    width: int = 64
    bn_momentum: float = 0.9
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        """Logits (B, K) of standardised images (B, H, W, 3)."""
        x = self._apply_stem(images_norm, train=train)
        for stage, n_blocks in enumerate(self.stage_sizes):
            for block in range(n_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                fields = (self.width << stage, stride, self.bottleneck, self.bn_momentum, self.dtype)
                x = Block(*fields, name=name)(x, train=train)
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        bias_init = uniform_fan_in(x.shape[-1])
        return nn.Dense(self.n_classes, kernel_init=uniform_fan_in(), bias_init=bias_init, name="classifier")(x)

    def _apply_stem(self, x, *, train):
        if self.stem not in STEMS:
            raise ConfigError(f"ResNet stem={self.stem!r} is unknown; known stems: {', '.join(STEMS)}")
        large = self.stem == "imagenet"
        x = _conv(self.width, 7 if large else 3, stride=2 if large else 1, dtype=self.dtype, name="conv_stem")(x)
        x = nn.relu(BatchNorm(not train, self.bn_momentum, self.dtype, name="norm_stem")(x))
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))) if large else x


_RESNETS = {
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), bottleneck=False),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(ResNet, stage_sizes=(3, 4, 23, 3), bottleneck=True),
}
MODELS = {**_RESNETS, **{f"{name}_cifar": partial(resnet, stem="cifar") for name, resnet in _RESNETS.items()}}


def _torchvision_modules():
    """Of all ResNets at once, the `_cifar` ones too, whose conv1 is 3x3; no depth has them all."""
    names = {"conv1": "conv_stem", "bn1": "norm_stem", "fc": "classifier"}
    depth = max(max(resnet.keywords["stage_sizes"]) for resnet in _RESNETS.values())
    for stage, block in product(range(4), range(depth)):
        theirs, ours = f"layer{stage + 1}.{block}", f"stage{stage + 1}_block{block + 1}"
        for i in (1, 2, 3):
            names |= {f"{theirs}.conv{i}": f"{ours}.conv{i}", f"{theirs}.bn{i}": f"{ours}.norm{i}"}
        names |= {f"{theirs}.downsample.0": f"{ours}.conv_shortcut", f"{theirs}.downsample.1": f"{ours}.norm_shortcut"}
    return names


LAYOUTS = dict.fromkeys(("torchvision", "timm"), Layout(partial(rename_modules, _torchvision_modules())))
