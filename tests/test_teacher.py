"""The teacher: which snapshots it leaves, that an interruption changes nothing, that a useless one is refused."""

import dataclasses
import re
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from configs import digits_ipc1

from infoutil_jax import checkpoints, config, models, progress, store
from infoutil_jax import train as train_module
from infoutil_jax.errors import NumericError, Preempted
from infoutil_jax.keys import key_for
from infoutil_jax.stages import teacher

SIDE = 8
SETTINGS = dataclasses.replace(
    config.resolve(digits_ipc1.get_config()).teacher,
    width=4, epochs=4, early_epoch=2, batch_size=16, warmup_epochs=1.0, checkpoint_epochs=1, augment="pad_crop",
)  # fmt: skip
NETWORK = teacher.build_network("convnet3", SETTINGS.width, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Interrupted(Exception):
    pass


class Memory:
    """Checkpoints in a dictionary, `due` at every step or never; raises Interrupted in place of the save of step
    `fails_at`."""

    def __init__(self, fails_at=None, due=False):
        self.saved, self.fails_at, self.order, self.due = {}, fails_at, [], lambda: due

    def steps(self):
        return sorted(self.saved)

    def save(self, step, tree):
        if step == self.fails_at:
            raise Interrupted
        self.saved[step] = jax.tree.map(np.array, tree)
        self.order.append(step)

    def latest(self, like, up_to):
        step = max((step for step in self.saved if step <= up_to), default=None)
        if step is not None:
            assert jax.tree.structure(like) == jax.tree.structure(self.saved[step])
            return step, self.saved[step]


def made_dataset(n=40, noise=30):
    """Three classes of stripes at three angles in noise; the last batch of an epoch is smaller than the others."""
    rng = np.random.default_rng(0)
    labels = np.arange(n, dtype=np.int32) % 3
    y, x = np.mgrid[:SIDE, :SIDE]
    stripes = np.stack([y % 4 < 2, x % 4 < 2, (x + y) % 4 < 2])[labels] * 128
    images_u8 = np.clip(stripes[..., None] + rng.normal(60, noise, (n, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)

    class Split:
        def __init__(self):
            self.labels = labels

        def __len__(self):
            return n

        def images(self, indices):
            return images_u8[indices]

    return SimpleNamespace(train=Split(), val=Split(), class_names=("a", "b", "c"))


def train(settings=SETTINGS, *, saves=None, snapshots=None, history=None, seed=0):
    """(saves, snapshots); `history` gets what was right after every epoch."""
    saves, snapshots = saves or Memory(), snapshots or Memory()
    keep = lambda epoch, correct_N: history is not None and history.update({epoch: correct_N.tolist()})
    stores = dict(saves=saves, snapshots=snapshots, keep=keep)
    teacher.run(settings, NETWORK, made_dataset(), seed, side=SIDE, flip=False, **stores)
    return saves, snapshots


STEPS = 3  # an epoch's: ceil(40 / 16)
HISTORY = {}  # of the uninterrupted training


@pytest.fixture(scope="module")
def uninterrupted():
    return train(history=HISTORY)


def test_snapshots_and_saves_are_at_their_epochs(uninterrupted):
    saves, snapshots = uninterrupted
    assert snapshots.order == [2, 4]
    assert saves.order == [STEPS, 2 * STEPS, 3 * STEPS]  # the end needs none
    assert [int(saves.saved[step]["state"].step) for step in saves.order] == saves.order


def test_the_early_snapshot_is_the_same_training_at_that_epoch(uninterrupted):
    saves, snapshots = uninterrupted
    at = lambda epoch: saves.saved[STEPS * epoch]["state"].variables
    assert store.tree_hash(snapshots.saved[2]) == store.tree_hash(at(2))
    initial = models.initialize(NETWORK.model, key_for(0, "teacher", "init"), SIDE)
    stages = (initial, snapshots.saved[2], at(3), snapshots.saved[4])
    assert len({store.tree_hash(variables) for variables in stages}) == 4
    assert jax.tree.structure(initial) == jax.tree.structure(snapshots.saved[4])


def test_training_learns_and_is_measured():
    settings = dataclasses.replace(SETTINGS, epochs=20, augment="none", learning_rate=0.01)
    _, snapshots = train(settings)
    result = teacher.examine(settings, NETWORK, snapshots.saved[20], made_dataset(), "converged")
    assert result["count"] == 40 and 0.6 < result["top1"] <= result["top5"] == 1.0


@pytest.mark.parametrize("fails_at", [2, 6, 8])
def test_a_training_that_was_killed_goes_on_at_the_step_it_had_saved(uninterrupted, fails_at):
    """In the first epoch, at the end of one, in the middle: same bits, same history, nothing done twice."""
    saves, snapshots, history = Memory(fails_at, due=True), Memory(), {}
    with pytest.raises(Interrupted):
        train(saves=saves, snapshots=snapshots, history=history)
    assert saves.order == list(range(1, fails_at))
    saves.fails_at = None
    train(saves=saves, snapshots=snapshots, history=history)
    assert saves.order == list(range(1, 4 * STEPS)) and snapshots.order == [2, 4]
    for epoch in (2, 4):
        assert store.tree_hash(snapshots.saved[epoch]) == store.tree_hash(uninterrupted[1].saved[epoch])
    assert history == HISTORY


def test_an_interruption_between_snapshot_and_save(uninterrupted):
    saves, snapshots = Memory(), Memory(fails_at=4)
    with pytest.raises(Interrupted):
        train(saves=saves, snapshots=snapshots)
    snapshots.fails_at = None
    train(saves=saves, snapshots=snapshots)
    assert store.tree_hash(snapshots.saved[4]) == store.tree_hash(uninterrupted[1].saved[4])


@pytest.fixture
def stores(tmp_path):
    return dict(saves=checkpoints.Saves(tmp_path / "saves"), snapshots=checkpoints.Checkpoints(tmp_path / "snapshots"))


def stop_at(step):
    """In place of guard.raise_if_stopped, which is called after every step."""
    left = iter(range(step - 1, -1, -1))

    def raise_if_stopped():
        if next(left) == 0:
            raise Preempted("asked to stop")

    return raise_if_stopped


def test_a_training_that_was_asked_to_stop_goes_on_from_real_files(uninterrupted, stores, monkeypatch):
    """And where the last of them is damaged, from the one before."""
    history = {}
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(progress, "raise_if_stopped", stop_at(8))
        train(**stores, history=history)
    assert stores["saves"].steps() == [6, 8] and stores["snapshots"].steps() == [2]
    whole = stores["saves"].directory
    harmed = shutil.copytree(whole, whole.parent / "harmed" / whole.parent.name / whole.name)
    shutil.rmtree(harmed / "8" / "default" / "d")
    for directory in (whole, harmed):
        saves = checkpoints.Saves(directory)
        snapshots, found = Memory(), dict(history)
        snapshots.saved[2] = uninterrupted[1].saved[2]
        train(saves=saves, snapshots=snapshots, history=found)
        assert found == HISTORY
        assert store.tree_hash(snapshots.saved[4]) == store.tree_hash(uninterrupted[1].saved[4])
        assert [path.name for path in directory.glob("*.damaged")] == ["8.damaged"] * (directory == harmed)


@pytest.mark.parametrize("lost", [2, 4])
def test_a_snapshot_that_was_deleted_is_made_again(uninterrupted, lost):
    saves, snapshots, history = Memory(), Memory(), {}
    saves.saved, snapshots.saved = dict(uninterrupted[0].saved), dict(uninterrupted[1].saved)
    del snapshots.saved[lost]
    train(saves=saves, snapshots=snapshots, history=history)
    assert snapshots.order == [lost] and saves.order == []
    assert list(history) == {2: [2], 4: [3, 4]}[lost]  # nothing but the end of an epoch, or a last epoch
    assert store.tree_hash(snapshots.saved[lost]) == store.tree_hash(uninterrupted[1].saved[lost])


def test_saves_are_only_at_multiples():
    saves, snapshots = train(dataclasses.replace(SETTINGS, checkpoint_epochs=2, early_epoch=1))
    assert saves.order == [2 * STEPS] and snapshots.order == [1, 4]


def test_early_may_be_the_last_epoch():
    _, snapshots = train(dataclasses.replace(SETTINGS, early_epoch=4))
    assert snapshots.order == [4]


def test_another_seed_is_another_teacher(uninterrupted):
    assert store.tree_hash(train(seed=1)[1].saved[4]) != store.tree_hash(uninterrupted[1].saved[4])


def test_views_are_the_ones_asked_for():
    image = np.random.default_rng(0).uniform(size=(SIDE, SIDE, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 8)
    seen = {name: [teacher._augment(name, False, key, image) for key in keys] for name in teacher.AUGMENTATIONS}
    assert all(np.array_equal(view, image) for view in seen["none"])
    for name in ("pad_crop", "random_resized_crop"):
        assert all(view.shape == image.shape for view in seen[name])
        assert not np.array_equal(seen[name][0], seen[name][1])
    flipped = [teacher._augment("none", True, key, image) for key in keys]
    mirrored = [np.array_equal(view, image[:, ::-1]) for view in flipped]
    assert 0 < sum(mirrored) < 8 and sum(np.array_equal(view, image) for view in flipped) == 8 - sum(mirrored)


def test_data_parallel_training_agrees_up_to_rounding():
    settings = dataclasses.replace(SETTINGS, optimizer="sgd", learning_rate=0.05)  # Adam would blow rounding up
    both = (train(dataclasses.replace(settings, data_parallel=spread))[1].saved[4] for spread in (False, True))
    one, many = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables)]) for variables in both)
    np.testing.assert_allclose(many, one, atol=1e-4)


