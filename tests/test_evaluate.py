"""Views, stored labels and CutMix against counted pixels; students on a set that anyone can learn."""

import dataclasses
import itertools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.neighbors import KNeighborsClassifier

from infoutil_jax import losses, models, optim, train
from infoutil_jax.data.autoaugment import AUGMENTATIONS
from infoutil_jax.errors import ConfigError, DataError, NumericError
from infoutil_jax.keys import generator, key_for
from infoutil_jax.stages import evaluate
from infoutil_jax.types import DistilledSet

SIDE, F, K = 8, 2, 4
COLOURS = np.eye(4, 3, dtype=np.float32)  # red, green, blue, black: the mean colour tells how much of each is seen
SETTINGS = evaluate.Settings(
    model="convnet3", width=4, epochs=10, batch_size=0, learning_rate=0.05, schedule="half_cosine", weight_decay=0.0,
    ema=0.0, loss="kl", temperature=2.0, class_weight=0.0, labels="hard", cutmix=True, min_scale=0.5, zoom=0.0,
    zoom_grid=2, shuffle=True, augment="none", bn_momentum=0.81, test_every=1, seeds=1, hard_seeds=0,
)  # fmt: skip
KEYS = jax.random.split(jax.random.key(0), 200)


def change(**fields):
    return dataclasses.replace(SETTINGS, **fields)


@pytest.mark.parametrize("box", [(0, 0, 12, 12), (3, 1, 5, 11), (7, 6, 1, 1), (0, 4, 4, 4), (5, 0, 7, 3)])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_patch_shares_count_pixels(box, factor):
    y, x, h, w = box
    patch = np.arange(12) * factor // 12
    expected = np.zeros((factor, factor))
    for i, j in itertools.product(patch[y : y + h], patch[x : x + w]):
        expected[i, j] += 1 / (h * w)
    shares = evaluate.patch_shares(jnp.array(box, jnp.float32), 12, factor)
    np.testing.assert_allclose(shares, expected, atol=1e-6)


def views(settings, factor, image, targets, flip=True):
    one = lambda key: evaluate.view(settings, factor, flip, key, jnp.asarray(image), jnp.asarray(targets))
    images, labels = jax.jit(jax.vmap(one))(KEYS)
    return np.asarray(images), np.asarray(labels)


def four_colours():
    """A mosaic of four plain patches, red green / blue black, and their one-hot labels (F, F, K)."""
    patches = COLOURS.reshape(F, F, 3)
    return patches.repeat(SIDE // F, axis=0).repeat(SIDE // F, axis=1), np.eye(K, dtype=np.float32).reshape(F, F, K)


def test_a_zoomed_view_is_one_patch_with_its_own_label_wherever_shuffling_put_it():
    images, labels = views(change(zoom=1.0), F, *four_colours())
    assert set(labels.argmax(1)) == {0, 1, 2, 3}
    np.testing.assert_allclose(labels, np.eye(K)[labels.argmax(1)], atol=1e-6)
    plain = COLOURS[labels.argmax(1)][:, None, None]
    np.testing.assert_allclose(images, np.broadcast_to(plain, images.shape), atol=1e-5)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_view_of_the_whole_image_has_the_mean_label(shuffle):
    mosaic, targets = four_colours()
    images, labels = views(change(min_scale=1.0, shuffle=shuffle), F, mosaic, targets, flip=False)
    np.testing.assert_allclose(labels, 0.25, atol=1e-6)
    moved = (np.abs(images - mosaic) > 1e-5).any(axis=(1, 2, 3))
    assert moved.any() == shuffle and not moved.all()


def test_a_partial_view_has_the_labels_of_what_it_shows():
    images, labels = views(change(min_scale=0.1), F, *four_colours())
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(images.mean((1, 2)), labels[:, :3], atol=0.06)  # antialiasing blurs the borders
    assert (labels.max(1) > 0.9).any() and (labels.max(1) < 0.4).any()


def test_a_least_scale_of_one_shows_whole_images_mirrored_half_of_the_time():
    image = np.random.default_rng(0).uniform(size=(SIDE, SIDE, 3)).astype(np.float32)
    images, labels = views(change(min_scale=1.0), 1, image, np.full((1, 1, K), 0.25, np.float32))
    mirrored = (images == image[:, ::-1]).all(axis=(1, 2, 3))
    assert ((images == image).all(axis=(1, 2, 3)) ^ mirrored).all() and 0.35 < mirrored.mean() < 0.65
    assert (labels == 0.25).all()


def test_cutmix_mixes_labels_by_the_share_of_pixels():
    images = np.broadcast_to(COLOURS[:3, None, None], (3, SIDE, SIDE, 3))
    targets = np.eye(3, dtype=np.float32)
    mixed, labels = jax.vmap(evaluate.mix, (0, None, None))(KEYS, jnp.asarray(images), jnp.asarray(targets))
    assert np.isin(mixed, [0, 1]).all()
    np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-6)  # over the batch each class keeps its mass
    np.testing.assert_allclose(mixed.mean((2, 3)), labels, atol=1e-6)
    assert len({tuple(row.argmax(-1)) for row in np.asarray(labels)}) > 1
    assert ((labels > 0.01) & (labels < 0.99)).any(axis=(1, 2)).mean() > 0.5


