"""Utilities against sums in float64: a linear network, of which everything is known, in place of a deep one."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from infoutil_jax import models, train
from infoutil_jax.data import augment
from infoutil_jax.errors import ConfigError
from infoutil_jax.models import convnet, convolution
from infoutil_jax.rate import objectives
from infoutil_jax.stages import evaluate

SIDE, K, N = 8, 2, 6
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
STUDENTS = evaluate.Settings(
    model="convnet3", width=4, epochs=1, batch_size=0, learning_rate=0.05, schedule="half_cosine", weight_decay=0.0,
    ema=0.0, loss="kl", temperature=20.0, class_weight=0.0, labels="online", cutmix=True, min_scale=0.5, zoom=0.0,
    zoom_grid=2, shuffle=True, augment="none", bn_momentum=0.81, test_every=1, seeds=1, hard_seeds=0,
)  # fmt: skip
WHOLE = dataclasses.replace(STUDENTS, min_scale=1.0)  # without mirroring, a view is the image
KEY = jax.random.key(3)
ROWS = np.arange(N, dtype=np.int32)


class Linear(nn.Module):
    """Its features are the pixels."""

    n_classes: int

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(self.n_classes, name="classifier")(x.reshape(len(x), -1))


LINEAR = train.Network(Linear(K), MEAN, STD)
CONVNET = train.Network(convnet.ConvNet(K, depth=2, width=5, norm="instance"), MEAN, STD)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def images_u8():
    return np.random.default_rng(1).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def decoded():
    return np.random.default_rng(2).uniform(size=(N, SIDE, SIDE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def real():
    """Classes of different sizes, all images of one equal, so that it does not matter which are drawn."""
    plain = np.random.default_rng(3).integers(0, 256, (K, SIDE, SIDE, 3), dtype=np.uint8)
    return [np.repeat(image[None], n, axis=0) for image, n in zip(plain, (5, 3), strict=True)]


def call(built, images, rows, *keys):
    """The compiled utility for each key."""
    loss = jax.jit(built.loss)
    found = [float(loss(built.data, images, rows, key)) for key in keys]
    return found if len(found) > 1 else found[0]


def pixels(images):
    """What LINEAR's classifier is given, in float64."""
    images = np.asarray(images, np.float64) / (255 if images.dtype == np.uint8 else 1)
    return ((images - np.array(MEAN)) / np.array(STD)).reshape(len(images), -1)


def linear_params(seed):
    rng = np.random.default_rng(seed)
    shape = (SIDE * SIDE * 3, K)
    values = {"kernel": 0.1 * rng.normal(size=shape), "bias": rng.normal(size=K)}
    return {"classifier": {name: value.astype(np.float32) for name, value in values.items()}}


def linear_gradient(kernel, bias, features, labels):
    """Of the mean cross-entropy."""
    errors = (softmax(features @ kernel + bias, axis=1) - np.eye(K)[labels]) / len(labels)
    return features.T @ errors, errors.sum(0)


def test_mse_is_over_all_values_of_the_rows_asked_for(images_u8, decoded):
    rows = np.array([1, 4], np.int32)
    expected = np.mean((decoded[:2].astype(np.float64) - images_u8[[1, 4]] / 255) ** 2)
    np.testing.assert_allclose(
        call(objectives.utility("mse", images_u8=images_u8), decoded[:2], rows, KEY), expected, 1e-5
    )


def teacher_arguments(images_u8, factor=1, flip=False, students=WHOLE):
    shown = dict(students=students, factor=factor, flip=flip)
    return dict(images_u8=images_u8, teacher=LINEAR, variables={"params": linear_params(0)}, **shown)


def test_teacher_kl_is_its_formula_at_the_students_temperature(images_u8, decoded):
    arguments = teacher_arguments(images_u8, students=dataclasses.replace(WHOLE, temperature=2.0))
    layer = arguments["variables"]["params"]["classifier"]
    p, q = (softmax((pixels(i) @ layer["kernel"] + layer["bias"]) / 2, axis=1) for i in (images_u8, decoded))
    expected = (p * np.log(p / q)).sum(1).mean()
    assert expected > 0.01
    np.testing.assert_allclose(call(objectives.utility("teacher_kl", **arguments), decoded, ROWS, KEY), expected, 1e-4)