def test_a_teacher_near_chance_is_refused():
    blank = teacher.blank_variables(NETWORK, SIDE)  # says class 0 to everything: 14 of 40 right, chance is 1 in 3
    strict, lax = (dataclasses.replace(SETTINGS, min_times_chance=least) for least in (1.06, 1.04))
    with pytest.raises(NumericError, match=r"teacher \(early\): validation accuracy 35.0% is near chance \(33.3%\)"):
        teacher.examine(strict, NETWORK, blank, made_dataset(), "early")
    assert teacher.examine(lax, NETWORK, blank, made_dataset(), "early")["top1"] == pytest.approx(14 / 40)


@pytest.mark.parametrize(
    "top1, recorded, faults",
    [(0.70, 0.71, []), (0.70, 0.0, []), (0.70, 0.75, ["recorded 75.0%"]), (0.80, 0.75, ["recorded 75.0%"]),
     (0.40, 0.0, ["chance"]), (0.40, 0.41, ["chance"]), (0.40, 0.75, ["recorded 75.0%", "chance"])],
)  # fmt: skip
def test_imported_weights_are_near_their_record_and_far_from_chance(top1, recorded, faults):
    settings = dataclasses.replace(SETTINGS, weights_tolerance=0.02, min_times_chance=1.3)  # of 1 / 3
    check = lambda: teacher.self_test(settings, 3, "early", "w.safetensors", {"top1": top1, "order": ""}, recorded)
    if not faults:
        return check()
    with pytest.raises(
        NumericError, match=rf"teacher \(early\): the weights of w.safetensors reach {top1:.1%}"
    ) as error:
        check()
    assert [fault for fault in ("recorded 75.0%", "chance") if fault in str(error.value)] == faults


