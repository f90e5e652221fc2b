"""Estimators: budget, efficiency, unbiasedness, designs as published, exactness at 2**P, error against budget."""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LinearRegression

from infoutil_jax.attribution import designs, exact, shapley
from infoutil_jax.errors import ConfigError

LINEAR = ["leverage_shap", "kernel_shap", "permutation"]
SAMPLED = ["odd_gp", *LINEAR]


class TableGame:
    """A game given by its 2**P values (or a batch of them); counts the evaluations that it is asked for."""

    def __init__(self, values):
        self.values = values
        self.evaluations = 0

    def __call__(self, masks_SP):
        self.evaluations += len(masks_SP)
        return self.values[masks_SP @ 2 ** np.arange(masks_SP.shape[1])]


def random_values(n_players, seed=0):
    return np.random.default_rng(seed).normal(size=2**n_players)


def smooth_values(n_players, seed):
    """A sigmoid of an additive game with weaker pairwise terms, as a classifier's probability is."""
    rng = np.random.default_rng(seed)
    masks = exact.all_masks(n_players).astype(np.float64)
    logits = masks @ rng.normal(scale=0.6, size=n_players)
    logits += ((masks @ rng.normal(scale=0.1, size=(n_players, n_players))) * masks).sum(axis=1)
    return 1.0 / (1.0 + np.exp(logits.mean() - logits))


def estimate_table(values, n_players, budget, seed, method):
    return shapley.estimate(TableGame(values), n_players, budget, jax.random.key(seed), method)


# Any method


@pytest.mark.parametrize("method", list(shapley.METHODS))
@pytest.mark.parametrize("n_players", [1, 2, 3, 4, 5])
def test_budget_is_never_exceeded(method, n_players):
    for budget in range(shapley.least_budget(n_players, method), 2**n_players + 6):
        game = TableGame(random_values(n_players))
        phi = shapley.estimate(game, n_players, budget, jax.random.key(budget), method)
        assert 2 <= game.evaluations <= budget
        assert phi.shape == (n_players,) and phi.dtype == np.float64 and np.isfinite(phi).all()


@pytest.mark.parametrize("method", list(shapley.METHODS))
@pytest.mark.parametrize("surplus", [0, 1, 1000])
def test_exact_from_the_budget_of_all_coalitions(method, surplus):
    values = random_values(6)
    phi = estimate_table(values, 6, 2**6 + surplus, 0, method)
    np.testing.assert_allclose(phi, exact.shapley_values(values), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["odd_gp", "leverage_shap", "permutation"])
def test_efficient_on_every_draw(method):
    for n_players in (3, 6, 9):
        values = random_values(n_players, seed=n_players)
        for seed, budget in enumerate(range(shapley.least_budget(n_players, method), min(2**n_players, 60))):
            phi = estimate_table(values, n_players, budget, seed, method)
            assert abs(phi.sum() - (values[-1] - values[0])) < 1e-10


@pytest.mark.parametrize("method", SAMPLED)
def test_same_key_same_design_and_other_keys_differ(method):
    one, again, other = (shapley.design(8, 40, jax.random.key(seed), method) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.masks_SP, again.masks_SP)
    values = np.random.default_rng(0).normal(size=len(one.masks_SP))
    np.testing.assert_array_equal(one.solve(values), again.solve(values))
    assert one.masks_SP.shape != other.masks_SP.shape or (one.masks_SP != other.masks_SP).any()


@pytest.mark.parametrize("method", list(shapley.METHODS))
def test_batch_is_estimated_column_by_column(method):
    budget = 2**5 if method == "exact" else 20
    values = np.random.default_rng(0).normal(size=(2**5, 3)).astype(np.float32)
    phi = estimate_table(jnp.asarray(values), 5, budget, 1, method)
    assert phi.shape == (5, 3) and isinstance(phi, np.ndarray) and phi.dtype == np.float64
    for column in range(3):
        alone = estimate_table(values[:, column], 5, budget, 1, method)
        np.testing.assert_allclose(phi[:, column], alone, rtol=0, atol=1e-12)


def test_odd_gp_is_the_default():
    values = random_values(5)
    phi = shapley.estimate(TableGame(values), 5, 16, jax.random.key(0))
    np.testing.assert_array_equal(phi, estimate_table(values, 5, 16, 0, "odd_gp"))


# Leverage SHAP


@pytest.mark.parametrize("n_players, budget", [(3, 6), (4, 10), (5, 13), (8, 40), (9, 200), (8, 255), (21, 300)])
def test_leverage_masks_are_unique_pairs(n_players, budget):
    masks = shapley.design(n_players, budget, jax.random.key(0), "leverage_shap").masks_SP
    drawn = {tuple(mask) for mask in masks.tolist()}
    assert len(masks) == len(drawn) == budget - budget % 2
    assert drawn == {tuple(not present for present in mask) for mask in drawn}
    assert (False,) * n_players in drawn