def test_teacher_features_are_compared_by_their_mean_absolute_difference(images_u8, decoded):
    expected = np.abs(pixels(images_u8) - pixels(decoded)).mean()
    found = call(objectives.utility("teacher_features", **teacher_arguments(images_u8)), decoded, ROWS, KEY)
    np.testing.assert_allclose(found, expected, 1e-5)


@pytest.mark.parametrize("factor", [1, 2])
def test_the_teacher_sees_both_as_students_do(images_u8, decoded, factor):
    """One image at a time through evaluate.view; RandAugment, which no gradient passes, is left out."""
    settings = dataclasses.replace(STUDENTS, min_scale=0.2, zoom=0.3, augment="randaugment")
    arguments = teacher_arguments(images_u8, factor, True, settings)
    rows = np.array([0, 2, 5], np.int32)
    shown = dataclasses.replace(settings, augment="none")
    blank, one_view = jnp.zeros((factor, factor, K)), jax.jit(evaluate.view, static_argnums=(0, 1, 2))
    distances = []
    for row in rows:
        key = jax.random.fold_in(KEY, row)
        seen = (
            one_view(shown, factor, True, key, i, blank)[0] for i in (images_u8[row] / np.float32(255), decoded[row])
        )
        one, other = (pixels(np.asarray(image)[None]) for image in seen)
        distances.append(np.abs(one - other).mean())
    found = call(objectives.utility("teacher_features", **arguments), decoded[rows], rows, KEY)
    np.testing.assert_allclose(found, np.mean(distances), 1e-4)


def test_the_teacher_knows_decoded_images_that_did_not_change(images_u8):
    settings = dataclasses.replace(STUDENTS, min_scale=0.2)
    for name in ("teacher_kl", "teacher_features"):
        same = objectives.utility(name, **teacher_arguments(images_u8, flip=True, students=settings))
        np.testing.assert_allclose(call(same, images_u8 / np.float32(255), ROWS, KEY), 0, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2])
def test_distribution_matching_sums_squared_distances_of_class_means(real, decoded, factor):
    images = decoded
    if factor == 2:
        tiles = [image[y : y + 4, x : x + 4] for image in decoded for y in (0, 4) for x in (0, 4)]
        images = np.stack([np.asarray(augment.resize(jnp.asarray(tile), SIDE)) for tile in tiles])
    means = (pixels(part).mean(0) for part in np.split(images, K))
    expected = sum(((ours - pixels(theirs)[0]) ** 2).sum() for ours, theirs in zip(means, real, strict=True))
    arguments = dict(real=real, network=LINEAR, students=WHOLE, factor=factor, flip=False, per_class=4)
    found = call(objectives.utility("distribution_matching", **arguments), decoded, ROWS, KEY)
    np.testing.assert_allclose(found, expected, 1e-4)


def test_real_and_decoded_images_of_a_class_share_a_view_and_classes_do_not(real):
    arguments = dict(real=real, network=LINEAR, students=STUDENTS, factor=1, flip=True, per_class=4)
    same = np.concatenate([images[:3] for images in real]) / np.float32(255)
    keys = jax.random.split(KEY, 4)
    np.testing.assert_allclose(call(objectives.distribution_matching(**arguments), same, ROWS, *keys), 0, atol=1e-6)
    one = objectives.distribution_matching(**arguments | {"real": [real[0]] * K})
    found = call(one, np.zeros((N, SIDE, SIDE, 3), np.float32), ROWS, *keys)
    second_black = np.where((ROWS < 3)[:, None, None, None], same, np.float32(0))
    halves = call(one, second_black, ROWS, *keys)
    assert len(set(found)) == 4  # a view of its own for each step, and for each class:
    assert (np.abs(np.array(halves) / found - 0.5) > 1e-3).any()


def test_every_real_image_is_drawn_and_only_its_class(rng):
    sizes = (3, 1, 4)
    levels = np.split(np.arange(8, dtype=np.uint8), np.cumsum(sizes)[:-1])
    pool = objectives._pool([np.broadcast_to(v[:, None, None, None], (len(v), 2, 2, 3)) for v in levels])
    drawn = np.rint(np.asarray(objectives._draw(pool, KEY, 100))[:, 0, 0, 0] * 255)
    for values, of_class in zip(levels, drawn.reshape(3, 100), strict=True):
        assert set(of_class) == set(values)


