"""MLP-Mixer-B/16 (Tolstikhin et al. 2021, arXiv 2105.01601) as timm has it."""

import re

import flax.linen as nn
import jax.numpy as jnp

from infoutil_jax.models.initializers import lecun_normal
from infoutil_jax.models.layout import Layout
from infoutil_jax.models.vit import Mlp, embed_patches, layer_norm


class Block(nn.Module):
    """An MLP over the tokens of each channel, then one over the channels of each token, on (B, T, C)."""

    token_width: int
    channel_width: int
    dtype: str

    @nn.compact
    def __call__(self, x, *, train: bool):
        y = layer_norm(x, 1e-6, self.dtype, name="norm1").swapaxes(1, 2)
        x = x + Mlp(self.token_width, self.dtype, name="tokens")(y, train=train).swapaxes(1, 2)
        y = layer_norm(x, 1e-6, self.dtype, name="norm2")
        return x + Mlp(self.channel_width, self.dtype, name="channels")(y, train=train)


class Mixer(nn.Module):
    """Patches, `depth` mixer blocks, the mean over tokens, one dense layer.

    bn_momentum: unused, there is no BatchNorm.
    dtype: of the activations; parameters and the classifier stay float32.
    """

    n_classes: int
    patch: int = 16
    depth: int = 12
    width: int = 768
    token_width: int = 384
    channel_width: int = 3072
    bn_momentum: float = 0.9
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        """Logits (B, K) of standardised images (B, H, W, 3). ConfigError where H or W is no multiple of `patch`."""
        x = embed_patches(images_norm, self.patch, self.width, self.dtype, lecun_normal)
        for i in range(self.depth):
            x = Block(self.token_width, self.channel_width, self.dtype, name=f"block{i + 1}")(x, train=train)
        x = jnp.mean(layer_norm(x, 1e-6, self.dtype, name="norm"), axis=1, dtype=jnp.float32)
        return nn.Dense(self.n_classes, kernel_init=nn.initializers.zeros, name="classifier")(x)


_TIMM = {"stem.proj": "conv_stem", "norm": "norm", "head": "classifier"}
_TIMM_BLOCK = {
    "norm1": "norm1",
    "mlp_tokens.fc1": "tokens.dense1",
    "mlp_tokens.fc2": "tokens.dense2",
    "norm2": "norm2",
    "mlp_channels.fc1": "channels.dense1",
    "mlp_channels.fc2": "channels.dense2",
}


def _rename_timm(key):
    path, _, last = key.rpartition(".")
    if block := re.fullmatch(r"blocks\.(\d+)\.(.+)", path):
        i, part = block.groups()
        return f"block{int(i) + 1}.{_TIMM_BLOCK[part]}.{last}" if part in _TIMM_BLOCK else key
    return f"{_TIMM[path]}.{last}" if path in _TIMM else key


MODELS = {"mixer_b16": Mixer}
LAYOUTS = {"timm": Layout(_rename_timm)}
