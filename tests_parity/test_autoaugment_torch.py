"""Tables and operations of AutoAugment and RandAugment against torchvision's on uint8 tensors.

Where the true value is a whole level or a sample falls between two pixels, torchvision's float32 rounding decides;
there its value may be a level away or the neighbour's, and everywhere else the two agree exactly.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles  # noqa: F401  (makes torchvision importable)
import pytest
import torch
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode, RandAugment
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from infoutil_jax.data import autoaugment
from infoutil_jax.data.autoaugment import OPERATIONS, POLICIES, SIGNED, magnitudes

SPACES = {10: AutoAugment()._augmentation_space, 31: RandAugment()._augmentation_space}
HEIGHT, WIDTH = 30, 36
BYTES = np.random.default_rng(0).integers(0, (200, 256, 256), (HEIGHT, WIDTH, 3)).astype(np.uint8)
BYTES[:, :, 2] = 40 + BYTES[:, :, 2] // 2
TENSOR = torch.from_numpy(BYTES).permute(2, 0, 1)
BLENDS = {"Brightness": F.adjust_brightness, "Color": F.adjust_saturation, "Sharpness": F.adjust_sharpness}
_apply = jax.jit(autoaugment.apply)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policies_are_torchvisions(policy):
    theirs = AutoAugment()._get_policies(AutoAugmentPolicy(policy))
    assert POLICIES[policy] == tuple(tuple((name, p, level or 0) for name, p, level in row) for row in theirs)


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (224, 224)])
@pytest.mark.parametrize("bins", SPACES)
def test_the_magnitudes_are_torchvisions(bins, size):
    theirs, ours = SPACES[bins](bins, size), magnitudes(bins, *size)
    assert set(theirs) == set(OPERATIONS[:-1] if bins == 31 else OPERATIONS[1:])
    assert list(SPACES[31](31, size)) == list(OPERATIONS[:-1])
    for name, (expected, signed) in theirs.items():
        row = ours[OPERATIONS.index(name)]
        np.testing.assert_allclose(row, expected.numpy() + np.zeros(bins), rtol=1e-6, atol=1e-5)
        assert SIGNED[OPERATIONS.index(name)] == signed
        if name.startswith("Translate"):
            np.testing.assert_array_equal(row.astype(int), [int(m) for m in expected])


def source(name, magnitude):
    """Where each pixel of the outcome comes from, y and x in pixels (float64)."""
    y, x = np.arange(HEIGHT)[:, None] + 0.5, np.arange(WIDTH)[None, :] + 0.5
    if name == "Rotate":
        cos, sin = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
        dy, dx = y - HEIGHT / 2, x - WIDTH / 2
        return sin * dx + cos * dy + HEIGHT / 2, cos * dx - sin * dy + WIDTH / 2
    return y + magnitude * x * (name == "ShearY"), x + magnitude * y * (name == "ShearX")


def true_value(name, magnitude):
    """The outcome before it is rounded down (float64), from torchvision's degenerate images."""
    levels = BYTES.astype(np.float64)
    if name == "AutoContrast":
        low, high = levels.min((0, 1)), levels.max((0, 1))
        return 255 * (levels - low) / (high - low)
    if name == "Contrast":
        other = F.rgb_to_grayscale(TENSOR).double().mean().item()
    else:
        other = BLENDS[name](TENSOR, 0.0).permute(1, 2, 0).numpy()
    return levels + magnitude * (levels - other)


def is_whole(value):
    return abs(value - np.round(value)) < 1e-3


def both(name, magnitude):
    theirs = _apply_op(TENSOR, name, float(magnitude), InterpolationMode.NEAREST, None).permute(1, 2, 0).numpy()
    ours = _apply(np.int32(OPERATIONS.index(name)), np.float32(magnitude), jnp.asarray(BYTES, jnp.float32))
    return np.asarray(ours), theirs.astype(np.float32)


def all_magnitudes(name):
    """Of both spaces, with both signs, as torchvision stores them."""
    for bins, space in SPACES.items():
        values, signed = space(bins, (HEIGHT, WIDTH)).get(name, (torch.zeros(1), False))
        for value in values.reshape(-1).tolist():
            yield from (value, -value) if signed else (value,)


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "Rotate"])
def test_warps_take_torchvisions_pixels(name):
    compared = []
    for magnitude in all_magnitudes(name):
        ours, theirs = both(name, magnitude)
        clear = ~np.logical_or(*map(is_whole, source(name, magnitude)))
        np.testing.assert_array_equal(ours[clear], theirs[clear])
        compared.append(clear.mean())
    assert np.mean(compared) > 0.9


@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness", "AutoContrast"])
def test_values_round_down_to_torchvisions(name):
    for magnitude in all_magnitudes(name):
        ours, theirs = both(name, magnitude)
        clear = ~is_whole(true_value(name, magnitude))
        np.testing.assert_array_equal(ours[clear], theirs[clear])
        assert abs(ours - theirs).max() <= 1


EXACT = ["Identity", "TranslateX", "TranslateY", "Posterize", "Solarize", "Equalize", "Invert"]


@pytest.mark.parametrize("name", EXACT)
def test_operations_without_rounding_equal_torchvisions(name):
    for magnitude in all_magnitudes(name):
        np.testing.assert_array_equal(*both(name, magnitude))
