"""Layerwise gradient norms against a loop of single gradients, for the project's networks and all kinds of layers."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from infoutil_jax import layerwise, models, parallel, utility
from infoutil_jax.errors import ConfigError
from infoutil_jax.models.resnet import ResNet

N, K = 5, 4
one_by_one = utility.gradient_norms_one_by_one


class Around(nn.Module):
    """A convolution, `body`, the mean over positions, a dense layer."""

    body: Callable
    n_classes: int = K

    @nn.compact
    def __call__(self, x, *, train: bool):
        x = self.body(nn.relu(nn.Conv(6, (3, 3))(x))).astype(jnp.float32)
        return nn.Dense(self.n_classes)(x.mean(axis=range(1, x.ndim - 1)))


def conv(features=6, size=(3, 3), **settings):
    return nn.Conv(features, size, **settings)


def of_squares(operation):
    return lambda inputs, kernel, *args, **options: operation(inputs, kernel**2, *args, **options)


BY_LAYER = {  # layers with windows
    "same": conv(),
    "valid": conv(padding="VALID"),
    "explicit padding": conv(padding=((0, 3), (2, 1))),
    "negative padding": conv(padding=((-1, 0), (1, -1))),
    "wide padding": conv(size=(1, 2), padding=2),
    "stride": conv(strides=2),
    "stride by axis": conv(strides=(3, 1), padding=1),
    "rectangle": conv(size=(2, 5)),
    "uneven padding": conv(size=(4, 4), strides=2, padding="SAME_LOWER"),
    "pointwise, stride": conv(size=(1, 1), strides=2, use_bias=False),
    "dilation": conv(kernel_dilation=(2, 3)),
    "dilation and stride": conv(kernel_dilation=2, strides=2, padding="VALID"),
    "groups": conv(feature_group_count=3),
    "depthwise, stride": conv(12, feature_group_count=6, strides=2),
    "one axis": nn.Conv(5, 3, kernel_dilation=2),
    "dense": nn.Dense(7),
}
WHOLE = {  # layers whose kernel is differentiated for every example
    "circular": conv(padding="CIRCULAR"),
    "reflect": conv(padding="REFLECT"),
    "masked": lambda x: conv(mask=np.tril(np.ones((3, 3, 6, 6), np.float32)))(x),
    "input dilation": conv(input_dilation=2, padding=1),
    "own operation": conv(conv_general_dilated=of_squares(lax.conv_general_dilated)),
    "transposed": nn.ConvTranspose(5, (3, 3)),
    "own product": nn.Dense(5, dot_general=of_squares(lax.dot_general)),
    "bfloat16": conv(dtype=jnp.bfloat16),
}


def normalised(x):
    """Norms of all kinds between layers."""
    for norm in (nn.GroupNorm(3), nn.GroupNorm(None, group_size=1), nn.InstanceNorm(), nn.BatchNorm(True)):
        x = conv()(norm(x))
    return nn.LayerNorm(reduction_axes=(1, 2))(nn.RMSNorm()(nn.Dense(6)(nn.LayerNorm()(x))))


class Tokens(nn.Module):
    """A vision transformer in small: parameters of its own beside layers, on (B, T, C)."""

    @nn.compact
    def __call__(self, x):
        x, draw = x.reshape(len(x), -1, 6), nn.initializers.normal(1.0)
        token = jnp.broadcast_to(self.param("token", draw, (1, 1, 6)), (len(x), 1, 6))
        x = jnp.concatenate([token, x], axis=1)
        x = x + self.param("position", draw, (1, x.shape[1], 6))
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return x + nn.Dense(6)(nn.gelu(nn.Dense(9)(nn.LayerNorm()(x)))) * self.param("layer_scale", draw, (1, 1, 6))


def shared(x):
    """A convolution and a dense layer used twice, a kernel that is also read by hand."""
    convolution, dense, tied = conv(), nn.Dense(6), nn.Dense(6, use_bias=False)
    x = dense(nn.relu(dense(convolution(nn.relu(convolution(x))))))
    return tied(x) @ tied.get_variable("params", "kernel").T


def scanned(x):
    step = lambda layer, carry, _: (nn.relu(layer(carry)), None)
    scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, length=3)
    return scan(nn.Dense(6), x, None)[0]


def mapped(x):
    settings = dict(variable_axes={"params": None}, split_rngs={"params": False}, in_axes=1, out_axes=1)
    return nn.vmap(nn.Dense, **settings)(5)(x)


def rows(x):
    """Leading axes that are not the examples: patches as a batch, patches as an axis, positions before examples."""
    b, h, w, c = x.shape
    patches = x.reshape(b, 2, h // 2, 2, w // 2, c).transpose(0, 1, 3, 2, 4, 5)
    x = nn.relu(conv(4)(patches.reshape(-1, h // 2, w // 2, c)))
    x = nn.relu(conv(5)(x.reshape(b, 2, 2, h // 2, w // 2, 4)))
    return nn.relu(nn.Dense(6)(x.reshape(b, -1, 5).transpose(1, 0, 2))).transpose(1, 0, 2)


BODIES = {
    "normalised": normalised,
    "tokens": lambda x: Tokens()(x),
    "shared": shared,
    "scanned": scanned,
    "mapped": mapped,
    "jitted": lambda x: nn.jit(nn.Dense)(5)(x),
    "rematerialised": lambda x: nn.remat(nn.Conv)(5, (3, 3))(x),
    "rows": rows,
}
NETWORKS = {
    "convnet3": (models.build("convnet3", K, width=8), 16),
    "convnet3_in": (models.build("convnet3_in", K, width=8), 16),
    "resnet18_cifar": (models.build("resnet18_cifar", K, width=4), 16),
    "resnet, imagenet stem": (ResNet(K, stage_sizes=(1, 1), bottleneck=False, width=4), 32),
    "resnet, bottleneck": (ResNet(K, stage_sizes=(1, 1), bottleneck=True, width=4), 16),
}


@functools.cache
def problem(model, side=8):
    """logits_fn, random variables (scales, statistics and biases too), images, labels, norms of single gradients."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(N, side, side, 3)), rng.integers(0, model.n_classes, N)
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels, jnp.int32)
    positive = lambda shape: rng.uniform(0.5, 2, shape)
    kernel = lambda shape: rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
    draws = {"kernel": kernel, "scale": positive, "var": positive}
    other = lambda shape: rng.normal(0, 0.3, shape)
    draw = lambda path, leaf: jnp.asarray(draws.get(path[-1].key, other)(leaf.shape), jnp.float32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    logits_fn = functools.partial(model.apply, train=False)
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return logits_fn, (variables, images, labels), one_by_one(logits_fn, variables, images, labels)


def layerwise_norms(logits_fn, args):
    return jax.jit(functools.partial(layerwise.gradient_norms, logits_fn))(*args)


def kernels_of(logits_fn, args):
    """Names of the leaves that have a rule, and of all that are called kernel."""
    variables, images, _ = args
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])]
    found = layerwise._find_kernels(logits_fn, variables, images[:1])
    return {p for p, kernel in zip(paths, found) if kernel}, {p for p in paths if p.endswith("['kernel']")}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_project(name):
    logits_fn, args, expected = problem(*NETWORKS[name])
    norms, logits = layerwise_norms(logits_fn, args)
    assert norms.shape == (N,) and norms.dtype == jnp.float32
    np.testing.assert_allclose(norms, expected, rtol=1e-5)
    np.testing.assert_allclose(logits, jax.jit(logits_fn)(*args[:2]), rtol=1e-4, atol=1e-5)
    by_layer, all_kernels = kernels_of(logits_fn, args)
    assert by_layer == all_kernels


