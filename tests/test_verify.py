"""`main.py verify`: in a whole workdir made here it finds nothing; of what is done to it everything, by its name."""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import struct

import numpy as np
import pytest
from configs import digits

from infoutil_jax import config, examples, records, results, settings, store, tfrecord, verify
from infoutil_jax.checkpoints import Checkpoints
from infoutil_jax.errors import DataError
from infoutil_jax.types import DistilledImage

METHODS = ("infoutil", "random_images")
LAYOUT = records.Layout(
    name="distilled_tiny", class_names=("one", "two", "three"), n_shards=3, image_size=8, n_patches=4, n_classes=3
)
PER_CLASS = 3
SHARD = LAYOUT.shard_names[1]


def make_config(**changes):
    c = digits.get_config()
    c.update_from_flattened_dict({"methods": METHODS, **{k.replace("__", "."): v for k, v in changes.items()}})
    return config.resolve(c)


def make_example(rng, label):
    return DistilledImage(
        image_u8=rng.integers(0, 256, (8, 8, 3), np.uint8),
        label=label,
        patch_logits=rng.normal(size=(4, 3)).astype(np.float32),
        patch_ids=tuple(f"train/{i}" for i in rng.integers(0, 1000, 4)),
        patch_boxes=np.array([[0, 0, 8, 8], [7, 7, 1, 1], [0, 4, 8, 4], [2, 3, 4, 5]], np.int32),
        patch_shapley=np.array([np.nan, 0, -1, 1], np.float32),
        patch_gradient_norm=rng.uniform(size=4).astype(np.float32),
    )


def make_class(seed, label, n=PER_CLASS):
    rng = np.random.default_rng([seed, label])
    return [make_example(rng, label) for _ in range(n)]


def make_weights(epoch):
    return {"params": {"kernel": np.full((3, 4), epoch, np.float32), "bias": np.zeros(4, np.float32)}}


def manifest_of(settings_, method):
    teacher = {w: {"epoch": e, "sha256": store.tree_hash(make_weights(e))} for w, e in (("early", 1), ("converged", 2))}
    plain = results.plain(settings.for_method(settings_, method))
    origin = {"data": {"content_id": "c0ffee"}, "environment": {"git": "x"}}
    return {"method": method, "config": plain, "teacher": {"model": "convnet3", **teacher}, **origin}


def folder_of(workdir, method):
    return workdir / "distilled" if method == METHODS[0] else workdir / "controls" / method


def make_run(workdir, seed=0, **changes):
    """What a run leaves, without the run."""
    settings_ = make_config(**changes)
    store.write_json(workdir / "config.json", results.plain(settings_))
    store.write_json(workdir / "data.json", {"name": "tiny", "content_id": "c0ffee", "classes": {}})
    store.write_json(workdir / "timing.json", [{"stage": "distil", "working": 1.5}])
    store.write_json(workdir / "history.json", [{"part": "0/1", "environment": {"git": "x"}}])
    store.write_plain_json(workdir / "results.json", {"curves": []})
    for method in METHODS:
        directory, lines = folder_of(workdir, method), []
        for label in range(3):
            lines.append(records.write_shard(directory, label, make_class((seed, len(method)), label), LAYOUT))
            line = workdir / "shards" / method / "0123456789abcdef" / f"{label}.json"
            store.write_json(line, lines[-1], artifact=True)
        records.finish(directory, LAYOUT, lines, manifest_of(settings_, method))
    artifacts = workdir / "artifacts"
    store.save_arrays(artifacts / "attribute" / "a1b2" / "0.npz", {"phi": np.arange(9.0)})
    store.write_json(artifacts / "evaluate" / "c3d4.json", [[1, 0.5, 0.9]], artifact=True)
    for epoch in (1, 2):
        Checkpoints(artifacts / "teacher" / "e5f6" / "snapshots").save(epoch, make_weights(epoch))
        store.write_json(artifacts / "teacher" / "e5f6" / f"epoch{epoch}.json", {"top1": 0.5}, artifact=True)
    (workdir / ".lock").write_text("{}")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("original") / "run"
    make_run(workdir)
    return workdir