def test_layer_distance_is_one_less_the_cosine_of_each_output_channel(rng):
    shapes = {"conv": {"kernel": (3, 3, 2, 5), "bias": (5,)}, "classifier": {"kernel": (4, 3)}}
    one, other = (
        jax.tree.map(lambda s: rng.normal(size=s).astype(np.float32), shapes, is_leaf=lambda s: isinstance(s, tuple))
        for _ in range(2)
    )
    one["conv"]["kernel"][..., 1] = 0
    expected = 0
    for name in shapes:
        a, b = (np.asarray(tree[name]["kernel"], np.float64) for tree in (one, other))
        for channel in range(a.shape[-1]):
            u, v = a[..., channel].ravel(), b[..., channel].ravel()
            expected += 1 - u @ v / (np.linalg.norm(u) * np.linalg.norm(v) + 1e-6)
    np.testing.assert_allclose(objectives.layer_distance(one, other), expected, 1e-5)
    gradient = jax.grad(objectives.layer_distance)(one, other)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_matching_is_by_class_along_a_training_on_the_decoded_images(real, decoded, steps):
    arguments = dict(real=real, network=LINEAR, factor=1, per_class=4, steps=steps, learning_rate=0.05)
    found = call(objectives.utility("gradient_matching", **arguments), decoded, ROWS, KEY)
    params = models.initialize(LINEAR.model, jax.random.split(KEY)[0], SIDE)["params"]["classifier"]
    kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    expected = 0
    for _ in range(steps):
        for label, images in enumerate(np.split(decoded, K)):
            theirs, ours = (
                linear_gradient(kernel, bias, pixels(i), [label] * len(i))[0] for i in (real[label], images)
            )
            norms = np.linalg.norm(theirs, axis=0) * np.linalg.norm(ours, axis=0)
            expected += (1 - (theirs * ours).sum(0) / (norms + 1e-6)).sum()
        moves = linear_gradient(kernel, bias, pixels(decoded), np.repeat([0, 1], 3))
        kernel, bias = kernel - 0.05 * moves[0], bias - 0.05 * moves[1]
    np.testing.assert_allclose(found, expected, 1e-4)


def test_trajectory_matching_measures_what_is_left_of_the_way(decoded):
    """Starts are told apart by their values: for each key, one of the four possible ways gives the number found."""
    experts = [[linear_params(10 * e + t) for t in range(4)] for e in range(2)]
    arguments = dict(experts=experts, network=LINEAR, n_classes=K, students=WHOLE, factor=1, flip=False)
    matching = objectives.utility("trajectory_matching", **arguments, steps=3, ahead=2, learning_rate=0.05)
    expected = []
    for expert in experts:
        for start in range(2):
            at, target = (
                [np.float64(v[n]) for n in ("kernel", "bias")]
                for v in (expert[t]["classifier"] for t in (start, start + 2))
            )
            gap = lambda params: sum(((p - q) ** 2).sum() for p, q in zip(params, target, strict=True))
            way = gap(at)
            for _ in range(3):
                at = [
                    p - 0.05 * g
                    for p, g in zip(at, linear_gradient(*at, pixels(decoded), np.repeat([0, 1], 3)), strict=True)
                ]
            expected.append(gap(at) / way)
    found = call(matching, decoded, ROWS, *jax.random.split(KEY, 20))
    nearest = [int(np.abs(np.array(expected) - value).argmin()) for value in found]
    np.testing.assert_allclose(found, np.array(expected)[nearest], 1e-4)
    assert set(nearest) == {0, 1, 2, 3}
    first = objectives.trajectory_matching(**arguments, steps=3, ahead=2, learning_rate=0.05, last_start=0)
    found = call(first, decoded, ROWS, *jax.random.split(KEY, 20))
    assert {int(np.abs(np.array(expected) - value).argmin()) for value in found} == {0, 2}


@pytest.mark.parametrize("wrong", [{"ahead": 0}, {"ahead": 4}, {"ahead": 2, "last_start": 2}])
def test_a_start_needs_a_target_after_it(wrong):
    experts = [[linear_params(t) for t in range(4)]]
    arguments = dict(experts=experts, network=LINEAR, n_classes=K, students=WHOLE, factor=1, flip=False)
    with pytest.raises(ConfigError, match="trajectory_matching"):
        objectives.trajectory_matching(**arguments, **{"steps": 1, "learning_rate": 0.1, **wrong})


