"""Swin-V2-T (Liu et al. 2022, arXiv 2111.09883) as torchvision has it.

timm's network differs on maps that its windows do not divide or that are smaller than a window: there it shrinks the
window where torchvision pads the map, and pads after the shift. On images of 256 pixels (window 8) both are the same.
"""

import math
import re
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from infoutil_jax.errors import ConfigError
from infoutil_jax.models.convolution import convolve
from infoutil_jax.models.initializers import normal, uniform_fan_in
from infoutil_jax.models.layout import Layout
from infoutil_jax.models.vit import Mlp, layer_norm, require_whole_heads

# PyTorch's trunc_normal_, which cuts a hundred deviations away, at -2 and 2
_INIT = dict(kernel_init=normal(0.02), bias_init=nn.initializers.zeros)


def _split(x, window):
    """Maps (B, H, W, C) -> their windows (B, N, T, C), T = window^2."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels).swapaxes(2, 3)
    return x.reshape(batch, -1, window**2, channels)


def _join(windows, window, height, width):
    """The inverse of `_split`."""
    batch, _, _, channels = windows.shape
    x = windows.reshape(batch, height // window, width // window, window, window, channels)
    return x.swapaxes(2, 3).reshape(batch, height, width, channels)


def _relative_positions(window):
    """Log-spaced offsets (A, 2) in [-1.06, 1.06] (equation 4), and which of them lies between two pixels, (T, T)."""
    steps = np.arange(1 - window, window)
    scaled = 8 / (window - 1) * np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    offsets = np.sign(scaled) * np.log2(1 + np.abs(scaled)) / np.log2(8)
    row, column = (pixel[:, None] - pixel + window - 1 for pixel in np.divmod(np.arange(window**2), window))
    return offsets.astype(np.float32), row * len(steps) + column


def _mask(height, width, window, shifts):
    """-100 between pixels of a window of which the shift brought one from the opposite edge, else 0; (N, T, T)."""
    wrapped_H, wrapped_W = (np.arange(size) >= size - shift for size, shift in zip((height, width), shifts))
    region = _split((2 * wrapped_H[:, None] + wrapped_W)[None, :, :, None], window)[0, :, :, 0]
    return np.where(region[:, :, None] == region[:, None], 0, -100).astype(np.float32)


def _unit(x):
    """Rows of length 1 in float32; zeros, which padding makes, stay zeros and have a finite gradient."""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


class WindowAttention(nn.Module):
    """Cosine attention within windows of `window`^2 pixels of a map (B, H, W, C), which is padded with zeros to fit.

    shift: by how many pixels the windows are moved, along axes that hold more than one.
    """

    n_heads: int
    window: int
    shift: int
    dtype: str

    @nn.compact
    def __call__(self, x):
        height, width, channels = x.shape[1:]
        x = jnp.pad(x, ((0, 0), (0, -height % self.window), (0, -width % self.window), (0, 0)))
        padded = x.shape[1:3]
        shifts = [self.shift if size > self.window else 0 for size in padded]
        windows = _split(jnp.roll(x, [-shift for shift in shifts], axis=(1, 2)), self.window)
        windows = self._attend(windows, _mask(*padded, self.window, shifts))
        x = nn.Dense(channels, **_INIT, dtype=self.dtype, name="proj")(windows)
        return jnp.roll(_join(x, self.window, *padded), shifts, axis=(1, 2))[:, :height, :width]

    def _attend(self, x, mask_NTT):
        channels = x.shape[-1]
        bias = self.param("qkv_bias", nn.initializers.zeros, (3 * channels,))
        bias = bias * np.repeat(np.float32([1, 0, 1]), channels)  # keys have none, in torchvision too
        qkv = nn.Dense(3 * channels, use_bias=False, kernel_init=normal(0.02), dtype=self.dtype, name="qkv")(x)
        qkv = (qkv + bias.astype(qkv.dtype).reshape(1, 1, 1, -1)).reshape(*x.shape[:3], 3, self.n_heads, -1)
        q, k, v = (qkv[:, :, :, i] for i in range(3))
        scale = self.param("logit_scale", nn.initializers.constant(math.log(10)), (self.n_heads, 1, 1))
        scale = jnp.exp(jnp.minimum(scale, math.log(100)))[None, None]
        logits_BNHTS = scale * jnp.einsum("bnthd,bnshd->bnhts", _unit(q), _unit(k))
        logits_BNHTS = logits_BNHTS + self._position_bias()[None, None] + mask_NTT[None, :, None]
        return jnp.einsum("bnhts,bnshd->bnthd", nn.softmax(logits_BNHTS).astype(v.dtype), v).reshape(x.shape)

    def _position_bias(self):
        """What an MLP makes of the offset between two pixels, in (0, 16), (heads, T, T); always float32."""
        offsets, index_TT = _relative_positions(self.window)
        hidden = nn.relu(nn.Dense(512, **_INIT, name="position1")(jnp.asarray(offsets)))
        bias = nn.Dense(self.n_heads, use_bias=False, kernel_init=normal(0.02), name="position2")(hidden)
        return 16 * nn.sigmoid(bias)[index_TT].transpose(2, 0, 1)


class Block(nn.Module):
    """Post-norm transformer block on (B, H, W, C); each branch is left out for some images in training."""

    n_heads: int
    window: int
    shift: int
    drop_rate: float
    dtype: str

    @nn.compact
    def __call__(self, x, *, train: bool):
        drop = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), deterministic=not train)
        y = WindowAttention(self.n_heads, self.window, self.shift, self.dtype, name="attention")(x)
        x = x + drop(layer_norm(y, 1e-5, self.dtype, name="norm1"))
        y = Mlp(4 * x.shape[-1], self.dtype, **_INIT, name="mlp")(x, train=train)
        return x + drop(layer_norm(y, 1e-5, self.dtype, name="norm2"))


class SwinV2(nn.Module):
    """4x4 patches, stages of blocks with a merger of 2x2 pixels between them, global average pool, one dense layer.

    width: channels of the first stage, doubled by every other; n_heads, depths: of each stage.
    window: side of the windows, 2 or more; every other block moves them by half.
    stochastic_depth: how often the last block's branches are left out for an image in training; 0 of the first block,
        linear between.
    bn_momentum: unused, there is no BatchNorm.
    dtype: of the activations; parameters and the classifier stay float32.
    """

    n_classes: int
    depths: tuple[int, ...] = (2, 2, 6, 2)
    width: int = 96
    n_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 8
    stochastic_depth: float = 0.2
    bn_momentum: float = 0.9
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        """Logits (B, K) of standardised images (B, H, W, 3). ConfigError where H or W is below 4, or the width is
        no multiple of the heads."""
        x = self._embed(images_norm)
        done, last = 0, max(sum(self.depths) - 1, 1)
        for stage, (depth, n_heads) in enumerate(zip(self.depths, self.n_heads, strict=True), start=1):
            x = x if stage == 1 else self._merge(x, stage - 1)
            require_whole_heads(x.shape[-1], n_heads)
            for i in range(depth):
                shift, drop_rate = i % 2 * (self.window // 2), self.stochastic_depth * (done + i) / last
                block = Block(n_heads, self.window, shift, drop_rate, self.dtype, name=f"stage{stage}_block{i + 1}")
                x = block(x, train=train)
            done += depth
        x = jnp.mean(layer_norm(x, 1e-5, self.dtype, name="norm"), axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.n_classes, **_INIT, name="classifier")(x)

    def _embed(self, images_norm):
        if min(images_norm.shape[1:3]) < 4:
            size = "x".join(map(str, images_norm.shape[1:3]))
            raise ConfigError(f"Swin needs images of 4 pixels or more, got {size}")
        init = dict(kernel_init=uniform_fan_in(), bias_init=uniform_fan_in(16 * images_norm.shape[-1]))
        options = dict(strides=4, padding=0, conv_general_dilated=convolve, dtype=self.dtype, name="conv_stem")
        return layer_norm(
            nn.Conv(self.width, (4, 4), **init, **options)(images_norm), 1e-5, self.dtype, name="norm_stem"
        )

    def _merge(self, x, number):
        """Half the sides, an odd one padded, and twice the channels."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        x = jnp.concatenate([x[:, i::2, j::2] for j in range(2) for i in range(2)], axis=-1)
        dense = nn.Dense(
            x.shape[-1] // 2, use_bias=False, kernel_init=normal(0.02), dtype=self.dtype, name=f"dense_merge{number}"
        )
        return layer_norm(dense(x), 1e-5, self.dtype, name=f"norm_merge{number}")