@pytest.mark.parametrize("form", ["_by_product", "_by_gram_matrices"])
@pytest.mark.parametrize("name", BY_LAYER)
def test_both_forms_for_every_layer(name, form, monkeypatch):
    logits_fn, args, expected = problem(Around(BY_LAYER[name]))
    called, square_norm = [], getattr(layerwise, form)
    monkeypatch.setattr(layerwise, "_square_norm", lambda *args: (called.append(1), square_norm(*args))[1])
    np.testing.assert_allclose(layerwise_norms(logits_fn, args)[0], expected, rtol=1e-5)
    assert len(called) == 3


@pytest.mark.parametrize("name", WHOLE)
def test_layers_without_a_rule_are_differentiated_whole(name):
    logits_fn, args, expected = problem(Around(WHOLE[name]))
    np.testing.assert_allclose(layerwise_norms(logits_fn, args)[0], expected, rtol=1e-2 if name == "bfloat16" else 1e-5)
    by_layer, all_kernels = kernels_of(logits_fn, args)
    assert len(by_layer) == 2 and len(all_kernels) == 3


@pytest.mark.parametrize("name", BODIES)
def test_no_parameter_is_left_out_or_counted_twice(name):
    logits_fn, args, expected = problem(Around(BODIES[name]))
    np.testing.assert_allclose(layerwise_norms(logits_fn, args)[0], expected, rtol=1e-5)


