"""MobileNetV2, EfficientNet-B0 and VGG-11; their equality with torchvision and timm is checked in tests_parity."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from infoutil_jax import layerwise, models, utility
from infoutil_jax.errors import ConfigError
from infoutil_jax.models import initializers, mobilenet, vgg

NAMES = ["mobilenet_v2", "efficientnet_b0", "vgg11"]
STOCK = partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def shapes_of(model):
    return jax.eval_shape(partial(models.initialize, model, image_size=32), jax.random.key(0))


@pytest.mark.parametrize("name, published", list(zip(NAMES, [3_504_872, 5_288_548, 132_863_336])))
def test_parameter_counts_equal_the_published_ones(name, published):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(models.build(name, 1000))["params"])) == published


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_of_the_activations_alone(name):
    model = models.build(name, 7, dtype="bfloat16")
    variables, images = shapes_of(model), jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    keep = dict(train=False, capture_intermediates=True, mutable=["intermediates"])
    logits, seen = jax.eval_shape(partial(model.apply, **keep), variables, images)
    outputs = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(seen)}
    layers = [dtype for path, dtype in outputs.items() if any(kind in path for kind in ("conv", "norm", "hidden"))]
    assert set(layers) == {jnp.dtype("bfloat16")} and len(layers) >= 10 and logits.dtype == jnp.float32


def test_vgg_refuses_images_that_its_pools_would_empty():
    with pytest.raises(ConfigError, match="32 pixels or more, got 31x31"):
        models.initialize(models.build("vgg11", 10), jax.random.key(0), 31)


@pytest.mark.parametrize("height, width", [(1, 1), (7, 14), (2, 3), (10, 8), (13, 20)])
def test_adaptive_pooling_equals_a_loop_over_windows(height, width):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    expected = np.empty((2, 7, 7, 3))
    for i, j in np.ndindex(7, 7):
        rows = slice(int(np.floor(i * height / 7)), int(np.ceil((i + 1) * height / 7)))
        columns = slice(int(np.floor(j * width / 7)), int(np.ceil((j + 1) * width / 7)))
        expected[:, i, j] = x[:, rows, columns].mean((1, 2), dtype=np.float64)
    pooled = vgg.adaptive_average_pool(jnp.asarray(x), 7)
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=1e-6)
    assert pooled.dtype == vgg.adaptive_average_pool(jnp.asarray(x, jnp.bfloat16), 7).dtype == jnp.float32


@pytest.mark.parametrize("size, stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("height, width", [(7, 8), (1, 2)])
def test_depthwise_convolution_and_its_gradients_equal_the_stock_ones(size, stride, height, width):
    rng = np.random.default_rng(size)
    x = jnp.asarray(rng.normal(size=(3, height, width, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, 4)), jnp.float32)
    window = ((stride, stride), ((size // 2, size // 2),) * 2)
    ours = jax.vjp(lambda *args: mobilenet.depthwise(*args, *window), x, kernel)
    stock = jax.vjp(lambda *args: STOCK(*args, *window, feature_group_count=4), x, kernel)
    grad = jnp.asarray(rng.normal(size=stock[0].shape), jnp.float32)
    for one, other in zip([ours[0], *ours[1](grad)], [stock[0], *stock[1](grad)], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_depthwise_convolution_rounds_once_in_bfloat16():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in [(2, 6, 6, 4), (5, 5, 1, 4)])
    window = ((1, 1), ((2, 2), (2, 2)))
    run = lambda *args: jax.vjp(lambda *args: mobilenet.depthwise(*args, *window), *args)
    (halves, half_vjp), (exact, exact_vjp) = run(x, kernel), run(x.astype(jnp.float32), kernel.astype(jnp.float32))
    grad = jnp.asarray(rng.normal(size=exact.shape), jnp.bfloat16)
    for one, other in zip([halves, *half_vjp(grad)], [exact, *exact_vjp(grad.astype(jnp.float32))], strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_array_equal(one, other.astype(jnp.bfloat16))


class Skipped(nn.Module):
    """An inverted residual whose residual branch gives 1 everywhere, on images of zeros: the scale that is left."""

    drop_rate: float

    @nn.compact
    def __call__(self, x, *, train):
        fields = dict(activation=nn.silu, squeeze=True, bn_momentum=0.9, dtype="float32")
        stage = mobilenet.Stage(expansion=6, width=4, n_blocks=1, stride=1)
        return mobilenet.InvertedResidual(stage, drop_rate=self.drop_rate, **fields, name="block")(x, train=train)


def test_stochastic_depth_keeps_or_drops_whole_images_and_the_mean():
    images, model = jnp.zeros((2000, 2, 2, 4)), Skipped(drop_rate=0.2)
    variables = model.init(jax.random.key(0), images[:1], train=False)
    norm = {"scale": jnp.ones(4), "bias": jnp.ones(4)}
    block = variables["params"]["block"]
    params = {"block": {**block, "project": {**block["project"], "norm": norm}}}
    variables = {**variables, "params": params}
    np.testing.assert_array_equal(model.apply(variables, images, train=False), 1)

    draw = lambda seed: model.apply(
        variables, images, train=True, rngs={"dropout": jax.random.key(seed)}, mutable=["batch_stats"]
    )[0].reshape(len(images), -1)
    outputs = np.asarray(draw(0))
    np.testing.assert_array_equal(outputs, outputs[:, :1].repeat(16, axis=1))
    assert set(np.unique(outputs)) == {np.float32(0), np.float32(1 / 0.8)}
    np.testing.assert_allclose(outputs[:, 0].mean(), 1, atol=4 * np.sqrt(0.2 / 0.8 / 2000))
    assert (outputs[:, 0] != draw(1)[:, 0]).any()


def test_drop_rates_grow_linearly_from_the_first_block(monkeypatch):
    """Block i of n drops with probability 0.2 i / n, also where it has no shortcut to fall back to."""
    seen, original = [], mobilenet.InvertedResidual.__call__
    note = lambda self, x, *, train: (seen.append(self.drop_rate), original(self, x, train=train))[1]
    monkeypatch.setattr(mobilenet.InvertedResidual, "__call__", note)
    shapes_of(models.build("efficientnet_b0", 5))
    np.testing.assert_allclose(seen, 0.2 * np.arange(16) / 16)
    seen.clear()
    shapes_of(models.build("mobilenet_v2", 5))
    assert seen == [0] * 17


def dropouts(name, **settings):
    """(rate, number of draws an image) of every dropout that a training step draws, in order."""
    model, drawn = models.build(name, 5, **settings), []

    def note(call, args, kwargs, context):
        layer = context.module
        if isinstance(layer, nn.Dropout) and layer.rate and not layer.deterministic:
            shape = args[0].shape
            drawn.append((layer.rate, 1 if layer.broadcast_dims else int(np.prod(shape[1:]))))
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    apply = lambda variables, images, key: model.apply(
        variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    with nn.intercept_methods(note):
        jax.eval_shape(apply, shapes_of(model), images, jax.random.key(0))
    return drawn


def test_what_a_training_step_drops():
    assert dropouts("vgg11") == [(0.5, 4096), (0.5, 4096)]
    assert dropouts("mobilenet_v2") == [(0.2, 1280)]
    with_shortcut = [2, 4, 6, 7, 9, 10, 12, 13, 14]
    expected = [(0.2 * i / 16, 1) for i in with_shortcut] + [(0.2, 1280)]
    np.testing.assert_allclose(dropouts("efficientnet_b0"), expected)
    assert dropouts("efficientnet_b0", dropout=0.0, stochastic_depth=0.0) == []


@pytest.mark.parametrize("name", NAMES)
def test_only_training_asks_for_randomness(name):
    model, images = models.build(name, 5), jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    run = lambda train: jax.eval_shape(
        partial(model.apply, train=train, mutable=["batch_stats"]), shapes_of(model), images
    )
    run(False)
    with pytest.raises(Exception, match="dropout"):
        run(True)


def test_initialisers():
    kernel = initializers.normal(0.01)(jax.random.key(0), (200, 300))
    np.testing.assert_allclose([kernel.mean(), kernel.std()], [0, 0.01], atol=2e-4)
    kernel = initializers.uniform_fan_out(jax.random.key(0), (400, 25))
    np.testing.assert_allclose([kernel.min(), kernel.max(), kernel.std()], [-0.2, 0.2, 0.2 / np.sqrt(3)], atol=2e-3)
    variables = models.initialize(models.build("mobilenet_v2", 5), jax.random.key(0), 32)["params"]
    kernel = variables["stage7_block1"]["depthwise"]["conv"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 960)), rtol=0.05)  # fan_out counts all channels
    assert not variables["classifier"]["bias"].any()


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0"])
def test_layerwise_norms_equal_all_gradients_at_once(name):
    """On the first two stages: blocks with and without expansion, stride and shortcut."""
    stages = models.MODELS[name].keywords["stages"][:2]
    model, rng = models.build(name, 5, stages=stages), np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 32, 32, 3)), jnp.float32)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return jnp.asarray(rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape), jnp.float32)
        low, high = (0.5, 2) if path[-1].key in ("scale", "var") else (-0.5, 0.5)
        return jnp.asarray(rng.uniform(low, high, leaf.shape), jnp.float32)

    args = (jax.tree_util.tree_map_with_path(draw, shapes_of(model)), images, jnp.asarray([3, 0]))
    logits_fn = partial(model.apply, train=False)
    norms, _ = jax.jit(partial(layerwise.gradient_norms, logits_fn))(*args)
    np.testing.assert_allclose(norms, jax.jit(partial(utility.gradient_norms, logits_fn))(*args), rtol=1e-5)
    assert norms.shape == (2,) and abs(norms[0] - norms[1]) > 1e-3 * norms[0]
