"""The training step, the loop around it, and a test that counts every image once."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import softmax

from infoutil_jax import losses, models, parallel, train
from infoutil_jax.errors import NumericError, Preempted

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
    np.testing.assert_allclose(
        logits, numpy_logits(variables, split.images_u8), rtol=1e-4, atol=1e-4
    )  # before the step
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
    for first in (1, len(batches) - 1):  # a training that goes on
        rest = list(train.chunked(iter(batches[first:]), ends, most, first))
        assert all(map(np.array_equal, [rows for chunk in rest for rows in chunk], batches[first:]))
        assert {end for end in ends if end > first} <= set(first + np.cumsum([len(chunk) for chunk in rest]))


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


def given(*chunks):
    """The chunks of a training that goes on from nowhere."""
    return lambda first: iter(chunks) if first == 0 else pytest.fail(f"asked for step {first}")


def test_the_loop_runs_chunks_and_calls_back_where_one_ends_an_epoch():
    seen = []
    options = dict(epochs=4, steps_per_epoch=2, label="t", after_epoch=lambda *args: seen.append(args))
    chunks = given(([1],), ([2],), ([3, 5],), ([10],), ([20, 30],), ([40],))
    assert train.fit(count_steps, 0, chunks, **options) == 111
    assert seen == [(1, 3), (2, 11), (4, 111)]


def test_a_step_by_itself_has_a_loss_without_an_axis():
    seen = []
    step = lambda state, amount: (state + amount, jnp.float32(amount))
    options = dict(epochs=2, steps_per_epoch=2, label="t", after_epoch=lambda *args: seen.append(args))
    assert train.fit(step, 0, given((1,), (2,), (3,), (4,)), **options) == 10
    assert seen == [(1, 3), (2, 10)]


class Saves:
    """Saves in a dictionary, due whenever `due` says so."""

    def __init__(self, due=lambda: False):
        self.saved, self.due = {}, due

    def latest(self, like, up_to=None):
        steps = [step for step in self.saved if up_to is None or step <= up_to]
        return (max(steps), self.saved[max(steps)]) if steps else None

    def save(self, step, tree):
        self.saved.setdefault(step, jax.tree.map(np.array, tree))


class Counting:
    """A training of 4 epochs of 3 steps, in chunks of `length`: the state is the sum of the steps' numbers, `host_E`
    counts the calls after each epoch and holds what the state was then."""

    def __init__(self, length=2, interrupt=lambda where, step: None):
        self.length, self.interrupt, self.host_E2, self.calls = length, interrupt, np.zeros((4, 2)), []

    def chunks(self, first):
        step = first
        while step < 12:
            end = min(step + self.length, (step // 3 + 1) * 3)
            yield (np.arange(step, end, dtype=np.float32),)
            step = end

    def advance(self, state, numbers):
        return state + numbers.sum(), numbers

    def after_epoch(self, epoch, state):
        self.interrupt("after_epoch", 3 * epoch)
        self.host_E2[epoch - 1] += 1, float(state)
        self.calls.append(epoch)

    def track(self, items, *_, **__):
        for step in items:
            self.interrupt("track", step)
            yield step

    def run(self, monkeypatch, saves, **options):
        monkeypatch.setattr(train, "track", self.track)
        options = (
            dict(epochs=4, steps_per_epoch=3, label="t", host=self.host_E2, after_epoch=self.after_epoch) | options
        )
        return float(train.fit(self.advance, jnp.float32(0), self.chunks, saves=saves, **options))


WHOLE = [[1, 3], [1, 15], [1, 36], [1, 66]]  # 0 + 1 + 2, ... + 5, ... + 11


def stop_at(place, at):
    def interrupt(where, step):
        if (where, step) == (place, at):
            raise Preempted("asked to stop")

    return interrupt


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize(
    "place, step", [("track", step) for step in range(1, 13)] + [("after_epoch", 3), ("after_epoch", 12)]
)
def test_who_asks_to_stop_loses_no_step(monkeypatch, length, place, step):
    """The chunk in hand is finished and saved, an epoch's end that was not reached made up for, nothing done twice."""
    saves, first, second = Saves(), Counting(length, stop_at(place, step)), Counting(length)
    with pytest.raises(Preempted):
        first.run(monkeypatch, saves)
    (reached,) = saves.saved
    assert step <= reached < step + length
    assert second.run(monkeypatch, saves) == 66
    np.testing.assert_array_equal(second.host_E2, WHOLE)
    assert first.calls + second.calls == [1, 2, 3, 4]


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_saves_are_at_multiples_of_epochs_but_not_at_the_end(monkeypatch, epochs):
    saves = Saves()
    assert Counting().run(monkeypatch, saves, save_epochs=epochs) == 66
    assert list(saves.saved) == {1: [3, 6, 9], 2: [6], 5: []}[epochs]
    assert float(saves.saved.get(6, {"state": 15})["state"]) == 15


