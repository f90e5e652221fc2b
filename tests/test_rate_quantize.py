"""Networks as integers: what the steps cost and change, and that a real coder agrees."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from test_rate_codec import make_params

from infoutil_jax.rate import codec, entropy, integer, quantize
from infoutil_jax.rate.codec import Settings

SETTINGS = Settings(8, context=4, arm_depth=1, widths=(5,))


def images_of(params, latents_UnL, layers=None):
    q = jnp.asarray(latents_UnL, jnp.float32)
    return np.clip(codec.synthesise(SETTINGS, params | ({"synthesis": layers} if layers else {}), q), 0, 1)


def change(params, latents_UnL, layers):
    return ((images_of(params, latents_UnL, layers) - images_of(params, latents_UnL)) ** 2).mean((1, 2, 3, 4))


def bits_of(integers):
    """Of a Laplace law about 0 with their mean deviation."""
    zeros = np.zeros(len(integers), np.int64)
    return entropy.bits(integers, zeros, zeros + entropy.scale_index(int(64 * np.abs(integers).mean())))


def steps_of(modules):
    return np.array([module[2:] for module in modules]).T


def test_modules_round_to_the_nearest_multiple_of_their_step():
    params = make_params(SETTINGS)
    kernel_U, bias_U = np.array([-3, -5]), np.array([-2, -7])
    modules = quantize.as_modules(params["arm"], kernel_U, bias_U)
    layers = quantize.as_layers(modules)
    for (i, layer), unit in itertools.product(enumerate(layers), range(2)):
        for name, step in (("kernel", 2.0 ** kernel_U[unit]), ("bias", 2.0 ** bias_U[unit])):
            found, exact = layer[name][unit], np.asarray(params["arm"][i][name][unit])
            assert np.abs(found - exact).max() <= step / 2
            assert np.array_equal(found / step, np.rint(exact / step))
            tensors = modules[unit].kernels if name == "kernel" else modules[unit].biases
            assert np.array_equal(found / step, tensors[i]) and tensors[i].dtype == np.int64


def test_latents_and_bits_are_those_that_a_file_holds():
    params = make_params(SETTINGS)
    units, latents_UnL, bits = quantize.quantise(SETTINGS, params)
    assert latents_UnL.dtype == np.int64
    assert np.array_equal(latents_UnL, np.asarray(codec.hard(SETTINGS, params["latents"])))
    for unit, latents_nL, latent, arm, synthesis in zip(units, latents_UnL, *bits.values(), strict=True):
        assert arm == pytest.approx(sum(map(bits_of, integer.flat(unit.arm))), rel=1e-9)
        assert synthesis == pytest.approx(sum(map(bits_of, integer.flat(unit.synthesis))), rel=1e-9)
        encoder = entropy.Encoder()
        integer.write(unit, latents_nL, encoder)
        data = encoder.finish()
        assert latent <= 8 * len(data) <= latent + 64
        assert np.array_equal(integer.read(unit, len(latents_nL), entropy.Decoder(data)), latents_nL)


def test_the_change_of_the_images_is_bounded_and_bought_dearly():
    params = make_params(SETTINGS)
    costs = []
    for max_mse in (1e-7, 1e-5, 1e-3):
        units, latents_UnL, bits = quantize.quantise(SETTINGS, params, max_mse)
        layers = quantize.as_layers([unit.synthesis for unit in units])
        assert (change(params, latents_UnL, layers) <= max_mse).all()
        costs.append(bits["synthesis"])
    assert (np.diff(costs, axis=0) < 0).all()


def test_nothing_allowed_gives_the_finest_steps():
    units, *_ = quantize.quantise(SETTINGS, make_params(SETTINGS), max_mse=0.0)
    assert (steps_of([unit.synthesis for unit in units]) == -15).all()


def test_synthesis_steps_are_the_cheapest_of_all_that_are_allowed():
    params = make_params(SETTINGS, n_units=4, seed=3)
    units, latents_UnL, bits = quantize.quantise(SETTINGS, params, 1e-4)
    before, least_U = images_of(params, latents_UnL), np.full(4, np.inf)
    for kernel, bias in itertools.product(range(-10, 1), repeat=2):
        modules = quantize.as_modules(params["synthesis"], np.full(4, kernel), np.full(4, bias))
        cost_U = [sum(map(bits_of, integer.flat(module))) for module in modules]
        change_U = ((images_of(params, latents_UnL, quantize.as_layers(modules)) - before) ** 2).mean((1, 2, 3, 4))
        least_U = np.where(change_U <= 1e-4, np.minimum(cost_U, least_U), least_U)
    np.testing.assert_allclose(bits["synthesis"], least_U)


def test_arm_steps_weigh_the_network_against_the_latents():
    """No single step of kernels or of biases is cheaper in all."""
    params = make_params(SETTINGS)
    units, latents_UnL, bits = quantize.quantise(SETTINGS, params)
    kernel_U, bias_U = steps_of([unit.arm for unit in units])
    q = jnp.asarray(latents_UnL, jnp.float32)

    def total(kernel_U, bias_U):
        modules = quantize.as_modules(params["arm"], kernel_U, bias_U)
        latents = codec.bits(SETTINGS, {"arm": quantize.as_layers(modules)}, q).sum(1)
        return np.asarray(latents) + [sum(map(bits_of, integer.flat(module))) for module in modules]

    chosen = total(kernel_U, bias_U)
    np.testing.assert_allclose(chosen, bits["latents"] + bits["arm"], rtol=0.01)
    finest = np.full(2, -16)
    for step in range(-8, 1):
        assert (total(kernel_U, finest) <= total(np.full(2, step), finest) + 0.01).all()
    for step in range(-16, 1):
        assert (chosen <= total(kernel_U, np.full(2, step)) + 0.01).all()
    assert (chosen < total(np.full(2, -8), finest)).all() and len({*kernel_U, *bias_U} - {-8, -16, 0}) > 0


def test_more_samples_pay_for_a_finer_arm():
    few, many = (make_params(SETTINGS, n_units=1, n=n, seed=1) for n in (1, 60))
    many = many | {"arm": few["arm"]}
    arms = [quantize.quantise(SETTINGS, params)[2]["arm"][0] for params in (few, many)]
    assert arms[0] < arms[1]
