"""The training step, the loop around it, and a test that counts every image once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import softmax

from infoutil_jax import losses, models, train
from infoutil_jax.errors import NumericError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)


class Linear(nn.Module):
    """Pixels, batch-normalised where asked, then one dense layer without bias."""

    n_classes: int
    norm: bool = False

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        x = images_norm.reshape(len(images_norm), -1)
        x = nn.BatchNorm(not train, momentum=0.75)(x) if self.norm else x
        return nn.Dense(self.n_classes, use_bias=False, name="dense")(x)


def network(n_classes=7, **settings):
    net = train.Network(Linear(n_classes, **settings), MEAN, STD)
    return net, models.initialize(net.model, jax.random.key(0), 2)


class Split:
    """Random images with random labels, read by index; remembers what was read."""

    def __init__(self, n, n_classes=7):
        rng = np.random.default_rng(n)
        self.labels = rng.integers(0, n_classes, n).astype(np.int32)
        self.images_u8 = rng.integers(0, 256, (n, 2, 2, 3)).astype(np.uint8)
        self.read = []

    def __len__(self):
        return len(self.labels)

    def images(self, indices):
        self.read += list(indices)
        return self.images_u8[indices]


def numpy_logits(variables, images_u8):
    x = (images_u8 / 255.0 - MEAN) / STD
    return x.reshape(len(x), -1) @ np.asarray(variables["params"]["dense"]["kernel"], np.float64)


def test_normalisation_is_per_channel_for_one_image_and_for_many():
    net, _ = network()
    images = np.random.default_rng(0).uniform(size=(4, 2, 2, 3)).astype(np.float32)
    expected = (images - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(net.normalize(images), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.normalize(images[1]), expected[1], rtol=1e-5, atol=1e-6)


def test_one_update_is_one_step_of_softmax_regression():
    net, variables = network()
    split = Split(5)
    optimizer = optax.sgd(0.3)
    state = train.create_state(variables, optimizer)
    images = split.images_u8.astype(np.float32) / 255
    loss_of = lambda logits: losses.cross_entropy(logits, jnp.asarray(split.labels)).mean()
    state, loss = train.update(net, optimizer, state, images, loss_of)
    x = ((images - MEAN) / STD).reshape(5, -1)
    p = softmax(numpy_logits(variables, split.images_u8), axis=1)
    kernel = variables["params"]["dense"]["kernel"] - 0.3 * x.T @ (p - np.eye(7)[split.labels]) / 5
    np.testing.assert_allclose(state.params["dense"]["kernel"], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss, -np.log(p[np.arange(5), split.labels]).mean(), rtol=1e-5)
    assert int(state.step) == 1 and state.batch_stats == {}


def test_an_update_moves_the_running_statistics_and_testing_reads_them():
    net, variables = network(norm=True)
    images = Split(9).images_u8.astype(np.float32) / 255
    optimizer = optax.sgd(0.0)
    state, _ = train.update(net, optimizer, train.create_state(variables, optimizer), images, jnp.sum)
    x = ((images - MEAN) / STD).reshape(9, -1)
    stats = state.variables["batch_stats"]["BatchNorm_0"]
    mean, var = 0.25 * x.mean(0), 0.75 + 0.25 * x.var(0)
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["var"], var, rtol=1e-4)
    expected = (x - mean) / np.sqrt(var + 1e-5) @ np.asarray(variables["params"]["dense"]["kernel"])
    np.testing.assert_allclose(net.logits(state.variables, images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 16, 37])
def test_every_image_is_counted_once(n):
    net, variables = network()
    split = Split(n)
    accuracy = train.test(net, variables, split, rows_per_device=1, chunk=16)
    order = np.argsort(-numpy_logits(variables, split.images_u8), axis=1)
    hits = order == split.labels[:, None]
    assert accuracy == pytest.approx((hits[:, 0].mean(), hits[:, :5].any(1).mean(), n), rel=1e-12)
    assert sorted(split.read) == list(range(n))


def test_a_white_pixel_is_one():
    """A threshold between 254 and 255 of 255, at class 0's side of it."""
    net = train.Network(Linear(2), (254.5 / 255,) * 3, (1.0,) * 3)
    split = Split(4, n_classes=2)
    split.images_u8[:] = np.array([254, 255, 255, 254])[:, None, None, None]
    split.labels = np.array([1, 0, 0, 1], np.int32)
    kernel = np.tile(np.array([1, -1], np.float32), (12, 1))
    assert train.test(net, {"params": {"dense": {"kernel": kernel}}}, split).top1 == 1


def count_steps(state, amount):
    return state + amount, np.float32(amount)


def test_the_loop_reports_each_epochs_mean_loss_and_goes_on_where_asked():
    batches = {0: [(1,), (2,)], 1: [(3,), (5,)], 2: [(10,), (20,)]}
    seen = []
    options = dict(epochs=3, steps_per_epoch=2, label="t", after_epoch=lambda *args: seen.append(args))
    assert train.fit(count_steps, 0, batches.__getitem__, **options) == 41
    assert seen == [(1, 3, 1.5), (2, 11, 4.0), (3, 41, 15.0)]
    seen.clear()
    assert train.fit(count_steps, 3, batches.__getitem__, first_epoch=1, **options) == 41
    assert [epoch for epoch, *_ in seen] == [2, 3]
    assert train.fit(count_steps, 41, batches.__getitem__, first_epoch=3, **options) == 41


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_before_the_epoch_is_saved(bad):
    saved = []
    with pytest.raises(NumericError, match="teacher: .* epoch 2, step 3; lower the learning rate"):
        train.fit(
            count_steps, 0, lambda epoch: [(1,), (1,), (bad if epoch == 1 else 1,)],
            epochs=3, steps_per_epoch=3, label="teacher", after_epoch=lambda epoch, *_: saved.append(epoch),
        )  # fmt: skip
    assert saved == [1]
