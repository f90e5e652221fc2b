"""The latent codec: the float model against plain loops, and its integer twin against exact fractions."""

import hashlib
import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.stats
from PIL import Image

from infoutil_jax.errors import ConfigError
from infoutil_jax.rate import codec, entropy, grids, integer, quantize
from infoutil_jax.rate.codec import Settings

SMALL = Settings(8, context=4, arm_depth=1, widths=(5,))


def make_params(settings, n_units=2, n=3, seed=0, spread=0.2):
    """As a trained codec may look: nothing zero, every unit its own networks, integers of a few units in size."""
    rng = np.random.default_rng(seed)
    params = codec.init(settings, n_units, n, seed)
    moved = jax.tree.map(lambda x: x + rng.normal(scale=spread, size=x.shape).astype(np.float32), params)
    integers = rng.laplace(scale=1.5, size=params["latents"].shape).round()
    return moved | {"latents": jnp.asarray(integers / settings.gain, jnp.float32)}


def of_unit(layers, unit):
    return [{name: np.asarray(x[unit], np.float64) for name, x in layer.items()} for layer in layers]


# Grids


@pytest.mark.parametrize("side, sides, count", [(8, 4, 85), (32, 6, 1365), (128, 6, 21_840), (224, 6, 66_885)])
def test_grids_halve_and_have_the_published_number_of_latents(side, sides, count):
    assert len(grids.sides(side)) == sides and grids.n_latents(side) == count
    assert all(a == 2 * b for a, b in itertools.pairwise(grids.sides(side)))


@pytest.mark.parametrize("context", [1, 4, 8, 24, 40])
def test_a_context_is_what_lies_nearest_among_what_comes_before(context):
    side = 8
    table_LC, places = grids.contexts(side, context), []
    for grid, s in enumerate(grids.sides(side)):
        places += [(grid, y, x) for y in range(s) for x in range(s)]
    where = {place: i for i, place in enumerate(places)}
    window = [(y, x) for y in range(-4, 5) for x in range(-4, 5) if y < 0 or (y == 0 and x < 0)]
    assert len(window) == 40
    for at, (grid, y, x) in enumerate(places):
        moves = [(dy, dx) for dy, dx in window if (grid, y + dy, x + dx) in where]
        known = [i for i in table_LC[at] if i != len(places)]
        assert all(i < at and places[i][0] == grid for i in known)
        found = [(places[i][1] - y, places[i][2] - x) for i in known]
        assert set(found) <= set(moves) and len(set(found)) == len(found)
        radius = sorted(dy**2 + dx**2 for dy, dx in window)[context - 1]
        assert all(dy**2 + dx**2 <= radius for dy, dx in found)
        assert {m for m in moves if m[0] ** 2 + m[1] ** 2 < radius} <= set(found)


def test_readers_are_contexts_the_other_way():
    table_LC, readers_LC = grids.contexts(8, 12), grids.readers(8, 12)
    pairs = {(at, c, int(place)) for (at, c), place in np.ndenumerate(table_LC) if place < 85}
    assert pairs == {(int(at), c, place) for (place, c), at in np.ndenumerate(readers_LC) if at < 85}


def cubic(x):
    """Keys's kernel with a = -1/2, as in any textbook."""
    x = abs(x)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def upsampling_oracle(side, s):
    matrix = np.zeros((side, s))
    for i, tap in itertools.product(range(side), range(-3, s + 3)):
        matrix[i, min(max(tap, 0), s - 1)] += cubic((i + 0.5) * s / side - 0.5 - tap)
    return matrix


@pytest.mark.parametrize("side, s", [(32, 1), (32, 4), (32, 16), (32, 32), (64, 2), (96, 3)])
def test_upsampling_is_cubic_and_exact_in_its_bits(side, s):
    up = grids.upsampling(side, s)
    assert np.array_equal(up / 2**19, upsampling_oracle(side, s))
    assert (up.sum(1) == 2**19).all()


