"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) as torchvision has it, and what EfficientNet shares with it."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from infoutil_jax.models.batch_norm import BatchNorm
from infoutil_jax.models.convolution import convolve
from infoutil_jax.models.initializers import normal, normal_fan_out
from infoutil_jax.models.layout import Layout, rename_modules


class Stage(NamedTuple):
    """Inverted residual blocks of one width; the first has the stride, all have convolutions of size x size."""

    expansion: int
    width: int
    n_blocks: int
    stride: int
    size: int = 3


def blocks(stages):
    """((stage number, block number), both from 0, our module's name, the block as a Stage of its own) in order."""
    for s, stage in enumerate(stages):
        for b in range(stage.n_blocks):
            yield (s, b), f"stage{s + 1}_block{b + 1}", stage._replace(stride=1 if b else stage.stride, n_blocks=1)


def depthwise(images, kernel, strides, padding, **_):
    """Convolution of each channel with a kernel of its own, the sum of products of shifted images, in float32.

    For `flax.linen.Conv(conv_general_dilated=depthwise)`: images (B, H, W, C), kernel (kh, kw, 1, C), explicit padding,
    no dilation. XLA's own grouped convolution is several times slower on a CPU.
    """
    return _depthwise(images, kernel, tuple(strides), tuple(map(tuple, padding)))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x, kernel, strides, padding):
    return _sum_of_products(x, kernel, strides, [(*pad, 0) for pad in padding]).astype(x.dtype)


def _depthwise_backward(strides, padding, saved, grad):
    """The input's gradient is a depthwise convolution too, of the dilated output's gradient with the kernel turned."""
    x, kernel = saved
    pads = []
    for size, k, n_out, stride, (low, _) in zip(x.shape[1:3], kernel.shape, grad.shape[1:3], strides, padding):
        pads.append((k - 1 - low, size - 1 - (n_out - 1) * stride + low, stride - 1))
    grad_x = _sum_of_products(grad, kernel[::-1, ::-1], (1, 1), pads)
    shifts = _shifts(x, kernel, strides, [(*pad, 0) for pad in padding])
    sums = [jnp.sum(pixels * grad.astype(jnp.float32), axis=(0, 1, 2)) for _, pixels in shifts]
    return grad_x.astype(x.dtype), jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


_depthwise.defvjp(lambda x, kernel, *window: (_depthwise(x, kernel, *window), (x, kernel)), _depthwise_backward)


def _sum_of_products(x, kernel, strides, pads):
    kernel = kernel.astype(jnp.float32)
    return sum(pixels * kernel[i, j, None, None] for (i, j), pixels in _shifts(x, kernel, strides, pads))


def _shifts(x, kernel, strides, pads):
    """Each element (i, j) of the kernel with the pixels that it meets, (B, H', W', C); pads as in `lax.pad`."""
    x = lax.pad(x.astype(jnp.float32), jnp.float32(0), [(0, 0, 0), *pads, (0, 0, 0)])
    last_row, last_column = (n - k for n, k in zip(x.shape[1:3], kernel.shape))
    for i, j in np.ndindex(kernel.shape[:2]):
        yield (i, j), x[:, i : i + last_row + 1 : strides[0], j : j + last_column + 1 : strides[1]]


class ConvNorm(nn.Module):
    """Bias-free convolution with PyTorch's explicit padding, BatchNorm, activation."""

    width: int
    bn_momentum: float
    dtype: str
    size: int = 1
    stride: int = 1
    depthwise: bool = False
    activation: Callable = lambda x: x

    @nn.compact
    def __call__(self, x, *, train: bool):
        x = nn.Conv(
            self.width,
            (self.size, self.size),
            strides=self.stride,
            padding=self.size // 2,
            feature_group_count=self.width if self.depthwise else 1,
            use_bias=False,
            kernel_init=normal_fan_out,
            conv_general_dilated=depthwise if self.depthwise else convolve,
            dtype=self.dtype,
            name="conv",
        )(x)
        return self.activation(BatchNorm(not train, self.bn_momentum, self.dtype, name="norm")(x))


