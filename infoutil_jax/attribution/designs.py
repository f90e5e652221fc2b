"""Linear designs: which coalitions to evaluate, and the matrix that turns their values into Shapley values.

Every estimator here is linear in the values once its coalitions are drawn, so one design, made once in float64,
serves all images: phi_P = matrix_PS @ values_S. Rows of `masks_SP` are evaluations; S never exceeds the budget.
The least budgets and the case budget >= 2**P are looked after by `shapley.design`.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from infoutil_jax.attribution import exact

END_WEIGHT = 1e6  # Captum's stand-in for the infinite kernel weight of the empty and the full coalition
RCOND = 1e-10  # separates the true null space of a regression from rounding, in float64


class Design(NamedTuple):
    """Coalitions to evaluate and the estimator on their values, phi = matrix_PS @ values."""

    masks_SP: np.ndarray  # bool, True where the player is present
    matrix_PS: np.ndarray  # float64

    def solve(self, values):
        """Values (S,) or (S, M) -> Shapley values (P,) or (P, M) float64."""
        return self.matrix_PS @ values


def all_coalitions(n_players, budget, rng):
    """The exact Shapley value (Eq. 4) as a matrix: all 2**P coalitions, nothing is drawn."""
    del budget, rng
    masks_SP = exact.all_masks(n_players)
    sizes_S = masks_SP.sum(axis=1)
    weights = np.append(exact.marginal_weights(n_players), 0.0)  # the 0 serves both "size P" and "size -1"
    return Design(masks_SP, np.where(masks_SP, weights[sizes_S - 1][:, None], -weights[sizes_S][:, None]).T)


def kernel_shap(n_players, budget, rng):
    """KernelSHAP (Lundberg & Lee 2017) as Captum samples it: independent coalitions, with replacement.

    The full and the empty coalition, then budget - 2 coalitions of size k with p(k) ~ (P-1) / (k (P-k)), uniform
    given k. Fitted by least squares with an intercept, all weights 1 but END_WEIGHT on the two ends; efficiency
    therefore holds only to about 1e-5 of the spread of the values. A singular fit takes the solution of least norm.
    """
    sizes = np.arange(1, n_players)
    probability = 1.0 / (sizes * (n_players - sizes))
    drawn_sizes = rng.choice(sizes, budget - 2, p=probability / probability.sum())
    masks_SP = np.concatenate([_ends(n_players)[::-1], _random_subsets(n_players, drawn_sizes, rng)])
    weight_S = np.ones(budget)
    weight_S[:2] = END_WEIGHT
    return Design(masks_SP, _regression_with_intercept(masks_SP, weight_S))


def leverage_shap(n_players, budget, rng):
    """Leverage SHAP (Musco & Witter 2025): pairs (S, complement of S), drawn without replacement.

    The empty and the full coalition, then (budget - 2) // 2 pairs, as many for every size as `pairs_per_size` says.
    Each drawn coalition is weighted by q(|S|) * (coalitions of its size) / (those drawn), so that the regression
    estimates Eq. 5; efficiency is solved exactly: phi sums to v(all) - v(none) on every draw. Where the drawn pairs
    leave phi undetermined (certain below 2P evaluations, possible up to about 4P) it is the one nearest to an even
    split; above that, additive games come out exactly.
    """
    half_QP = draw_pairs(n_players, budget, rng)
    inner_SP = np.concatenate([half_QP, ~half_QP])
    return Design(np.concatenate([_ends(n_players), inner_SP]), _efficient_regression(inner_SP))


def permutation(n_players, budget, rng):
    """Marginal contributions averaged over random orders of the players, each with its reverse (antithetic).

    An order costs P - 1 evaluations besides the empty and the full coalition. The number of orders is what the budget
    holds if no coalition were met twice, rounded down to whole pairs (a single order where there is no room for its
    reverse): it must not depend on the draw, or the estimate would be biased. Coalitions met twice are evaluated once.
    """
    n_orders = (budget - 2) // (n_players - 1)
    n_pairs = max(n_orders // 2, 1)
    orders = rng.permuted(np.tile(np.arange(n_players), (n_pairs, 1)), axis=1)
    orders = np.concatenate([orders, orders[:, ::-1]])[:n_orders]
    position = np.argsort(orders, axis=1)
    prefixes = position[:, None, :] < np.arange(n_players + 1)[:, None]  # (orders, P+1, P), sizes 0..P
    masks_SP, index = np.unique(prefixes.reshape(-1, n_players), axis=0, return_inverse=True)
    index = index.reshape(len(orders), n_players + 1)
    matrix_PS = np.zeros((n_players, len(masks_SP)))
    np.add.at(matrix_PS, (orders, index[:, 1:]), 1.0 / len(orders))
    np.add.at(matrix_PS, (orders, index[:, :-1]), -1.0 / len(orders))
    return Design(masks_SP, matrix_PS)


def draw_pairs(n_players, budget, rng):
    """One half each of the (budget - 2) // 2 pairs besides (empty, full), without replacement; bool (Q, P)."""
    counts = pairs_per_size(n_players, (budget - 2) // 2)
    return np.concatenate([_draw_pair_halves(n_players, size, count, rng) for size, count in counts.items()])


def pairs_per_size(n_players, n_pairs):
    """Deals pairs to the sizes 1..P//2 equally; a size whose share reaches all its pairs passes the surplus on.

    Args:
        n_players: P, at least 2.
        n_pairs: pairs (S, complement of S) to deal, at most 2**(P-1) - 1.

    Returns:
        dict size of the smaller half -> pairs; a remainder goes to the sizes with the fewest pairs in all.
    """
    capacity = {size: math.comb(n_players, size) for size in range(1, n_players // 2 + 1)}
    if n_players % 2 == 0:
        capacity[n_players // 2] //= 2  # both halves of these pairs have the same size
    counts = {}
    for size in sorted(capacity, key=capacity.get):
        share = math.ceil((n_pairs - sum(counts.values())) / (len(capacity) - len(counts)))
        counts[size] = min(share, capacity[size])
    return counts


def _ends(n_players):
    return np.array([[False] * n_players, [True] * n_players])


def _random_subsets(n_players, sizes, rng):
    """Uniform coalitions of the given sizes (S,), drawn independently; bool (S, P)."""
    return rng.permuted(np.arange(n_players) < np.asarray(sizes)[:, None], axis=1)


def _draw_pair_halves(n_players, size, count, rng):
    """One half each of `count` distinct pairs whose smaller half has `size` players; bool (count, P)."""
    if 2 * size < n_players:
        return _distinct_subsets(n_players, size, count, rng)
    others = _distinct_subsets(n_players - 1, size - 1, count, rng)  # the half that holds player 0 names the pair
    return np.insert(others, 0, True, axis=1)


def _distinct_subsets(n_players, size, count, rng):
    """Uniform coalitions of one size without replacement; bool (count, P)."""
    if 2 * count > math.comb(n_players, size):
        members = rng.permutation(list(itertools.combinations(range(n_players), size)))[:count]
        return (members[:, :, None] == np.arange(n_players)).any(axis=1)
    masks = np.zeros((0, n_players), dtype=bool)
    while len(masks) < count:
        masks = np.concatenate([masks, _random_subsets(n_players, np.full(count, size), rng)])
        _, first = np.unique(masks, axis=0, return_index=True)
        masks = masks[np.sort(first)]  # in the order drawn: cutting the sorted list would favour low bitmasks
    return masks[:count]


def _regression_with_intercept(masks_SP, weight_S):
    """(P, S) matrix of weighted least squares with a free intercept, solution of least norm.

    With columns centred by the weighted mean the intercept drops out, and the values need no centring of their own.
    """
    mean_P = weight_S @ masks_SP / weight_S.sum()
    root_S = np.sqrt(weight_S)
    return np.linalg.pinv(root_S[:, None] * (masks_SP - mean_P), rcond=RCOND) * root_S


def _efficient_regression(inner_SP):
    """(P, 2 + S) matrix of Eq. 5 on drawn coalitions, columns: empty, full, then `inner_SP` (bool, sizes 1..P-1).

    Centred rows span only directions that sum to 0 over the players, so the constraint holds by construction:
    phi = (v(all) - v(none)) / P + the regression of what the even split leaves unexplained.
    """
    n_players = inner_SP.shape[1]
    sizes_S = inner_SP.sum(axis=1)
    drawn_of_size = np.bincount(sizes_S)
    # q(s) * C(P, s) / drawn, Eq. 5; the constant P - 1 does not change the minimum
    root_S = np.sqrt(1.0 / (sizes_S * (n_players - sizes_S) * drawn_of_size[sizes_S]))
    share_S = sizes_S / n_players
    solve_PS = np.linalg.pinv(root_S[:, None] * (inner_SP - share_S[:, None]), rcond=RCOND) * root_S
    empty_P = -1.0 / n_players - solve_PS @ (1.0 - share_S)
    full_P = 1.0 / n_players - solve_PS @ share_S
    return np.column_stack([empty_P, full_P, solve_PS])