def test_every_target_of_a_batch_is_mixed_alike():
    images = jnp.zeros((4, SIDE, SIDE, 3))
    _, one, other = evaluate.mix(KEYS[0], images, jnp.eye(4), 2 * jnp.eye(4))
    assert (one != jnp.eye(4)).any()
    np.testing.assert_allclose(other, 2 * one, rtol=1e-6)


def test_a_view_is_augmented_last():
    plain, labels = views(SETTINGS, F, *four_colours())
    augmented, same = views(change(augment="randaugment"), F, *four_colours())
    np.testing.assert_array_equal(same, labels)
    expected = jax.vmap(lambda key, image: AUGMENTATIONS["randaugment"](jax.random.split(key, 4)[3], image))(
        KEYS, jnp.asarray(plain)
    )
    np.testing.assert_array_equal(augmented, expected)
    assert np.abs(augmented - plain).max() > 0.5


@pytest.mark.parametrize(("loss", "class_weight"), [("kl", 0.0), ("mse", 0.0), ("mse", 0.5), ("kl", 0.5)])
def test_the_loss_of_soft_labels_is_its_formula(loss, class_weight):
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 5, K))
    classes = softmax(rng.normal(size=(5, K)), axis=1)
    expected = ((ours - theirs) ** 2).mean(1)
    if loss == "kl":
        p, q = (softmax(logits / 2, axis=1) for logits in (theirs, ours))
        expected = (p * np.log(p / q)).sum(1)
    expected += class_weight * -(classes * np.log(softmax(ours, axis=1))).sum(1)
    settings = change(labels="online", loss=loss, class_weight=class_weight)
    target = evaluate._as_target(settings, jnp.float32(theirs))
    actual = evaluate._loss(settings, jnp.float32(ours), target, jnp.float32(classes))
    np.testing.assert_allclose(actual, expected.mean(), rtol=1e-5)


def test_the_default_batch_size_is_rdeds():
    table = {(1, 10): 10, (10, 10): 50, (50, 10): 100}  # (ipc, classes): size
    table |= {(1, 100): 20, (10, 100): 100, (50, 100): 200, (10, 1000): 100}
    assert {key: evaluate.default_batch_size(*key) for key in table} == table
    assert evaluate.default_batch_size(1, 3) == 3 and evaluate.default_batch_size(10, 3) == 30