def test_upsampling_is_pillows_away_from_the_edges():
    grid = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    up = grids.upsampling(64, 16) / 2**19
    due = np.asarray(Image.fromarray(grid).resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_allclose((up @ grid @ up.T)[12:-12, 12:-12], due[12:-12, 12:-12], atol=1e-5)


# The float model


@pytest.mark.parametrize(
    "field, value",
    [("side", 48), ("side", 72), ("scope", "image"), ("context", 41), ("gain", 0), ("arm_depth", 256), ("widths", (0,)),
     ("widths", (65536,)), ("widths", (8,) * 256)],
)  # fmt: skip
def test_settings_that_make_no_codec_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"codec.{field}"):
        Settings(**({"side": 32} | {field: value}))


@pytest.mark.parametrize(
    "settings, arm, synthesis",
    [
        (Settings(32), 162, 411),
        (Settings(32, widths=(40, 20)), 162, 1331),
        (Settings(128, context=32, arm_depth=4, widths=(240, 40)), 4290, 11_611),
        (Settings(128, context=32, arm_depth=4, widths=(320, 40)), 4290, 15_371),
    ],
)
def test_parameter_counts_are_the_published_ones(settings, arm, synthesis):
    counts = codec.n_values(settings)
    assert (counts["arm"], counts["synthesis"]) == (arm, synthesis)
    params = jax.eval_shape(lambda: codec.init(settings, 3, 2, 0))
    for name in ("arm", "synthesis"):
        assert sum(leaf.size for leaf in jax.tree.leaves(params[name])) == 3 * counts[name]
    assert params["latents"].shape == (3, 2, counts["latents"])


def test_scope_says_how_many_share_networks():
    assert codec.n_units(Settings(8), 10) == 10 and codec.n_units(Settings(8, scope="dataset"), 10) == 1


def test_training_starts_from_certain_images_and_an_even_law():
    params = codec.init(SMALL, 2, 3, seed=0)
    assert float(jnp.abs(params["latents"]).max()) <= 0.05
    zeros, ones = (jnp.full(params["latents"].shape, v) for v in (0.0, 1.0))
    np.testing.assert_allclose(codec.synthesise(SMALL, params, zeros), 0.5)
    law = scipy.stats.laplace(0, 1)
    for value, latents in ((0, zeros), (1, ones)):
        mass = law.cdf(value + 0.5) - law.cdf(value - 0.5)
        np.testing.assert_allclose(codec.bits(SMALL, params, latents), -85 * math.log2(mass), rtol=1e-5)


def test_the_first_images_do_not_depend_on_the_gain():
    found = []
    for gain in (1.0, 16.0):
        settings = Settings(8, gain=gain)
        params = codec.init(settings, 1, 2, seed=0)
        found.append(codec.synthesise(settings, params, 20 * gain * params["latents"]))
    np.testing.assert_allclose(*found, atol=1e-5)
    assert float(found[0].std()) > 0.01


def test_units_start_alike_but_for_their_latents():
    params = codec.init(SMALL, 2, 3, seed=0)
    for leaf in jax.tree.leaves({k: params[k] for k in ("arm", "synthesis")}):
        assert np.array_equal(leaf[0], leaf[1])
    assert not np.array_equal(params["latents"][0], params["latents"][1])


def test_hard_latents_are_integers_in_steps_of_the_gain():
    latents = jnp.array([0.031, 0.032, -0.5, 1.0])
    assert codec.hard(Settings(8), latents).tolist() == [0, 1, -8, 16]


def test_noisy_latents_are_rounded_softly():
    settings, x = Settings(8, gain=1), jnp.linspace(-3.0, 3.0, 601) + 0.003
    key = jax.random.key(0)
    cold = codec.noisy(settings, x, 0.02, 0.0, key)
    away = np.abs(np.asarray(x) % 1 - 0.5) > 0.1
    np.testing.assert_allclose(cold[away], jnp.round(x)[away], atol=1e-3)
    hot = codec.noisy(settings, x, 50.0, 0.0, key)
    np.testing.assert_allclose(hot, x, atol=1e-3)
    gain = codec.noisy(Settings(8, gain=16), x / 16, 0.3, 0.0, key)
    np.testing.assert_allclose(gain, codec.noisy(settings, x, 0.3, 0.0, key), atol=1e-4)


def test_noise_has_the_deviation_asked_for_and_comes_of_the_key():
    zeros, settings = jnp.zeros(20_000), Settings(8)
    noise = codec.noisy(settings, zeros + 1 / 32, 50.0, 0.25, jax.random.key(1)) - 0.5
    assert abs(float(noise.std()) - 0.25) < 0.01 and abs(float(noise.mean())) < 0.01
    other = codec.noisy(settings, zeros + 1 / 32, 50.0, 0.25, jax.random.key(2)) - 0.5
    assert abs(float(jnp.corrcoef(noise, other)[0, 1])) < 0.05


