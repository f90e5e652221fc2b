"""The networks by name. `model.apply(variables, images_norm, train=...)`: (B, H, W, 3) float32 -> logits (B, K)."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp

from infoutil_jax.errors import ConfigError
from infoutil_jax.models import convnet, convnext, efficientnet, mixer, mobilenet, resnet, swin, vgg, vit

# Each with its MODELS by name and, where weights can be imported, its LAYOUTS.
FAMILIES = (convnet, resnet, mobilenet, efficientnet, vgg, convnext, vit, swin, mixer)
MODELS = {name: build_fn for family in FAMILIES for name, build_fn in family.MODELS.items()}


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


def fields(name) -> set[str]:
    """What `build` takes for the model called `name`."""
    return set(getattr(MODELS[name], "func", MODELS[name]).__dataclass_fields__)


def layouts(name):
    """{library: Layout} of the weights' files that can be read into the model called `name`; empty where none can."""
    return next(getattr(family, "LAYOUTS", {}) for family in FAMILIES if name in family.MODELS)


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
