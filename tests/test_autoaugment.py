"""AutoAugment and RandAugment against PIL, whole-number arithmetic, and all the draws there are."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from infoutil_jax.data import autoaugment
from infoutil_jax.data.autoaugment import AUGMENTATIONS, OPERATIONS, POLICIES, magnitudes

BYTES = np.random.default_rng(0).integers(20, 230, (24, 32, 3), dtype=np.uint8)
PICTURE = Image.fromarray(BYTES)
SIGNED = ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"]
_apply = jax.jit(autoaugment.apply)


def apply(name, magnitude=0.0, image=BYTES):
    pixels = _apply(np.int32(OPERATIONS.index(name)), np.float32(magnitude), jnp.asarray(image, jnp.float32))
    np.testing.assert_array_equal(pixels, np.round(pixels))
    return np.asarray(pixels).astype(int)


def affine(*matrix):
    return PICTURE.transform(PICTURE.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


PIL_EXACT = {
    "Identity": lambda m: PICTURE,
    "ShearX": lambda m: affine(1, m, 0, 0, 1, 0),
    "ShearY": lambda m: affine(1, 0, 0, m, 1, 0),
    "TranslateX": lambda m: affine(1, 0, -int(17 * m), 0, 1, 0),
    "TranslateY": lambda m: affine(1, 0, 0, 0, 1, -int(17 * m)),
    "Rotate": lambda m: PICTURE.rotate(40 * m),
    "Brightness": lambda m: ImageEnhance.Brightness(PICTURE).enhance(1 + m),
    "Sharpness": lambda m: ImageEnhance.Sharpness(PICTURE).enhance(1 + m),
}
UNITS = {"TranslateX": 17, "TranslateY": 17, "Rotate": 40}


@pytest.mark.parametrize("magnitude", [0.27, -0.33, 0.53])
@pytest.mark.parametrize("name", PIL_EXACT)
def test_an_operation_with_a_sign_equals_pils(name, magnitude):
    found = apply(name, magnitude * UNITS.get(name, 1))
    np.testing.assert_array_equal(found, np.asarray(PIL_EXACT[name](magnitude)))


@pytest.mark.parametrize("magnitude", [0.27, -0.33, 0.53])
@pytest.mark.parametrize("name", ["Color", "Contrast"])
def test_color_and_contrast_are_within_a_level_of_pils_whose_greys_and_means_are_rounded(name, magnitude):
    expected = np.asarray(getattr(ImageEnhance, name)(PICTURE).enhance(1 + magnitude), int)
    assert abs(apply(name, magnitude) - expected).max() <= 1
    grey = (BYTES.astype(int) @ [2989, 5870, 1140] // 10000)[:, :, None]  # torchvision's weights, rounded down
    other = grey if name == "Color" else grey.mean()
    exact = np.clip(np.floor(other + (1 + magnitude) * (BYTES - other) + 1e-9), 0, 255)
    np.testing.assert_array_equal(apply(name, magnitude), exact)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_posterize_equals_pils(bits):
    np.testing.assert_array_equal(apply("Posterize", bits), np.asarray(ImageOps.posterize(PICTURE, bits)))


@pytest.mark.parametrize("threshold", [0, 100, 170, 255])
def test_solarize_equals_pils(threshold):
    np.testing.assert_array_equal(apply("Solarize", threshold), np.asarray(ImageOps.solarize(PICTURE, threshold)))


def test_invert_equals_pils():
    np.testing.assert_array_equal(apply("Invert"), np.asarray(ImageOps.invert(PICTURE)))


DARK = np.random.default_rng(1).integers(0, (3, 90, 256), (24, 32, 3), dtype=np.uint8) ** 2 // 255  # channels differ


@pytest.mark.parametrize("image", [BYTES, DARK])
def test_equalize_equals_pils(image):
    np.testing.assert_array_equal(apply("Equalize", 0, image), np.asarray(ImageOps.equalize(Image.fromarray(image))))


@pytest.mark.parametrize("image", [BYTES, DARK])
def test_autocontrast_rounds_the_true_value_down_where_pil_may_fall_below_a_whole_one(image):
    low, high = (f(image.astype(int), axis=(0, 1)) for f in (np.min, np.max))
    exact = np.where(high > low, (image - low) * 255 // np.maximum(high - low, 1), image)
    np.testing.assert_array_equal(apply("AutoContrast", 0, image), exact)
    assert abs(exact - np.asarray(ImageOps.autocontrast(Image.fromarray(image)), int)).max() <= 1


def test_values_that_are_whole_levels_stay_whole():
    ramp = np.arange(256).reshape(16, 16, 1).repeat(3, 2)
    for bins, negate in itertools.product((10, 31), (1, -1)):
        for level, m in enumerate(magnitudes(bins, 16, 16)[OPERATIONS.index("Brightness")]):
            exact = ramp * (10 * (bins - 1) + 9 * negate * level) // (10 * (bins - 1))
            np.testing.assert_array_equal(apply("Brightness", negate * m, ramp), np.clip(exact, 0, 255))


def test_a_sample_between_two_pixels_takes_the_further_one():
    sheared = apply("ShearX", 0.2)  # row 2: its centre, 2.5 px down, moves by half a pixel
    np.testing.assert_array_equal(sheared[2, :-1], BYTES[2, 1:])
    np.testing.assert_array_equal(sheared[2, -1], 0)


@pytest.mark.parametrize("name", SIGNED)
def test_magnitude_zero_changes_nothing(name):
    np.testing.assert_array_equal(apply(name, 0), BYTES)
    np.testing.assert_array_equal(apply(name, -0.0), BYTES)


@pytest.mark.parametrize("name", OPERATIONS)
def test_flat_images_stay_flat(name):
    for level in (0, 77, 255):
        flat = np.full((5, 4, 3), level)
        found = apply(name, magnitudes(10, 5, 4)[OPERATIONS.index(name), 5], flat)
        assert 0 <= found.min() and found.max() <= 255
        if name in ("AutoContrast", "Equalize", "Color", "Contrast", "Sharpness") and level < 255:
            assert abs(found - flat).max() <= (name == "Contrast" or name == "Color")  # grey weights sum to 0.9999


SMALL = np.random.default_rng(2).integers(0, 200, (18, 18, 3), dtype=np.uint8)  # more than 255 pixels, for Equalize


def with_signs(name, magnitude):
    return [(0.5, name, magnitude), (0.5, name, -magnitude if name in SIGNED else magnitude)]


def policy_draws(policy):
    """(probability, operation, magnitude, operation, magnitude) of all there is to draw."""
    table = magnitudes(10, 18, 18)
    for row in POLICIES[policy]:
        slots = []
        for name, p, level in row:
            drawn = with_signs(name, table[OPERATIONS.index(name), level])
            slots.append([(p * q, *rest) for q, *rest in drawn] + [(1 - p, "Identity", 0)])
        yield from ((p * q / 25, *a, *b) for (p, *a), (q, *b) in itertools.product(*slots))


def random_draws():
    drawn = [(p / 14, *rest) for i in range(14) for p, *rest in with_signs(OPERATIONS[i], magnitudes(31, 18, 18)[i, 9])]
    yield from ((p * q, *a, *b) for (p, *a), (q, *b) in itertools.product(drawn, drawn))


DRAWS = {
    "autoaugment_cifar10": lambda: policy_draws("cifar10"),
    "autoaugment_imagenet": lambda: policy_draws("imagenet"),
    "randaugment": random_draws,
}


@pytest.mark.parametrize("name", DRAWS)
def test_every_outcome_comes_as_often_as_the_tables_say(name):
    p, *columns = zip(*DRAWS[name]())
    first, m_first, second, m_second = map(np.asarray, columns)
    index = np.vectorize(OPERATIONS.index, otypes=[np.int32])
    each = jax.jit(jax.vmap(autoaugment.apply))
    pixels = jnp.broadcast_to(jnp.asarray(SMALL, jnp.float32), (len(p), *SMALL.shape))
    pixels = each(index(first), m_first.astype(np.float32), pixels)
    pixels = each(index(second), m_second.astype(np.float32), pixels)
    expected = Counter()
    for share, outcome in zip(p, np.asarray(pixels).astype(np.uint8)):
        expected[outcome.tobytes()] += share
    n = 8000
    draw = jax.jit(jax.vmap(AUGMENTATIONS[name], (0, None)))
    images = draw(jax.random.split(jax.random.key(3), n), SMALL.astype(np.float32) / 255)
    found = Counter(outcome.tobytes() for outcome in np.rint(np.asarray(images) * 255).astype(np.uint8))
    assert set(found) <= {outcome for outcome, share in expected.items() if share > 0}
    for outcome, share in expected.items():
        assert abs(found[outcome] - n * share) <= 4.5 * np.sqrt(n * share * (1 - share)) + 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_one_key_one_image_in_and_out_of_a_batch_and_rounded_first(name):
    augment, keys = AUGMENTATIONS[name], jax.random.split(jax.random.key(0), 6)
    image = BYTES.astype(np.float32) / 255
    batch = np.asarray(jax.jit(jax.vmap(augment, (0, None)))(keys, image))
    assert batch.dtype == np.float32 and batch.shape == (6, *BYTES.shape)
    assert (len({image.tobytes() for image in batch}) > 1) == (name != "none")
    unrounded = image + np.random.default_rng(4).uniform(-0.49, 0.49, image.shape).astype(np.float32) / 255
    one = jax.jit(augment)
    for key, expected in zip(keys, batch):
        np.testing.assert_array_equal(one(key, image), expected)
        np.testing.assert_array_equal(one(key, unrounded), unrounded if name == "none" else expected)


def test_randaugment_takes_its_number_of_operations_and_magnitude(monkeypatch):
    monkeypatch.setattr(autoaugment, "_in_turn", lambda image, *drawn: drawn)
    operations, magnitude, negate = autoaugment.randaugment(jax.random.key(0), SMALL, n_ops=5, magnitude=30)
    assert operations.shape == negate.shape == (5,)
    np.testing.assert_array_equal(magnitude, magnitudes(31, 18, 18)[np.asarray(operations), 30])


def test_an_unknown_policy_is_refused():
    with pytest.raises(KeyError, match="svhn"):
        autoaugment.autoaugment(jax.random.key(0), BYTES.astype(np.float32) / 255, "svhn")