def test_symbol_bits_are_those_of_a_laplace_law():
    distances, logs = (v.ravel() for v in np.meshgrid(np.linspace(-9, 9, 73), np.linspace(-8, 9, 35)))
    law = scipy.stats.laplace(0, 2 ** np.clip(logs, -6, 7))
    near = np.abs(distances)
    mass = law.cdf(0.5 - near) - law.cdf(-0.5 - near)  # on the side where nothing cancels
    due = np.minimum(-np.log2(np.maximum(mass, 1e-300)), 24)
    found = codec.symbol_bits(jnp.asarray(distances, jnp.float32), jnp.asarray(logs, jnp.float32))
    np.testing.assert_allclose(found, due, rtol=2e-4, atol=1e-6)
    assert (np.asarray(found) == 24).any()


def test_symbol_bits_have_finite_gradients_everywhere():
    distances = jnp.array([0.0, 0.5, -0.5, 3.0, 1e4, -1e4])
    for log2_scale in (-50.0, -6.0, 0.0, 7.0, 50.0):
        logs = jnp.full_like(distances, log2_scale)
        both = jax.grad(lambda d, s: codec.symbol_bits(d, s).sum(), argnums=(0, 1))(distances, logs)
        assert all(bool(jnp.isfinite(g).all()) for g in both)


def bits_oracle(layers, latents_L, settings):
    """A position after the other, in float64."""
    table, total = grids.contexts(settings.side, settings.context), 0.0
    padded = np.append(latents_L, 0.0)
    for value, places in zip(latents_L, table, strict=True):
        x = padded[places]
        for layer in layers[:-1]:
            x = np.maximum(x + layer["kernel"] @ x + layer["bias"], 0)
        mean, log2_scale = layers[-1]["kernel"] @ x + layers[-1]["bias"]
        law = scipy.stats.laplace(0, 2.0 ** np.clip(log2_scale, -6, 7))
        far = -abs(value - mean)
        total += min(24, -math.log2(max(law.cdf(far + 0.5) - law.cdf(far - 0.5), 1e-300)))
    return total


def test_bits_are_those_of_every_latent_given_its_context():
    params = make_params(SMALL)
    latents = codec.hard(SMALL, params["latents"])
    found = codec.bits(SMALL, params, latents)
    for unit, i in np.ndindex(2, 3):
        due = bits_oracle(of_unit(params["arm"], unit), np.asarray(latents[unit, i], np.float64), SMALL)
        np.testing.assert_allclose(found[unit, i], due, rtol=1e-4)


def test_gradients_of_contexts_are_those_of_plain_indexing():
    latents_Ln = jnp.asarray(np.random.default_rng(0).normal(size=(85, 2)), jnp.float32)
    table_LC = grids.contexts(8, 4)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(4, 85, 2)), jnp.float32)
    plain = jax.grad(lambda x: (jnp.pad(x, ((0, 1), (0, 0)))[table_LC.T] ** 2 * weights).sum())(latents_Ln)
    found = jax.grad(lambda x: (codec._gather(SMALL, x) ** 2 * weights).sum())(latents_Ln)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)


def image_oracle(layers, latents_L, side):
    planes = []
    for s, start in zip(grids.sides(side), grids.starts(side), strict=True):
        up = upsampling_oracle(side, s)
        planes.append(up @ latents_L[start : start + s * s].reshape(s, s) @ up.T)
    x = np.stack(planes, axis=-1)
    *hidden, last, first, second = layers
    for layer in hidden:
        x = np.maximum(x @ layer["kernel"].T + layer["bias"], 0)
    x = x @ last["kernel"].T + last["bias"]
    x = np.maximum(x + conv_oracle(first, x), 0)
    return x + conv_oracle(second, x)


def conv_oracle(layer, x):
    kernel = layer["kernel"].reshape(3, 3, 3, 3)  # out, rows, columns, in
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    planes = [
        sum(scipy.signal.correlate2d(padded[..., c], kernel[out, :, :, c], mode="valid") for c in range(3))
        for out in range(3)
    ]
    return np.stack(planes, axis=-1) + layer["bias"]


