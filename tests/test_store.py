"""Artifacts on disk: whole or absent, and never trusted when their bytes changed."""

import hashlib
import json
import os
import shutil
import time
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from infoutil_jax import distil, durable, pipeline, progress, store
from infoutil_jax.errors import CorruptArtifact, DataError, EnvironmentFault
from infoutil_jax.stages import evaluate

TREE = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int32(7)}, "batch_stats": {}}


class Pair(NamedTuple):
    left: np.ndarray
    right: np.ndarray


def every_flip_and_cut(path):
    """Each bit of a file flipped in turn, then one byte fewer at a time; yields where."""
    content = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for position in range(len(content)):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([content[position] ^ 1 << bit]), position)
                yield position, bit
            os.pwrite(file.fileno(), content[position : position + 1], position)
        assert path.read_bytes() == content
        for size in reversed(range(len(content))):
            file.truncate(size)
            yield size


def test_what_is_written_goes_through_durable(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(durable, "write", lambda path, chunks: written.append((path.name, b"".join(chunks))))
    store.write_bytes(tmp_path / "a", b"1")
    store.write_plain_json(tmp_path / "b", [1])
    store.write_json(tmp_path / "c", [1])
    store.save_arrays(tmp_path / "d", {"x": np.arange(2)})
    assert [name for name, _ in written] == ["a", "b", "c", "d"] and written[:2] == [("a", b"1"), ("b", b"[\n 1\n]")]


def test_a_workdir_that_cannot_be_made_is_an_environment_fault(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentFault, match=r"cannot be written \(Not a directory; [\d,]+ free\)"):
        store.new_workdir(tmp_path / "file", "run")


# JSON

VALUE = {"b": [1, -2.5, 1e300, None, True], "a": {"ä": "\udce9\\", "": {}}, "c": float("inf")}


def test_json_comes_back(tmp_path):
    path = tmp_path / "x.json"
    for value in (VALUE, [], 3, "x", {"content": 1}):
        store.write_json(path, value)
        assert store.read_json(path) == value
    store.write_json(path, {10: (1, 2), 9: "x"})
    assert store.read_json(path) == {"10": [1, 2], "9": "x"}
    with pytest.raises(FileNotFoundError):
        store.read_json(tmp_path / "absent.json")


def test_the_seal_is_over_the_canonical_content(tmp_path):
    store.write_json(tmp_path / "x.json", {"b": 1, "a": 2})
    written = json.loads((tmp_path / "x.json").read_text())
    assert written == {"content": {"a": 2, "b": 1}, "sha256": hashlib.sha256(b'{"a": 2, "b": 1}').hexdigest()}


def test_every_flipped_bit_and_every_cut_of_a_sealed_json_is_found(tmp_path):
    path = tmp_path / "x.json"
    store.write_json(path, VALUE)
    size, n_found = path.stat().st_size, 0
    for _ in every_flip_and_cut(path):
        with pytest.raises(CorruptArtifact, match="x.json: SHA-256 does not match"):
            store.read_json(path)
        n_found += 1
    assert n_found == 9 * size > 1500


def test_json_that_is_another_is_found_with_the_way_out(tmp_path):
    path = tmp_path / "x.json"
    store.write_json(path, VALUE)
    others = (b"[]", b"{}", b"null", b'"content"', b'{"content": 1}', b'{"content": 1, "sha256": ""}', b"[" * 100_000)
    for damaged in [path.read_bytes() + b" ", *others]:
        path.write_bytes(damaged)
        with pytest.raises(CorruptArtifact, match="written here; look here.$"):
            store.read_json(path, mend="look here")


def test_plain_json_is_for_anybody(tmp_path):
    store.write_plain_json(tmp_path / "x.json", VALUE)
    assert json.loads((tmp_path / "x.json").read_text()) == VALUE


# Arrays


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


def test_artifacts_are_valid_in_their_own_place_only_unless_an_earlier_version_wrote_them(tmp_path):
    own, reader = tmp_path / "f1" / "0", {"json": store.read_json, "npz": store.load_arrays}
    store.cached_json(own.with_suffix(".json"), lambda: [1])
    store.save_arrays(own.with_suffix(".npz"), {"a": np.arange(3)})
    for suffix, read in reader.items():
        path = own.with_suffix(f".{suffix}")
        for other in (path.with_name(f"1.{suffix}"), tmp_path / "f2" / path.name):
            other.parent.mkdir(exist_ok=True)
            shutil.copy(path, other)
            with pytest.raises(CorruptArtifact, match=f"{other}: SHA-256 does not match what was written here"):
                read(other)
        moved = shutil.copytree(own.parent, tmp_path / suffix / "f1") / path.name  # the folders above may change
        assert list(read(moved)) in ([1], ["a"])
    data = own.with_suffix(".npz").read_bytes()[:-32]
    old = tmp_path / "old.npz"
    old.write_bytes(data + hashlib.sha256(data).digest())
    assert store.load_arrays(old)["a"].tolist() == [0, 1, 2]


def test_every_flipped_bit_and_every_cut_of_arrays_is_found(tmp_path):
    path = tmp_path / "x.npz"
    store.save_arrays(path, {"a": np.arange(10, dtype=np.int16)})
    size, n_found = path.stat().st_size, 0
    for _ in every_flip_and_cut(path):
        with pytest.raises(CorruptArtifact, match="x.npz: SHA-256 does not match"):
            store.load_arrays(path)
        n_found += 1
    assert n_found == 9 * size > 2000


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


def test_damaged_arrays_are_set_aside_and_made_again(tmp_path, capsys):
    path, made = tmp_path / "x.npz", []
    get = lambda: store.cached(path, Pair, lambda: made.append(1) or Pair(np.arange(3), np.float32([0.5])))
    get()
    whole = path.read_bytes()
    for n, damaged in enumerate((whole[:-1], b"", bytes([whole[0] ^ 1]) + whole[1:]), start=1):
        path.write_bytes(damaged)
        assert get().left.tolist() == [0, 1, 2] and len(made) == 1 + n
        kept = "x.npz.damaged" + (f"-{n}" if n > 1 else "")
        warning = f"warning: {path}: SHA-256 does not match what was written here; set aside as {kept}\n"
        assert capsys.readouterr() == ("", warning)
        assert path.read_bytes() == whole and (tmp_path / kept).read_bytes() == damaged
    get()
    assert len(made) == 4 and len(list(tmp_path.iterdir())) == 4


def test_json_is_computed_once_and_again_when_it_was_damaged(tmp_path, capsys):
    path, made = tmp_path / "new" / "x.json", []
    get = lambda: store.cached_json(path, lambda: made.append(1) or {"top1": (0.5, 1.0)})
    assert get() == get() == {"top1": [0.5, 1.0]} and len(made) == 1 and capsys.readouterr().err == ""
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"0.5", b"0.7"))
    assert get() == {"top1": [0.5, 1.0]} and len(made) == 2
    assert path.read_bytes() == whole and capsys.readouterr().err.endswith("set aside as x.json.damaged\n")


