"""Fitting the codec: one step against a gradient taken by hand, then short fits of two classes at 8 pixels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from infoutil_jax.errors import ConfigError, DataError, NumericError
from infoutil_jax.rate import codec, fit, objectives

SIDE, K, PER_CLASS = 8, 2, 3
LABELS = np.repeat(np.arange(K), PER_CLASS)
CODEC = {
    scope: codec.Settings(SIDE, scope=scope, context=4, arm_depth=1, widths=(6,)) for scope in ("class", "dataset")
}


def make_images():
    """A colour for each class, a slope for each image."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    slopes = rng.uniform(-80, 80, (len(LABELS), 3, 2))
    colours = np.array([[200, 120, 60], [60, 90, 180]])[LABELS]
    images = colours[:, None, None] + np.einsum("ncd,dyx->nyxc", slopes, np.stack([y, x]))
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


IMAGES = make_images()
MSE = objectives.mse(IMAGES)


def short(**fields):
    return fit.Settings(**{"warmup_steps": 40, "steps": (), "lambdas": (), "beta": 300.0} | fields)


def trained_params(settings, seed=0):
    """Parameters with nothing at zero, so that every gradient shows."""
    n_units = codec.n_units(settings, K)
    params = codec.init(settings, n_units, len(LABELS) // n_units, seed)
    rng = np.random.default_rng(seed)
    moved = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params)
    return jax.tree.map(jnp.asarray, moved)


@pytest.mark.parametrize(("scope", "clip"), [("class", 1e9), ("dataset", 1e9), ("class", 0.05)])
def test_a_step_goes_down_the_gradient_of_its_images_alone(scope, clip):
    """Rate and utility written out; steps of SGD with rate 1 show the gradient, clipped unit by unit."""
    settings, params = CODEC[scope], trained_params(CODEC[scope])
    rows = np.array([0, 2, 3, 4])  # two of each class
    key, lam = jax.random.key(5), 20.0
    n_units, n = params["latents"].shape[:2]

    def objective(params):
        flat = params["latents"].reshape(len(LABELS), 1, -1)
        chosen = flat[rows].reshape(n_units, -1, flat.shape[-1])
        noise_key = jax.random.split(key)[0]
        latents_q = codec.noisy(settings, chosen, 0.3, 0.25, noise_key)
        images = codec.synthesise(settings, params, latents_q).reshape(len(rows), SIDE, SIDE, 3)
        snapped = jnp.round(jnp.clip(images, 0, 1) * 255) / 255
        error = jax.lax.stop_gradient(snapped - IMAGES[rows] / np.float32(255))
        utility = jnp.mean(2 * error * images)  # has the gradient that the squared error has at `snapped`
        return codec.bits(settings, params, latents_q).sum() / (len(rows) * SIDE**2) + lam * utility, jnp.mean(error**2)

    (_, expected_mse), expected = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    optimizer = optax.sgd(1.0)
    step = fit._make_step(settings, short(clip=clip), MSE.loss, optimizer)
    before = jax.tree.map(np.asarray, params)
    at = jnp.float32(lam), key, rows.reshape(n_units, -1).astype(np.int32)
    after, _, utility = step(params, optimizer.init(params), MSE.data, *at)
    np.testing.assert_allclose(utility, expected_mse, rtol=1e-4)
    for unit in range(n_units):
        moved = np.concatenate([(b - a)[unit].ravel() for a, b in zip(*map(jax.tree.leaves, (after, before)))])
        due = np.concatenate([np.asarray(leaf)[unit].ravel() for leaf in jax.tree.leaves(expected)])
        length = np.linalg.norm(due)
        assert length > 0.05
        np.testing.assert_allclose(moved, due * min(1, clip / length), rtol=1e-3, atol=1e-5 * min(length, clip))
    untouched = np.asarray(after["latents"]).reshape(len(LABELS), -1)[[1, 5]]
    np.testing.assert_array_equal(untouched, before["latents"].reshape(len(LABELS), -1)[[1, 5]])


def test_pixels_are_those_of_uint8_with_the_gradient_of_the_floats():
    x = ((np.arange(-80, 340) + 0.3) / 255).astype(np.float32)
    pixels = np.asarray(fit.as_pixels(x))
    as_u8 = np.rint(np.clip(x.astype(np.float64), 0, 1) * 255)
    np.testing.assert_allclose(pixels * 255, as_u8, atol=1e-3)
    np.testing.assert_array_equal(jax.grad(lambda x: fit.as_pixels(x).sum())(jnp.asarray(x)), 1)