def test_images_are_those_of_the_layers_one_by_one():
    params = make_params(SMALL)
    latents = codec.hard(SMALL, params["latents"])
    found = codec.synthesise(SMALL, params, latents)
    assert found.shape == (2, 3, 8, 8, 3)
    for unit, i in np.ndindex(2, 3):
        due = image_oracle(of_unit(params["synthesis"], unit), np.asarray(latents[unit, i], np.float64), 8)
        np.testing.assert_allclose(found[unit, i], due, atol=2e-4)


# Its integer twin


def fine(params, settings, step=-16):
    """Units with steps too fine to matter."""
    steps = np.full(len(params["latents"]), step)
    modules = [quantize.as_modules(params[name], steps, steps) for name in ("arm", "synthesis")]
    return [integer.Quantised(settings, *pair) for pair in zip(*modules, strict=True)]


@pytest.mark.parametrize("settings", [SMALL, Settings(16), Settings(8, context=16, arm_depth=0, widths=(8, 4))])
def test_integers_cost_and_look_as_the_float_model_says(settings):
    params = make_params(settings, spread=0.1)
    latents = codec.hard(settings, params["latents"])
    bits_U, images = codec.bits(settings, params, latents).sum(1), codec.synthesise(settings, params, latents)
    rounded = np.round(255 * np.clip(images, 0, 1)).astype(int)
    assert len(np.unique(rounded)) > 50
    for unit, quantised in enumerate(fine(params, settings)):
        assert integer.bits(quantised, latents[unit]) == pytest.approx(float(bits_U[unit]), rel=0.01)
        apart = np.abs(integer.images(quantised, latents[unit]).astype(int) - rounded[unit])
        assert apart.max() <= 1 and (apart > 0).mean() < 0.01


def rounded_fraction(value):
    return Fraction(math.floor(value * 2**16 + Fraction(1, 2)), 2**16)


def fraction_layer(module, i, x):
    """Rows of exact numbers, rounded once."""
    kernel = [[Fraction(int(v)) * Fraction(2) ** module.kernel_step for v in row] for row in module.kernels[i]]
    bias = [Fraction(int(v)) * Fraction(2) ** module.bias_step for v in module.biases[i]]
    return [
        rounded_fraction(sum(a * b for a, b in zip(row, x, strict=True)) + c)
        for row, c in zip(kernel, bias, strict=True)
    ]


def coarse(settings, seed=0):
    """Networks of a unit whose integers and steps are as a trained one's."""
    rng = np.random.default_rng(seed)
    modules = []
    for name, steps in (("arm", (-4, -6)), ("synthesis", (-5, -10))):
        shapes = codec.shapes(settings)[name]
        kernels = rng.integers(-12, 13, sum(a * b for a, b in shapes))
        modules.append(integer.unflat(shapes, kernels, rng.integers(-90, 91, sum(a for a, _ in shapes)), *steps))
    return integer.Quantised(settings, *modules)


def test_laws_are_exact_fractions_rounded_as_stated():
    quantised = coarse(SMALL)
    contexts_PC = np.random.default_rng(1).integers(-9, 10, (40, 4))
    means_P, scales_P = integer.arm(quantised, contexts_PC)
    assert means_P.dtype == scales_P.dtype == np.int64 and len(np.unique(scales_P)) > 5
    for row, mean, scale in zip(contexts_PC, means_P, scales_P, strict=True):
        x = [Fraction(int(v)) for v in row]
        for i in range(SMALL.arm_depth):
            x = [max(a + b, Fraction(0)) for a, b in zip(x, fraction_layer(quantised.arm, i, x), strict=True)]
        due_mean, log2_scale = fraction_layer(quantised.arm, SMALL.arm_depth, x)
        assert mean == math.floor(64 * due_mean + Fraction(1, 2))
        assert scale == min(max(math.floor(8 * (log2_scale + 6) + Fraction(1, 2)), 0), 104)


