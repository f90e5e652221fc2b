"""Shapley values of any cooperative game within a budget of evaluations; `designs` and `odd_gp` hold the estimators."""

import jax
import numpy as np

from infoutil_jax.attribution import designs, exact, odd_gp
from infoutil_jax.attribution.designs import Design
from infoutil_jax.attribution.odd_gp import OddGP
from infoutil_jax.checks import one_of

METHODS = {
    "odd_gp": odd_gp.odd_gp,
    "leverage_shap": designs.leverage_shap,
    "kernel_shap": designs.kernel_shap,
    "permutation": designs.permutation,
    "exact": designs.all_coalitions,
}


def estimate(value_fn, n_players, budget, key, method="odd_gp"):
    """Shapley values of the game `value_fn`.

    Args:
        value_fn: bool masks (S, P), True where the player is present -> values (S,) or (S, batch). Called once.
        n_players: P, at least 1; at most 20 where all coalitions are needed.
        budget: the most rows that `value_fn` is given, the empty and the full coalition included; never exceeded.
            From 2**P on the result is exact, whatever the method; below about 4P rankings are mostly noise.
            The minimum is `least_budget`.
        key: JAX PRNG key; the same key gives the same coalitions.
        method: a name in METHODS.

    Returns:
        (P,) or (P, batch) float64.

    Raises:
        ConfigError: unknown method.
        ValueError: n_players or budget out of range, or values of a wrong shape or not finite.
    """
    coalitions = design(n_players, budget, key, method)
    values, n_masks = np.asarray(value_fn(coalitions.masks_SP), dtype=np.float64), len(coalitions.masks_SP)
    if values.ndim not in (1, 2) or len(values) != n_masks:
        raise ValueError(f"value_fn gave shape {values.shape}; expected ({n_masks},) or ({n_masks}, batch)")
    if not np.isfinite(values).all():
        raise ValueError(f"value_fn gave a non-finite value at mask {np.argwhere(~np.isfinite(values))[0][0]}")
    return coalitions.solve(values)


def design(n_players, budget, key, method) -> Design | OddGP:
    """Draws the coalitions once for a whole run, on the host; arguments and errors as in `estimate`.

    Either type has `masks_SP`, the coalitions to evaluate, and `solve`, from their values to Shapley values.
    """
    check(n_players, budget, method)
    draw = METHODS["exact" if budget >= 2**n_players else method]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return draw(n_players, budget, rng)


def check(n_players, budget, method) -> None:
    """Raises what `design` would, ConfigError or ValueError, without drawing anything."""
    least = least_budget(n_players, method)
    if budget < least:
        raise ValueError(
            f"budget={budget} is too small for method {method!r} with {n_players} players; "
            f"raise it to {least} or more, or choose another method"
        )
    if budget >= 2**n_players:
        exact.check_players(n_players)
    elif method == "odd_gp" and budget > odd_gp.MAX_BUDGET:
        raise ValueError(
            f"budget={budget} is too large for odd_gp (at most {odd_gp.MAX_BUDGET}); use leverage_shap there"
        )


def least_budget(n_players, method):
    """The fewest evaluations that `method` can work with: one coalition, pair or order besides the two ends."""
    one_of("method", method, METHODS)
    if n_players < 1:
        raise ValueError(f"n_players={n_players}; a game needs at least 1 player")
    own = {"odd_gp": 4, "leverage_shap": 4, "kernel_shap": 3, "permutation": n_players + 1, "exact": 2**n_players}
    return min(own[method], 2**n_players)
