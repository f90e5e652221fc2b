"""The odd GP against the same Bayesian regression written out in the Walsh basis, every odd subset by itself."""

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from infoutil_jax.attribution import designs, exact, odd_gp, shapley

SCALES = np.array(odd_gp.ORDER_ONE_SCALES)


def odd_subsets(n_players):
    masks = exact.all_masks(n_players)
    return masks[masks.sum(axis=1) % 2 == 1]


def walsh(masks_SP):
    """prod_{i in A} chi_i(S) for every S and odd A, (S, A)."""
    absent = ~masks_SP[:, None] & odd_subsets(masks_SP.shape[1])
    return (-1.0) ** absent.sum(axis=2)


def prior_variances(n_players, rho, scale):
    sizes = odd_subsets(n_players).sum(axis=1)
    return np.where(sizes == 1, scale, 1.0) * rho**sizes


def shapley_of_basis(n_players):
    """Exact Shapley values of every basis function as a game, (P, A)."""
    return np.stack([exact.shapley_values(game) for game in walsh(exact.all_masks(n_players)).T], axis=1)


def halves(n_players, budget, seed=0):
    inner = designs.draw_pairs(n_players, budget, np.random.default_rng(seed))
    return np.concatenate([np.ones((1, n_players), dtype=bool), inner])


def all_halves(n_players):
    return exact.all_masks(n_players)[: 2 ** (n_players - 1) - 1 : -1]  # those with the last player, the full one first


def additive(worth_P, masks_SP):
    return 3.0 + masks_SP @ worth_P


# Against the Walsh basis


