"""The networks by name. `model.apply(variables, images_norm, train=...)`: (B, H, W, 3) float32 -> logits (B, K)."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp

from infoutil_jax.errors import ConfigError
from infoutil_jax.models.convnet import ConvNet
from infoutil_jax.models.resnet import ResNet

_RESNETS = {
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), bottleneck=False),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(ResNet, stage_sizes=(3, 4, 23, 3), bottleneck=True),
}
MODELS = {
    **{f"convnet{depth}": partial(ConvNet, depth=depth) for depth in (3, 4, 5, 6)},
    **{f"convnet{depth}_in": partial(ConvNet, depth=depth, norm="instance") for depth in (3, 4, 5, 6)},
    **_RESNETS,
    **{f"{name}_cifar": partial(resnet, stem="cifar") for name, resnet in _RESNETS.items()},
}


def build(name, n_classes, **settings):
    """The untrained Flax module called `name`; `settings` are its other fields (width, norm, bn_momentum, ...).

    Raises ConfigError for an unknown name or setting.
    """
    if name not in MODELS:
        raise ConfigError(f"model {name!r} is unknown; known models: {', '.join(sorted(MODELS))}")
    try:
        return MODELS[name](n_classes=n_classes, **settings)
    except TypeError as error:
        raise ConfigError(f"model {name!r}: {error}; see the fields of its class") from error


def initialize(model, key, image_size):
    """Fresh variables {'params', 'batch_stats'} for images of image_size^2 pixels; values depend on `key` only.

    'batch_stats' is empty for networks without BatchNorm.
    """
    images = jnp.zeros((1, image_size, image_size, 3))
    return {"batch_stats": {}, **_init_fn(model)(key, images)}


@lru_cache(maxsize=None)
def _init_fn(model):
    """Compiled once for all students of a run."""
    return jax.jit(partial(model.init, train=False))