_PARTS = {  # of a block, torchvision's and timm's
    "attn": "attention",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "attn.cpb_mlp.0": "attention.position1",
    "attn.cpb_mlp.2": "attention.position2",
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.0": "mlp.dense1",
    "mlp.3": "mlp.dense2",
    "mlp.fc1": "mlp.dense1",
    "mlp.fc2": "mlp.dense2",
}
_TORCHVISION = {
    "features.0.0": "conv_stem",
    "features.0.2": "norm_stem",
    **{f"features.{2 * i}.reduction": f"dense_merge{i}" for i in (1, 2, 3)},
    **{f"features.{2 * i}.norm": f"norm_merge{i}" for i in (1, 2, 3)},
    "norm": "norm",
    "head": "classifier",
}
_TIMM = {
    "patch_embed.proj": "conv_stem",
    "patch_embed.norm": "norm_stem",
    **{f"layers.{i}.downsample.reduction": f"dense_merge{i}" for i in (1, 2, 3)},
    **{f"layers.{i}.downsample.norm": f"norm_merge{i}" for i in (1, 2, 3)},
    "norm": "norm",
    "head.fc": "classifier",
}


def _rename(blocks, step, others, key):
    """blocks: pattern of a block's part, with `step` times its stage; others: the modules outside of blocks."""
    path, _, last = key.rpartition(".")
    if last in ("relative_coords_table", "relative_position_index", "attn_mask"):
        return None
    block = re.fullmatch(blocks, path)
    if not block or block[3] not in _PARTS:
        return f"{others[path]}.{last}" if path in others else key
    name = f"stage{int(block[1]) // step + 1}_block{int(block[2]) + 1}.{_PARTS[block[3]]}"
    return f"{name}_bias" if (block[3], last) == ("attn.qkv", "bias") else f"{name}.{last}"


def _join_biases(tensors):
    """One bias of queries, keys and values for timm's two; keys have none."""
    joined = {key: value for key, value in tensors.items() if not key.endswith((".q_bias", ".v_bias"))}
    for key in tensors:
        if key.endswith(".q_bias"):
            q, v = tensors[key], tensors[key.removesuffix("q_bias") + "v_bias"]
            joined[key.removesuffix("q_bias") + "qkv.bias"] = np.concatenate([q, np.zeros_like(q), v])
    return joined


MODELS = {"swin_v2_t": SwinV2}
LAYOUTS = {
    "torchvision": Layout(partial(_rename, r"features\.(\d+)\.(\d+)\.(.+)", 2, _TORCHVISION)),
    "timm": Layout(partial(_rename, r"layers\.(\d+)\.blocks\.(\d+)\.(.+)", 1, _TIMM), _join_biases),
}