def test_the_cheaper_form_is_taken(monkeypatch):
    """Multiplications of conv1, conv2, conv3 and the dense layer of ConvNet-3, width 128, at 32 px, counted by hand."""
    product = [1024 * 27 * 128, 256 * 1152 * 128, 64 * 1152 * 128, 2048 * K]
    gram = [1024**2 * (3 + 128), 256**2 * (128 + 128), 64**2 * (128 + 128), 2048 + K]
    taken = []
    for form in ("_by_product", "_by_gram_matrices"):
        note = lambda window, x, _, form=form: taken.append((x.shape[1:], form)) or x.sum()
        monkeypatch.setattr(layerwise, form, note)
    model, images = models.build("convnet3", K), jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    logits_fn = functools.partial(model.apply, train=False)
    jax.eval_shape(functools.partial(layerwise.gradient_norms, logits_fn), variables, images, jnp.zeros(2, jnp.int32))
    shapes = [(32, 32, 3), (16, 16, 128), (8, 8, 128), (2048,)]
    cheaper = ["_by_gram_matrices" if g < p else "_by_product" for g, p in zip(gram, product)]
    assert set(taken) == set(zip(shapes, cheaper)) and len(set(cheaper)) == 2
    depthwise = layerwise._conv_window(conv(12, feature_group_count=6), (1, 4, 4, 6))
    layerwise._square_norm(depthwise, jnp.zeros((1, 4, 4, 6)), jnp.zeros((1, 4, 4, 12)))
    assert taken[-1][1] == "_by_product"  # 16 * 9 * 12 against 16**2 * (6 + 12); a sixth of what it takes in one group


def test_zero_scales_and_dead_units():
    logits_fn, (variables, images, labels), _ = problem(*NETWORKS["convnet3"])
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    params["norm2"]["scale"] = params["norm2"]["scale"].at[:5].set(0.0)
    params["norm3"]["bias"] = params["norm3"]["bias"].at[2:].set(-100.0)
    args = ({**variables, "params": params}, images, labels)
    np.testing.assert_allclose(layerwise_norms(logits_fn, args)[0], one_by_one(logits_fn, *args), rtol=1e-5)


def test_a_loss_without_slope_has_norm_zero():
    logits_fn, args, _ = problem(Around(nn.Dense(3), n_classes=1))
    np.testing.assert_array_equal(layerwise_norms(logits_fn, args)[0], 0)


