"""ViT-B/16 (Dosovitskiy et al. 2021, arXiv 2010.11929) as torchvision has it; the MLP that other families share."""

import re
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from infoutil_jax.errors import ConfigError
from infoutil_jax.models.convolution import convolve
from infoutil_jax.models.initializers import normal, uniform_fan_in, xavier_uniform
from infoutil_jax.models.layout import Layout

zeros = nn.initializers.zeros


def layer_norm(x, epsilon, dtype, *, name):
    """LayerNorm over the channels, computed in float32, given back in `dtype`."""
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)(x.astype(jnp.float32)).astype(dtype)


def embed_patches(x, patch, width, dtype, kernel_init):
    """Images (B, H, W, 3) -> tokens (B, T, width), one for each patch of `patch`^2 pixels, row by row.

    ConfigError where H or W is no multiple of `patch`.
    """
    height, breadth = x.shape[1:3]
    if height % patch or breadth % patch or not height * breadth:
        raise ConfigError(f"patches of {patch} pixels need images of a multiple of {patch}, got {height}x{breadth}")
    conv = nn.Conv(
        width,
        (patch, patch),
        strides=patch,
        padding=0,
        kernel_init=kernel_init,
        conv_general_dilated=convolve,
        dtype=dtype,
        name="conv_stem",
    )
    return conv(x).reshape(x.shape[0], -1, width)


class Mlp(nn.Module):
    """Dense, exact GELU, dense on (..., C), dropout after each dense layer; `hidden` units in between."""

    hidden: int
    dtype: str
    kernel_init: Callable = xavier_uniform
    bias_init: Callable = normal(1e-6)
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train: bool):
        drop = nn.Dropout(self.dropout, deterministic=not train)
        init = dict(kernel_init=self.kernel_init, bias_init=self.bias_init, dtype=self.dtype)
        y = nn.gelu(nn.Dense(self.hidden, **init, name="dense1")(x), approximate=False)
        return drop(nn.Dense(x.shape[-1], **init, name="dense2")(drop(y)))


def require_whole_heads(width: int, n_heads: int) -> None:
    """Raises ConfigError unless attention on tokens of `width` channels has heads of equal size."""
    if width % n_heads:
        fault = f"width={width} cannot be divided among {n_heads} attention heads"
        raise ConfigError(f"{fault}; choose a multiple of {n_heads} (teacher.width, evaluate.width).")


class Attention(nn.Module):
    """Multi-head self-attention on tokens (B, T, C); its softmax is computed in float32."""

    n_heads: int
    dtype: str

    @nn.compact
    def __call__(self, x):
        batch, n_tokens, channels = x.shape
        qkv = nn.Dense(3 * channels, kernel_init=xavier_uniform, dtype=self.dtype, name="qkv")(x)
        qkv = qkv.reshape(batch, n_tokens, 3, self.n_heads, -1)
        q, k, v = (qkv[:, :, i] for i in range(3))
        q, k = q.astype(jnp.float32) * q.shape[-1] ** -0.5, k.astype(jnp.float32)
        weights_BHTS = nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k)).astype(v.dtype)
        x = jnp.einsum("bhts,bshd->bthd", weights_BHTS, v).reshape(x.shape)
        return nn.Dense(channels, kernel_init=uniform_fan_in(), dtype=self.dtype, name="proj")(x)


class Block(nn.Module):
    """Pre-norm transformer block on tokens (B, T, C)."""

    n_heads: int
    mlp_width: int
    dropout: float
    dtype: str

    @nn.compact
    def __call__(self, x, *, train: bool):
        y = Attention(self.n_heads, self.dtype, name="attention")(layer_norm(x, 1e-6, self.dtype, name="norm1"))
        x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
        mlp = Mlp(self.mlp_width, self.dtype, dropout=self.dropout, name="mlp")
        return x + mlp(layer_norm(x, 1e-6, self.dtype, name="norm2"), train=train)


class ViT(nn.Module):
    """Patches and a class token, `depth` transformer blocks, one dense layer on the class token.

    dropout: of the embeddings and of both branches of a block, in [0, 1); none in the published recipes.
    bn_momentum: unused, there is no BatchNorm.
    dtype: of the activations; parameters and the classifier stay float32.
    """

    n_classes: int
    patch: int = 16
    depth: int = 12
    width: int = 768
    n_heads: int = 12
    mlp_width: int = 3072
    dropout: float = 0.0
    bn_momentum: float = 0.9
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        """Logits (B, K) of standardised images (B, H, W, 3). ConfigError where H or W is no multiple of `patch`, or the
        width of the heads."""
        require_whole_heads(self.width, self.n_heads)
        fan_in = images_norm.shape[-1] * self.patch**2
        x = embed_patches(images_norm, self.patch, self.width, self.dtype, normal(fan_in**-0.5))
        token = self.param("class_token", zeros, (1, 1, self.width)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], axis=1)
        x = x + self.param("position", normal(0.02), (1, *x.shape[1:])).astype(x.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for i in range(self.depth):
            block = Block(self.n_heads, self.mlp_width, self.dropout, self.dtype, name=f"block{i + 1}")
            x = block(x, train=train)
        x = layer_norm(x[:, 0], 1e-6, "float32", name="norm")
        return nn.Dense(self.n_classes, kernel_init=zeros, name="classifier")(x)


_TORCHVISION = {"conv_proj": "conv_stem", "encoder.ln": "norm", "heads.head": "classifier"}
_TORCHVISION_BLOCK = {
    "ln_1": "norm1",
    "self_attention.in_proj": "attention.qkv",  # in_proj_weight and in_proj_bias are no module's
    "self_attention.out_proj": "attention.proj",
    "ln_2": "norm2",
    "mlp.0": "mlp.dense1",
    "mlp.3": "mlp.dense2",
    "mlp.linear_1": "mlp.dense1",  # in files from before torchvision 0.14
    "mlp.linear_2": "mlp.dense2",
}


def _rename_torchvision(key):
    if key == "encoder.pos_embedding":
        return "position"
    if block := re.fullmatch(r"encoder\.layers\.encoder_layer_(\d+)\.(.+)[._](weight|bias)", key):
        i, part, last = block.groups()
        return f"block{int(i) + 1}.{_TORCHVISION_BLOCK[part]}.{last}" if part in _TORCHVISION_BLOCK else key
    path, _, last = key.rpartition(".")
    return f"{_TORCHVISION[path]}.{last}" if path in _TORCHVISION else key


MODELS = {"vit_b_16": ViT}
LAYOUTS = {"torchvision": Layout(_rename_torchvision)}
