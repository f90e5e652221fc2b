"""The networks and the convolution below them; their equality with PyTorch is checked in tests_parity."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from infoutil_jax import models
from infoutil_jax.errors import ConfigError
from infoutil_jax.models import convnet, convolution, winograd
from infoutil_jax.models.batch_norm import BatchNorm
from infoutil_jax.models.convolution import convolve

LAYOUT = ("NHWC", "HWIO", "NHWC")
PAD_1 = ((1, 1), (1, 1))
STOCK = lax.conv_general_dilated
WINDOWS = [(3, 1, PAD_1), (3, 2, PAD_1), (7, 2, ((3, 3), (3, 3))), (1, 2, ((0, 0), (0, 0))), (3, 1, ((0, 2), (3, 1)))]


def shapes_of(model, image_size=32):
    return jax.eval_shape(partial(models.initialize, model, image_size=image_size), jax.random.key(0))


def n_params(name, n_classes, image_size=32):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes_of(models.build(name, n_classes), image_size)["params"]))


def small_convnet(**settings):
    return models.build("convnet3", 4, width=8, **settings)


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_every_model_gives_one_logit_per_class(name):
    model = models.build(name, 7)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    logits = jax.eval_shape(partial(model.apply, train=False), shapes_of(model, 64), images)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


@pytest.mark.parametrize("name", ["convnet3", "resnet18", "resnet50_cifar"])
def test_bfloat16_is_of_the_activations_alone(name):
    model = models.build(name, 7, width=8, dtype="bfloat16")
    variables, images = shapes_of(model), jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    keep = dict(train=False, capture_intermediates=True, mutable=["intermediates"])
    logits, seen = jax.eval_shape(partial(model.apply, **keep), variables, images)
    outputs = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(seen)}
    layers = [dtype for path, dtype in outputs.items() if "conv" in path or "norm" in path]
    assert set(layers) == {jnp.dtype("bfloat16")} and len(layers) >= 6 and logits.dtype == jnp.float32


def test_parameter_counts_equal_the_published_ones():
    blocks = (27 + 1 + 2) * 128 + 2 * (9 * 128 + 1 + 2) * 128  # weights, bias and affine norm of each output channel
    assert n_params("convnet3", 10) == blocks + (4 * 4 * 128 + 1) * 10
    assert n_params("resnet18", 1000) == 11_689_512
    assert n_params("resnet50", 1000) == 25_557_032
    assert n_params("resnet101", 1000) == 44_549_160
    assert n_params("resnet18_cifar", 1000) == 11_689_512 - (49 - 9) * 3 * 64


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="convnet3, .*resnet18_cifar"):
        models.build("resnet19", 10)
    with pytest.raises(ConfigError, match="widht"):
        models.build("convnet3", 10, widht=8)
    with pytest.raises(ConfigError, match="batch, instance"):
        models.initialize(models.build("convnet3", 10, norm="layer"), jax.random.key(0), 32)
    with pytest.raises(ConfigError, match="depth=4 needs images of 16 pixels or more, got 8x8"):
        models.initialize(models.build("convnet4", 10), jax.random.key(0), 8)
    with pytest.raises(ConfigError, match="imagenet, cifar"):
        models.initialize(models.build("resnet18", 10, stem="tiny"), jax.random.key(0), 32)


def test_eval_mode_reads_and_train_mode_moves_the_statistics():
    model = small_convnet(bn_momentum=0.75)
    variables = models.initialize(model, jax.random.key(1), 8)
    images = np.random.default_rng(0).normal(0.3, 2, (5, 8, 8, 3)).astype(np.float32)
    _, same = model.apply(variables, images, train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, same["batch_stats"], variables["batch_stats"])

    _, moved = model.apply(variables, images, train=True, mutable=["batch_stats"])
    kernel, bias = (np.asarray(variables["params"]["conv1"][name], np.float64) for name in ("kernel", "bias"))
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    pixels = (np.einsum("byxcij,ijco->byxo", windows, kernel) + bias).reshape(-1, 8)
    stats = moved["batch_stats"]["norm1"]
    np.testing.assert_allclose(stats["mean"], 0.25 * pixels.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.75 + 0.25 * pixels.var(0), rtol=1e-4)


def test_instance_norm_sees_one_image_and_one_channel_at_a_time():
    model = small_convnet(norm="instance")
    variables = models.initialize(model, jax.random.key(2), 8)
    images = jax.random.normal(jax.random.key(3), (4, 8, 8, 3))
    together = model.apply(variables, images, train=True)
    apart = jnp.concatenate([model.apply(variables, image[None], train=True) for image in images])
    assert not variables["batch_stats"]
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)
    conv = {name: leaf.at[..., 0].multiply(9) for name, leaf in variables["params"]["conv1"].items()}
    louder = model.apply({"params": {**variables["params"], "conv1": conv}}, images, train=True)
    np.testing.assert_allclose(together, louder, rtol=1e-3, atol=1e-3)


def test_initialisation_follows_pytorch_and_the_key_alone():
    model = models.build("convnet3", 10, width=64)
    params = models.initialize(model, jax.random.key(0), 32)["params"]
    for name, fan_in in {"conv1": 27, "conv2": 9 * 64, "classifier": 16 * 64}.items():
        for leaf in params[name].values():
            assert 0.9 < np.abs(leaf).max() * np.sqrt(fan_in) <= 1 + 1e-6 or leaf.size < 64
        np.testing.assert_allclose(np.std(params[name]["kernel"]), 1 / np.sqrt(3 * fan_in), rtol=0.05)
    again, other = (models.initialize(model, jax.random.key(seed), 32)["params"] for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert np.abs(params["conv2"]["kernel"] - other["conv2"]["kernel"]).max() > 0.01
    assert np.abs(params["conv2"]["kernel"] - params["conv3"]["kernel"]).max() > 0.01


def test_resnet_convolutions_start_with_kaiming_fan_out():
    kernel = models.initialize(models.build("resnet18_cifar", 4), jax.random.key(0), 8)["params"]["conv_stem"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 64)), rtol=0.05)
    assert np.abs(kernel).max() > np.sqrt(3) * np.std(kernel) * 1.2  # a normal has tails, a uniform has not


def draw(batch, size, channels, kernel_size):
    generator = np.random.default_rng(batch)
    images = generator.normal(size=(batch, size, size + 1, channels)).astype(np.float32)
    return images, generator.normal(size=(kernel_size, kernel_size, channels, 5)).astype(np.float32)


def loss(conv, stride, padding, images, kernel):
    return jnp.sum(jnp.sin(conv(images, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)))


def gradients(conv, images, kernel, stride, padding):
    return jax.jit(jax.grad(partial(loss, conv, stride, padding), (0, 1)))(images, kernel)


def assert_same_gradients(ours, stock):
    for one, other in zip(ours, stock, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


@pytest.fixture(params=[0, 1e8])
def winograd_threshold(request, monkeypatch):
    """3x3 windows by `winograd` at every size, and at no size of these tests."""
    monkeypatch.setattr(convolution, "_WORTH_COMPILING", request.param)
    monkeypatch.setattr(convolution, "_n_cores", lambda: 1)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_that_of_flax(train):
    generator = np.random.default_rng(0)
    x, grad = generator.normal(1, 3, size=(2, 6, 4, 4, 5)).astype(np.float32)
    params, stats = (
        {name: generator.uniform(0.5, 2, 5) for name in names} for names in (("scale", "bias"), ("mean", "var"))
    )

    def outputs(norm):
        def apply(params, x):
            return norm.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])

        y, gradient, updated = jax.vjp(apply, params, x, has_aux=True)
        return jax.tree.leaves((y, gradient(grad), updated))

    ours, flax = BatchNorm(not train, 0.8, "float32"), nn.BatchNorm(not train, momentum=0.8, epsilon=1e-5)
    assert_same_gradients(outputs(ours), outputs(flax))
    shapes = [jax.tree.map(jnp.shape, norm.init(jax.random.key(0), x)) for norm in (ours, flax)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 4), (3, 7)])
def test_halving_equals_the_average_pool(height, width):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    stock = lambda x: nn.pooling.pool(x, 0.0, lax.add, (2, 2), (2, 2), "VALID") / 4
    (ours, gradient), (expected, stock_gradient) = jax.vjp(convnet._halve, x), jax.vjp(stock, x)
    assert_same_gradients([ours, *gradient(jnp.sin(ours))], [expected, *stock_gradient(jnp.sin(expected))])


@pytest.mark.usefixtures("winograd_threshold")
@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), WINDOWS)
def test_convolution_gradients_equal_the_stock_ones(kernel_size, stride, padding, channels):
    args = draw(3, 9, channels, kernel_size)
    assert_same_gradients(gradients(convolve, *args, stride, padding), gradients(STOCK, *args, stride, padding))


@pytest.mark.parametrize("batch", [1, 7, 16, 17, 40])
def test_convolution_gradients_at_any_batch_size(batch):
    args = draw(batch, 6, 8, 3)
    assert_same_gradients(gradients(convolve, *args, 1, PAD_1), gradients(STOCK, *args, 1, PAD_1))


SLICES = {"one image": 1, "some": 2**14, "all": 2**24}


@pytest.mark.parametrize(
    ("height", "width", "of"), [(6, 6, "all"), (5, 8, "some"), (3, 7, "all"), (4, 1, "one image"), (8, 9, "some")]
)
@pytest.mark.parametrize("padding", [PAD_1, ((0, 2), (2, 1))])
def test_winograd_equals_the_stock_convolution(height, width, of, padding, monkeypatch):
    monkeypatch.setattr(winograd, "_SLICE_BYTES", SLICES[of])
    images, kernel = draw(7, 9, 6, 3)
    x = images[:, :height, :width]
    out, stock = jax.vjp(lambda *args: STOCK(*args, (1, 1), padding, dimension_numbers=LAYOUT), x, kernel)
    grad = np.random.default_rng(0).normal(size=out.shape).astype(np.float32)
    ours = jax.jit(lambda *args: (winograd.convolve(*args[:2], padding), *winograd.gradients(*args, padding)))
    assert_same_gradients(ours(x, kernel, grad), (out, *stock(grad)))


@pytest.mark.parametrize(("cores", "least", "by_winograd"), [(2, 0, True), (3, 0, False), (2, 1e8, False)])
def test_the_forward_pass_is_by_winograd_on_few_cores_where_it_is_large(cores, least, by_winograd, monkeypatch):
    monkeypatch.setattr(convolution, "_n_cores", lambda: cores)
    monkeypatch.setattr(convolution, "_WORTH_COMPILING", least)
    program = jax.jit(lambda *args: convolve(*args, (1, 1), PAD_1, dimension_numbers=LAYOUT)).lower(*draw(2, 8, 8, 3))
    assert ("stablehlo.convolution" in program.as_text()) != by_winograd


def test_a_large_winograd_convolution_in_float32_against_float64():
    generator = np.random.default_rng(0)
    x, kernel, grad = (generator.normal(size=size) for size in [(4, 16, 16, 128), (3, 3, 128, 128), (4, 16, 16, 128)])
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [padded[:, i : i + 16, j : j + 16].reshape(-1, 128) for i in range(3) for j in range(3)]
    y = sum(rows @ weights for rows, weights in zip(windows, kernel.reshape(9, 128, 128)))
    grad_kernel = np.stack([rows.T @ grad.reshape(-1, 128) for rows in windows])
    x, kernel, grad = (array.astype(np.float32) for array in (x, kernel, grad))
    ours = winograd.convolve(x, kernel, PAD_1), winograd.gradients(x, kernel, grad, PAD_1)[1]
    for one, other in zip(ours, (y, grad_kernel), strict=True):
        np.testing.assert_allclose(np.ravel(one), np.ravel(other), rtol=0, atol=5e-6 * np.abs(other).max())


@pytest.mark.usefixtures("winograd_threshold")
@pytest.mark.parametrize("channels", [3, 8])
def test_per_example_gradients_under_vmap_map_and_pmap(channels):
    images, kernel = draw(4, 6, channels, 3)

    def gradient(conv, image):
        return jax.grad(partial(loss, conv, 1, PAD_1, image[None]))(kernel)

    ours = partial(gradient, convolve)
    expected = np.stack([gradient(STOCK, image) for image in images])
    on_devices = jax.pmap(jax.vmap(ours), devices=jax.devices()[:2])(images.reshape(2, 2, *images.shape[1:]))
    mapped = jax.jit(partial(lax.map, ours))(images)
    assert_same_gradients([jax.vmap(ours)(images), mapped, on_devices.reshape(expected.shape)], [expected] * 3)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("padding", "dilation"), [("SAME", (1, 1)), (PAD_1, (2, 2)), (PAD_1, (1, 1))])
def test_other_convolutions_fall_back_to_the_stock_one(padding, dilation, groups):
    images, kernel = draw(2, 6, 4, 3)
    kernel = kernel[:, :, : 4 // groups, :4]
    options = dict(rhs_dilation=dilation, feature_group_count=groups, dimension_numbers=LAYOUT)
    ours, stock = (conv(images, kernel, (1, 1), padding, **options) for conv in (convolve, STOCK))
    np.testing.assert_array_equal(ours, stock)