def test_a_gram_form_that_rounds_below_zero_is_zero(monkeypatch):
    monkeypatch.setattr(layerwise, "_square_norm", lambda window, x, grad: jnp.float32(-1e-9))
    logits_fn, args, _ = problem(Around(nn.Dense(3), n_classes=1))
    np.testing.assert_array_equal(layerwise_norms(logits_fn, args)[0], 0)


def test_a_function_without_layers():
    _, (_, images, labels), _ = problem(*NETWORKS["convnet3"])
    logits_fn = lambda variables, x: jnp.tanh(x).reshape(len(x), -1) @ variables["params"]["w"]
    variables = {"params": {"w": jnp.asarray(np.random.default_rng(1).normal(size=(16 * 16 * 3, K)), jnp.float32)}}
    args = (variables, images, labels)
    np.testing.assert_allclose(layerwise_norms(logits_fn, args)[0], one_by_one(logits_fn, *args), rtol=1e-5)


def test_layers_whose_parameters_are_constants_do_not_count():
    frozen_fn, (frozen, images, labels), _ = problem(*NETWORKS["convnet3"])
    head_fn, (variables, _, _), _ = problem(Around(nn.Dense(3)))
    logits_fn = lambda variables, x: head_fn(variables, x * frozen_fn(frozen, x)[:, None, None, :3])
    args = (variables, images, labels)
    np.testing.assert_allclose(layerwise_norms(logits_fn, args)[0], one_by_one(logits_fn, *args), rtol=1e-5)
    by_layer, all_kernels = kernels_of(logits_fn, args)
    assert by_layer == all_kernels and len(by_layer) == 3


def test_a_network_that_copies_its_kernels_now_and_then_is_refused():
    logits_fn, (variables, images, labels), expected = problem(Around(nn.Dense(3)))
    on_host = jax.tree.map(np.asarray, variables)  # jnp.asarray copies NumPy's arrays, not those that are traced
    copying = lambda variables, x: logits_fn(jax.tree.map(jnp.asarray, variables), x)
    norms_of = lambda logits_fn: jax.jit(lambda *args: layerwise.gradient_norms(logits_fn, on_host, *args)[0])
    with pytest.raises(ConfigError, match="layerwise.*norms=vmap"):
        norms_of(copying)(images, labels)
    np.testing.assert_allclose(norms_of(logits_fn)(images, labels), expected, rtol=1e-5)


def test_the_same_as_all_gradients_at_once():
    logits_fn, args, _ = problem(*NETWORKS["convnet3"])
    reference = jax.jit(functools.partial(utility.gradient_norms, logits_fn))(*args)
    np.testing.assert_allclose(layerwise_norms(logits_fn, args)[0], reference, rtol=1e-5)


def test_every_row_is_right_on_eight_devices():
    logits_fn, (variables, images, labels), expected = problem(*NETWORKS["convnet3"])
    assert len(jax.local_devices()) == 8
    rows = np.arange(19) % N
    fn = functools.partial(layerwise.gradient_norms, logits_fn)
    norms, logits = parallel.map_batches(fn, 2, variables, np.asarray(images)[rows], np.asarray(labels)[rows])
    np.testing.assert_allclose(norms, expected[rows], rtol=1e-5)
    np.testing.assert_allclose(logits, np.asarray(jax.jit(logits_fn)(variables, images))[rows], rtol=1e-4, atol=1e-5)


def test_memory_is_far_below_the_gradients_of_the_batch():
    batch, model = 32, models.build("resnet18_cifar", K, width=32)
    images, labels = (jax.ShapeDtypeStruct(*a) for a in (((batch, 8, 8, 3), jnp.float32), ((batch,), jnp.int32)))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    fn = functools.partial(layerwise.gradient_norms, functools.partial(model.apply, train=False))
    used = jax.jit(fn).lower(variables, images, labels).compile().memory_analysis().temp_size_in_bytes
    assert used < batch * n_parameters * 4 / 10
