"""Artifacts on disk: whole or absent, and never trusted when their bytes changed."""

import errno
import json
import os
import time
from typing import NamedTuple

import numpy as np
import pytest

from infoutil_jax import store
from infoutil_jax.errors import CorruptArtifact, EnvironmentFault

TREE = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int32(7)}, "batch_stats": {}}


class Pair(NamedTuple):
    left: np.ndarray
    right: np.ndarray


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "file"
    store.write_bytes(path, b"one")
    store.write_bytes(path, b"two")
    assert path.read_bytes() == b"two" and list(path.parent.iterdir()) == [path]


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    store.write_bytes(path, b"old")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        store.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    with pytest.raises(KeyboardInterrupt):
        store.write_bytes(tmp_path / "other", b"new")
    assert not (tmp_path / "other").exists()


def test_a_full_disk_is_an_environment_fault(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match=r"/file: cannot be written \(No space left on device\); free the space"):
        store.write_bytes(tmp_path / "file", b"new")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_an_environment_fault(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentFault, match="Not a directory"):
        store.write_bytes(tmp_path / "file" / "x" / "y", b"new")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        store.new_workdir(tmp_path / "file", "run")


def test_json_comes_back_and_broken_json_is_named(tmp_path):
    path = tmp_path / "x.json"
    value = {"b": [1, 2.5, None], "a": {"ä": "\udce9"}}
    store.write_json(path, value)
    assert store.read_json(path) == value
    path.write_text(path.read_text()[:-3])
    with pytest.raises(CorruptArtifact, match="x.json: not valid JSON"):
        store.read_json(path)


def test_arrays_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "x.npz"
    floats = np.array([0.1, np.nan, -0.0], np.float32)
    arrays = {"a": floats, "b": np.array([[True], [False]]), "c": np.zeros((0, 3), np.int64)}
    store.save_arrays(path, arrays)
    loaded = store.load_arrays(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes()
    assert store.load_arrays(tmp_path / "absent.npz") is None


@pytest.mark.parametrize("position", [0, 60, -40, -1])
def test_a_flipped_bit_in_arrays_is_found(position, tmp_path):
    path = tmp_path / "x.npz"
    store.save_arrays(path, {"a": np.arange(100)})
    flip(path, position)
    with pytest.raises(CorruptArtifact, match="x.npz: SHA-256 does not match"):
        store.load_arrays(path)


@pytest.mark.parametrize("size", [0, 10, 200])
def test_truncated_arrays_are_found(size, tmp_path):
    path = tmp_path / "x.npz"
    store.save_arrays(path, {"a": np.arange(100)})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptArtifact):
        store.load_arrays(path)