def colour_set(labels=(0, 1, 2, 0, 1, 2, 0), factor=F):
    """Plain tiles in their class's colour; stored logits favour the class."""
    labels = np.array(labels, np.int32)
    n, k = len(labels), factor * factor
    noise = np.random.default_rng(3).integers(0, 40, (n, SIDE, SIDE, 3))
    images_u8 = (200 * COLOURS[labels][:, None, None] + noise).astype(np.uint8)
    logits = np.broadcast_to(8 * np.eye(3, dtype=np.float32)[labels][:, None], (n, k, 3))
    nothing = np.zeros((n, k), np.float32)
    boxes = np.zeros((n, k, 4), np.int32)
    return DistilledSet(images_u8, labels, logits, (("id",) * k,) * n, boxes, nothing, nothing, {})


class Split:
    def __init__(self, images_u8, labels):
        self.images_u8, self.labels = images_u8, np.asarray(labels, np.int32)

    def __len__(self):
        return len(self.labels)

    def images(self, indices):
        return self.images_u8[indices]


def validation(n=31):
    noisy = colour_set(np.arange(n) % 3)
    return Split(noisy.images_u8, noisy.labels)


class Teacher(nn.Module):
    """Logits linear in the mean colour."""

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        return 8 * images_norm.mean(axis=(1, 2)) @ self.param("names", nn.initializers.ones, (3, 3))


class Student(nn.Module):
    """A normalised mean colour and a dense layer: learns colours in a few steps."""

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        x = nn.BatchNorm(not train, momentum=0.5)(images_norm.mean(axis=(1, 2)))
        return nn.Dense(3)(x)


STUDENT, TEACHER = (train.Network(model, (0.0,) * 3, (1.0,) * 3) for model in (Student(), Teacher()))
NAMES = np.eye(3, dtype=np.float32)  # red is class 0, ...


def run(settings, distilled=None, seed=0, names=NAMES, val=None, saves=None, student=STUDENT):
    distilled, variables = distilled or colour_set(), {"params": {"names": names}}
    return evaluate.run(
        settings, distilled, student, TEACHER, variables, val or validation(), seed, flip=True, label="student",
        saves=saves,
    )  # fmt: skip


def quick(labels):
    return change(labels=labels, epochs=30, test_every=3, learning_rate=0.1)


@pytest.mark.parametrize("labels", evaluate.LABELS)
def test_a_student_learns_three_colours(labels):
    curve = run(quick(labels))
    assert [epoch for epoch, *_ in curve] == [27, 30]
    assert curve[-1] == (30, 1.0, 1.0)


SMALL = {  # on tokens; without BatchNorm, with blocks that are dropped at random
    "vit_b_16": dict(patch=4, depth=1, width=8, n_heads=2, mlp_width=8),
    "convnext_t": dict(depths=(1, 1), widths=(8, 8), layer_scale=1.0),
}


@pytest.mark.parametrize("name", SMALL)
def test_students_of_other_families_learn_by_the_same_recipe(name):
    student = train.Network(models.build(name, 3, **SMALL[name]), (0.5,) * 3, (0.5,) * 3)
    settings = dataclasses.replace(quick("online"), learning_rate=0.01, epochs=60, test_every=60)
    ((_, top1, _),) = run(settings, student=student)
    assert top1 > 0.9


@pytest.mark.parametrize(("labels", "shift"), [("hard", 0), ("stored", 1), ("online", 2)])
def test_each_kind_of_label_comes_from_its_own_source(labels, shift):
    """Classes, stored logits and the teacher each give the colours other names."""
    distilled = colour_set()
    distilled = distilled._replace(patch_logits=np.roll(distilled.patch_logits, 1, axis=2))
    renamed = Split(validation().images_u8, (validation().labels + shift) % 3)
    assert run(quick(labels), distilled, names=np.roll(NAMES, 2, axis=1), val=renamed)[-1] == (30, 1.0, 1.0)


def test_the_same_seed_gives_the_same_curve():
    noise = np.random.default_rng(1).integers(0, 256, (200, SIDE, SIDE, 3))
    unclear = Split(noise.astype(np.uint8), np.arange(200) % 3)
    one, again, other = (run(quick("hard"), seed=seed, val=unclear) for seed in (0, 0, 1))
    assert one == again != other


