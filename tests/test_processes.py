"""A run divided over parts or processes writes what one process writes; who is killed, late or different harms nothing."""

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from infoutil_jax import guard, parallel, pipeline, processes, progress, provenance, records, selfcheck, sets, tfrecord
from infoutil_jax.errors import Busy, ConfigError, CorruptArtifact, DataError, InfoUtilError
from infoutil_jax.examples import decode_example
from infoutil_jax.processes import WHOLE, Part
from infoutil_jax.stages import evaluate
from tests import test_pipeline

ROOT = Path(__file__).resolve().parents[1]


def settings(**changes):
    small = {"methods": ("infoutil", "random_images"), "candidates": 6, "teacher__min_times_chance": 0.0}
    return test_pipeline.tiny(**{**small, "teacher__epochs": 1, "teacher__early_epoch": 1, **changes})


def run(workdir, *, begin=pipeline.run, **options):
    """What a run of `settings` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        begin(settings(), workdir=str(workdir), artifacts=str(workdir.parent / "artifacts"), **options)
    return printed.getvalue()


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One commit; no check of the devices and no students, which other files test."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch.setattr)
        yield


def hurry(setattr_):
    setattr_(provenance, "_git_commit", lambda: "tested")
    setattr_(selfcheck, "run", lambda: 0.0)
    setattr_(evaluate, "run", lambda *_, **__: [(1, 0.5, 0.5)])
    setattr_(evaluate, "nearest_neighbour", lambda *_: 0.5)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The workdir of one process."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    run(workdir)
    return workdir


@pytest.fixture
def divided(reference, tmp_path):
    """A new workdir; the teacher is trained and the students' curves are known, but no class is begun."""
    for part in ("teacher", "evaluate"):
        shutil.copytree(reference.parent / "artifacts" / part, tmp_path / "artifacts" / part)
    return tmp_path / "run"


def sets_in(workdir):
    """SHA-256 of every file of the sets, manifests included."""
    return {part: test_pipeline.hashes(workdir / part) for part in ("distilled", "controls")}


# Whose classes are whose


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_class_belongs_to_one_part(count):
    owned = [label for index in range(count) for label in Part(index, count).of(range(10))]
    assert sorted(owned) == list(range(10))
    assert Part(1, 3).of(range(10)) == [1, 4, 7] and WHOLE.of(range(3)) == [0, 1, 2]


def test_a_part_is_written_as_i_of_n():
    assert processes.parse_part("3/4") == Part(3, 4) and str(Part(3, 4)) == "3/4"
    for text in ("4/4", "-1/4", "0/0", "1", "1/2/3", "a/b", "/"):
        with pytest.raises(ConfigError, match="write i/n with 0 <= i < n"):
            processes.parse_part(text)


# Parts


def test_parts_and_join_write_what_one_run_writes_and_join_computes_nothing(reference, divided, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "join", "--config=tiny.py", f"--workdir={divided}"])
    with pytest.raises(
        DataError, match=r"10 classes are not finished; of part 0/1: 0, 1, .* \(run: python main.py --c"
    ):
        run(divided, begin=pipeline.join)
    assert "its 5 classes are finished" in run(divided, shard=(0, 2))
    with pytest.raises(DataError) as refused:
        run(divided, begin=pipeline.join)
    assert "of part 1/2: 1, 3, 5, 7, 9 (run: python main.py --shard=1/2 --config=tiny.py" in str(refused.value)
    assert refused.value.exit_code == 3
    run(divided, shard=(1, 2))
    assert not list(divided.rglob(records.MANIFEST)) and not (divided / "results.json").exists()
    for module, name in test_pipeline.EXPENSIVE:
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("computed again"))
    assert "InfoUtil" in run(divided, begin=pipeline.join)
    assert sets_in(divided) == sets_in(reference)
    seconds = {path.name for path in divided.glob("timing*")}
    assert {"timing-0-of-2.json", "timing-1-of-2.json"} <= seconds
    shard = next((divided / "distilled").glob("*.tfrecord-00003-*"))
    shutil.rmtree(divided / "controls")
    (divided / "distilled" / records.MANIFEST).unlink()
    with pytest.raises(DataError, match="of part 0/2: 0, 2, 4, 6, 8 .* of part 1/2: 1, 3, 5, 7, 9 "):
        run(divided, begin=pipeline.join)  # there are lines of shards, but no shards
    shutil.copytree(reference / "controls", divided / "controls")
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptArtifact, match=rf"{shard.name}: record 0 at byte 0: data CRC"):
        run(divided, begin=pipeline.join)
    assert not (divided / "distilled" / records.MANIFEST).exists()