def test_what_is_whole_or_absent_is_not_set_aside(tmp_path):
    store.write_json(tmp_path / "x.json", 1)
    assert store.undamaged(store.read_json, tmp_path / "x.json") == 1
    assert store.undamaged(store.read_json, tmp_path / "y.json") is None
    assert store.undamaged(store.load_arrays, tmp_path / "y.npz") is None
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_is_set_aside_too_and_a_quicker_run_does_no_harm(tmp_path):
    (tmp_path / "3").mkdir()
    store.set_aside(tmp_path / "3")
    store.set_aside(tmp_path / "3")
    assert [path.name for path in tmp_path.iterdir()] == ["3.damaged"]


def test_strict_runs_stop_at_what_is_damaged(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    progress.restart(strict=True)
    try:
        with pytest.raises(DataError, match="x.json: SHA-256 does not match"):
            store.cached_json(tmp_path / "x.json", lambda: 1)
    finally:
        progress.restart()
    assert store.cached_json(tmp_path / "x.json", lambda: 1) == 1


# What the callers make of it


def damage(path):
    path.write_bytes(path.read_bytes().replace(b"content", b"contend"))


def test_a_finished_shard_is_told_by_its_line(tmp_path, capsys):
    layout = SimpleNamespace(shard_names=["first", "second"])
    output = distil.Output(tmp_path, tmp_path / "lines", layout)
    assert distil.finished_line(output, 1) is None
    (tmp_path / "second").write_bytes(b"12345")
    assert distil.finished_line(output, 1) is None  # killed between the shard and its line
    store.write_json(tmp_path / "lines" / "1.json", {"bytes": 5})
    assert distil.finished_line(output, 1) == {"bytes": 5}
    (tmp_path / "second").write_bytes(b"1234")
    with pytest.raises(CorruptArtifact, match="/second: 4 bytes, but 5 were written; restore"):
        distil.finished_line(output, 1)
    (tmp_path / "second").unlink()
    assert distil.finished_line(output, 1) is None and capsys.readouterr().err == ""
    damage(tmp_path / "lines" / "1.json")
    assert distil.finished_line(output, 1) is None and "1.json.damaged" in capsys.readouterr().err


def test_damaged_times_are_forgotten_and_the_neighbours_accuracy_is_measured_again(tmp_path, capsys, monkeypatch):
    assert pipeline._timing(tmp_path / "timing.json") == []
    store.write_json(tmp_path / "timing.json", [{"stage": "other"}])
    assert pipeline._timing(tmp_path / "timing.json") == [{"stage": "other"}]
    damage(tmp_path / "timing.json")
    assert pipeline._timing(tmp_path / "timing.json") == []
    monkeypatch.setattr(distil, "data_identity", lambda *_: ["data"])
    monkeypatch.setattr(evaluate, "nearest_neighbour", lambda _, per_class, seed: per_class + seed / 10)
    dataset, expected = SimpleNamespace(train=SimpleNamespace(labels=np.zeros(9, int))), [1 + i / 10 for i in range(10)]
    for _ in range(2):
        assert pipeline._neighbour(SimpleNamespace(ipc=1), dataset, tmp_path) == expected
        (path,) = (tmp_path / "evaluate").glob("*.json")
        damage(path)
    assert capsys.readouterr().err.count("warning: ") == 2


def test_a_full_disk_is_told_by_the_file_that_did_not_fit(tmp_path, monkeypatch):
    def full(path, _):
        raise EnvironmentFault(f"{path}: cannot be written")

    monkeypatch.setattr(durable, "write", full)
    monkeypatch.setattr(
        pipeline.CLOCK, "read", lambda: [{"stage": "x", "working": 1.0, "waiting": 0.0, "compiling": 0.0}]
    )
    with pytest.raises(EnvironmentFault, match="^shard: cannot"), pipeline._keeping_time(tmp_path / "timing.json"):
        durable.write("shard", [b""])


def test_a_damaged_config_stops_the_run_and_its_work_can_be_kept(tmp_path):
    store.write_json(tmp_path / "config.json", {})
    damage(tmp_path / "config.json")
    way_out = f"use another --workdir and --artifacts={tmp_path}/artifacts, which keeps its work"
    with pytest.raises(CorruptArtifact, match=way_out):
        pipeline._require_same_run(None, tmp_path)


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


def test_json_is_the_same_for_the_same_value(tmp_path):
    for write in (store.write_json, store.write_plain_json):
        for name, value in (("a", {"x": 1, "y": 2}), ("b", {"y": 2, "x": 1})):
            write(tmp_path / name, value)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
