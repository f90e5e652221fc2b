"""ViT, Swin-V2, ConvNeXt and MLP-Mixer; tests_parity/test_layouts_tokens.py checks that they equal PyTorch's."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoutil_jax import layerwise, models, utility
from infoutil_jax.errors import ConfigError
from infoutil_jax.models import convnext, swin

K = 4
PARAMETERS = {  # published, at 1000 classes: count, side of the images
    "vit_b_16": (86_567_656, 224),
    "swin_v2_t": (28_351_570, 256),
    "convnext_t": (28_589_128, 224),
    "mixer_b16": (59_880_472, 224),
}
TINY = {
    "vit_b_16": dict(patch=8, depth=2, width=24, n_heads=3, mlp_width=32),
    "swin_v2_t": dict(depths=(2, 1), width=12, n_heads=(2, 3), window=3),  # 8x8 and 4x4 pixels, padded to 9x9 and 6x6
    "convnext_t": dict(depths=(1, 1), widths=(8, 12)),
    "mixer_b16": dict(patch=8, depth=2, width=16, token_width=8, channel_width=24),
}


def tiny(name, **settings):
    return models.build(name, K, **TINY[name], **settings)


def shapes_of(model, side=32):
    return jax.eval_shape(functools.partial(models.initialize, model, image_size=side), jax.random.key(0))


def draw_images(n=4, side=32):
    return jnp.asarray(np.random.default_rng(1).normal(size=(n, side, side, 3)), jnp.float32)


def random_variables(shapes):
    """Kernels of variance 1 / fan_in, positive scales, all else around 0."""
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "scale":
            return jnp.asarray(generator.uniform(0.5, 2, leaf.shape), jnp.float32)
        deviation = np.prod(leaf.shape[:-1]) ** -0.5 if path[-1].key == "kernel" else 0.3
        return jnp.asarray(generator.normal(0, deviation, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_equal_the_published_ones(name):
    count, side = PARAMETERS[name]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(models.build(name, 1000), side))) == count


@pytest.mark.parametrize("name", ["vit_b_16", "mixer_b16"])
@pytest.mark.parametrize(("height", "width"), [(32, 40), (24, 32), (0, 16)])
def test_images_that_patches_do_not_divide_are_refused(name, height, width):
    images = jnp.zeros((1, height, width, 3))
    with pytest.raises(ConfigError, match=f"multiple of 16, got {height}x{width}"):
        models.build(name, K).init(jax.random.key(0), images, train=False)


def test_images_of_which_nothing_would_be_left_are_refused():
    for name, smallest in {"convnext_t": 32, "swin_v2_t": 4}.items():
        shapes_of(models.build(name, K), smallest)
        with pytest.raises(ConfigError, match=f"{smallest} pixels or more, got {smallest - 1}x{smallest - 1}"):
            shapes_of(models.build(name, K), smallest - 1)


@pytest.mark.parametrize("name", TINY)
def test_layerwise_gradient_norms_equal_those_of_all_gradients(name):
    model, images, labels = tiny(name), draw_images(), jnp.arange(4) % K
    args = (random_variables(shapes_of(model)), images, labels)
    logits_fn = functools.partial(model.apply, train=False)
    expected = jax.jit(functools.partial(utility.gradient_norms, logits_fn))(*args)
    norms, logits = jax.jit(functools.partial(layerwise.gradient_norms, logits_fn))(*args)
    assert np.isfinite(expected).all() and np.ptp(expected) > 0.01 * np.max(expected)
    np.testing.assert_allclose(norms, expected, rtol=1e-5)
    np.testing.assert_allclose(logits, jax.jit(logits_fn)(*args[:2]), rtol=1e-4, atol=1e-5)
    leaves = jax.tree_util.tree_leaves_with_path(args[0]["params"])
    by_layer = layerwise._find_kernels(logits_fn, args[0], images[:1])
    assert by_layer == [path[-1].key == "kernel" for path, _ in leaves]


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_is_of_the_activations_alone(name):
    model, images = tiny(name, dtype="bfloat16"), draw_images(2)
    variables = random_variables(shapes_of(model))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(model))} == {jnp.dtype("float32")}
    keep = dict(train=False, capture_intermediates=True, mutable=["intermediates"])
    logits, seen = jax.jit(functools.partial(model.apply, **keep))(variables, images)
    outputs = jax.tree_util.tree_leaves_with_path(seen["intermediates"])
    layers = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in outputs if len(path) > 2}
    exempt = ("norm", "position", "classifier")
    layers = {path: dtype for path, dtype in layers.items() if not any(word in path for word in exempt)}
    assert set(layers.values()) == {jnp.dtype("bfloat16")} and len(layers) >= 8 and logits.dtype == jnp.float32
    exact = jax.jit(functools.partial(tiny(name).apply, train=False))(variables, images)
    np.testing.assert_allclose(logits, exact, atol=0.1 * np.abs(exact).max())
    assert not np.array_equal(logits, exact)


@pytest.mark.parametrize(
    ("name", "setting"),
    [("vit_b_16", "dropout"), ("swin_v2_t", "stochastic_depth"), ("convnext_t", "stochastic_depth")],
)
def test_dropout_is_drawn_in_training_alone(name, setting):
    without, model = tiny(name, **{setting: 0.0}), tiny(name, **{setting: 0.5})
    args = random_variables(shapes_of(model)), draw_images()
    plain = jax.jit(functools.partial(without.apply, train=True))(*args)
    np.testing.assert_allclose(jax.jit(functools.partial(model.apply, train=False))(*args), plain, rtol=1e-4, atol=1e-5)
    drawn = jax.jit(lambda key: model.apply(*args, train=True, rngs={"dropout": key}))
    one, again, other = (drawn(jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert min(np.abs(one - plain).max(), np.abs(one - other).max()) > 0.01


@pytest.mark.parametrize("name", PARAMETERS)
def test_rates_and_epsilons_of_the_published_networks(name):
    """Stochastic depth grows linearly with the depth; ViT and Mixer draw nothing."""
    published = {
        "vit_b_16": ([], 1e-6),
        "swin_v2_t": (np.repeat(np.linspace(0, 0.2, 12), 2), 1e-5),
        "convnext_t": (np.linspace(0, 0.1, 18), 1e-6),
        "mixer_b16": ([], 1e-6),
    }
    rates, epsilons = [], set()

    def note(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout) and context.module.broadcast_dims:
            rates.append(context.module.rate)
        if isinstance(context.module, nn.LayerNorm):
            epsilons.add(context.module.epsilon)
        return call(*args, **kwargs)

    expected_rates, epsilon = published[name]
    model, images = models.build(name, K), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    rngs = {"dropout": jax.random.key(0)} if len(expected_rates) else {}
    variables = shapes_of(model, 64)
    with nn.intercept_methods(note):
        jax.eval_shape(functools.partial(model.apply, train=True, rngs=rngs), variables, images)
    np.testing.assert_allclose(rates, expected_rates)
    assert epsilons == {epsilon}


BLOCKS = {
    "swin": swin.Block(n_heads=2, window=4, shift=0, drop_rate=0.25, dtype="float32"),
    "convnext": convnext.Block(layer_scale=1.0, drop_rate=0.25, dtype="float32"),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_stochastic_depth_drops_a_branch_for_whole_images(name):
    block, x = BLOCKS[name], jax.random.normal(jax.random.key(0), (64, 4, 4, 8))
    shapes = jax.eval_shape(functools.partial(block.init, train=False), jax.random.key(0), x)
    variables = random_variables(shapes)
    if name == "swin":  # its second branch ends in norm2
        variables["params"]["norm2"] = jax.tree.map(jnp.zeros_like, variables["params"]["norm2"])
    branch = jax.jit(functools.partial(block.apply, train=False))(variables, x) - x
    rngs = {"dropout": jax.random.key(1)}
    dropped = jax.jit(functools.partial(block.apply, train=True, rngs=rngs))(variables, x) - x
    kept = np.abs(dropped).max(axis=(1, 2, 3)) > 0
    assert 0.6 < kept.mean() < 0.9
    np.testing.assert_allclose(dropped, np.where(kept[:, None, None, None], branch / 0.75, 0), rtol=1e-4, atol=1e-5)


def test_initialisation_follows_torchvision_and_timm():
    initial = lambda name, **settings: models.initialize(models.build(name, K, **settings), jax.random.key(0), 32)[
        "params"
    ]
    vit = initial("vit_b_16", depth=1, width=96, n_heads=3, mlp_width=192)
    np.testing.assert_allclose(np.std(vit["conv_stem"]["kernel"]), (3 * 16 * 16) ** -0.5, rtol=0.05)
    np.testing.assert_allclose(np.std(vit["position"]), 0.02, rtol=0.1)
    attention, mlp = vit["block1"]["attention"], vit["block1"]["mlp"]
    bounds = {
        math.sqrt(6 / (4 * 96)): attention["qkv"],
        math.sqrt(6 / (3 * 96)): mlp["dense1"],
        96**-0.5: attention["proj"],
    }
    for bound, layer in bounds.items():
        assert 0.99 * bound < np.abs(layer["kernel"]).max() <= bound
    np.testing.assert_allclose(np.std(mlp["dense1"]["bias"]), 1e-6, rtol=0.3)
    zero = [
        vit["classifier"],
        vit["class_token"],
        vit["conv_stem"]["bias"],
        attention["qkv"]["bias"],
        attention["proj"]["bias"],
    ]

    mixer = initial("mixer_b16", depth=1, width=96, token_width=8, channel_width=8)
    kernel, deviation = mixer["conv_stem"]["kernel"], (3 * 16 * 16) ** -0.5
    np.testing.assert_allclose(np.std(kernel), deviation, rtol=0.02)
    np.testing.assert_allclose(np.abs(kernel).max(), 2 * deviation / 0.8796, rtol=0.01)
    zero += [mixer["classifier"], mixer["conv_stem"]["bias"]]

    small = initial("swin_v2_t", depths=(1,), n_heads=(3,))
    np.testing.assert_allclose(np.abs(small["conv_stem"]["bias"]).max(), 48**-0.5, rtol=0.1)
    block = small["stage1_block1"]
    np.testing.assert_allclose(block["attention"]["logit_scale"], np.full((3, 1, 1), math.log(10)), rtol=1e-6)
    kernels = [block["attention"][part]["kernel"] for part in ("qkv", "proj", "position1", "position2")]
    zero += [block["attention"]["qkv_bias"], block["mlp"]["dense1"]["bias"], small["classifier"]["bias"]]

    small = initial("convnext_t", depths=(1, 1), widths=(32, 64))
    np.testing.assert_allclose(small["stage1_block1"]["layer_scale"], np.full(32, 1e-6), rtol=1e-6)
    kernels += [small[name]["kernel"] for name in ("conv_stem", "conv_shrink1", "classifier")]
    kernels += [small["stage2_block1"][part]["kernel"] for part in ("conv",)]
    zero += [small["conv_stem"]["bias"], small["stage2_block1"]["conv"]["bias"], small["classifier"]["bias"]]
    for kernel in kernels:
        np.testing.assert_allclose(np.std(kernel), 0.02, rtol=0.1)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zero))


def test_layouts_know_old_names_and_leave_unknown_ones():
    vit = models.layouts("vit_b_16")["torchvision"].rename
    block = "encoder.layers.encoder_layer_11"
    for old, new in {"linear_1": 0, "linear_2": 3}.items():
        assert (
            vit(f"{block}.mlp.{old}.weight")
            == vit(f"{block}.mlp.{new}.weight")
            == f"block12.mlp.dense{new // 3 + 1}.weight"
        )
    for name in PARAMETERS:
        for layout in models.layouts(name).values():
            for key in (
                f"{block}.q.bias",
                "features.1.0.q.weight",
                "layers.0.blocks.1.q",
                "blocks.0.q.bias",
                "q.weight",
                "q",
            ):
                assert layout.rename(key) == key
    for layout in models.layouts("swin_v2_t").values():
        assert layout.rename("features.1.0.attn.relative_position_index") is None
        assert layout.rename("layers.0.blocks.1.attn_mask") is None


@pytest.mark.parametrize("name, width, heads", [("vit_b_16", 800, 12), ("swin_v2_t", 32, 3)])
def test_a_width_that_the_heads_cannot_share_is_refused(name, width, heads):
    def shapes(width):
        init = functools.partial(models.build(name, K, width=width).init, train=False)
        return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

    fault = f"width={width} cannot be divided among {heads} attention heads; choose a multiple of {heads}"
    with pytest.raises(ConfigError, match=fault):
        shapes(width)
    assert shapes(width // heads * heads)