def test_there_is_one_way_to_divide_a_run_and_a_place_to_meet(tmp_path, monkeypatch):
    for options in ({"shard": (0, 2)}, {"joining": True}):
        with pytest.raises(ConfigError, match="name it with --workdir"):
            pipeline.run(settings(), **options)
    with pytest.raises(ConfigError, match="choose one"):
        pipeline.join(settings(), workdir=str(tmp_path / "run"), shard=(0, 2))
    monkeypatch.setattr(processes, "here", lambda: Part(1, 2))
    with pytest.raises(ConfigError, match="choose one"):
        pipeline.run(settings(), workdir=str(tmp_path / "run"), shard=(0, 2))


def test_parts_share_a_workdir_and_a_whole_run_does_not(tmp_path):
    seen = []
    hold = lambda *part: processes.holding(tmp_path, Part(*part), lambda: seen.append(part))
    with hold(0, 2), hold(1, 2):
        assert seen == [(0, 2), (1, 2)]
        for part in ((0, 1), (0, 2)):
            with pytest.raises(Busy, match=f"pid {os.getpid()} on host"), hold(*part):
                pass
    with hold(0, 1):
        for part in ((0, 1), (0, 2)):
            with pytest.raises(Busy), hold(*part):
                pass
    assert seen == [(0, 2), (1, 2), (0, 1)]
    owner = {"pid": 1, "host": socket.gethostname(), "started": "long ago"}
    (tmp_path / f"{guard.LOCK}-1-of-2").write_text(json.dumps(owner))  # of a part that was killed
    with hold(0, 1):
        assert len(seen) == 4


def test_of_two_first_parts_with_other_configs_one_is_refused(tmp_path, monkeypatch):
    look, refused, meet = pipeline._require_same_run, [], threading.Barrier(2)

    def slowly(*arguments):
        look(*arguments)
        time.sleep(0.2)  # in which the other one could write its config

    def begin(index):
        none = SimpleNamespace(labels=np.zeros(0, int))
        dataset = SimpleNamespace(name="", content_id="images", class_names=(), train=none, val=none)
        meet.wait()
        try:
            with pipeline._owning(settings(seed=index), dataset, tmp_path / "run", Part(index, 2)):
                meet.wait(30)  # broken by who was refused
        except (ConfigError, threading.BrokenBarrierError) as error:
            refused.append(str(error))
            meet.abort()

    monkeypatch.setattr(pipeline, "_require_same_run", slowly)
    threads = [threading.Thread(target=begin, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(bool, refused)) == [False, True], refused  # one error, and one barrier that it broke
    assert f"{tmp_path / 'run'} holds a run with other settings: seed:" in "".join(refused)


# Devices


def test_another_environment_is_said_in_one_line_and_goes_into_the_manifest(tmp_path, monkeypatch, capsys):
    progress.restart()
    provenance.enter(tmp_path, "0/1")
    provenance.enter(tmp_path, "0/1")
    assert provenance.of_set(tmp_path) == {"environment": provenance.environment()}
    assert len(provenance.history(tmp_path)) == 1 and capsys.readouterr().err == ""
    before = provenance.environment()
    monkeypatch.setattr(parallel, "describe", lambda: "3 x tpu (TPU v9)")
    provenance.enter(tmp_path, "0/1")
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"devices: {before['devices']} -> 3 x tpu (TPU v9)" in err and "jax:" not in err
    found = provenance.of_set(tmp_path)
    assert found == {"environment": {**before, "devices": "3 x tpu (TPU v9)"}, "also_made_in": [before]}


@pytest.fixture
def on_devices(monkeypatch):
    """Makes JAX see the first n devices."""

    def use(n):
        devices = jax.devices()[:n]
        monkeypatch.setattr(jax, "local_devices", lambda: devices)
        parallel._pmapped.cache_clear()

    yield use
    parallel._pmapped.cache_clear()


def test_batch_sizes_and_devices_change_no_draw_no_choice_and_no_score(tmp_path, on_devices):
    chosen, scores = [], []
    for n_devices, micro_batch, batch_size in ((1, 16, 16), (4, 5, 7)):
        on_devices(n_devices)
        changes = {"attribute__micro_batch": micro_batch, "score__batch_size": batch_size}
        workdir = tmp_path / str(n_devices)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            config = settings(methods=("infoutil",), **changes)
            dataset = pipeline.open_data(config)
            teacher = test_pipeline.untrained_teacher(config, dataset)
            sets.write_sets(config, dataset, teacher, workdir, workdir / "artifacts", Part(0, 5))
        scores.append(scores_in(workdir))
        chosen.append(images_in(workdir / "distilled", sets._layout(config, dataset)))
    assert len(scores[0]) == 4 and len(chosen[0]) == 2
    assert chosen[0] == chosen[1]
    for a, b in zip(*scores, strict=True):
        for name in a:
            scale = np.nanmax(np.abs(a[name]), initial=0)
            np.testing.assert_allclose(b[name], a[name], rtol=1e-6, atol=1e-6 * scale, err_msg=name)


def images_in(directory, layout):
    """Where every patch is from, and the pixels, of all shards."""
    paths = sorted(directory.glob("*.tfrecord-*"))
    images = [decode_example(record.payload, layout) for path in paths for record in tfrecord.read_records(path)]
    return [(image.patch_ids, image.patch_boxes.tobytes(), image.image_u8.tobytes()) for image in images]


def scores_in(workdir):
    """The arrays of every class, attributions first."""
    paths = sorted(workdir.glob("artifacts/*/*/*.npz"), key=lambda path: (path.parts[-3], path.name))
    return [dict(np.load(io.BytesIO(path.read_bytes()[:-32]))) for path in paths]


# Processes


CHILD = "import sys; from tests import test_processes; test_processes.child(*sys.argv[1:])"
HEARTBEAT = 15


def child(workdir, port, index, changes):
    """Process `index` of two, to its end."""
    hurry(setattr)
    processes.HEARTBEAT = HEARTBEAT
    processes.start(f"127.0.0.1:{port}", 2, int(index))
    try:
        artifacts = Path(workdir).parent / "artifacts"
        pipeline.run(settings(**json.loads(changes)), workdir=workdir, artifacts=str(artifacts))
    except InfoUtilError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_code)