@pytest.fixture
def workdir(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def run(path):
    """(exit code, the printed lines, those that name a fault)."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = verify.run(path)
    lines = printed.getvalue().splitlines()
    faults = [line.removeprefix("  FAULT: ") for line in lines if line.startswith("  FAULT: ")]
    assert code == 5 if faults else code in (0, 3)
    return code, lines, faults


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def files_of(workdir):
    """All files that are protected."""
    unread = {"results.json", ".lock"}
    return sorted(path for path in workdir.rglob("*") if path.is_file() and path.name not in unread)


def offsets_of(path):
    """Start of every record, and the end."""
    content, offsets = path.read_bytes(), [0]
    while offsets[-1] < len(content):
        offsets.append(offsets[-1] + struct.unpack_from("<Q", content, offsets[-1])[0] + 16)
    return offsets


# Nothing wrong


def test_a_whole_run_has_no_fault_and_everything_was_counted(workdir):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in workdir.rglob("*") if path.is_file()}
    code, lines, _ = run(workdir)
    assert code == 0
    n_files, n_bytes = len(files_of(workdir)), sum(path.stat().st_size for path in files_of(workdir))
    summary = rf"checked {n_files} files, 18 records, {n_bytes:,} bytes in \d+\.\d s: 0 faults"
    assert re.fullmatch(summary, lines[-1])
    groups = [line.split(":")[0] for line in lines[:-1] if not line.startswith(" ")]
    stages = [f"artifacts/{stage}" for stage in ("attribute", "evaluate", "teacher")]
    assert groups == ["run", "distilled (infoutil)", "controls/random_images (random_images)", *stages]
    assert lines[1] == f"  note: {workdir}/results.json: for people, not checked"
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert sorted(path for path in workdir.rglob("*") if path.is_file()) == sorted(before)  # nothing was written


@pytest.mark.parametrize("part, n_records", [("distilled", 9), ("controls/random_images", 9), ("artifacts", 0)])
def test_a_part_of_a_run_can_be_verified_alone(workdir, monkeypatch, part, n_records):
    code, lines, _ = run(workdir / part)
    assert code == 0 and (f", {n_records} records, " in lines[-1]) == (n_records > 0)
    monkeypatch.chdir(workdir / part)
    assert run(".")[0] == 0
    if n_records:  # the run around it is known
        store.write_json(workdir / "config.json", results.plain(make_config(ipc=7)))
        assert "config.json: ipc: 7 -> 1" in run(".")[2][0]
        shutil.copytree(workdir / part, workdir.parent / "elsewhere")
        assert run(workdir.parent / "elsewhere")[0] == 0


def test_a_folder_of_something_else_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="holds no distilled set, run or artifacts"):
            verify.run(path)


# Flips


def test_every_bit_flip_is_found_and_its_file_named(original, workdir):
    rng, n_flips = random.Random(0), 0
    for path in files_of(workdir):
        content = path.read_bytes()
        n_bits = 8 * len(content)
        for bit in [0, n_bits - 1, *(rng.randrange(n_bits) for _ in range(7))]:
            flip(path, bit)
            _, _, faults = run(workdir)
            assert faults and all(fault.startswith(f"{path}:") for fault in faults), (path, bit, faults)
            if ".tfrecord" in path.name:
                record = sum(offset <= bit // 8 for offset in offsets_of(original / path.relative_to(workdir))) - 1
                assert re.match(rf"{path}: record {record} at byte \d+: (length|data) CRC", faults[0])
            path.write_bytes(content)
            n_flips += 1
    assert n_flips >= 300
    assert run(workdir)[0] == 0


def test_every_fault_is_listed_not_only_the_first(workdir):
    shard, other = workdir / "distilled" / SHARD, workdir / "distilled" / LAYOUT.shard_names[0]
    offsets = offsets_of(shard)
    for record in (0, 2):
        flip(shard, 8 * (offsets[record] + 100))
    other.unlink()
    (workdir / "controls/random_images/features.json").unlink()
    flip(workdir / "artifacts/attribute/a1b2/0.npz", 999)
    flip(workdir / "timing.json", 99)
    code, lines, faults = run(workdir)
    starts = [
        f"{workdir}/timing.json: ",
        f"{other}: missing shard",
        f"{shard}: record 0 at byte 0: data CRC",
        f"{shard}: record 2 at byte {offsets[2]}: data CRC",
        f"{workdir}/controls/random_images/features.json: SHA-256: ",
        f"{workdir}/artifacts/attribute/a1b2/0.npz: ",
    ]
    assert code == 5 and len(faults) == len(starts) and all(map(str.startswith, faults, starts))
    assert lines[-1].endswith(" s: 6 faults")


# Shards


def test_truncated_missing_extra_swapped_and_foreign_shards_are_told_apart(original, workdir, tmp_path):
    make_run(tmp_path / "another", seed=1)
    path, third = workdir / "distilled" / SHARD, workdir / "distilled" / LAYOUT.shard_names[2]
    content, offsets = path.read_bytes(), offsets_of(path)
    foreign = (tmp_path / "another" / "distilled" / SHARD).read_bytes()

    def faults_of(new_content, name=SHARD):
        if new_content is None:
            path.unlink()
        else:
            (workdir / "distilled" / name).write_bytes(new_content)
        faults = run(workdir)[2]
        if name != SHARD:
            (workdir / "distilled" / name).unlink()
        path.write_bytes(content)
        return faults

    assert faults_of(content[: offsets[1] + 30]) == [f"{path}: record 1 at byte {offsets[1]}: truncated"]
    (fault,) = faults_of(content[: offsets[2]])
    assert fault == f"{path}: record count: expected 3, found 2 (truncated at the end of a record)"
    (fault,) = faults_of(b"")
    assert fault == f"{path}: record count: expected 3, found 0 (truncated at the end of a record)"
    assert faults_of(None) == [f"{path}: missing shard"]
    assert faults_of(third.read_bytes()) == [f"{path}: swapped shard: this is the content of {third.name}"]
    digests = [hashlib.sha256(some).hexdigest() for some in (content, foreign)]
    (fault,) = faults_of(foreign)
    assert fault == f"{path}: SHA-256: expected {digests[0]}, found {digests[1]} (foreign shard, of another run)"
    (fault,) = faults_of(content + foreign)
    assert fault == f"{path}: record count: expected 3, found 6 (foreign shard, of another set)"
    extra = "distilled_tiny-train.tfrecord-00003-of-00004"
    assert faults_of(foreign, extra) == [f"{path.with_name(extra)}: extra shard, not of this set"]
    assert faults_of(content, extra) == [f"{path.with_name(extra)}: extra shard, a copy of {SHARD}"]
    label_2 = (tmp_path / "another" / "distilled" / third.name).read_bytes()
    faults = faults_of(label_2)
    assert len(faults) == 4 and "record 0 at byte 0: label 2 in the shard of class 1" in faults[0]
    assert run(workdir)[0] == 0


def bad(**fields):
    return make_class(0, 1, n=1)[0]._replace(**{k: np.asarray(v, np.float32) for k, v in fields.items()})


@pytest.mark.parametrize("example, fault", [
    (make_class(0, 0, n=1)[0], "label 0 in the shard of class 1"),
    (bad(patch_gradient_norm=[1, 2, -1, 3]), r"patch_gradient_norm \[1.0, 2.0, -1.0, 3.0\] is negative"),
    (bad(patch_gradient_norm=[1, 2, np.inf, 3]), "patch_gradient_norm .* not finite"),
    (bad(patch_gradient_norm=[1, 2, np.nan, 3]), "patch_gradient_norm .* not finite"),
    (bad(patch_shapley=[0, 0, -np.inf, 0]), "patch_shapley .* is infinite"),
    (bad()._replace(patch_ids=("a", "", "b", "c")), "patch_ids .* hold an empty one"),
    *[
        (bad()._replace(patch_boxes=np.array([box] * 4, np.int32)), "patch_boxes .* leave the image of 8 px")
        for box in ([-1, 0, 4, 4], [0, -1, 4, 4], [0, 0, 0, 4], [0, 0, 4, 0], [5, 0, 4, 4], [0, 5, 4, 4])
    ],
])  # fmt: skip
def test_implausible_content_is_named(example, fault):
    (found,) = examples.implausible(example, LAYOUT, label=1)
    assert re.match(fault, found)


def test_plausible_content_is_left_alone():
    huge = 65_504  # what float16 holds
    extreme = bad(patch_logits=[[huge, -huge, 0]] * 4, patch_shapley=[np.nan] * 4, patch_gradient_norm=[0] * 4)
    LAYOUT.check(extreme, "extreme")
    assert list(examples.implausible(extreme, LAYOUT, label=1)) == []
    assert list(examples.implausible(extreme._replace(label=0), LAYOUT)) == []  # shards of mixed classes


def write_set(workdir, classes, lines=None, **changes):
    """Anew, with all hashes right; with `lines`, counts of hits as in them."""
    shutil.rmtree(workdir / "distilled")
    shutil.rmtree(workdir / "shards", ignore_errors=True)
    written = [records.write_shard(workdir / "distilled", i, classes[i], LAYOUT) for i in range(3)]
    for line, other in zip(written, lines or ()):
        del line["hits"]
        line |= {"hits": other["hits"]} if other else {}
    records.finish(workdir / "distilled", LAYOUT, written, manifest_of(make_config(), METHODS[0]) | changes)


def test_other_soft_labels_under_right_hashes_are_found(workdir):
    """Another labels the patches anew, seals everything again, but does not count."""
    classes = [make_class(5, label) for label in range(3)]
    write_set(workdir, classes)
    assert run(workdir)[0] == 0
    lines = records.read_manifest(workdir / "distilled")["shards"]
    by_hand = [sum(int(row.argmax()) == e.label for e in of_class for row in e.patch_logits) for of_class in classes]
    assert [line["hits"] for line in lines] == by_hand and 0 < by_hand[1] < 4 * PER_CLASS
    classes[1][2] = classes[1][2]._replace(patch_logits=-classes[1][2].patch_logits)
    write_set(workdir, classes, lines=lines)
    now = sum(int(row.argmax()) == 1 for e in classes[1] for row in e.patch_logits)
    fault = f"{workdir}/distilled/{SHARD}: soft labels: {now} have their maximum at the class, {by_hand[1]} when written"
    assert now != by_hand[1] and run(workdir)[2] == [fault]
    write_set(workdir, classes, lines=[{}] * 3)
    assert run(workdir)[0] == 0  # a set of earlier versions


def test_content_is_checked_under_right_hashes_too(workdir):
    classes = [make_class(5, label) for label in (0, 2, 1)]
    classes[0][1] = classes[0][0]._replace(patch_ids=("other",) * 4)
    write_set(workdir, classes)
    code, lines, faults = run(workdir)
    for label, fault in zip([1] * 3 + [2] * 3, faults, strict=True):
        shard = f"{workdir}/distilled/{LAYOUT.shard_names[label]}"
        assert re.match(rf"{shard}: record \d at byte \d+: label {3 - label} in the shard of class {label}", fault)
    name = LAYOUT.shard_names[0]
    assert f"  note: 1 image more than once: {name} record 1 = {name} record 0" in lines


# Where a set comes from


def test_a_set_of_another_run_is_found_by_its_config_method_and_teacher(workdir):
    path = workdir / "distilled" / "manifest.json"
    classes = [make_class(0, label) for label in range(3)]
    other = results.plain(make_config(ipc=5, teacher__epochs=40))
    write_set(workdir, classes, config=other)
    start = f"{path}: of another run than {workdir}/config.json: "
    assert run(workdir)[2] == [f"{start}ipc: 1 -> 5", f"{start}teacher.epochs: 30 -> 40"]
    write_set(workdir, classes, method="rded")
    assert run(workdir)[2] == [f"{path}: a set of rded, not of infoutil"]
    write_set(workdir, classes, teacher={"early": {"epoch": 1, "sha256": "0" * 64}, "converged": {"file": "x"}})
    (fault,) = run(workdir)[2]
    assert fault.startswith(f"{path}: the early teacher (SHA-256 {'0' * 64}) is not ") and fault.endswith("/1.sha256")
    shutil.rmtree(workdir / "artifacts")
    assert run(workdir)[0] == 0


def test_a_set_that_this_run_did_not_finish_is_found_by_its_lines(workdir, tmp_path):
    """All of it, manifest included, is whole and of the same config; the lines are this run's."""
    make_run(tmp_path / "another", seed=1)
    shutil.rmtree(workdir / "distilled")
    shutil.copytree(tmp_path / "another" / "distilled", workdir / "distilled")
    faults = run(workdir)[2]
    assert [f"{workdir}/distilled/manifest.json: {name} is not the" in f for name, f in zip(LAYOUT.shard_names, faults)]
    assert len(faults) == 3


def test_swapped_lines_and_a_swapped_config_are_found(workdir):
    lines = workdir / "shards" / "infoutil" / "0123456789abcdef"
    store.write_json(lines / "2.json", store.read_json(lines / "0.json"))  # as earlier versions wrote them
    shutil.copy(workdir / "timing.json", workdir / "config.json")
    _, _, faults = run(workdir)
    assert faults == [f"{workdir}/config.json: no config of a run"]  # nothing tells which lines belong to which set
    store.write_json(workdir / "config.json", results.plain(make_config()))
    assert run(workdir)[2] == [f"{lines}/2.json: not the line of shard 2"]


def test_a_set_of_format_1_is_verified_with_a_note(workdir):
    path = workdir / "distilled" / "manifest.json"
    manifest = json.loads(path.read_bytes()) | {"format": 1}
    del manifest["sha256"]
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    code, lines, _ = run(workdir)
    assert code == 0 and f"  note: {path}: format 1, which holds no SHA-256 of the manifest itself" in lines


# What interruptions leave


def test_an_unfinished_set_is_no_fault_but_what_was_finished_of_it_must_be_whole(workdir):
    directory = workdir / "distilled"
    path = directory / SHARD
    (directory / "manifest.json").unlink()
    (workdir / "shards/infoutil/0123456789abcdef/2.json").unlink()  # killed between shard and line
    code, lines, _ = run(workdir)
    assert code == 3 and lines[-1].endswith(" s: 0 faults, 1 unfinished")
    told = f"  unfinished: {directory}: 3 shards, 2 lines of finished ones, no manifest.json; run the same command"
    assert any(line.startswith(told) for line in lines)
    flip(path, 999)
    assert re.match(f"{path}: record 0 at byte 0: data CRC", run(directory)[2][0])
    shutil.copy(directory / LAYOUT.shard_names[0], path)
    assert run(workdir)[2] == [f"{path}: swapped shard: this is the content of {LAYOUT.shard_names[0]}"]
    path.unlink()
    assert run(workdir)[2] == [f"{path}: missing shard, it was finished"]
    shutil.rmtree(directory)
    shutil.rmtree(workdir / "shards")
    code, lines, _ = run(workdir)
    assert code == 3 and f"  unfinished: {directory}: 0 shards, 0 lines" in "\n".join(lines)


def test_left_overs_are_named_and_no_fault(workdir):
    snapshots, lines = workdir / "artifacts/teacher/e5f6/snapshots", workdir / "shards/infoutil/0123456789abcdef"
    (snapshots / "2.damaged-2").mkdir()
    (snapshots / "3" / "default").mkdir(parents=True)
    (snapshots / "4" / "default.orbax-checkpoint-tmp-7").mkdir(parents=True)
    (snapshots / "5.sha256").write_text("0" * 64)
    for path in (workdir / "distilled" / f".tmp-{SHARD}", lines / ".tmp-1.json", workdir / "artifacts/x.npz.damaged"):
        path.write_text("half")
    (workdir / "distilled" / f"{SHARD}.damaged").write_text("half")
    (workdir / "distilled" / "notes.txt").write_text("mine")
    code, printed, _ = run(workdir)
    notes = {line.removeprefix("  note: ") for line in printed if line.startswith("  note: ")}
    written, damaged = "left by an interrupted write, nothing reads it", "set aside as damaged, nothing reads it"
    assert code == 0 and notes == {
        f"{workdir}/results.json: for people, not checked",
        f"{workdir}/artifacts/x.npz.damaged: {damaged}",
        f"{workdir}/distilled/.tmp-{SHARD}: {written}",
        f"{workdir}/distilled/{SHARD}.damaged: {damaged}",
        f"{workdir}/distilled/notes.txt: no file of a set",
        f"{lines}/.tmp-1.json: {written}",
        f"{snapshots}/2.damaged-2: {damaged}",
        f"{snapshots}/3: a save that was interrupted, nothing reads it",
        f"{snapshots}/4/default.orbax-checkpoint-tmp-7: {written}",
        f"{snapshots}/5.sha256: its checkpoint is gone, nothing reads it",
    }


def test_lost_and_cut_files_of_a_checkpoint_are_named(workdir):
    folder = workdir / "artifacts/teacher/e5f6/snapshots/2"
    first, *_, last = sorted(path for path in folder.rglob("*") if path.is_file())
    first.unlink()
    os.truncate(last, 5)
    assert [fault.split(":")[0] for fault in run(workdir)[2]] == [str(first), str(last)]


def test_artifacts_of_another_class_or_setting_are_named(workdir):
    """Each is whole, but not what its name says."""
    artifacts, line = workdir / "artifacts", workdir / "shards" / "infoutil" / "0123456789abcdef" / "1.json"
    moved = {
        artifacts / "attribute/a1b2/0.npz": artifacts / "attribute/a1b2/1.npz",
        artifacts / "attribute/a1b2/1.npz": artifacts / "attribute/ffff/1.npz",
        artifacts / "evaluate/c3d4.json": artifacts / "evaluate/d4c3.json",
        artifacts / "teacher/e5f6/epoch1.json": artifacts / "teacher/e5f6/epoch2.json",
        line: line.parent.with_name("fedcba9876543210") / line.name,
    }
    for source, target in moved.items():
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    assert sorted(fault.split(": ")[0] for fault in run(workdir)[2]) == sorted(map(str, moved.values()))
    assert run(shutil.copytree(artifacts, workdir.parent / "elsewhere"))[0] == 5


def test_a_checkpoint_of_another_teacher_is_named(workdir):
    teachers = workdir / "artifacts/teacher"
    shutil.copytree(teachers / "e5f6", teachers / "abcd")
    names = [f"{teachers}/abcd/epoch{n}.json" for n in (1, 2)] + [f"{teachers}/abcd/snapshots/{n}.sha256" for n in (1, 2)]
    assert sorted(fault.split(": ")[0] for fault in run(workdir / "artifacts")[2]) == names


def test_a_set_of_other_images_than_the_runs_is_named(workdir):
    store.write_json(workdir / "data.json", {"name": "tiny", "content_id": "decade", "classes": {}})
    faults = run(workdir)[2]
    assert len(faults) == 2 and all("of other images than" in f and "content c0ffee, not decade" in f for f in faults)
    (workdir / "data.json").unlink()
    assert run(workdir)[0] == 0


def test_names_cannot_write_to_the_terminal(workdir):
    path = workdir / os.fsdecode(b"distilled/\x1b[2J\xff\n.tfrecord")
    path.write_bytes(b"")
    _, _, (fault,) = run(workdir)
    assert fault == f"{workdir}/distilled/\\x1b[2J\\udcff\\n.tfrecord: extra shard, not of this set"


def test_scan_goes_on_after_a_broken_record(workdir):
    path = workdir / "distilled" / SHARD
    payloads = [record.payload for record in tfrecord.read_records(path)]
    flip(path, 8 * 100)
    assert [(r.payload, check) for r, check in tfrecord.scan(path)] == [
        (b"", "data CRC"), (payloads[1], ""), (payloads[2], "")
    ]  # fmt: skip
