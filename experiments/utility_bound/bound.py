"""Utility of a sample (InfoUtil, Definition 3) and its bound by the gradient norm (Theorem 1), both counted out.

g_i is the gradient of sample i's cross-entropy, one step is theta - eta * sum of g over the mini-batch. Letters: N
samples, B mini-batch, P parameters. Networks are small: all N gradients are alive at once, (N, P) float32 on the host.
"""

import functools

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy import stats

from infoutil_jax import losses


@functools.lru_cache(maxsize=None)
def _losses_fn(network):
    """Losses (N,) of images (N, H, W, 3) in [0, 1] by parameters; BatchNorm in eval mode, so that samples do not mix."""
    return jax.jit(lambda variables, images, labels: losses.cross_entropy(network.logits(variables, images), labels))


@functools.lru_cache(maxsize=None)
def _gradients_fn(network):
    def loss(params, variables, image, label):
        return _losses_fn(network)({**variables, "params": params}, image[None], label[None])[0]

    def flat(variables, image, label):
        return ravel_pytree(jax.grad(loss)(variables["params"], variables, image, label))[0]

    return jax.jit(jax.vmap(flat, (None, 0, 0)))


def gradients(network, variables, images, labels, *, chunk: int) -> np.ndarray:
    """Every sample's flat gradient, (N, P) float32, `chunk` samples at a time."""
    parts = [slice(start, start + chunk) for start in range(0, len(labels), chunk)]
    return np.concatenate([np.asarray(_gradients_fn(network)(variables, images[p], labels[p])) for p in parts])


def continuous(gradients_NP: np.ndarray, eta: float) -> np.ndarray:
    """|l'_j(B) - l'_j(B without i)| = eta |<g_j, g_i>| for every i (row) and j, (N, N) float64. No batch in it."""
    exact = gradients_NP.astype(np.float64)
    return eta * np.abs(exact @ exact.T)


@functools.lru_cache(maxsize=None)
def _left_out_fn(network):
    """Losses (N,) after a step on the batch without one sample: its gradient, times eta, is put back."""

    def losses_without(params, others, gradient_P, eta, images, labels):
        flat, unravel = ravel_pytree(params)
        return _losses_fn(network)({**others, "params": unravel(flat + eta * gradient_P)}, images, labels)

    return jax.jit(losses_without)


def discrete(network, variables, images, labels, gradients_NP, eta: float, batch: int) -> np.ndarray:
    """|change of sample j's loss in a step on B - the same in a step on B without i|, (N, N): rows i, columns j.

    The mini-batches are the N samples cut into runs of `batch`, each a step from the same weights; i is left out of its
    own. Differences of float32 losses: what lies near 1e-6 is rounding.
    """
    flat, unravel = ravel_pytree(variables["params"])
    rows = []
    for start in range(0, len(labels), batch):
        of_batch = gradients_NP[start : start + batch]
        total = of_batch.astype(np.float64).sum(0).astype(np.float32)
        params = unravel(flat - np.float32(eta) * total)
        after = _losses_fn(network)({**variables, "params": params}, images, labels)
        without = functools.partial(_left_out_fn(network), params, variables)
        rows += [np.abs(np.asarray(without(g, np.float32(eta), images, labels) - after)) for g in of_batch]
    return np.array(rows, np.float64)


def utility(effects_NN: np.ndarray) -> np.ndarray:
    """Definition 3 for every i: the largest effect on any sample j, i itself included."""
    return effects_NN.max(axis=1)


def summary(norms_N: np.ndarray, effects_NN: np.ndarray, eta: float) -> dict:
    """How utilities follow gradient norms, and where they lie against Theorem 1's bound eta * max ||g|| * ||g_i||.

    `smallest_c` is the least constant with U <= c ||g_i|| on these samples. With j = i among them, and in continuous
    form, U_i is never below eta ||g_i||^2 and the sample of the largest gradient reaches the bound by itself; so
    what ends in `_others` leaves j = i out.
    """
    constant, found = eta * norms_N.max(), utility(effects_NN)
    share = found / (constant * norms_N)
    others = utility(np.where(np.eye(len(norms_N), dtype=bool), 0.0, effects_NN))
    rank_correlation = lambda values: float(stats.spearmanr(norms_N, values).statistic)
    return {
        "spearman": rank_correlation(found),
        "spearman_others": rank_correlation(others),
        "theorem_c": float(constant),
        "smallest_c": float((found / norms_N).max()),
        "smallest_c_others": float((others / norms_N).max()),
        "utility_over_bound": dict(zip(("least", "median", "largest"), np.quantile(share, [0, 0.5, 1]).tolist())),
        "above_bound": float((share > 1 + 1e-5).mean()),  # rounding aside
    }