def test_the_curve_is_the_last_fifth_and_ends_with_the_last_epoch(monkeypatch):
    def fit(advance, state, chunks, *, epochs, steps_per_epoch, label, host, after_epoch, saves):
        for epoch in range(epochs):
            after_epoch(epoch + 1, state)

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(train, "test", lambda *_: train.Accuracy(0.5, 1.0, 9))
    assert [epoch for epoch, *_ in run(change(epochs=300, test_every=10))] == [250, 260, 270, 280, 290, 300]
    assert [epoch for epoch, *_ in run(change(epochs=7, test_every=4))] == [7]


def test_an_epoch_shows_every_image_once_in_rdeds_batches(monkeypatch):
    seen, distilled = [], colour_set()

    def fit(advance, state, chunks, *, epochs, steps_per_epoch, label, host, after_epoch, saves):
        assert (epochs, steps_per_epoch) == (2, 3)
        for count, indices_SB, images_u8, patch_targets, classes in chunks(first):
            np.testing.assert_array_equal(classes.argmax(-1), distilled.labels[indices_SB])
            np.testing.assert_array_equal(images_u8, distilled.images_u8[indices_SB])
            assert patch_targets.shape == (*indices_SB.shape, F, F, 3)
            seen.extend(indices_SB[:count].tolist())

    monkeypatch.setattr(train, "fit", fit)
    settings, first = change(batch_size=3, epochs=2), 0
    run(settings, distilled)
    assert [len(rows) for rows in seen] == [3, 3, 1] * 2
    one, other = (list(itertools.chain(*rows)) for rows in (seen[:3], seen[3:]))
    assert sorted(one) == sorted(other) == list(range(7)) and one != other
    whole = list(seen)
    for first in range(1, 7):  # a training that goes on sees the rest
        seen.clear()
        run(settings, distilled)
        assert seen == whole[first:]


def trained(monkeypatch, settings, distilled, seed, **options):
    """Weights of the student at every tested epoch of `run`, and its curve's epochs."""
    seen = []

    def test(network, variables, val):
        seen.append(jax.tree.map(np.array, variables))
        return train.Accuracy(0.0, 0.0, 1)

    monkeypatch.setattr(train, "test", test)
    return seen, [epoch for epoch, *_ in run(settings, distilled, seed, **options)]


def one_step_at_a_time(settings, distilled, seed, batch_size):
    """Weights after each epoch of the same training at T = 2, as a plain loop."""
    n = len(distilled.labels)
    steps_per_epoch = -(-n // batch_size)
    optimizer = optim.adamw(
        optim.half_speed_cosine(settings.learning_rate, steps_per_epoch, settings.epochs), settings.weight_decay
    )
    images_01 = jnp.asarray(distilled.images_u8, jnp.float32) / 255
    targets = jnp.asarray(softmax(distilled.patch_logits / 2, axis=2).reshape(n, F, F, 3))
    variables = models.initialize(STUDENT.model, key_for(seed, "student", "init"), SIDE)
    state, key = train.create_state(variables, optimizer), key_for(seed, "student", "views")
    one = lambda k, row: evaluate.view(settings, F, True, jax.random.fold_in(k, row), images_01[row], targets[row])

    @jax.jit
    def step(state, k_views, k_mix, rows):
        images, target = jax.vmap(one, (None, 0))(k_views, rows)
        images, target = evaluate.mix(k_mix, images, target)
        if settings.labels == "online":
            target = jax.nn.softmax(TEACHER.logits({"params": {"names": NAMES}}, images) / 2)
        loss_of = lambda logits: losses.distillation(logits, target, 2).mean()
        return train.update(STUDENT, optimizer, state, k_views, images, loss_of)[0]

    weights = []
    for epoch in range(settings.epochs):
        order = generator(seed, "student", "order", epoch).permutation(n)
        for i, start in enumerate(range(0, n, batch_size)):
            k_views, k_mix, _ = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, epoch), i), 3)
            state = step(state, k_views, k_mix, order[start : start + batch_size].astype(np.int32))
        weights.append(state.variables)
    return weights