class SqueezeExcite(nn.Module):
    """Each channel times a gate in (0, 1), a function of all channels' means (Hu et al. 2017, arXiv 1709.01507)."""

    width: int
    dtype: str

    @nn.compact
    def __call__(self, x):
        conv = partial(
            nn.Conv, kernel_size=(1, 1), kernel_init=normal_fan_out, conv_general_dilated=convolve, dtype=self.dtype
        )
        means = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        return x * nn.sigmoid(conv(x.shape[-1], name="expand")(nn.silu(conv(self.width, name="reduce")(means))))


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the channels, depthwise convolution, 1x1 convolution to `stage.width`.

    squeeze: a gate after the depthwise convolution, with a quarter of the block's input channels inside.
    drop_rate: probability that training skips the block, one draw per image; the others are divided by 1 - drop_rate.
    """

    stage: Stage
    activation: Callable
    squeeze: bool
    drop_rate: float
    bn_momentum: float
    dtype: str

    @nn.compact
    def __call__(self, x, *, train: bool):
        expansion, width, _, stride, size = self.stage
        n_in, hidden, y = x.shape[-1], expansion * x.shape[-1], x
        conv = partial(ConvNorm, bn_momentum=self.bn_momentum, dtype=self.dtype)
        if expansion > 1:
            y = conv(hidden, activation=self.activation, name="expand")(y, train=train)
        spread = conv(hidden, size=size, stride=stride, depthwise=True, activation=self.activation, name="depthwise")
        y = spread(y, train=train)
        if self.squeeze:
            y = SqueezeExcite(n_in // 4, self.dtype, name="squeeze")(y)
        y = conv(width, name="project")(y, train=train)
        if stride > 1 or n_in != width:
            return y
        return x + nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), deterministic=not train, name="skip")(y)


class MobileNet(nn.Module):
    """3x3 stem of stride 2, inverted residual blocks, 1x1 convolution, global average pool, dropout, one dense layer.

    Training draws from the rng named 'dropout'; eval mode needs none.
    dropout: rate before the dense layer. stochastic_depth: drop rate of the block after the last; it grows linearly
        from 0 at the first block. 0 turns either off.
    bn_momentum: weight of the old running statistics, 1 minus PyTorch's `momentum`.
    dtype: of the activations; parameters, statistics and the classifier stay float32.
    """

    n_classes: int
    stages: tuple[Stage, ...]
    activation: Callable
    classifier_init: Callable
    squeeze: bool = False
    dropout: float = 0.2
    stochastic_depth: float = 0.0
    bn_momentum: float = 0.9
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        """Logits (B, K) of standardised images (B, H, W, 3) of any size; 32 pixels leave one last position."""
        fields = dict(bn_momentum=self.bn_momentum, dtype=self.dtype, activation=self.activation)
        n_blocks = sum(stage.n_blocks for stage in self.stages)
        x = ConvNorm(32, size=3, stride=2, **fields, name="stem")(images_norm, train=train)
        for i, (_, name, stage) in enumerate(blocks(self.stages)):
            drop_rate = self.stochastic_depth * i / n_blocks
            block = InvertedResidual(stage, squeeze=self.squeeze, drop_rate=drop_rate, **fields, name=name)
            x = block(x, train=train)
        x = ConvNorm(1280, **fields, name="head")(x, train=train)
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        return nn.Dense(self.n_classes, kernel_init=self.classifier_init, name="classifier")(x)


STAGES = (
    Stage(expansion=1, width=16, n_blocks=1, stride=1),
    Stage(expansion=6, width=24, n_blocks=2, stride=2),
    Stage(expansion=6, width=32, n_blocks=3, stride=2),
    Stage(expansion=6, width=64, n_blocks=4, stride=2),
    Stage(expansion=6, width=96, n_blocks=3, stride=1),
    Stage(expansion=6, width=160, n_blocks=3, stride=2),
    Stage(expansion=6, width=320, n_blocks=1, stride=1),
)
MODELS = {"mobilenet_v2": partial(MobileNet, stages=STAGES, activation=nn.relu6, classifier_init=normal(0.01))}


def layers_of(stage):
    """Names of a block's convolutions, in order."""
    return ("expand", "depthwise", "project")[stage.expansion == 1 :]


def conv_norm(conv, norm, ours):
    """The two modules of a ConvNorm: their names -> ours."""
    return {conv: f"{ours}.conv", norm: f"{ours}.norm"}


def _torchvision_modules():
    names = conv_norm("features.0.0", "features.0.1", "stem") | conv_norm("features.18.0", "features.18.1", "head")
    for i, (_, ours, stage) in enumerate(blocks(STAGES), start=1):
        *layers, last = layers_of(stage)
        theirs, n = f"features.{i}.conv", len(layers)
        for k, layer in enumerate(layers):
            names |= conv_norm(f"{theirs}.{k}.0", f"{theirs}.{k}.1", f"{ours}.{layer}")
        names |= conv_norm(f"{theirs}.{n}", f"{theirs}.{n + 1}", f"{ours}.{last}")
    return names | {"classifier.1": "classifier"}


def timm_modules(stages):
    """timm's names of the modules of a MobileNet -> ours, without squeeze and excitation."""
    names = conv_norm("conv_stem", "bn1", "stem") | conv_norm("conv_head", "bn2", "head")
    for (s, b), ours, stage in blocks(stages):
        convs = ("conv_dw", "conv_pw") if stage.expansion == 1 else ("conv_pw", "conv_dw", "conv_pwl")
        for k, (conv, layer) in enumerate(zip(convs, layers_of(stage), strict=True), start=1):
            names |= conv_norm(f"blocks.{s}.{b}.{conv}", f"blocks.{s}.{b}.bn{k}", f"{ours}.{layer}")
    return names | {"classifier": "classifier"}


LAYOUTS = {
    "torchvision": Layout(partial(rename_modules, _torchvision_modules())),
    "timm": Layout(partial(rename_modules, timm_modules(STAGES))),  # mobilenetv2_100
}
