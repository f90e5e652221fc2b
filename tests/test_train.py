"""The training step, the loop around it, and a test that counts every image once."""

from types import SimpleNamespace

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
KEY = jax.random.key(0)


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
    state, loss, logits = train.update(net, optimizer, state, KEY, images, loss_of)
    x = ((images - MEAN) / STD).reshape(5, -1)
    p = softmax(numpy_logits(variables, split.images_u8), axis=1)
    kernel = variables["params"]["dense"]["kernel"] - 0.3 * x.T @ (p - np.eye(7)[split.labels]) / 5
    np.testing.assert_allclose(state.params["dense"]["kernel"], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss, -np.log(p[np.arange(5), split.labels]).mean(), rtol=1e-5)
    np.testing.assert_allclose(logits, numpy_logits(variables, split.images_u8), rtol=1e-4, atol=1e-4)  # before the step
    assert int(state.step) == 1 and state.batch_stats == {}


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        x = nn.Dropout(0.5, deterministic=not train)(jnp.ones((len(images_norm), 1000)))
        return nn.Dense(1, kernel_init=nn.initializers.ones)(x) / 1000


def test_an_update_draws_dropout_from_its_key():
    net, optimizer, images = train.Network(Dropping(), MEAN, STD), optax.sgd(0.0), np.ones((1, 2, 2, 3), np.float32)
    variables = models.initialize(net.model, KEY, 2)
    losses = []
    for key in (KEY, KEY, jax.random.key(1)):
        _, loss, _ = train.update(net, optimizer, train.create_state(variables, optimizer), key, images, jnp.sum)
        losses.append(float(loss))
    assert losses[0] == losses[1] != losses[2] and 0.8 < losses[0] < 1.2  # kept values are doubled


def test_an_update_moves_the_running_statistics_and_testing_reads_them():
    net, variables = network(norm=True)
    images = Split(9).images_u8.astype(np.float32) / 255
    optimizer = optax.sgd(0.0)
    state, *_ = train.update(net, optimizer, train.create_state(variables, optimizer), KEY, images, jnp.sum)
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


@pytest.mark.parametrize(
    ("batch_sizes", "ends", "most"),
    [([3] * 40, [], 8), ([3] * 40, [30, 35, 40], 8), ([3, 3, 1] * 9, [], 8), ([3, 3, 1] * 9, [24, 27], 64)],
)
def test_chunks_are_the_batches_in_order_cut_where_they_must_be(batch_sizes, ends, most):
    batches = [np.arange(size) + 10 * i for i, size in enumerate(batch_sizes)]
    chunks = list(train.chunked(iter(batches), ends, most))
    together = [rows for chunk in chunks for rows in chunk]
    assert len(together) == len(batches) and all(map(np.array_equal, together, batches))
    assert max(map(len, chunks)) <= most
    assert set(ends) <= set(np.cumsum([len(chunk) for chunk in chunks]))


def chunk_lengths(monkeypatch, seconds_of_a_step, n_steps, **options):
    """Lengths of the chunks of `n_steps` steps, the i-th of which takes seconds_of_a_step(i)."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(train, "time", clock)
    lengths = []
    for chunk in train.chunked(np.arange(n_steps)[:, None], options.get("ends", []), options.get("most", 64)):
        clock.now += sum(seconds_of_a_step(i) for i in chunk[:, 0])
        lengths.append(len(chunk))
    return lengths


def test_chunks_follow_the_time_that_they_take(monkeypatch):
    fast, slow = (lambda _: 1e-4), (lambda _: 3.0)
    assert chunk_lengths(monkeypatch, fast, 200) == [1, 2, 4, 8, 16, 32, 64, 64, 9]
    assert chunk_lengths(monkeypatch, fast, 30, ends=[10, 20, 30], most=4) == [1, 2, 4, 3] + [4, 4, 2] * 2
    assert chunk_lengths(monkeypatch, slow, 5) == [1] * 5
    assert chunk_lengths(monkeypatch, lambda _: 0.3, 7) == [1, 2, 2, 2]
    assert chunk_lengths(monkeypatch, lambda i: 1e-4 if i < 7 else 1.0, 23) == [1, 2, 4, 8, 4, 2, 2]


def count_steps(state, amounts):
    return state + sum(amounts), np.array(amounts, np.float32)


def test_the_loop_runs_chunks_calls_back_where_one_ends_an_epoch_and_goes_on_where_asked():
    seen = []
    options = dict(epochs=4, steps_per_epoch=2, label="t", after_epoch=lambda *args: seen.append(args))
    chunks = [([1],), ([2],), ([3, 5],), ([10],), ([20, 30],), ([40],)]
    assert train.fit(count_steps, 0, chunks, **options) == 111
    assert seen == [(1, 3), (2, 11), (4, 111)]
    seen.clear()
    assert train.fit(count_steps, 11, chunks[3:], first_epoch=2, **options) == 111
    assert seen == [(4, 111)]
    assert train.fit(count_steps, 111, [], first_epoch=4, **options) == 111


def test_a_step_by_itself_has_a_loss_without_an_axis():
    seen = []
    step = lambda state, amount: (state + amount, jnp.float32(amount))
    options = dict(epochs=2, steps_per_epoch=2, label="t", after_epoch=lambda *args: seen.append(args))
    assert train.fit(step, 0, [(1,), (2,), (3,), (4,)], **options) == 10
    assert seen == [(1, 3), (2, 10)]


def test_progress_counts_steps_not_chunks(monkeypatch):
    seen = []
    watch = lambda items, label, **options: [seen.append((list(items), label, options))]
    monkeypatch.setattr(train, "track", watch)
    train.fit(count_steps, 0, [([1, 2],), ([3, 4, 5],), ([6],)], epochs=4, steps_per_epoch=2, label="t", first_epoch=1)
    assert seen == [([3, 4, 5, 6, 7, 8], "t", {"total": 6, "unit": "steps"})]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("chunks", [[[1, 1, 1], [1, 1, "bad"], [1, 1, 1]], [[1], [1], [1], [1, 1, "bad", 1, 1, 1]]])
def test_a_loss_that_is_not_finite_stops_before_the_epoch_is_saved(chunks, bad):
    saved = []
    stream = (([bad if amount == "bad" else amount for amount in chunk],) for chunk in chunks)
    with pytest.raises(NumericError, match="teacher: .* epoch 2, step 3; lower the learning rate"):
        train.fit(
            count_steps, 0, stream,
            epochs=3, steps_per_epoch=3, label="teacher", after_epoch=lambda epoch, *_: saved.append(epoch),
        )  # fmt: skip
    assert saved == [1]