@pytest.mark.parametrize(
    "n_players, n_pairs, expected",
    [
        (16, 63, {1: 8, 2: 8, 3: 8, 4: 8, 5: 8, 6: 8, 7: 7, 8: 8}),
        (16, 255, {1: 16, 2: 35, 3: 34, 4: 34, 5: 34, 6: 34, 7: 34, 8: 34}),
        (8, 127, {1: 8, 2: 28, 3: 56, 4: 35}),
        (5, 1, {1: 1, 2: 0}),
        (6, 19, {1: 6, 2: 6, 3: 7}),
    ],
)
def test_leverage_layers(n_players, n_pairs, expected):
    assert designs.pairs_per_size(n_players, n_pairs) == expected
    if n_pairs < 2 ** (n_players - 1) - 1:
        masks = shapley.design(n_players, 2 * n_pairs + 2, jax.random.key(0), "leverage_shap").masks_SP
        counted = collections.Counter(masks.sum(axis=1).tolist())
        for size, count in expected.items():
            assert counted[size] == (2 * count if 2 * size == n_players else count)
            assert counted[n_players - size] == counted[size]


@pytest.mark.parametrize("budget", [18, 40, 56])  # layers of 20 coalitions: sparse, half full, nearly full
def test_leverage_draws_each_layer_uniformly(budget):
    counted = np.zeros(2**6)
    for seed in range(600):
        masks = designs.leverage_shap(6, budget, np.random.default_rng(seed)).masks_SP
        np.add.at(counted, masks @ 2 ** np.arange(6), 1)
    layers = np.bitwise_count(np.arange(2**6))
    for size in range(1, 6):
        layer = counted[layers == size]
        drawn = layer.sum() / 600 / len(layer)  # probability of each coalition of this size
        deviation = np.abs(layer / 600 - drawn)
        assert deviation.max() <= 4.5 * math.sqrt(drawn * (1 - drawn) / 600)