def test_indices_of_scales_are_those_of_the_deviations():
    """An ARM that is a bias alone: scale 2 ** b, so 64 * 2 ** b sixty-fourths of a symbol."""
    settings = Settings(2, context=1, arm_depth=0)
    blank = codec.shapes(settings)["synthesis"]
    synthesis = integer.Module(tuple(np.zeros(s, np.int64) for s in blank), (), 0, 0)
    for log2_scale in range(-8, 9):
        module = integer.Module((np.zeros((2, 1), np.int64),), (np.array([3, log2_scale]),), 0, 0)
        means, scales = integer.arm(integer.Quantised(settings, module, synthesis), np.zeros((1, 1)))
        deviation = 64 * 2.0 ** min(max(log2_scale, -6), 7)
        assert means[0] == 3 * 64 and scales[0] == entropy.scale_index(int(deviation))


def test_pixels_are_exact_fractions_rounded_as_stated():
    settings = Settings(4, widths=(3,))
    quantised = coarse(settings)
    latents_L = np.random.default_rng(2).integers(-20, 21, 21)
    planes = []
    for s, start in zip(grids.sides(4), grids.starts(4), strict=True):
        up = [[Fraction(v) for v in row] for row in upsampling_oracle(4, s)]  # exact: dyadic
        planes.append(
            {
                (y, x): rounded_fraction(
                    sum(up[y][i] * up[x][j] * int(latents_L[start + i * s + j]) for i in range(s) for j in range(s))
                )
                for y, x in np.ndindex(4, 4)
            }
        )
    pixels = {at: [plane[at] for plane in planes] for at in np.ndindex(4, 4)}

    def windows(pixels):
        near = lambda v: min(max(v, 0), 3)  # noqa: E731
        moves = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        return {(y, x): [v for a, b in moves for v in pixels[near(y + a), near(x + b)]] for y, x in pixels}

    relu = lambda x: [max(v, Fraction(0)) for v in x]  # noqa: E731
    module = quantised.synthesis
    pixels = {at: relu(fraction_layer(module, 0, x)) for at, x in pixels.items()}
    pixels = {at: fraction_layer(module, 1, x) for at, x in pixels.items()}
    for i in (2, 3):
        seen = windows(pixels)
        pixels = {
            at: [a + b for a, b in zip(x, fraction_layer(module, i, seen[at]), strict=True)] for at, x in pixels.items()
        }
        pixels = {at: relu(x) for at, x in pixels.items()} if i == 2 else pixels
    due = [
        [[min(max(math.floor(255 * v + Fraction(1, 2)), 0), 255) for v in pixels[y, x]] for x in range(4)]
        for y in range(4)
    ]
    found = integer.images(quantised, latents_L[None])
    assert found.dtype == np.uint8 and len(np.unique(found)) > 5
    assert found[0].tolist() == due


def test_what_is_coded_and_seen_is_the_same_on_every_machine():
    """No random numbers here: their generators may differ."""
    settings = Settings(16, context=8, arm_depth=2, widths=(6, 4))

    def scattered(n, size):
        i = np.arange(n)
        return (i * i * 7919 + i * 104_729) % (2 * size + 1) - size

    modules = []
    for name, size, steps in (("arm", 9, (-5, -9)), ("synthesis", 19, (-5, -8))):
        shapes = codec.shapes(settings)[name]
        kernels, biases = (scattered(sum(map(math.prod, s)), size) for s in (shapes, [(a,) for a, _ in shapes]))
        modules.append(integer.unflat(shapes, kernels, 9 * biases, *steps))
    quantised = integer.Quantised(settings, *modules)
    latents_nL = scattered(2 * 341, 7).reshape(2, 341)
    laws = integer.arm(quantised, integer.contexts(settings, latents_nL).reshape(-1, 8))
    images = integer.images(quantised, latents_nL)
    assert len(np.unique(images)) > 100 and len(np.unique(laws[1])) > 20
    content = b"".join(np.ascontiguousarray(x, "<i8").tobytes() for x in (*laws, images))
    assert hashlib.sha256(content).hexdigest() == "974aead714f452a496bcd7a76c830c69c111b44ff087999e56416f8d6e756a35"


def test_parameters_survive_being_laid_flat():
    quantised = coarse(SMALL)
    for name in ("arm", "synthesis"):
        module = getattr(quantised, name)
        back = integer.unflat(codec.shapes(SMALL)[name], *integer.flat(module), *module[2:])
        assert jax.tree.all(jax.tree.map(np.array_equal, module, back))