@pytest.mark.parametrize("n_players", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("rho", [0.02, 0.3, 0.9])
def test_covariances_are_sums_over_odd_subsets(n_players, rho):
    half = all_halves(n_players)
    weighted = walsh(half) * prior_variances(n_players, rho, 1.0)
    signs = np.where(half, 1.0, -1.0)
    np.testing.assert_allclose(odd_gp.kernel(signs, rho), weighted @ walsh(half).T, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(odd_gp.covariance(half, rho), shapley_of_basis(n_players) @ weighted.T, rtol=1e-11)


@pytest.mark.parametrize("n_players, budget", [(5, 12), (6, 40), (8, 60), (8, 12)])  # the last: pairs < players
@pytest.mark.parametrize("rho", [0.05, 0.4])
def test_posterior_and_likelihood_equal_the_regression_in_the_basis(n_players, budget, rho):
    half = halves(n_players, budget)
    odd = np.random.default_rng(1).normal(size=(len(half), 2))
    evidence, phi = odd_gp.make_prior(half, rho, SCALES[:4]).posterior(odd)
    constant = -0.5 * len(half) * (1 + np.log(2 * np.pi))
    for t, scale in enumerate(SCALES[:4]):
        weighted = walsh(half) * prior_variances(n_players, rho, scale)
        covariance = weighted @ walsh(half).T
        mean = shapley_of_basis(n_players) @ weighted.T @ np.linalg.solve(covariance, odd)
        np.testing.assert_allclose(phi[t], mean, rtol=1e-7, atol=1e-8)
        for game in range(2):

            def unlikelihood(log_s2):
                return -scipy.stats.multivariate_normal(cov=np.exp(log_s2) * covariance).logpdf(odd[:, game])

            best = scipy.optimize.minimize_scalar(unlikelihood, bracket=(-2.0, 10.0))
            np.testing.assert_allclose(evidence[t, game] + constant, -best.fun, rtol=1e-9)


def test_every_game_takes_its_likeliest_prior():
    n_players, half = 6, halves(6, 40)
    rng = np.random.default_rng(0)
    sizes = odd_subsets(n_players).sum(axis=1)
    decay = np.where(sizes == 1, 1.0, np.array([1e-9, 0.03, 0.3, 1.0, 3.0])[:, None] ** (sizes - 1))  # (games, A)
    odd = walsh(half) @ (rng.normal(size=decay.shape) * decay).T
    values = np.concatenate([7.0 + odd, 7.0 - odd])
    options = []
    for rho in odd_gp.RHOS:
        for scale in SCALES:
            weighted = walsh(half) * prior_variances(n_players, rho, scale)
            covariance = weighted @ walsh(half).T
            solved = np.linalg.solve(covariance, odd)
            evidence = -0.5 * len(half) * np.log((odd * solved).sum(axis=0)) - 0.5 * np.linalg.slogdet(covariance)[1]
            options.append((evidence, shapley_of_basis(n_players) @ weighted.T @ solved))
    best = np.argmax([evidence for evidence, _ in options], axis=0)
    assert len(set(best)) >= 4
    expected = np.stack([options[chosen][1][:, game] for game, chosen in enumerate(best)], axis=1)
    phi = odd_gp.odd_gp(n_players, 40, np.random.default_rng(0)).solve(values)
    np.testing.assert_allclose(phi, expected, rtol=0, atol=1e-6)


# What the estimate promises


@pytest.mark.parametrize("n_players", range(2, 9))
@pytest.mark.parametrize("rho", [*odd_gp.RHOS[::2], 0.9])
def test_all_pairs_give_the_exact_values(n_players, rho):
    values = np.random.default_rng(n_players).normal(size=2**n_players)
    half = all_halves(n_players)
    bits = half @ 2 ** np.arange(n_players)
    odd = (values[bits] - values[2**n_players - 1 - bits])[:, None] / 2
    _, phi = odd_gp.make_prior(half, rho, SCALES).posterior(odd)
    expected = np.broadcast_to(exact.shapley_values(values)[:, None], phi.shape)
    np.testing.assert_allclose(phi, expected, rtol=0, atol=1e-5 if rho < 0.05 else 1e-7)


@pytest.mark.parametrize("n_players, budget", [(4, 14), (9, 40), (16, 64), (16, 512), (64, 256)])
def test_additive_games_and_their_dummies_come_out_exactly(n_players, budget):
    worth = np.random.default_rng(0).normal(size=n_players)
    worth[1] = 0.0
    phi = shapley.estimate(lambda masks: additive(worth, masks), n_players, budget, jax.random.key(0), "odd_gp")
    np.testing.assert_allclose(phi, worth, rtol=0, atol=1e-6)


def test_a_dummy_gets_less_the_more_is_evaluated():
    masks = exact.all_masks(8)
    values = np.random.default_rng(0).normal(size=(2**8, 16))[(masks & (np.arange(8) != 3)) @ 2 ** np.arange(8)]
    table = lambda asked: values[asked @ 2 ** np.arange(8)]
    shares = {}
    for budget in (64, 192, 254):
        phi = shapley.estimate(table, 8, budget, jax.random.key(0), "odd_gp")
        shares[budget] = np.abs(phi[3]).mean() / np.abs(phi).mean()
    assert 0.8 > shares[64] > 1.5 * shares[192] > 3 * shares[254]


@pytest.mark.parametrize("n_players, budget", [(16, 2), (16, 20), (10, 1022), (16, 512), (256, 520)])
def test_finite_and_efficient_to_rounding_at_every_size(n_players, budget):
    design = odd_gp.odd_gp(n_players, budget, np.random.default_rng(0))
    assert design.masks_SP.shape == (budget, n_players)
    unit = np.array([1.0, 1e-6, 1e9])
    values = np.random.default_rng(1).normal(size=(budget, 3))
    values[:, 2] = 1e-3 * values[:, 2] + additive(np.ones(n_players), design.masks_SP)  # nearly additive
    phi = design.solve(values * unit) / unit
    full, empty = (values[which][0] for which in (design.masks_SP.all(axis=1), ~design.masks_SP.any(axis=1)))
    np.testing.assert_allclose(phi.sum(axis=0), full - empty, rtol=0, atol=1e-14 * n_players)
    assert (np.abs(phi) < 10).all()
    if budget == 2:
        np.testing.assert_allclose(phi, np.broadcast_to((full - empty) / n_players, phi.shape), rtol=1e-12)


def test_efficient_where_the_covariance_is_nearly_singular():
    half = halves(9, 510)
    prior = odd_gp.make_prior(half, 0.02, SCALES)
    odd = np.random.default_rng(0).normal(size=(len(half), 4))
    assert np.abs(prior.posterior(odd)[1].sum(axis=1) - 2 * odd[0]).max() > 1e-9  # rounding alone would break it
    design = odd_gp.OddGP(np.concatenate([half, ~half]), (prior,))
    phi = design.solve(np.concatenate([odd, -odd]))
    np.testing.assert_allclose(phi.sum(axis=0), 2 * odd[0], rtol=0, atol=1e-13)


def test_a_constant_game_is_worth_nothing():
    phi = shapley.estimate(lambda masks: np.full(len(masks), 5.0), 9, 40, jax.random.key(0), "odd_gp")
    np.testing.assert_array_equal(phi, 0.0)


def test_the_batch_changes_no_game():
    rng = np.random.default_rng(0)
    design = odd_gp.odd_gp(9, 100, rng)
    values = rng.normal(size=(100, 6)) * np.array([1.0, 0.1, 0.01, 0.001, 1e-5, 0.0])
    values += additive(rng.normal(size=9), design.masks_SP)[:, None]
    values[:, 1] = 2.0
    together = design.solve(values)
    for game in range(6):
        np.testing.assert_allclose(design.solve(values[:, game]), together[:, game], rtol=0, atol=1e-12)
        pair = design.solve(values[:, [game, 0]])
        np.testing.assert_allclose(pair[:, 0], together[:, game], rtol=0, atol=1e-12)


# The design


def test_evaluates_what_leverage_shap_does():
    for n_players, budget in ((5, 14), (9, 64), (16, 129)):
        gp, leverage = (
            shapley.design(n_players, budget, jax.random.key(3), method).masks_SP
            for method in ("odd_gp", "leverage_shap")
        )
        assert len(np.unique(gp, axis=0)) == len(gp)
        np.testing.assert_array_equal(np.unique(gp, axis=0), np.unique(leverage, axis=0))
        np.testing.assert_array_equal(gp[: len(gp) // 2], ~gp[len(gp) // 2 :])


@pytest.mark.parametrize("budget, ratio", [(32, 0.7), (64, 0.9), (256, 0.6)])
def test_beats_leverage_shap_on_a_game_like_a_probability(budget, ratio):
    rng = np.random.default_rng(0)
    masks = exact.all_masks(12).astype(float)
    pairwise = np.einsum("sp,gpq,sq->sg", masks, rng.normal(scale=0.1, size=(8, 12, 12)), masks)
    logits = masks @ rng.normal(scale=0.6, size=(12, 8)) + pairwise
    values = 1.0 / (1.0 + np.exp(logits.mean(axis=0) - logits))
    truth = np.stack([exact.shapley_values(column) for column in values.T], axis=1)

    def error(method):
        draws = (shapley.design(12, budget, jax.random.key(seed), method) for seed in range(4))
        solved = np.stack([draw.solve(values[draw.masks_SP @ 2 ** np.arange(12)]) for draw in draws])
        return np.mean(np.square(solved - truth).sum(axis=1) / np.square(truth).sum(axis=0))

    assert error("odd_gp") < ratio * error("leverage_shap")


def test_a_budget_beyond_memory_is_refused():
    with pytest.raises(ValueError, match="budget=8193 is too large for odd_gp .*8192.*leverage_shap"):
        shapley.design(16, 8193, jax.random.key(0), "odd_gp")
    assert len(shapley.design(13, 2**13, jax.random.key(0), "odd_gp").masks_SP) == 2**13  # exact: no limit
