"""Exact Shapley values from all 2^P coalitions (Shapley 1953; Eq. 4 of the paper)."""

import math

import numpy as np

MAX_PLAYERS = 20  # 2^20 coalitions; a sampled design serves more players


def all_masks(n_players):
    """Every coalition, in the order of its bitmask: player 0 is the lowest bit.

    Args:
        n_players: P, 1 to 20.

    Returns:
        bool (2**P, P); row b has player i present where bit i of b is set.

    Raises:
        ValueError: n_players is out of range.
    """
    check_players(n_players)
    bitmasks = np.arange(2**n_players)
    return (bitmasks[:, None] >> np.arange(n_players) & 1).astype(bool)


def check_players(n_players) -> None:
    """Raises ValueError where 2**n_players coalitions are too many, or n_players is no number of players."""
    if not 1 <= n_players <= MAX_PLAYERS:
        raise ValueError(f"n_players={n_players} cannot be enumerated; use 1 to {MAX_PLAYERS} or sample coalitions")


def marginal_weights(n_players):
    """Weight of a marginal contribution v(S + i) - v(S) by |S|: 1 / (P * C(P-1, |S|)); (P,) float64."""
    binomials = [math.comb(n_players - 1, size) for size in range(n_players)]
    return 1.0 / (n_players * np.array(binomials, dtype=np.float64))


def shapley_values(values):
    """Shapley value of every player, phi_i = sum over S without i of w(|S|) * (v(S + i) - v(S)), Eq. 4.

    Args:
        values: (2**P,) v(S), indexed by the bitmask of S as in `all_masks`; finite.

    Returns:
        (P,) float64; sums to v(all) - v(none). A player that never changes the value gets exactly 0.

    Raises:
        ValueError: not one-dimensional, length not 2**P with P >= 1, or a value is NaN or infinite.
    """
    values = np.asarray(values, dtype=np.float64)
    n_players = _count_players(values)
    others = np.arange(2 ** (n_players - 1))  # bitmask of S with player i's bit taken out
    weights = marginal_weights(n_players)[np.bitwise_count(others)]
    marginals = (np.diff(values.reshape(-1, 2, 2**player), axis=1) for player in range(n_players))
    return np.array([weights @ marginal.ravel() for marginal in marginals])


def _count_players(values):
    if values.ndim != 1:
        raise ValueError(f"values has shape {values.shape}; expected (2**P,), one value per coalition")
    n_players = len(values).bit_length() - 1
    if n_players < 1 or len(values) != 2**n_players:
        raise ValueError(f"values has length {len(values)}; expected 2**P with P >= 1, one value per coalition")
    if not np.isfinite(values).all():
        raise ValueError(f"values[{np.flatnonzero(~np.isfinite(values))[0]}] is not finite; check the value function")
    return n_players
