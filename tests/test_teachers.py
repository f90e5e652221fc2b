"""What a run's teacher remembers of its training, and that runs share it."""

import contextlib
import functools

import jax
import numpy as np
import pytest
from configs import digits_ipc1

from infoutil_jax import config, data, guard, store, teachers
from infoutil_jax.errors import ConfigError, CorruptArtifact, NumericError
from infoutil_jax.stages import teacher as stage


def tiny(*methods, **changes):
    c = digits_ipc1.get_config()
    c.update_from_flattened_dict({"teacher.width": 4, "teacher.epochs": 3, "teacher.min_times_chance": 0.0})
    c.update_from_flattened_dict({"teacher.early_epoch": 1, "methods": methods, **changes})
    return config.resolve(c)


@pytest.fixture(scope="module")
def dataset():
    return data.open_dataset(tiny("infoutil").data)


def remembers(correct_EN):
    """In place of stage.run: snapshots of nothing, and what was right in every epoch."""

    def run(settings, network, dataset, seed, *, side, flip, saves, snapshots, keep):
        for epoch in (1, 3):
            snapshots.save(epoch, stage.blank_variables(network, side))
        for epoch, correct_N in enumerate(correct_EN, start=1):
            keep(epoch, correct_N)

    return run


def test_forgetting_is_counted_by_image_and_only_where_a_rule_asks(dataset, tmp_path, monkeypatch):
    correct_EN = np.ones((3, len(dataset.train)), bool)
    correct_EN[1, 5] = False  # forgotten once
    correct_EN[:, 9] = False  # never right
    monkeypatch.setattr(stage, "run", remembers(correct_EN))
    forgotten = teachers.obtain(tiny("random_images", "forgetting"), dataset, tmp_path).forgotten
    assert {name: n for name, n in forgotten.items() if n} == {dataset.train.ids[5]: 1, dataset.train.ids[9]: 3}
    assert set(forgotten) == set(dataset.train.ids)
    assert teachers.obtain(tiny("infoutil"), dataset, tmp_path).forgotten is None
    next(tmp_path.rglob("correct2.npz")).unlink()
    with pytest.raises(CorruptArtifact, match="2.npz are missing; delete .* to train again"):
        teachers.obtain(tiny("forgetting"), dataset, tmp_path)


def test_weights_from_elsewhere_have_no_history():
    with pytest.raises(ConfigError, match="forgetting.* needs the teacher's training; unset teacher.weights"):
        tiny("forgetting", **{"teacher.weights": "some.safetensors"})


def test_epochs_that_are_run_again_leave_the_history_of_the_first_time(dataset, tmp_path, monkeypatch):
    first, again = (np.full((3, len(dataset.train)), value) for value in (True, False))
    monkeypatch.setattr(stage, "run", remembers(first))
    teachers.obtain(tiny("forgetting"), dataset, tmp_path)
    run = remembers(again)
    fake = lambda *args, snapshots, **stores: run(*args, snapshots=Only(snapshots, 2), **stores)
    monkeypatch.setattr(stage, "run", fake)
    forgotten = teachers.obtain(tiny("forgetting", **{"teacher.early_epoch": 2}), dataset, tmp_path).forgotten
    assert set(forgotten.values()) == {0}


def flip_a_bit(folder):
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_snapshot_is_made_again_with_the_same_bits(dataset, tmp_path, monkeypatch, capsys):
    """From the last good save before it, and from nothing where there is none."""
    settings, epochs = tiny("infoutil", **{"teacher.checkpoint_epochs": 1}), []
    first = teachers.obtain(settings, dataset, tmp_path)
    (directory,) = tmp_path.glob("teacher/*")
    saves = sorted(int(path.stem) for path in directory.glob("saves/*.sha256"))
    monkeypatch.setattr(teachers, "_keep", lambda directory, epoch, _: epochs.append(epoch))
    damages = [
        ["snapshots/3"],
        ["snapshots/3", f"saves/{saves[1]}"],
        ["snapshots/1", *(f"saves/{step}" for step in saves)],
    ]
    for damaged, made in zip(damages, ([2, 3], [1, 2, 3], [1])):
        epochs.clear()
        for name in damaged:
            flip_a_bit(directory / name)
        again = teachers.obtain(settings, dataset, tmp_path)
        assert epochs == made, damaged
        said = capsys.readouterr().err
        assert all(
            f"warning: {directory / name}: " in said for name in damaged if name.startswith("snap") or epochs != [1]
        )
        for which in ("early", "converged"):
            assert store.tree_hash(again.variables(which)) == store.tree_hash(first.variables(which))
        assert again.record == first.record


