"""Exact Shapley values against the average over all orders, the linear solve of Eq. 5, and the axioms."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from infoutil_jax.attribution import exact


def games(n_players):
    return arrays(np.float64, 2**n_players, elements=st.floats(-10, 10, width=32))


def average_over_orders(values, n_players):
    """Shapley's definition: mean marginal contribution over all P! orders."""
    phi = np.zeros(n_players)
    for order in itertools.permutations(range(n_players)):
        bitmask = 0
        for player in order:
            phi[player] += values[bitmask | 1 << player] - values[bitmask]
            bitmask |= 1 << player
    return phi / math.factorial(n_players)


def full_kernel_regression(values, n_players):
    """Eq. 5 on all coalitions: the stationary point of its Lagrangian, one row per coalition."""
    lagrangian = np.zeros((n_players + 1, n_players + 1))
    right = np.zeros(n_players + 1)
    for bitmask in range(1, 2**n_players - 1):
        present = np.array([bitmask >> i & 1 for i in range(n_players)], dtype=float)
        size = int(present.sum())
        kernel = (n_players - 1) / (math.comb(n_players, size) * size * (n_players - size))
        lagrangian[:-1, :-1] += kernel * np.outer(present, present)
        right[:-1] += kernel * (values[bitmask] - values[0]) * present
    lagrangian[-1, :-1] = lagrangian[:-1, -1] = 1.0
    right[-1] = values[-1] - values[0]
    return np.linalg.solve(lagrangian, right)[:-1]


def swap_bits(bitmask, i, j):
    return bitmask ^ ((1 << i | 1 << j) if (bitmask >> i ^ bitmask >> j) & 1 else 0)


@pytest.mark.parametrize("n_players", [1, 2, 3, 5, 6])
def test_equals_average_over_all_orders(n_players):
    values = np.random.default_rng(n_players).normal(size=2**n_players)
    np.testing.assert_allclose(exact.shapley_values(values), average_over_orders(values, n_players), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_players", [2, 3, 5])
def test_equals_full_kernel_regression(n_players):
    values = np.random.default_rng(n_players).normal(size=2**n_players)
    solved = full_kernel_regression(values, n_players)
    np.testing.assert_allclose(exact.shapley_values(values), solved, rtol=0, atol=1e-10)


def test_glove_game():
    """Player 0 holds a left glove, 1 and 2 a right one each; a pair is worth 1: (2/3, 1/6, 1/6)."""
    values = [0, 0, 0, 1, 0, 1, 0, 1]
    np.testing.assert_allclose(exact.shapley_values(values), [2 / 3, 1 / 6, 1 / 6], rtol=0, atol=1e-15)


def test_all_masks_order():
    masks = exact.all_masks(4)
    assert masks.dtype == bool and masks.shape == (16, 4)
    np.testing.assert_array_equal(masks[0b0110], [False, True, True, False])
    np.testing.assert_array_equal(masks @ [1, 2, 4, 8], np.arange(16))


@settings(max_examples=30, deadline=None)
@given(values=games(4), player=st.integers(0, 3))
def test_null_player_gets_exactly_zero(values, player):
    without = np.array([bitmask & ~(1 << player) for bitmask in range(16)])
    assert exact.shapley_values(values[without])[player] == 0.0


@settings(max_examples=30, deadline=None)
@given(values=games(4), player=st.integers(0, 3), worth=st.floats(-5, 5))
def test_dummy_player_gets_its_own_worth(values, player, worth):
    present = np.array([bitmask >> player & 1 for bitmask in range(16)])
    without = np.array([bitmask & ~(1 << player) for bitmask in range(16)])
    phi = exact.shapley_values(values[without] + worth * present)
    assert abs(phi[player] - worth) < 1e-12


@settings(max_examples=30, deadline=None)
@given(values=games(4), pair=st.sampled_from(list(itertools.combinations(range(4), 2))))
def test_interchangeable_players_get_the_same(values, pair):
    swapped = np.array([swap_bits(bitmask, *pair) for bitmask in range(16)])
    phi = exact.shapley_values(values + values[swapped])
    assert abs(phi[pair[0]] - phi[pair[1]]) < 1e-12


@settings(max_examples=30, deadline=None)
@given(one=games(4), other=games(4), scale=st.floats(-3, 3))
def test_linearity_and_efficiency(one, other, scale):
    phi = exact.shapley_values(one + scale * other)
    np.testing.assert_allclose(
        phi, exact.shapley_values(one) + scale * exact.shapley_values(other), rtol=0, atol=1e-12 * 50
    )
    total = one[-1] - one[0] + scale * (other[-1] - other[0])
    assert abs(phi.sum() - total) < 1e-12 * 50


def test_sixteen_players_take_well_under_a_second():
    values = np.random.default_rng(0).normal(size=2**16).astype(np.float32)
    start = time.perf_counter()
    phi = exact.shapley_values(values)
    assert time.perf_counter() - start < 0.5
    assert phi.dtype == np.float64
    np.testing.assert_allclose(phi.sum(), float(values[-1]) - float(values[0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "values, message",
    [
        (np.zeros(6), "length 6"),
        (np.zeros(1), "length 1"),
        (np.zeros(0), "length 0"),
        (np.zeros((4, 2)), r"shape \(4, 2\)"),
        (np.array([0.0, 1.0, np.nan, 2.0]), r"values\[2\] is not finite"),
        (np.array([0.0, np.inf]), r"values\[1\] is not finite"),
    ],
)
def test_unusable_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        exact.shapley_values(values)


@pytest.mark.parametrize("n_players", [0, -1, 21])
def test_enumeration_has_bounds(n_players):
    with pytest.raises(ValueError, match=f"n_players={n_players} "):
        exact.all_masks(n_players)
