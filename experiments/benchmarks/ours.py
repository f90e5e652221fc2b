"""Our side alone, without PyTorch: the default settings, networks with fresh weights, random images."""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import sizes

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from configs import base  # noqa: E402  (found through the line above)
from infoutil_jax import config, models, train  # noqa: E402
from infoutil_jax.stages import teacher  # noqa: E402

CONFIG = config.resolve(base.get_config())


def build(size: sizes.Network) -> tuple[train.Network, dict]:
    """A network and its variables."""
    network = teacher.build_network(size.model, size.width, size.n_classes, CONFIG.data.mean, CONFIG.data.std)
    return network, jax.device_put(models.initialize(network.model, jax.random.key(0), size.side))


def draw(n: int, size: sizes.Network):
    """Images (n, H, W, 3) uint8 of random pixels and labels (n,) int32: no figure here depends on what they show."""
    rng = np.random.default_rng(0)
    images_u8 = rng.integers(0, 256, (n, size.side, size.side, 3), np.uint8)
    return images_u8, rng.integers(0, size.n_classes, n).astype(np.int32)


def gflop(network: train.Network, variables, side: int) -> float:
    """Of one forward pass on one image, as the compiler counts them before it changes anything."""
    forward = jax.jit(partial(network.model.apply, train=False))
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return forward.lower(variables, image).cost_analysis()["flops"] / 1e9