@pytest.mark.parametrize("n_players, budget", [(5, 22), (6, 40), (9, 128)])
def test_leverage_solves_the_weighted_constrained_regression(n_players, budget):
    masks, matrix = shapley.design(n_players, budget, jax.random.key(2), "leverage_shap")
    values = np.random.default_rng(0).normal(size=len(masks))
    sizes = masks.sum(axis=1)
    lagrangian = np.zeros((n_players + 1, n_players + 1))
    right = np.zeros(n_players + 1)
    none, everyone = values[sizes == 0][0], values[sizes == n_players][0]
    for mask, value, size in zip(masks.astype(float), values, sizes.tolist()):
        if 0 < size < n_players:
            in_layer = math.comb(n_players, size)
            kernel = (n_players - 1) / (in_layer * size * (n_players - size))
            weight = kernel * in_layer / (sizes == size).sum()
            lagrangian[:-1, :-1] += weight * np.outer(mask, mask)
            right[:-1] += weight * (value - none) * mask
    lagrangian[-1, :-1] = lagrangian[:-1, -1] = 1.0
    right[-1] = everyone - none
    np.testing.assert_allclose(matrix @ values, np.linalg.solve(lagrangian, right)[:-1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_players", [4, 8, 16])
def test_leverage_recovers_additive_games(n_players):
    worth = np.random.default_rng(0).normal(size=n_players)
    determined = 0
    for seed in range(40):
        budget = 2 * n_players + 2 * (seed % (2 * n_players))
        key = jax.random.key(seed)
        masks = shapley.design(n_players, budget, key, "leverage_shap").masks_SP.astype(float)
        phi = shapley.estimate(lambda m: 3.0 + m @ worth, n_players, budget, key, "leverage_shap")
        if budget >= 2**n_players or np.linalg.matrix_rank(masks - masks.mean(axis=1, keepdims=True)) == n_players - 1:
            np.testing.assert_allclose(phi, worth, rtol=0, atol=1e-9)
            determined += 1
        assert np.abs(phi).max() < 10 * np.abs(worth).max()  # undetermined: least norm, never an explosion
    assert determined >= 30


# KernelSHAP as Captum samples it


def test_kernel_shap_sizes_follow_the_kernel():
    masks = shapley.design(14, 10_002, jax.random.key(0), "kernel_shap").masks_SP
    assert masks[0].all() and not masks[1].any()
    sizes = np.arange(1, 14)
    probability = np.array([13 / (k * (14 - k)) for k in range(1, 14)])
    counted = np.array([(masks[2:].sum(axis=1) == size).sum() for size in sizes])
    assert counted.sum() == 10_000
    assert scipy.stats.chisquare(counted, 10_000 * probability / probability.sum()).pvalue > 1e-3
    expected_presence = np.full(14, masks[2:].sum() / 14)
    assert scipy.stats.chisquare(masks[2:].sum(axis=0), expected_presence).pvalue > 1e-3


@pytest.mark.parametrize("n_players, budget", [(5, 25), (9, 60), (16, 128), (16, 512), (9, 6)])
def test_kernel_shap_equals_sklearn(n_players, budget):
    masks, matrix = shapley.design(n_players, budget, jax.random.key(5), "kernel_shap")
    values = np.random.default_rng(1).normal(size=(budget, 2))
    weight = np.where(np.isin(masks.sum(axis=1), [0, n_players]), 1e6, 1.0)
    fitted = LinearRegression().fit(masks.astype(float), values, sample_weight=weight).coef_.T
    np.testing.assert_allclose(matrix @ values, fitted, rtol=1e-8, atol=1e-8)


# Permutations


@pytest.mark.parametrize("budget", [6, 7, 10, 20])  # one order, one order, a pair, two pairs
def test_permutation_is_unbiased(budget):
    values = random_values(5)
    table = np.stack([estimate_table(values, 5, budget, seed, "permutation") for seed in range(400)])
    standard_error = table.std(axis=0, ddof=1) / math.sqrt(len(table))
    assert (standard_error > 0).all()
    assert (np.abs(table.mean(axis=0) - exact.shapley_values(values)) <= 4 * standard_error).all()


@pytest.mark.parametrize("n_players, budget, n_orders", [(6, 7, 1), (6, 11, 1), (6, 12, 2), (6, 31, 4), (6, 40, 6)])
def test_permutation_marginals(n_players, budget, n_orders):
    """Player i's row puts 1 / orders on a coalition with i and minus that on the same coalition without i."""
    masks, matrix = shapley.design(n_players, budget, jax.random.key(0), "permutation")
    assert len(np.unique(masks, axis=0)) == len(masks)
    row_of = {tuple(mask): row for row, mask in enumerate(masks.tolist())}
    for player in range(n_players):
        gains = {mask: matrix[player, row] for mask, row in row_of.items() if mask[player]}
        assert abs(sum(gains.values()) - 1) < 1e-12
        for mask, gain in gains.items():
            without = tuple(present and i != player for i, present in enumerate(mask))
            assert abs(gain * n_orders - round(gain * n_orders)) < 1e-12
            assert gain == 0 or matrix[player, row_of[without]] == -gain


def test_permutation_pairs_cancel_pairwise_terms():
    """An order and its reverse recover a game of order 2 exactly; one order does not."""
    rng = np.random.default_rng(0)
    masks = exact.all_masks(7).astype(float)
    values = masks @ rng.normal(size=7) + ((masks @ rng.normal(size=(7, 7))) * masks).sum(axis=1)
    truth = exact.shapley_values(values)
    np.testing.assert_allclose(estimate_table(values, 7, 14, 0, "permutation"), truth, rtol=0, atol=1e-10)
    np.testing.assert_allclose(estimate_table(values, 7, 25, 0, "permutation"), truth, rtol=0, atol=1e-10)
    assert np.abs(estimate_table(values, 7, 13, 0, "permutation") - truth).max() > 0.1


# Error against budget


def test_error_falls_with_budget_and_leverage_beats_kernel_shap():
    values = np.stack([smooth_values(16, seed) for seed in range(4)], axis=1)
    truth = np.stack([exact.shapley_values(column) for column in values.T], axis=1)

    def median_error(method, budget):
        errors = [estimate_table(values, 16, budget, seed, method) - truth for seed in range(7)]
        return np.median(np.square(errors).sum(axis=1) / np.square(truth).sum(axis=0))

    error = {(method, budget): median_error(method, budget) for method in LINEAR for budget in (64, 256, 1024)}
    for method in LINEAR:
        assert error[method, 64] > 2 * error[method, 256] > 4 * error[method, 1024] > 0
    for budget in (64, 256, 1024):
        assert error["leverage_shap", budget] < 0.7 * error["kernel_shap", budget]


# Errors


def test_unknown_method_names_the_nearest_and_the_known():
    with pytest.raises(ConfigError, match="method='leverageshap' .* mean 'leverage_shap'.*permutation"):
        shapley.design(4, 10, jax.random.key(0), "leverageshap")


@pytest.mark.parametrize(
    "method, n_players, least",
    [
        ("odd_gp", 6, 4),
        ("leverage_shap", 6, 4),
        ("kernel_shap", 6, 3),
        ("permutation", 6, 7),
        ("exact", 6, 64),
        ("kernel_shap", 1, 2),
    ],
)
def test_a_budget_below_the_least_is_refused(method, n_players, least):
    assert shapley.least_budget(n_players, method) == least
    with pytest.raises(ValueError, match=rf"budget={least - 1} .*{n_players} players; raise it to {least} or more"):
        shapley.design(n_players, least - 1, jax.random.key(0), method)
    shapley.design(n_players, least, jax.random.key(0), method)


def test_players_out_of_range_are_refused():
    with pytest.raises(ValueError, match="n_players=0"):
        shapley.design(0, 10, jax.random.key(0), "leverage_shap")
    with pytest.raises(ValueError, match="n_players=21 cannot be enumerated"):
        shapley.design(21, 2**21, jax.random.key(0), "exact")


@pytest.mark.parametrize(
    "values, message",
    [(np.zeros((16, 1, 1)), "gave shape"), (np.zeros(15), "gave shape"), (np.full(16, np.nan), "non-finite")],
)
def test_unusable_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        shapley.estimate(lambda masks: values, 4, 16, jax.random.key(0), "exact")
