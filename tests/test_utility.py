"""Gradient norms against a loop of single gradients and a closed form, on one device and on many."""

import jax
import numpy as np
import pytest
from scipy.special import softmax

from infoutil_jax import models, parallel, utility

MODEL = models.build("convnet3", 5, width=4)
SIDE = 8


def logits_fn(variables, images):
    return MODEL.apply(variables, images, train=False)


def norms_fn(variables, images, labels):
    return utility.gradient_norms(logits_fn, variables, images, labels)


@pytest.fixture(scope="module")
def variables():
    """A network whose BatchNorm has seen data: neither mean 0 nor variance 1, and units that are alive."""
    fresh = models.initialize(MODEL, jax.random.key(1), SIDE)
    rng = np.random.default_rng(0)
    draw = {"mean": lambda shape: rng.normal(0, 0.1, shape), "var": lambda shape: rng.uniform(0.05, 0.5, shape)}
    random_like = lambda path, leaf: draw[path[-1].key](leaf.shape).astype(np.float32)
    stats = jax.tree_util.tree_map_with_path(random_like, fresh["batch_stats"])
    variables = {"params": fresh["params"], "batch_stats": stats}
    assert np.std(logits_fn(variables, examples(9)[0]), axis=0).min() > 0.01
    return variables


def examples(n):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, SIDE, SIDE, 3)).astype(np.float32), rng.integers(0, 5, n).astype(np.int32)


def loss(params, stats, image, label):
    logits = MODEL.apply({"params": params, "batch_stats": stats}, image[None], train=False)[0]
    return jax.nn.logsumexp(logits) - logits[label]


@pytest.fixture(scope="module")
def expected(variables):
    """Norms of the first 17 examples, one `jax.grad` at a time."""
    gradient = jax.jit(jax.grad(loss))
    rows = [gradient(variables["params"], variables["batch_stats"], *example) for example in zip(*examples(17))]
    return np.array([np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(row))) for row in rows])


@pytest.mark.parametrize("n_devices", [1, 2, 8])
def test_every_row_equals_a_loop_of_single_gradients_on_any_devices(n_devices, variables, expected, monkeypatch):
    devices = jax.devices()[:n_devices]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    parallel._pmapped.cache_clear()
    step = 2 * n_devices
    for n in sorted({1, n_devices - 1, step - 1, step, step + 1} - {0}):
        images, labels = (rows[:n] for rows in examples(17))
        norms = parallel.map_batches(norms_fn, 2, variables, images, labels)
        assert norms.shape == (n,) and norms.dtype == np.float32
        np.testing.assert_allclose(norms, expected[:n], rtol=1e-5)
    parallel._pmapped.cache_clear()


def test_one_by_one_gives_the_same_numbers(variables, expected):
    images, labels = examples(17)
    np.testing.assert_allclose(
        utility.gradient_norms_one_by_one(logits_fn, variables, images[:5], labels[:5]), expected[:5], rtol=1e-6
    )


def test_closed_form_of_a_linear_network():
    """||p - y|| * sqrt(||x||^2 + 1)."""
    rng = np.random.default_rng(2)
    params = {"w": rng.normal(size=(12, 3)).astype(np.float32), "b": rng.normal(size=3).astype(np.float32)}
    images, labels = rng.normal(size=(6, 2, 2, 3)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2], np.int32)

    def linear(variables, x):
        return x.reshape(len(x), -1) @ variables["params"]["w"] + variables["params"]["b"][None]

    x = images.reshape(6, -1).astype(np.float64)
    error = softmax(x @ params["w"] + params["b"], axis=1) - np.eye(3)[labels]
    closed = np.linalg.norm(error, axis=1) * np.sqrt((x**2).sum(1) + 1)
    variables = {"params": params, "other": {"unused": np.ones(3)}}
    for norms in (utility.gradient_norms, utility.gradient_norms_one_by_one):
        np.testing.assert_allclose(norms(linear, variables, images, labels), closed, rtol=1e-5, atol=1e-6)