def test_a_batch_of_a_trajectory_step_is_of_the_size_asked_for_with_its_own_labels(decoded):
    """One step on one image: the ratio is that of one of the images."""
    experts = [[linear_params(t) for t in range(2)]]
    arguments = dict(experts=experts, network=LINEAR, n_classes=K, students=WHOLE, factor=1, flip=False)
    matching = objectives.trajectory_matching(**arguments, steps=1, ahead=1, learning_rate=0.5, batch_size=1)
    start, target = ([np.float64(v["classifier"][n]) for n in ("kernel", "bias")] for v in experts[0])
    gap = lambda params: sum(((p - q) ** 2).sum() for p, q in zip(params, target, strict=True))
    expected = []
    for image, label in zip(decoded, np.repeat([0, 1], 3), strict=True):
        moves = linear_gradient(*start, pixels(image[None]), [label])
        expected.append(gap([p - 0.5 * g for p, g in zip(start, moves, strict=True)]) / gap(start))
    found = np.array(call(matching, decoded, ROWS, *jax.random.split(KEY, 12)))
    nearest = np.abs(np.array(expected)[None] - found[:, None]).argmin(1)
    np.testing.assert_allclose(found, np.array(expected)[nearest], 1e-4)
    assert len(set(nearest.tolist())) > 2


def build(name, network, images_u8, real, steps=2):
    """A utility with everything that it can do."""
    sharp = dataclasses.replace(STUDENTS, temperature=1.0)
    experts = [[models.initialize(network.model, jax.random.key(t), SIDE)["params"] for t in range(2)]]
    teacher = teacher_arguments(images_u8, flip=True, factor=2, students=sharp)
    shown = dict(network=network, students=STUDENTS, factor=2, flip=True)
    arguments = {
        "mse": dict(images_u8=images_u8),
        "teacher_kl": teacher,
        "teacher_features": teacher,
        "distribution_matching": dict(real=real, per_class=4, **shown),
        "gradient_matching": dict(real=real, network=network, factor=2, per_class=4, steps=1),
        "trajectory_matching": dict(
            experts=experts, n_classes=K, steps=steps, ahead=1, learning_rate=0.1, batch_size=8, **shown
        ),
    }
    return objectives.utility(name, **arguments[name])


@pytest.mark.parametrize("name", objectives.UTILITIES)
def test_gradients_are_the_slopes(images_u8, real, decoded, name):
    """Central differences along the gradient: whatever depends on the images is differentiated."""
    built = build(name, LINEAR, images_u8, real)
    both = jax.jit(jax.value_and_grad(lambda images: built(images, ROWS, KEY)))
    _, gradient = both(jnp.asarray(decoded))
    direction = np.asarray(gradient) / np.linalg.norm(gradient)
    up, down = (float(both(decoded + step * direction)[0]) for step in (0.05, -0.05))
    np.testing.assert_allclose(np.linalg.norm(gradient), (up - down) / 0.1, rtol=0.01)


@pytest.mark.parametrize("least", [0, 1e8])
@pytest.mark.parametrize("name", ["gradient_matching", "trajectory_matching"])
def test_second_derivatives_of_our_convolution_are_those_of_xlas(images_u8, real, decoded, name, least, monkeypatch):
    monkeypatch.setattr(convolution, "_WORTH_COMPILING", least)  # from here on gradients go through `winograd`

    def gradient():
        built = build(name, CONVNET, images_u8, real, 1)  # anew: traces are remembered by function
        return np.asarray(jax.jit(jax.grad(lambda images: built(images, ROWS, KEY)))(jnp.asarray(decoded)))

    ours = gradient()
    monkeypatch.setattr(convnet, "convolve", jax.lax.conv_general_dilated)
    theirs = gradient()
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())
    assert np.linalg.norm(theirs) > 1e-4


def test_a_weighted_sum_is_of_its_parts(images_u8, decoded):
    parts = objectives.mse(images_u8), objectives.teacher_features(**teacher_arguments(images_u8))
    both = objectives.weighted_sum((2.0, parts[0]), (0.5, parts[1]))
    expected = 2 * call(parts[0], decoded, ROWS, KEY) + 0.5 * call(parts[1], decoded, ROWS, KEY)
    np.testing.assert_allclose(call(both, decoded, ROWS, KEY), expected, 1e-6)


def test_an_unknown_utility_is_named():
    with pytest.raises(ConfigError, match="teacher_kl"):
        objectives.utility("teacher_lk")