def test_saves_are_where_they_are_due_and_training_goes_on_from_each_with_the_same_result(monkeypatch):
    saves = Saves(due=lambda: True)
    Counting(1).run(monkeypatch, saves)
    assert list(saves.saved) == list(range(1, 12))
    for step, tree in saves.saved.items():
        one, counting = Saves(), Counting()
        one.saved[step] = tree
        assert counting.run(monkeypatch, one) == 66
        np.testing.assert_array_equal(counting.host_E2, WHOLE)
        assert counting.calls == list(range(max(step // 3 + (step % 3 > 0), 1), 5))


def test_training_goes_on_from_a_save_that_is_not_too_late(monkeypatch):
    saves = Saves(due=lambda: True)
    Counting(1).run(monkeypatch, saves)
    early, none = Counting(), Counting()
    assert early.run(monkeypatch, saves, up_to=6) == 66 and early.calls == [2, 3, 4]
    del saves.saved[1]
    assert none.run(monkeypatch, saves, up_to=1) == 66 and none.calls == [1, 2, 3, 4]


def test_a_training_that_is_not_saved_only_stops(monkeypatch):
    with pytest.raises(Preempted):
        Counting(2, stop_at("track", 4)).run(monkeypatch, None)


def test_a_saved_state_is_placed_as_the_first_one_is(monkeypatch):
    saves, state = Saves(), parallel.replicate(jnp.float32(0))
    saves.saved[11] = {"state": np.float32(55), "host": np.zeros((4, 2))}
    monkeypatch.setattr(train, "track", Counting().track)
    counting = Counting()
    options = dict(epochs=4, steps_per_epoch=3, label="t", host=counting.host_E2, saves=saves)
    done = train.fit(counting.advance, state, counting.chunks, **options)
    assert float(done) == 66 and done.sharding == state.sharding and len(done.devices()) == 8


def test_progress_counts_steps_not_chunks_and_only_those_to_come(monkeypatch):
    seen, saves = [], Saves()
    watch = lambda items, label, **options: [seen.append((list(items), label, options))]
    monkeypatch.setattr(train, "track", watch)
    saves.saved[2] = {"state": np.int32(0), "host": ()}
    chunks = lambda first: iter([([1, 2],), ([3, 4, 5],), ([6],)]) if first == 2 else None
    train.fit(count_steps, jnp.int32(0), chunks, epochs=4, steps_per_epoch=2, label="t", saves=saves)
    assert seen == [([3, 4, 5, 6, 7, 8], "t", {"total": 6, "unit": "steps"})]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("chunks", [[[1, 1, 1], [1, 1, "bad"], [1, 1, 1]], [[1], [1], [1], [1, 1, "bad", 1, 1, 1]]])
def test_a_loss_that_is_not_finite_stops_before_the_epoch_is_saved(chunks, bad):
    seen, saves = [], Saves(due=lambda: True)
    stream = given(*(([bad if amount == "bad" else amount for amount in chunk],) for chunk in chunks))
    with pytest.raises(NumericError, match="teacher: .* epoch 2, step 3; lower the learning rate"):
        train.fit(
            count_steps, 0, stream, saves=saves,
            epochs=3, steps_per_epoch=3, label="teacher", after_epoch=lambda epoch, *_: seen.append(epoch),
        )  # fmt: skip
    assert seen == [1] and max(saves.saved) == 3