@pytest.mark.parametrize("batch", [0, 2, 5])
def test_a_step_takes_as_many_different_images_of_each_class(batch):
    draws = [fit._rows(np.random.default_rng(seed), 3, 15, batch) for seed in range(40)]
    for rows in draws:
        assert np.array_equal(rows // 5, np.repeat(np.arange(3), batch or 5)) and (np.diff(rows) > 0).all()
    assert set(np.concatenate(draws)) == set(range(15))


@pytest.fixture(scope="module")
def fits():
    """{beta: Fitted} after a warm-up."""
    return {beta: fit.fit(CODEC["class"], short(beta=beta), IMAGES, LABELS, MSE, 0) for beta in (10.0, 3000.0)}


def hard_mse(fitted, settings=CODEC["class"]):
    images = codec.synthesise(settings, fitted.params, codec.hard(settings, fitted.params["latents"]))
    pixels = np.rint(np.clip(np.asarray(images), 0, 1) * 255).reshape(IMAGES.shape)
    return np.mean((pixels / 255 - IMAGES / 255) ** 2)


def test_a_larger_lambda_buys_fidelity_with_bits(fits):
    few, many = fits[10.0], fits[3000.0]
    assert many.history[-1].bits_per_class > 1.3 * few.history[-1].bits_per_class
    assert hard_mse(many) < 0.5 * hard_mse(few)
    assert hard_mse(many) < 0.2 * np.mean((IMAGES / 255 - IMAGES.mean((0, 1, 2)) / 255) ** 2)


def test_the_history_has_the_bits_of_what_is_coded(fits):
    fitted = fits[3000.0]
    assert [(p.stage, p.step, p.lam) for p in fitted.history] == [("warm-up", s, 3000.0) for s in (10, 20, 30, 40)]
    latents_q = jnp.round(CODEC["class"].gain * fitted.params["latents"])
    bits = np.asarray(codec.bits(CODEC["class"], fitted.params, latents_q), np.float64).sum() / K
    np.testing.assert_allclose(fitted.history[-1].bits_per_class, bits, rtol=1e-5)


def test_one_seed_one_fit(fits):
    again = fit.fit(CODEC["class"], short(beta=10.0), IMAGES, LABELS, MSE, 0)
    assert again.history == fits[10.0].history
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again.params, fits[10.0].params))


def test_stages_follow_each_other_with_the_utility_and_the_lambda_of_each():
    """A utility that asks for white images gets them, whatever the set's own are."""
    white = objectives.mse(np.full_like(IMAGES, 255))
    settings = short(warmup_steps=15, steps=(60, 12), lambdas=(2000.0, 500.0), rate=1e-2, batch=2)
    fitted = fit.fit(CODEC["dataset"], settings, IMAGES, LABELS, white, 0)
    points = [("warm-up", 15, 300.0), *[("joint 1", s, 2000.0) for s in (20, 40, 60)], ("joint 2", 12, 500.0)]
    assert [(p.stage, p.step, p.lam) for p in fitted.history] == points  # a pass over the images is two steps
    images = codec.synthesise(CODEC["dataset"], fitted.params, codec.hard(CODEC["dataset"], fitted.params["latents"]))
    assert np.asarray(images).mean() > 0.9


def test_lambda_is_steered_to_the_bits_asked_for(fits):
    target = 0.5 * (fits[10.0].history[-1].bits_per_class + fits[3000.0].history[-1].bits_per_class)
    for beta in (10.0, 3000.0):
        settings = short(beta=beta, warmup_steps=400, target_bpc=target)
        fitted = fit.fit(CODEC["class"], settings, IMAGES, LABELS, MSE, 0)
        assert abs(fitted.history[-1].bits_per_class / target - 1) < 0.1


def test_a_target_out_of_reach_does_not_overflow():
    history = [fit.Point("joint", 10, bits, 0.0, 1.0) for bits in [800.0] * 300]
    for target in (1e6, 1e-3):
        assert 0 < fit._factor(fit.Settings(target_bpc=target), history) < math.inf


def test_steering_comes_back_at_once_from_a_target_out_of_reach():
    points = lambda bits, n: [fit.Point("joint", 10, bits, 0.0, 1.0)] * n
    settings = fit.Settings(target_bpc=1_000.0)
    long_below = points(100.0, 300)
    assert fit._factor(settings, long_below) == pytest.approx(math.exp(fit.MOST_STEERED))
    then_above = math.log(fit._factor(settings, long_below + points(10_000.0, 5)))
    assert then_above == pytest.approx(fit.MOST_STEERED - (5 * fit.FOR_GOOD + fit.AT_ONCE) * math.log(10))


def test_a_target_that_is_missed_is_told(capsys):
    history = [fit.Point("joint 1", 10, 900.0, 0.0, 1.0)]
    fit._tell_of_a_miss(880.0, history)
    assert "asked for" not in "".join(capsys.readouterr())
    fit._tell_of_a_miss(1_000.0, history)
    assert "900 bits per class of latents, 1,000 asked for" in "".join(capsys.readouterr())


def test_a_loss_that_is_not_finite_stops_the_fit():
    nan = objectives.Utility((), lambda data, images, indices, key: images.sum() * jnp.nan)
    with pytest.raises(NumericError, match="joint 1.*step 1"):
        fit.fit(CODEC["class"], short(warmup_steps=0, steps=(1,), lambdas=(1.0,)), IMAGES, LABELS, nan, 0)


@pytest.mark.parametrize(
    ("images", "labels", "batch"),
    [
        (IMAGES, LABELS[::-1], 0),
        (IMAGES, np.array([0, 0, 0, 0, 1, 1]), 0),
        (IMAGES, LABELS[:4], 0),
        (IMAGES[:, :4], LABELS, 0),
        (IMAGES[:0], LABELS[:0], 0),
        (IMAGES, LABELS, 4),
    ],
)
def test_sets_that_do_not_fit_are_refused(images, labels, batch):
    with pytest.raises(DataError, match="codec: "):
        fit.fit(CODEC["class"], short(batch=batch), images, labels, MSE, 0)


@pytest.mark.parametrize("wrong", [{"steps": (1,)}, {"rate": 0.0}, {"lambdas": (-1.0,), "steps": (1,)}, {"batch": -1}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"fit.{next(iter(wrong))}"):
        short(**wrong)