def test_one_run_trains_and_the_other_waits_for_it(dataset, tmp_path, monkeypatch):
    """The second finds, when it has the folder, that there is nothing left to train."""
    held = []

    @contextlib.contextmanager
    def owned(directory, *, wait):
        held.append((directory, wait))
        with monkeypatch.context() as patch:
            patch.setattr(guard, "owned", lambda *_, **__: contextlib.nullcontext())
            teachers.obtain(tiny("infoutil"), dataset, tmp_path)  # what the other run did meanwhile
        patch_run(lambda *_, **__: pytest.fail("trained again"))
        yield

    patch_run = functools.partial(monkeypatch.setattr, stage, "run")
    patch_run(remembers(np.ones((3, len(dataset.train)), bool)))
    monkeypatch.setattr(guard, "owned", owned)
    teachers.obtain(tiny("infoutil"), dataset, tmp_path)
    assert held == [(*tmp_path.glob("teacher/*"), True)]


class Only:
    """Snapshots, of which a second training saves one."""

    def __init__(self, snapshots, epoch):
        self.snapshots, self.epoch = snapshots, epoch

    def save(self, epoch, variables):
        if epoch == 1:
            self.snapshots.save(self.epoch, variables)


def test_a_threshold_is_of_every_run_and_costs_no_training(dataset, tmp_path, monkeypatch):
    teachers.obtain(tiny("infoutil"), dataset, tmp_path)
    monkeypatch.setattr(stage, "run", lambda *_, **__: pytest.fail("trained again"))
    teachers.obtain(tiny("infoutil", **{"teacher.min_times_chance": 0.1}), dataset, tmp_path)
    with pytest.raises(NumericError, match="near chance"):
        teachers.obtain(tiny("infoutil", **{"teacher.min_times_chance": 10.5}), dataset, tmp_path)


def test_an_early_teacher_may_have_a_training_of_its_own(dataset, tmp_path):
    shared = teachers.obtain(tiny("infoutil", **{"teacher.early_epoch": 2}), dataset, tmp_path)
    rate = {"teacher.early_epoch": 2, "teacher.early_learning_rate": 1e-3}
    own = teachers.obtain(tiny("infoutil", **rate), dataset, tmp_path)
    alone = {"teacher.early_epoch": 2, "teacher.epochs": 2, "teacher.learning_rate": 1e-3}
    due = teachers.obtain(tiny("infoutil", **alone), dataset, tmp_path)
    sha256 = lambda teacher: [store.tree_hash(teacher.variables(which)) for which in ("early", "converged")]
    assert sha256(own) == [sha256(due)[1], sha256(shared)[1]] and sha256(own)[0] != sha256(shared)[0]
    assert own.record["early"] == due.record["converged"] and own.record["converged"] == shared.record["converged"]
    assert len(list(tmp_path.glob("teacher/*"))) == 2


def test_runs_that_differ_in_the_early_epoch_share_a_training(dataset, tmp_path):
    one = teachers.obtain(tiny("infoutil"), dataset, tmp_path)
    other = teachers.obtain(tiny("infoutil", **{"teacher.early_epoch": 2}), dataset, tmp_path)
    assert len(list(tmp_path.glob("teacher/*"))) == 1
    assert one.record["converged"] == other.record["converged"]
    assert [one.record["early"]["epoch"], other.record["early"]["epoch"]] == [1, 2]
    assert one.record["early"]["sha256"] == store.tree_hash(one.early) != store.tree_hash(other.early)
    jax.tree.map(np.testing.assert_array_equal, one.converged, other.converged)