def test_another_order_of_some_classes_is_refused_where_no_accuracy_is_recorded(monkeypatch):
    counts_KK = 18 * np.eye(10, dtype=int)[[2, 0, 1, *range(3, 10)]] + 1  # three of ten have changed places
    monkeypatch.setattr(teacher, "_confusion", lambda *_: counts_KK)
    monkeypatch.setattr(teacher.train, "test", lambda *_: teacher.train.Accuracy(0.66, 0.9, 280))
    measured = teacher.examine_imported(None, None, SimpleNamespace(val=None, class_names=tuple("abcdefghij")))
    check = lambda recorded: teacher.self_test(SETTINGS, 10, "early", "w.safetensors", measured, recorded)
    check(0.66)
    with pytest.raises(NumericError, match="no accuracy recorded.*in another order .* would be right.*label_names"):
        check(0.0)
    assert teacher.order_hint(counts_KK // 4, tuple("abcdefghij")) == ""  # of 4 images a class chance could say it


def test_confusion_counts_true_against_predicted():
    blank = teacher.blank_variables(NETWORK, SIDE)
    blank["params"]["classifier"]["bias"] += np.float32([0, 0, 1])  # says class 2 to everything
    counts_KK = teacher._confusion(NETWORK, blank, made_dataset().val, 3, chunk=32)
    np.testing.assert_array_equal(counts_KK, [[0, 0, 14], [0, 0, 13], [0, 0, 13]])


def test_only_another_order_of_the_classes_gives_a_hint():
    names, rng = [f"c{i}" for i in range(200)], np.random.default_rng(0)
    diffuse = rng.multinomial(20, np.full(200, 1 / 200), size=200)  # the errors of 20 images a class
    right = 30 * np.eye(200, dtype=int)
    taken_for = np.arange(200)
    taken_for[:120] = np.roll(taken_for[:120], 7)
    counts_KK = right[taken_for].T + diffuse
    counts_KK[150, 150] += 50  # in its place and larger than any
    found = teacher.order_hint(counts_KK, names)
    expected = np.argsort(taken_for)  # right[taken_for].T is 30 at [taken_for[i], i]
    true, predicted = (int(word) for word in re.findall(r"index (\d+)", found))
    assert expected[true] == predicted != true and f"true class 'c{true}'" in found
    share = counts_KK[np.arange(200), expected].sum() / counts_KK.sum()
    assert f"in another order {share:.1%} would be right" in found
    for useless in (right + diffuse, diffuse, right + 30 * np.roll(np.eye(200, dtype=int), 1, axis=0)):
        assert teacher.order_hint(useless, names) == ""
    assert teacher.order_hint(np.repeat([[50] + [0] * 199], 200, axis=0), names) == ""  # one answer to everything


def test_a_loss_that_explodes_stops_the_training_and_leaves_no_snapshot():
    snapshots = Memory()
    wild = {"learning_rate": 100.0, "weight_decay": 100.0, "warmup_epochs": 0.0}
    settings = dataclasses.replace(SETTINGS, optimizer="sgd", **wild)
    with pytest.raises(NumericError, match=r"teacher: the loss is not finite at epoch \d, step \d"):
        train(settings, snapshots=snapshots)
    assert 4 not in snapshots.saved


def test_a_network_without_statistics_comes_back_from_real_checkpoints(stores):
    network = teacher.build_network("convnet3_in", SETTINGS.width, 3, NETWORK.mean, NETWORK.std)
    settings = dataclasses.replace(SETTINGS, epochs=1, early_epoch=1, warmup_epochs=0.0)
    teacher.run(settings, network, made_dataset(), 0, side=SIDE, flip=False, **stores)
    restored = stores["snapshots"].restore(1, teacher.blank_variables(network, SIDE))
    assert restored["batch_stats"] == {} and network.logits(restored, np.zeros((1, SIDE, SIDE, 3), np.float32)).any()


def test_blank_variables_have_the_networks_shapes():
    blank, real = teacher.blank_variables(NETWORK, SIDE), models.initialize(NETWORK.model, jax.random.key(3), SIDE)
    forms = [jax.tree.map(lambda a: (a.shape, str(a.dtype)), variables) for variables in (blank, real)]
    assert forms[0] == forms[1]
    assert all(isinstance(leaf, np.ndarray) and not leaf.any() for leaf in jax.tree.leaves(blank))


def test_weights_are_chosen_by_name():
    made = teacher.Teacher(NETWORK, {"early": 1}, {"converged": 2}, {})
    assert made.variables("early") == {"early": 1} and made.variables("converged") == {"converged": 2}


def test_an_earlier_snapshot_of_the_same_training_costs_its_own_epochs_only(uninterrupted):
    snapshots, epochs = Memory(), []
    snapshots.saved = dict(uninterrupted[1].saved)
    settings = dataclasses.replace(SETTINGS, early_epoch=1)
    assert settings.training == SETTINGS.training != dataclasses.replace(SETTINGS, epochs=5).training
    stores = dict(saves=Memory(), snapshots=snapshots, keep=lambda epoch, _: epochs.append(epoch))
    teacher.run(settings, NETWORK, made_dataset(), 0, side=SIDE, flip=False, **stores)
    assert (snapshots.order, epochs) == ([1], [1])
    assert store.tree_hash(snapshots.saved[1]) == store.tree_hash(train(settings)[1].saved[1])


def test_what_was_right_is_kept_by_image_after_every_epoch(monkeypatch):
    dataset, kept, order = made_dataset(), {}, []
    saves = Memory()
    saves.save = lambda step, _: order.append((step, sorted(kept)))

    def step(state, key, k_dropout, indices, images_u8, labels):
        """Right about class 1 in odd epochs, about class 2 in even ones."""
        steps.append(len(labels))
        return state, jnp.float32(0), labels == 1 + (len(steps) - 1) // 3 % 2

    steps = []
    monkeypatch.setattr(teacher, "_make_step", lambda *_: step)
    keep = lambda epoch, correct_N: kept.update({epoch: correct_N.copy()})
    stores = dict(saves=saves, snapshots=Memory(), keep=keep)
    teacher.run(SETTINGS, NETWORK, dataset, 0, side=SIDE, flip=False, **stores)
    assert steps == [16, 16, 8] * 4
    for epoch, correct_N in kept.items():
        np.testing.assert_array_equal(correct_N, dataset.train.labels == (1 if epoch % 2 else 2))
    assert order == [(3, []), (6, [1]), (9, [1, 2])]  # training goes on from a save with the end of its epoch


def test_a_step_tells_which_images_it_was_right_about():
    settings = dataclasses.replace(SETTINGS, augment="none")
    dataset, optimizer = made_dataset(), optax.sgd(0.0)
    variables = models.initialize(NETWORK.model, jax.random.key(3), SIDE)
    rows = np.arange(20, dtype=np.int32)
    batch = rows, dataset.train.images(rows), dataset.train.labels[rows]
    images = jnp.asarray(batch[1], jnp.float32) / 255
    logits, _ = NETWORK.model.apply(variables, NETWORK.normalize(images), train=True, mutable=["batch_stats"])
    step = teacher._make_step(settings, NETWORK, optimizer, False)
    keys = jax.random.key(0), jax.random.key(1)
    *_, correct_B = step(train_module.create_state(variables, optimizer), *keys, *batch)
    np.testing.assert_array_equal(correct_B, np.asarray(logits).argmax(1) == batch[2])
    assert 0 < correct_B.sum() < 20