def test_the_tested_weights_are_the_decaying_average(monkeypatch):
    settings = change(labels="online", batch_size=7, learning_rate=0.01, ema=0.75)
    actual, _ = trained(monkeypatch, settings, colour_set(), seed=5)
    steps = one_step_at_a_time(settings, colour_set(), 5, 7)
    average = models.initialize(STUDENT.model, key_for(5, "student", "init"), SIDE)["params"]
    for variables in steps:
        average = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * p, average, variables["params"])
    expected = {**steps[-1], "params": average}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual[-1], expected)


@pytest.mark.parametrize(("labels", "batch_size"), [("online", 3), ("stored", 7), ("stored", 20)])
def test_many_steps_in_one_dispatch_are_the_steps_one_by_one(monkeypatch, labels, batch_size):
    """Batches of 3, 3, 1; one batch an epoch, so that chunks span epochs; a batch larger than the set."""
    settings = change(labels=labels, batch_size=batch_size, learning_rate=0.01, weight_decay=0.1)
    actual, epochs = trained(monkeypatch, settings, colour_set(), seed=5)
    expected = one_step_at_a_time(settings, colour_set(), 5, batch_size)
    assert epochs == [9, 10]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected[-2:])


def test_the_length_of_chunks_changes_no_bit_and_compiles_nothing_anew(monkeypatch):
    settings = change(epochs=20, batch_size=7, test_every=3, learning_rate=0.01)
    mixes, mix = [], evaluate.mix
    monkeypatch.setattr(evaluate, "mix", lambda *args: mixes.append(args) or mix(*args))
    lengths = []
    for pieces in ([1] * 20, [1, 2, 4, 8, 2, 3], [17, 3]):
        cuts = lambda batches, ends, most, first: map(np.stack, (list(itertools.islice(batches, k)) for k in pieces))
        monkeypatch.setattr(train, "chunked", cuts)
        lengths.append(trained(monkeypatch, settings, colour_set(), seed=0)[0])
    assert len(mixes) == 1
    for other in lengths[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, lengths[0])


class Killed(Exception):
    pass


class Saves:
    """Saves in a dictionary, due after every chunk; raises Killed in place of the first at `killed_at` or later."""

    def __init__(self, killed_at):
        self.saved, self.killed_at, self.due = {}, killed_at, lambda: True

    def latest(self, like, up_to):
        return max(self.saved.items(), default=None, key=lambda item: item[0])

    def save(self, step, tree):
        if step >= self.killed_at:
            raise Killed
        self.saved[step] = jax.tree.map(np.array, tree)


def saved_student(saves):
    """A training of ten epochs of three steps, each saved, that is tested after the last two: its curve."""
    noise = np.random.default_rng(1).integers(0, 256, (200, SIDE, SIDE, 3))
    val = Split(noise.astype(np.uint8), np.arange(200) % 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "CHUNK_STEPS", 1)
        return run(change(labels="online", batch_size=3, learning_rate=0.01, ema=0.75), val=val, saves=saves)


@pytest.fixture(scope="module")
def uninterrupted():
    saves = Saves(killed_at=99)
    return saved_student(saves), saves.saved


@pytest.mark.parametrize("killed_at", [2, 9, 29])
def test_a_student_that_was_killed_goes_on_with_the_same_bits(uninterrupted, killed_at):
    """In an epoch, before the end of one, and after the first test: its accuracy is in the curve all the same."""
    curve, states = uninterrupted
    saves = Saves(killed_at)
    with pytest.raises(Killed):
        saved_student(saves)
    assert list(saves.saved) == list(range(1, killed_at))
    saves.killed_at = 99
    assert saved_student(saves) == curve
    assert [epoch for epoch, *_ in curve] == [9, 10] and 0 < curve[0][1] < 1
    assert list(saves.saved) == list(range(1, 30))
    jax.tree.map(np.testing.assert_array_equal, saves.saved[29], states[29])


