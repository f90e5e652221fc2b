"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391): where the last feature map of a convolutional network speaks for
a class. A cheap rival of Shapley values: one forward and one backward pass an image, no coalitions.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp

from infoutil_jax.errors import ConfigError


def cell_maps(scores_fn, images_norm, grid: int):
    """Grad-CAM of every image on a grid x grid partition, and the scores: ((B, G, G), (B,)) float32.

    `scores_fn` maps normalised images (B, H, W, 3) to one number each, e.g. the logit of a class; an image's score must
    depend on that image alone. Of the last feature map A (B, h, w, C), the output of the last Flax module that gives an
    array of four axes, the map is ReLU(sum_k a_k A_k), a_k the mean over places of the gradient (equations 1 and 2),
    averaged over the cells by area. Raises ConfigError where no module gives such an array, or one after it gives
    tokens: the map would be of the patches that went in.
    """
    last, shape = _last_feature_map(scores_fn, images_norm)

    def score(shift):
        features, scores_B = _tapped(scores_fn, images_norm, last, shift)
        return scores_B.sum(), (features, scores_B)

    gradient_BhwC, (features_BhwC, scores_B) = jax.grad(score, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    weights_BC = gradient_BhwC.astype(jnp.float32).mean(axis=(1, 2))
    maps_Bhw = nn.relu(jnp.einsum("bhwc,bc->bhw", features_BhwC.astype(jnp.float32), weights_BC))
    rows, columns = (area_weights(size, grid) for size in maps_Bhw.shape[1:])
    precise = jax.lax.Precision.HIGHEST
    return jnp.einsum("yh,bhw,xw->byx", rows, maps_Bhw, columns, precision=precise), scores_B


def area_weights(size: int, grid: int):
    """Weights (grid, size) that average `size` pixels over `grid` equal cells of the same length; rows sum to 1."""
    cells, pixels = jnp.arange(grid, dtype=jnp.float32) / grid, jnp.arange(size, dtype=jnp.float32) / size
    low = jnp.maximum(cells[:, None], pixels[None, :])
    high = jnp.minimum(cells[:, None] + 1 / grid, pixels[None, :] + 1 / size)
    return jnp.maximum(high - low, 0) * grid


def _each_feature_map(scores_fn, images_norm, visit):
    """The scores, with `visit(number, features)` in place of every module's output of four axes, in calling order."""
    calls = itertools.count()

    def intercept(call, args, kwargs, context):
        outputs = call(*args, **kwargs)
        is_map = context.method_name == "__call__" and getattr(outputs, "ndim", 0) == 4
        return visit(next(calls), outputs) if is_map else outputs

    with nn.intercept_methods(intercept):
        return scores_fn(images_norm)


def _last_feature_map(scores_fn, images_norm):
    """(number, shape and dtype) of the last feature map, found without computing it."""
    seen = []

    def visit(number, features):
        seen.append((number, jax.ShapeDtypeStruct(features.shape, features.dtype)))
        return features

    tokens = []

    def note_tokens(call, args, kwargs, context):
        outputs = call(*args, **kwargs)
        tokens.extend([len(seen)] * (getattr(outputs, "ndim", 0) == 3))
        return outputs

    with nn.intercept_methods(note_tokens):
        jax.eval_shape(lambda images: _each_feature_map(scores_fn, images, visit), images_norm)
    if not seen or len(seen) in tokens:
        raise ConfigError("attribute.estimator=grad_cam needs a network with feature maps; choose another estimator.")
    return seen[-1]


def _tapped(scores_fn, images_norm, last: int, shift):
    """(the last feature map, scores with `shift` added to it)."""
    kept = []

    def visit(number, features):
        if number != last:
            return features
        kept.append(features)
        return features + shift

    scores_B = _each_feature_map(scores_fn, images_norm, visit)
    return kept[0], scores_B
