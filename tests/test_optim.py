"""Schedules and optimisers against their formulas, step by step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoutil_jax import optim

PARAMS = {"conv": {"kernel": np.full((2, 2), 3.0), "bias": np.full(2, 3.0)}, "norm": {"scale": np.full(2, 3.0)},
          "position": np.full((1, 2, 2), 3.0)}  # fmt: skip


def test_half_speed_cosine_is_constant_within_an_epoch_and_goes_to_half():
    schedule = optim.half_speed_cosine(0.4, steps_per_epoch=3, epochs=10)
    rates = np.array([float(schedule(jnp.int32(step))) for step in range(33)]).reshape(11, 3)
    assert (rates == rates[:, :1]).all()
    expected = [0.4 * 0.5 * (1 + math.cos(math.pi * epoch / 20)) for epoch in range(11)]
    np.testing.assert_allclose(rates[:, 0], expected, rtol=1e-6)
    assert rates[0, 0] == pytest.approx(0.4) and rates[10, 0] == pytest.approx(0.2)
    assert (np.diff(rates[:, 0]) < 0).all()


def test_cosine_goes_to_zero_step_by_step():
    rates = [float(optim.cosine(0.4, 3, 10)(jnp.int32(step))) for step in range(31)]
    np.testing.assert_allclose(rates, [0.2 * (1 + math.cos(math.pi * step / 30)) for step in range(31)], atol=1e-7)


def test_ssrs_leaves_the_half_speed_cosine_at_five_sixths_for_a_line_to_zero():
    rates = np.array([float(optim.ssrs(0.4, 2, 12)(jnp.int32(step))) for step in range(26)]).reshape(13, 2)
    expected = [0.2 * (1 + math.cos(math.pi * epoch / 24)) for epoch in range(11)]
    expected += [expected[10] / 2, 0.0]
    np.testing.assert_allclose(rates[:, 0], expected, rtol=1e-6, atol=1e-8)
    assert (rates[:, 0] == rates[:, 1]).all()


@pytest.mark.parametrize(("warmup", "total"), [(0, 8), (4, 12), (5, 5)])
def test_warmup_is_linear_and_the_cosine_ends_at_zero(warmup, total):
    schedule = optim.warmup_cosine(0.5, warmup, total)
    last = max(total, warmup + 1)
    with jax.numpy_dtype_promotion("standard"):  # as in train.update
        rates = [float(schedule(jnp.int32(step))) for step in range(last + 1)]
    rising = [0.5 * step / warmup for step in range(warmup)]
    falling = [0.25 * (1 + math.cos(math.pi * step / (last - warmup))) for step in range(last - warmup + 1)]
    np.testing.assert_allclose(rates, rising + falling, rtol=1e-5, atol=1e-7)


def run(optimizer, gradients):
    params = jax.tree.map(jnp.float32, PARAMS)
    state = optimizer.init(params)
    for value in gradients:
        grads = jax.tree.map(lambda p: jnp.full_like(p, value), params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def adamw_formula(p, gradients, decay):
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p -= 0.1 * (m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * p)
    return p


def sgd_formula(p, gradients, decay):
    velocity = 0.0
    for g in gradients:
        g = g + decay * p
        velocity = 0.9 * velocity + g
        p -= 0.1 * (g + 0.9 * velocity)
    return p


@pytest.mark.parametrize(("name", "formula"), [("adamw", adamw_formula), ("sgd", sgd_formula)])
def test_weight_decay_leaves_biases_and_norms_alone(name, formula):
    optimizer = optim.OPTIMIZERS[name](lambda step: 0.1, 0.2)
    gradients = [0.5, -1.0, 0.25]
    params = run(optimizer, gradients)
    np.testing.assert_allclose(params["conv"]["kernel"], formula(3.0, gradients, 0.2), rtol=1e-5)
    for leaf in (params["conv"]["bias"], params["norm"]["scale"]):
        np.testing.assert_allclose(leaf, formula(3.0, gradients, 0.0), rtol=1e-5)
    still = run(optimizer, [0.0])
    assert (still["norm"]["scale"] == 3).all() and (still["conv"]["bias"] == 3).all()
    assert (still["conv"]["kernel"] < 3).all()