def test_a_dispatch_is_short_and_bounded_in_bytes():
    small, large = np.zeros((3, 16, 16, 3), np.uint8), np.zeros((3, 1024, 1024), np.uint8)
    assert evaluate._most_steps(10, small) == 64
    assert evaluate._most_steps(8, large) == 32 and evaluate._most_steps(8, large, large) == 16
    assert evaluate._most_steps(1000, large) == 1


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(NumericError, match="student: the loss is not finite at epoch 1, step 1"):
        run(change(labels="online"), names=np.full((3, 3), np.nan, np.float32))


def test_a_set_without_soft_labels_has_no_students_on_stored_ones():
    with pytest.raises(DataError, match="holds no soft labels for evaluate.labels=stored; take online or hard"):
        run(change(labels="stored"), colour_set()._replace(patch_logits=np.full((7, 4, 3), np.nan, np.float32)))


@pytest.mark.parametrize("labels", ["stored", "hard"])
def test_patch_targets_are_softened_logits_or_classes(labels):
    distilled = colour_set()._replace(patch_logits=np.random.default_rng(0).normal(size=(7, 4, 3)).astype(np.float32))
    targets = evaluate._patch_targets(change(labels=labels, temperature=4.0), distilled)
    expected = softmax(distilled.patch_logits / 4, axis=2).reshape(7, 2, 2, 3)
    if labels == "hard":
        expected = np.tile(np.eye(3)[distilled.labels][:, None, None], (1, 2, 2, 1))
    np.testing.assert_allclose(targets, expected, rtol=1e-5)


def test_online_labels_need_no_patch_targets():
    assert evaluate._patch_targets(change(labels="online"), colour_set()).shape == (7, 2, 2, 0)


def test_nearest_neighbour_is_scikit_learns():
    rng = np.random.default_rng(0)
    n = 3 * 150  # more than are compared at once
    train_split = Split(rng.integers(0, 256, (n, SIDE, SIDE, 3)).astype(np.uint8), np.arange(n) % 3)
    noisy = train_split.images_u8[rng.integers(0, n, 1500)] * 0.4 + rng.integers(0, 150, (1500, SIDE, SIDE, 3))
    val = Split(noisy.astype(np.uint8), rng.integers(0, 3, 1500))
    dataset = types.SimpleNamespace(train=train_split, val=val, class_names=("a", "b", "c"))
    flat = lambda split: split.images_u8.reshape(len(split), -1).astype(np.float64)
    oracle = KNeighborsClassifier(1, algorithm="brute").fit(flat(train_split), train_split.labels)
    assert evaluate.nearest_neighbour(dataset, 150, 0) == pytest.approx(oracle.score(flat(val), val.labels))


@pytest.mark.parametrize("labels", ["online", "stored"])
def test_a_student_learns_from_logits(labels):
    settings = dataclasses.replace(quick(labels), loss="mse", schedule="ssrs", ema=0.5, class_weight=0.025)
    assert run(settings)[-1] == (30, 1.0, 1.0)


def test_stored_logits_stay_logits_where_the_loss_is_of_logits():
    distilled = colour_set()
    targets = evaluate._patch_targets(change(labels="stored", loss="mse"), distilled)
    np.testing.assert_array_equal(targets.reshape(distilled.patch_logits.shape), distilled.patch_logits)


BAD = [{"labels": "soft"}, {"loss": "l1"}, {"schedule": "step"}, {"ema": 1}, {"augment": "x"}, {"epochs": 0}]
BAD += [{"temperature": 0}, {"temperature": -1}, {"zoom": 2}, {"model": "vgg"}]


@pytest.mark.parametrize("bad", BAD)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=f"evaluate.{next(iter(bad))}"):
        change(**bad)