def test_arrays_hold_no_objects(tmp_path):
    store.save_arrays(tmp_path / "x.npz", {"a": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        store.load_arrays(tmp_path / "x.npz")


def test_cached_computes_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return Pair(np.arange(3), np.float32([0.5]))

    first = store.cached(tmp_path / "x.npz", Pair, compute)
    second = store.cached(tmp_path / "x.npz", Pair, compute)
    assert len(calls) == 1 and isinstance(second, Pair)
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(first, second, strict=True))


def test_fingerprint_is_of_the_content():
    assert store.fingerprint({"a": 1, "b": (1.5, "x")}) == store.fingerprint({"b": [1.5, "x"], "a": 1})
    names = [store.fingerprint(*parts) for parts in ((1, 2), (2, 1), ("1", 2), (12,), ([1], 2), (1, [2]), (1, 2.0), ())]
    assert len(set(names)) == len(names) and all(len(name) == 16 for name in names)


def test_fingerprint_refuses_what_has_no_stable_form():
    with pytest.raises(TypeError):
        store.fingerprint({1, 2})
    with pytest.raises(TypeError):
        store.fingerprint(object())


def test_a_workdir_is_never_used_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20250101-000000")
    paths = [store.new_workdir(tmp_path, "run") for _ in range(3)]
    assert [p.name for p in paths] == ["run-20250101-000000", "run-20250101-000000-2", "run-20250101-000000-3"]
    assert all(p.is_dir() for p in paths)


def test_tree_hash_sees_every_leaf_name_type_and_shape():
    a = TREE["params"]["a"]
    variants = [
        TREE,
        {**TREE, "params": {"a": a + np.float32(1e-6), "b": np.int32(7)}},
        {**TREE, "params": {"a": a, "b": np.int32(8)}},
        {**TREE, "params": {"a": a, "c": np.int32(7)}},
        {**TREE, "params": {"a": a.reshape(3, 2), "b": np.int32(7)}},
        {**TREE, "params": {"a": a.view(np.int32), "b": np.int32(7)}},
        {**TREE, "params": {"a": a, "b": np.int64(7)}},
        {"params": {"a": a}, "batch_stats": {"b": np.int32(7)}},
    ]
    assert len({store.tree_hash(v) for v in variants}) == len(variants)
    assert store.tree_hash(TREE) == store.tree_hash({**TREE, "params": {"b": np.int32(7), "a": np.asfortranarray(a)}})


@pytest.fixture
def checkpoints(tmp_path):
    opened = store.Checkpoints(tmp_path / "c")
    yield opened
    opened.close()


def big_tree(seed):
    rng = np.random.default_rng(seed)
    return {"params": {"k": rng.normal(size=(40, 50)).astype(np.float32)}, "step": np.int32(seed)}


def test_checkpoints_come_back_bit_for_bit(checkpoints):
    for step in (2, 10):
        checkpoints.save(step, big_tree(step))
    assert checkpoints.steps() == [2, 10]
    for step in (2, 10):
        restored = checkpoints.restore(step, big_tree(0))
        assert store.tree_hash(restored) == store.tree_hash(big_tree(step))
        assert restored["params"]["k"].tobytes() == big_tree(step)["params"]["k"].tobytes()


def test_steps_may_be_saved_in_any_order_and_complete_ones_are_kept(checkpoints):
    checkpoints.save(10, big_tree(10))
    checkpoints.save(2, big_tree(2))
    checkpoints.save(10, big_tree(99))
    assert checkpoints.steps() == [2, 10]
    assert int(checkpoints.restore(2, big_tree(0))["step"]) == 2
    assert int(checkpoints.restore(10, big_tree(0))["step"]) == 10


def test_only_the_latest_are_kept_where_told(tmp_path):
    opened = store.Checkpoints(tmp_path / "c", keep=2)
    for step in (1, 2, 3):
        opened.save(step, big_tree(step))
    assert opened.steps() == [2, 3]
    opened.close()


def test_a_save_that_was_interrupted_is_ignored_then_replaced(tmp_path, checkpoints, monkeypatch):
    checkpoints.save(1, big_tree(1))
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_bytes", lambda *_: 1 / 0)  # dies between orbax's files and the hash
        with pytest.raises(ZeroDivisionError):
            checkpoints.save(2, big_tree(77))
    assert (tmp_path / "c" / "2").exists()
    again = store.Checkpoints(tmp_path / "c")
    assert again.steps() == [1]
    again.save(2, big_tree(2))
    assert again.steps() == [1, 2] and int(again.restore(2, big_tree(0))["step"]) == 2
    again.close()


def test_a_half_written_folder_is_ignored(tmp_path):
    (tmp_path / "c" / "3.orbax-checkpoint-tmp" / "default").mkdir(parents=True)
    (tmp_path / "c" / "3.orbax-checkpoint-tmp" / "default" / "x").write_bytes(b"half")
    opened = store.Checkpoints(tmp_path / "c")
    assert opened.steps() == []
    opened.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's, as it gives up
def test_a_flipped_bit_in_any_checkpoint_file_is_found(tmp_path, checkpoints):
    """Or does not matter: whatever is returned is what was saved."""
    checkpoints.save(1, big_tree(1))
    found = 0
    for path in sorted(p for p in (tmp_path / "c" / "1").rglob("*") if p.is_file()):
        for position in np.linspace(0, path.stat().st_size - 1, 5, dtype=int):
            flip(path, position)
            try:
                restored = checkpoints.restore(1, big_tree(0))
                assert store.tree_hash(restored) == store.tree_hash(big_tree(1)), path
            except CorruptArtifact as error:
                assert "/c/1: " in str(error) and "\n" not in str(error)
                found += 1
            flip(path, position)
    assert found >= 8
    assert int(checkpoints.restore(1, big_tree(0))["step"]) == 1


def test_a_flipped_weight_is_found_by_our_own_hash(tmp_path, checkpoints):
    checkpoints.save(1, big_tree(1))
    (tmp_path / "c" / "1.sha256").write_text(store.tree_hash(big_tree(2)))
    with pytest.raises(CorruptArtifact, match="the weights' SHA-256 changed on disk"):
        checkpoints.restore(1, big_tree(0))


def test_a_checkpoint_that_cannot_be_written_is_an_environment_fault(checkpoints, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(EnvironmentFault, match=r"/c/1: cannot be written \(No space left on device\)"):
        checkpoints.save(1, big_tree(1))
    assert checkpoints.steps() == []


def test_json_is_the_same_for_the_same_value(tmp_path):
    for name, value in (("a", {"x": 1, "y": 2}), ("b", {"y": 2, "x": 1})):
        store.write_json(tmp_path / name, value)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"x": 1, "y": 2}