def two_processes(workdir, crash_at="", **changes):
    """[(exit code, stdout, stderr)] of processes 0 and 1; what is given concerns process 1 alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(workdir), port, str(index), json.dumps(changes if index else {})],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "INFOUTIL_CRASH_AT": crash_at if index else ""},
        )
        for index in range(2)
    ]  # fmt: skip
    ended = [process.communicate(timeout=600) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, ended)]


def test_a_process_that_does_not_know_its_place_is_refused(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    processes.start()
    assert processes.here() == WHOLE
    monkeypatch.setenv("JAX_PROCESS_ID", "2")
    for given, message in (
        (("", 2, 0), "need --coordinator=HOST:PORT"),
        (("host:1", None, 0), "--processes or JAX_NUM_PROCESSES must say a number"),
        (("host:1", 2, None), "--process=2: .* which of 0 to n-1"),
        (("host", 2, 0), "--coordinator=host .*: they are HOST:PORT"),
    ):
        with pytest.raises(ConfigError, match=message):
            processes.start(*given)


def test_a_killed_process_leaves_no_manifest_and_a_restart_writes_what_one_process_writes(reference, divided):
    first, second = two_processes(divided, crash_at="before:attribute/")
    assert second[0] == -9 and first[0] != 0, first[2][-2000:]
    assert not list(divided.rglob(records.MANIFEST))
    assert not [path for path in divided.glob("shards/*/*/*.json") if int(path.stem) % 2]
    ended = two_processes(divided)
    for code, _, err in ended:
        assert code == 0, err[-2000:]
    assert sets_in(divided) == sets_in(reference)
    assert "InfoUtil" in ended[0][1] and ended[1][1] == ""


def test_processes_with_other_configs_are_refused_at_start(divided):
    first, second = two_processes(divided, ipc=2)
    for code, _, err in (first, second):
        assert code == 2 and "process 1 differs from process 0: config.ipc: 1 -> 2" in err, err[-2000:]
    assert not divided.exists()
