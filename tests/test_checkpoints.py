"""Checkpoints: what comes back is what was saved, bit for bit; damage is seen, and the save before it used."""

import errno
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orbax.checkpoint as ocp
import pytest

from infoutil_jax import checkpoints, durable, store
from infoutil_jax.checkpoints import Checkpoints, Saves
from infoutil_jax.errors import CorruptArtifact, EnvironmentFault


def big_tree(seed):
    rng = np.random.default_rng(seed)
    return {"params": {"k": rng.normal(size=(40, 50)).astype(np.float32)}, "step": np.int32(seed)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("written") / "f" / "c"
    for step in (1, 2):
        Checkpoints(directory).save(step, big_tree(step))
    return directory


@pytest.fixture
def directory(written, tmp_path):
    """Steps 1 and 2, to be harmed."""
    return shutil.copytree(written, tmp_path / "f" / "c")


def files_of(directory, step):
    return sorted(path for path in (directory / str(step)).rglob("*") if path.is_file())


def largest(directory, step):
    return max(files_of(directory, step), key=lambda path: path.stat().st_size)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def forget_files(directory, step):
    """As checkpoints were written before their files were hashed."""
    path = directory / f"{step}.sha256"
    path.write_text(path.read_text().split("\n")[0])


def orbax_does(monkeypatch, **actions):
    monkeypatch.setattr(checkpoints, "_orbax", lambda: (ocp, SimpleNamespace(**actions)))


def raises(error):
    def action(*_, **__):
        raise error

    return action


def test_checkpoints_come_back_bit_for_bit(tmp_path):
    opened = Checkpoints(tmp_path / "c")
    odd = {"rows": np.array([[0.1, np.nan], [-0.0, 1e-300]]), "right": np.array([True, False]), "none": {}}
    opened.save(2, odd)
    opened.save(10, big_tree(10))
    assert opened.steps() == [2, 10]
    for step, tree in ((2, odd), (10, big_tree(10))):
        like = {name: np.zeros_like(leaf) if name in odd else leaf for name, leaf in tree.items() if name != "none"}
        restored = opened.restore(step, {**like, "none": {}} if step == 2 else big_tree(0))
        assert store.tree_hash(restored) == store.tree_hash(tree)
    assert restored["params"]["k"].tobytes() == big_tree(10)["params"]["k"].tobytes()


def test_reading_makes_nothing(tmp_path):
    opened = Checkpoints(tmp_path / "c")
    assert opened.steps() == [] and opened.get(1, big_tree(0)) is None and opened.latest(big_tree(0)) is None
    with pytest.raises(CorruptArtifact, match="/c/1: "):
        opened.restore(1, big_tree(0))
    assert not list(tmp_path.iterdir())


def test_steps_may_be_saved_in_any_order_and_complete_ones_are_kept(directory):
    opened = Checkpoints(directory)
    opened.save(10, big_tree(10))
    opened.save(5, big_tree(5))
    opened.save(10, big_tree(99))
    assert opened.steps() == [1, 2, 5, 10]
    for step in (5, 10):
        assert int(opened.restore(step, big_tree(0))["step"]) == step


def test_only_the_last_up_to_a_save_are_kept_where_told(directory):
    """Later ones stay: a training that is made again from an earlier step must not lose what it saves."""
    Checkpoints(directory).save(8, big_tree(8))
    for step, kept in ((3, [2, 3, 8]), (4, [3, 4, 8]), (9, [8, 9])):
        Checkpoints(directory, keep=2).save(step, big_tree(step))
        assert Checkpoints(directory).steps() == kept
    assert sorted(path.name for path in directory.iterdir()) == ["8", "8.sha256", "9", "9.sha256"]


def test_a_save_that_was_interrupted_is_ignored_and_removed_by_the_next(directory, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_bytes", raises(KeyboardInterrupt))  # between orbax's files and the hash
        for step in (3, 77):
            with pytest.raises(KeyboardInterrupt):
                Checkpoints(directory).save(step, big_tree(99))
    assert (directory / "77").exists()
    opened = Checkpoints(directory)
    assert opened.steps() == [1, 2] and opened.latest(big_tree(0))[0] == 2
    opened.save(3, big_tree(3))
    assert opened.steps() == [1, 2, 3] and int(opened.restore(3, big_tree(0))["step"]) == 3
    assert not (directory / "77").exists()


def test_what_is_no_checkpoint_is_ignored(directory):
    half = directory / "3" / "default.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    (half / "x").write_bytes(b"half")
    (directory / "4").mkdir()
    for name in ("5.sha256", "x.sha256", ".tmp-6.sha256", "notes.txt", "7"):
        (directory / name).write_bytes(b"")
    opened = Checkpoints(directory)
    assert opened.steps() == [1, 2] and opened.latest(big_tree(0))[0] == 2
    opened.save(5, big_tree(5))
    assert opened.steps() == [1, 2, 5] and int(opened.restore(5, big_tree(0))["step"]) == 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's, as it gives up
def test_a_flipped_bit_in_any_file_is_found_without_their_hashes_too(directory):
    """Or does not matter: whatever is returned is what was saved."""
    opened, found, harmless = Checkpoints(directory), 0, 0
    places = [
        (path, place)
        for path in files_of(directory, 1)
        for place in (0, path.stat().st_size // 2, -1)
        if path.stat().st_size
    ]
    hashed = (directory / "1.sha256").read_bytes()
    for path, place in places:
        flip(path, place)
        with pytest.raises(
            CorruptArtifact, match=f"/c/1: not the checkpoint .*{path.name}: its SHA-256 changed"
        ) as error:
            opened.restore(1, big_tree(0))
        assert "\n" not in str(error.value) and opened.faults(1)
        forget_files(directory, 1)
        try:
            assert store.tree_hash(opened.restore(1, big_tree(0))) == store.tree_hash(big_tree(1)), path
            harmless += 1
        except CorruptArtifact as error:
            assert "/c/1: " in str(error) and "\n" not in str(error)
            found += 1
        (directory / "1.sha256").write_bytes(hashed)
        flip(path, place)
    assert found >= 8 and found + harmless == len(places)
    assert opened.faults(1) == [] and int(opened.restore(1, big_tree(0))["step"]) == 1


@pytest.mark.parametrize("place", [0, 63, 64, 200, -1])
def test_a_flipped_bit_in_the_hashes_is_found(directory, place):
    flip(directory / "1.sha256", place)
    assert Checkpoints(directory).faults(1)
    with pytest.raises(CorruptArtifact, match="/c/1: .*1.sha256"):
        Checkpoints(directory).restore(1, big_tree(0))


def test_flipped_weights_are_found_by_the_hash_of_the_tree(directory):
    (directory / "1.sha256").write_text(store.tree_hash(big_tree(2)))
    with pytest.raises(CorruptArtifact, match="the weights' SHA-256 changed"):
        Checkpoints(directory).restore(1, big_tree(0))


DAMAGE = {
    "truncated": lambda directory: largest(directory, 2).write_bytes(largest(directory, 2).read_bytes()[:100]),
    "emptied": lambda directory: [path.write_bytes(b"") for path in files_of(directory, 2)],
    "a file gone": lambda directory: largest(directory, 2).unlink(),
    "an empty folder": lambda directory: [shutil.rmtree(directory / "2"), (directory / "2").mkdir()],
    "a foreign folder": lambda directory: [
        shutil.rmtree(directory / "2"),
        shutil.copytree(directory / "1", directory / "2"),
    ],
    "hashes emptied": lambda directory: (directory / "2.sha256").write_bytes(b""),
    "hashes that are no text": lambda directory: (directory / "2.sha256").write_bytes(b"\xff" * 64),
    "hashes cut": lambda directory: (directory / "2.sha256").write_bytes((directory / "2.sha256").read_bytes()[:-70]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_of_damaged_saves_the_one_before_is_used_and_the_damaged_one_named(directory, damage, capsys):
    DAMAGE[damage](directory)
    opened = Checkpoints(directory)
    step, tree = opened.latest(big_tree(0))
    assert step == 1 and store.tree_hash(tree) == store.tree_hash(big_tree(1))
    assert f"warning: {directory / '2'}: " in capsys.readouterr().err
    assert opened.steps() == [1] and (directory / "2.damaged").is_dir() and not (directory / "2.sha256").exists()
    opened.save(2, big_tree(2))
    assert int(opened.latest(big_tree(0))[0]) == 2


def test_without_a_good_save_there_is_none(directory, capsys):
    for step in (1, 2):
        flip(largest(directory, step), 50)
    assert Checkpoints(directory).latest(big_tree(0)) is None
    assert capsys.readouterr().err.count("warning: ") == 2
    assert Checkpoints(directory).steps() == []


def test_the_latest_may_be_limited_and_later_ones_are_not_looked_at(directory):
    flip(largest(directory, 2), 50)
    assert Checkpoints(directory).latest(big_tree(0), up_to=1)[0] == 1
    assert Checkpoints(directory).latest(big_tree(0), up_to=0) is None
    assert Checkpoints(directory).steps() == [1, 2]


ERRORS = [
    json.JSONDecodeError("no", "{", 0),
    KeyError("k"),
    TypeError("t"),
    AttributeError("a"),
    IndexError(),
    ValueError(),
]
ERRORS += [FileNotFoundError("f"), NotADirectoryError("d"), RuntimeError("r"), AssertionError(), RecursionError("deep")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_orbax_raises_on_reading_is_damage(directory, monkeypatch, error):
    orbax_does(monkeypatch, restore=raises(error))
    with pytest.raises(CorruptArtifact, match=rf"/c/1: not the checkpoint that was written \({type(error).__name__}: "):
        Checkpoints(directory).restore(1, big_tree(0))


FULL = [OSError(errno.ENOSPC, "No space left on device"), ValueError("RESOURCE_EXHAUSTED: No space left\non device")]


@pytest.mark.parametrize("error", FULL, ids=["os", "tensorstore"])
def test_a_full_disk_is_an_environment_fault_and_what_was_there_stays(directory, monkeypatch, error):
    orbax_does(monkeypatch, save=raises(error))
    with pytest.raises(EnvironmentFault, match=r"/c/3: cannot be written \(.*No space left.*free the space"):
        Checkpoints(directory, keep=2).save(3, big_tree(3))
    assert Checkpoints(directory).steps() == [1, 2] and not (directory / "3").exists()


def test_a_step_is_valid_in_its_own_place_only_unless_an_earlier_version_wrote_it(directory, tmp_path):
    for other in (tmp_path / "g" / "c", tmp_path / "f" / "d"):
        shutil.copytree(directory, other)
        assert Checkpoints(other).faults(1) == ["1.sha256: ValueError: not what was written here"]
        with pytest.raises(CorruptArtifact, match="/c/1: not the check|/d/1: not the check"):
            Checkpoints(other).restore(1, big_tree(0))
    for name in ("1", "1.sha256"):
        (directory / name).rename(directory / name.replace("1", "7"))
    assert Checkpoints(directory).faults(7)
    *lines, _ = (directory / "7.sha256").read_text().split("\n")
    (directory / "7.sha256").write_text("\n".join([*lines, hashlib.sha256("\n".join(lines).encode()).hexdigest()]))
    assert Checkpoints(directory).faults(7) == []


def test_every_file_of_a_save_and_every_folder_is_on_the_disk_before_its_hashes(tmp_path, monkeypatch):
    synced, at_hashes = set(), []
    sync, write = durable.sync, store.write_bytes
    monkeypatch.setattr(durable, "sync", lambda path: synced.add(Path(path)) or sync(path))
    monkeypatch.setattr(store, "write_bytes", lambda path, data: at_hashes.append(set(synced)) or write(path, data))
    Checkpoints(tmp_path / "f" / "c").save(1, big_tree(1))
    written = {path for path in (tmp_path / "f").rglob("*") if path.name != "1.sha256"} | {tmp_path, tmp_path / "f"}
    assert at_hashes == [written] and len(written) > 8


@pytest.mark.filterwarnings("ignore")  # orbax's, of its older interface
def test_checkpoints_of_earlier_versions_are_read(tmp_path):
    """Orbax's own manager wrote them, and beside them there was a hash of the tree alone."""
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(tmp_path / "c", options=options) as manager:
        manager.save(7, args=ocp.args.StandardSave(big_tree(7)))
    (tmp_path / "c" / "7.sha256").write_text(store.tree_hash(big_tree(7)))
    opened = Checkpoints(tmp_path / "c")
    assert opened.steps() == [7] and opened.faults(7) == []
    assert store.tree_hash(opened.restore(7, big_tree(0))) == store.tree_hash(big_tree(7))


def test_saves_are_due_after_two_minutes_and_later_where_they_are_slow(directory, monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(checkpoints, "time", clock)
    saves, lasts = Saves(directory), 0.0

    def slow_save(*_, **__):
        clock.now += lasts

    orbax_does(monkeypatch, save=slow_save)
    for step, lasts, gap in ((3, 0.25, 120), (4, 1.0, 120), (5, 3.0, 300), (6, 0.125, 120)):
        saves.save(step, big_tree(step))
        clock.now += gap - 1
        assert not saves.due()
        clock.now += 1
        assert saves.due()
    clock.now += 1000
    assert not Saves(directory).due()


def test_two_saves_are_kept_until_they_are_removed(directory):
    saves = Saves(directory)
    saves.save(3, big_tree(3))
    assert saves.steps() == [2, 3]
    saves.remove()
    assert not directory.exists()
    saves.remove()
