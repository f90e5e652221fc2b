"""Shapley values as the posterior mean of a Gaussian process on the odd part of the game.

With chi_i = 1 where player i is present and -1 where not, a game is v(S) = sum over A of beta_A prod_{i in A} chi_i(S)
(Walsh basis), and Shapley values need its odd orders alone: phi_i = 2 * sum over odd A with i of beta_A / |A|. A pair
of evaluations shows just these: D(S) = (v(S) - v(complement of S)) / 2. Prior: beta_A ~ N(0, s^2 rho^|A|), order 1 with
t times that variance. So D and phi are jointly Gaussian with covariances in closed form, and the posterior mean of phi
is Cov(phi, D) Cov(D, D)^-1 D. Each game chooses its own s, rho and t, those of the largest marginal likelihood of D.

The surrogate is that of ShaplEIG with a fixed design; the use of the odd part alone is that of OddSHAP.
"""

from typing import NamedTuple

import numpy as np

from infoutil_jax.attribution import designs

RHOS = tuple(np.geomspace(0.02, 0.6, 8))  # near-additive games to rugged ones
# The last one makes additive games come out exactly; real ones hardly ever choose it.
ORDER_ONE_SCALES = (1.0, 3.0, 10.0, 40.0, 1e6)
NUGGET = 1e-14  # of the variance of a pair: keeps nearly enumerated games within reach of float64
MAX_BUDGET = 8192  # the set-up holds 16 * budget**2 bytes: 1 GiB


class Prior(NamedTuple):
    """One rho with all T scales t, in Q coordinates `whiten_QQ @ D` in which Cov(D, D) is diagonal for every t."""

    whiten_QQ: np.ndarray
    variance_TQ: np.ndarray  # of the coordinates, in units of s^2
    log_det_T: np.ndarray  # of Cov(D, D) / s^2
    readout_TPQ: np.ndarray  # phi = readout @ coordinates

    def posterior(self, odd_QM):
        """Log marginal likelihoods (T, M) with the best s^2, up to a constant; posterior means of phi (T, P, M)."""
        coordinates_QM = self.whiten_QQ @ odd_QM
        scale_TM = (1.0 / self.variance_TQ) @ np.square(coordinates_QM) / len(odd_QM)  # the best s^2
        scale_TM = np.maximum(scale_TM, np.finfo(np.float64).tiny)  # no odd part at all: phi = 0 for any prior
        return -0.5 * (len(odd_QM) * np.log(scale_TM) + self.log_det_T[:, None]), self.readout_TPQ @ coordinates_QM


class OddGP(NamedTuple):
    """Q pairs of coalitions to evaluate (halves, the full coalition first, then complements); a Prior for each rho."""

    masks_SP: np.ndarray  # bool, True where the player is present
    priors: tuple[Prior, ...]

    def solve(self, values):
        """Values (S,) or (S, M) -> Shapley values (P,) or (P, M) float64 that sum to v(all) - v(none) up to rounding.

        Each game chooses its own prior: what else is in the batch changes last bits at most.
        """
        values = np.asarray(values, dtype=np.float64)
        halves, complements = np.split(values.reshape(len(values), -1), 2)
        odd_QM = (halves - complements) / 2.0
        evidence, phi = zip(*(prior.posterior(odd_QM) for prior in self.priors))
        best_M = np.concatenate(evidence).argmax(axis=0)
        phi_PM = np.take_along_axis(np.concatenate(phi), best_M[None, None], axis=0)[0]
        phi_PM += (2.0 * odd_QM[0] - phi_PM.sum(axis=0)) / len(phi_PM)  # what rounding and the nugget took
        return phi_PM.reshape(-1, *values.shape[1:])


def odd_gp(n_players, budget, rng):
    """The pairs of Leverage SHAP, with a prior for each rho; see the module.

    The larger the budget the less the prior matters, and where pairs are fewer than players it settles what they leave
    open. The set-up takes time ~ budget**3 and memory ~ budget**2: 10 ms and 1 MB at 128, a second and 70 MB at 2048.
    """
    half_QP = np.concatenate([np.ones((1, n_players), dtype=bool), designs.draw_pairs(n_players, budget, rng)])
    priors = tuple(make_prior(half_QP, rho, np.array(ORDER_ONE_SCALES)) for rho in RHOS)
    return OddGP(np.concatenate([half_QP, ~half_QP]), priors)


def make_prior(half_QP, rho, scales_T) -> Prior:
    """The Prior of distinct pairs with halves bool (Q, P), 0 < rho < 1, t in `scales_T` (at least 1)."""
    signs_QP = np.where(half_QP, 1.0, -1.0)
    factor_QQ = np.linalg.cholesky(kernel(signs_QP, rho) * (1.0 + NUGGET * np.eye(len(half_QP))))
    whiten_QQ = np.linalg.inv(factor_QQ)
    # t adds (t - 1) rho signs @ signs.T to Cov(D, D); rotated onto the axes of `signs`, that stays diagonal
    axes_QQ, spread, players_PP = np.linalg.svd(whiten_QQ @ signs_QP)
    whiten_QQ = axes_QQ.T @ whiten_QQ
    rank = len(spread)
    gain_T = (scales_T - 1.0) * rho
    variance_TQ = np.ones((len(scales_T), len(half_QP)))
    variance_TQ[:, :rank] += gain_T[:, None] * np.square(spread)
    readout_TPQ = np.tile(covariance(half_QP, rho) @ whiten_QQ.T, (len(scales_T), 1, 1))
    readout_TPQ[:, :, :rank] += 2.0 * gain_T[:, None, None] * (players_PP[:rank].T * spread)
    log_det = 2.0 * np.log(np.diag(factor_QQ)).sum()
    return Prior(whiten_QQ, variance_TQ, log_det + np.log(variance_TQ).sum(axis=1), readout_TPQ / variance_TQ[:, None])


def kernel(signs_QP, rho):
    """Cov(D(S), D(S')) / s^2 at t = 1: the sum over odd A of rho^|A| prod_{i in A} chi_i(S) chi_i(S'); (Q, Q).

    Half the difference of prod_i (1 + rho chi_i chi'_i) and prod_i (1 - rho chi_i chi'_i), as one hyperbolic sine.
    """
    return (1.0 - rho**2) ** (signs_QP.shape[1] / 2.0) * np.sinh(np.arctanh(rho) * (signs_QP @ signs_QP.T))


def covariance(half_QP, rho):
    """Cov(phi_i, D(S)) / s^2 at t = 1: chi_i(S) times the integral of prod_{j != i} (1 + u chi_j(S)) over [-rho, rho].

    (P, Q). Expanded, the integral is 2 * sum over odd k of rho^k / k times the elementary symmetric polynomial of order
    k - 1. Of S it needs only how many other players are present. Gauss-Legendre is exact for polynomials, and here all
    its terms are positive.
    """
    n_players = half_QP.shape[1]
    nodes, weights = np.polynomial.legendre.leggauss((n_players + 1) // 2)
    present = np.arange(n_players)[:, None]  # others present; n_players - 1 of them in all
    products = (1.0 + rho * nodes) ** present * (1.0 - rho * nodes) ** (n_players - 1 - present)
    others_QP = half_QP.sum(axis=1)[:, None] - half_QP
    return (np.where(half_QP, 1.0, -1.0) * (rho * products @ weights)[others_QP]).T
