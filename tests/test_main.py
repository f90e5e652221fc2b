"""The command line from outside: exit codes, one line per error, nothing left behind."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import main
import pytest
from absl import flags

from infoutil_jax import checkpoints, errors, guard, pipeline, progress, store, verify

ROOT = Path(__file__).resolve().parents[1]


def run_main(*arguments, cwd, python=()):
    """(exit code, stdout, stderr, CPU seconds) of `python main.py *arguments` on one CPU device."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *python, str(ROOT / "main.py"), *arguments], cwd=cwd, capture_output=True, text=True,
        timeout=120, env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, done.stdout, done.stderr, seconds


def call(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr) of the same command in this process."""
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    capsys.readouterr()
    try:
        code = main.main(main.parse(sys.argv))
    except SystemExit as left:
        code = left.code
    finally:
        progress.restart()
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()  # or the next call would begin with this one's
    return code, *capsys.readouterr()


def test_help_answers_at_once(tmp_path):
    code, out, err, seconds = run_main("--help", cwd=tmp_path, python=("-X", "importtime"))
    imported = {line.split("|")[-1].strip() for line in err.splitlines() if line.startswith("import time:")}
    assert "absl.flags" in imported  # the list is what it should be
    assert not {"jax", "flax", "tensorflow_datasets", "tensorflow"} & imported
    assert code == 0 and seconds < 1
    for told in ("--config=", "--workdir", "--artifacts", "dry_run", "main.py join", "main.py verify DIR", "strict"):
        assert told in out
    assert "--shard" in out and "require_accelerator" in out and "is a program and is run" in " ".join(out.split())


@pytest.mark.parametrize("arguments", [("--help",), ("--dry_run",), ("verify", "run")], ids=" ".join)
def test_when_nobody_reads_on_it_leaves_without_a_word(tmp_path, arguments):
    store.write_json(tmp_path / "run" / "config.json", {"methods": ["rded"]})
    reading, writing = os.pipe()
    os.close(reading)
    environ = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environ, stdout=writing, stderr=subprocess.PIPE, timeout=120)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


MISTAKES = [
    (["--config.ipcc=2"], "--config.ipcc: unknown key 'ipcc', did you mean 'ipc'?"),
    (["--workdri=x"], "Unknown command line flag 'workdri'. Did you mean: workdir"),
    (["--config=configs/nowhere.py"], "--config=configs/nowhere.py: cannot be loaded (FileNotFoundError"),
    (["--config=nowhere.json"], "--config=nowhere.json: cannot be loaded (FileNotFoundError"),
    (["--config", "broken.py", "--config.ipc=2"], "--config=broken.py: cannot be loaded (broken.py:1: SyntaxError"),
    (
        ["--config=typo.py"],
        "--config=typo.py: cannot be loaded (typo.py:3: unknown key 'atribute', did you mean 'attribute'?",
    ),
    (["configs/base.py"], "unexpected argument 'configs/base.py', did you mean '--config=configs/base.py'?"),
    (["verfy", "runs/x"], "unexpected argument 'verfy', did you mean 'verify'?"),
    (["verify"], "verify takes DIR, and got nothing"),
    (["--shard=3/3", "--workdir=x"], "--shard='3/3'"),
    (["--shard=0.5", "--workdir=x"], "--shard='0.5'"),
    (["--config.ipc=many"], "--config.ipc=many"),
    (["--config.ipc=0"], "ipc=0 is out of range"),
    (["--config.data.flip=perhaps"], "perhaps"),
    (["--dry_run", "--config.data.source=tfds", "--config.data.name=cifar1O"], "did you mean 'cifar10'?"),
]


@pytest.mark.parametrize("arguments, message", MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_a_mistake_is_one_line_and_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("def get_config(:\n")
    Path("typo.py").write_text(
        "from configs import base\ndef get_config():\n    base.get_config().atribute.budget = 3\n"
    )
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 2 and out == ""
    assert re.fullmatch(r"error: [^\n]+\n", err) and message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.py", "typo.py"]


def test_a_mistake_leaves_no_traceback_in_a_real_process(tmp_path):
    code, out, err, _ = run_main("--config.ipcc=2", cwd=tmp_path)
    assert (code, out) == (2, "") and re.fullmatch(r"error: --config.ipcc: unknown key [^\n]+\n", err)


def raising(error):
    def act(*_, **__):
        raise error

    return act


@pytest.mark.parametrize(
    "error, code, told",
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 4, "error: .*No space left on device: 'runs/x'"),
        (MemoryError(), 4, "error: out of memory .*attribute.micro_batch"),
        (errors.Busy("runs/x is in use by a run with pid 7"), 6, "error: runs/x is in use by a run with pid 7"),
        (errors.Preempted("run the same command again"), 75, "stopped: run the same command again"),
        (KeyboardInterrupt(), 130, "stopped: at once; the same command goes on"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_happens_to_a_run_is_one_line_and_a_code(error, code, told, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "run", raising(error))
    given, out, err = call(monkeypatch, capsys)
    assert (given, out) == (code, "") and re.fullmatch(f"{told}[^\n]*\n", err)


def test_commands_and_flags_reach_what_they_are_for(monkeypatch, capsys, tmp_path):
    seen = []
    monkeypatch.setattr(pipeline, "run", lambda settings, **given: seen.append(("run", settings.ipc, given)))
    monkeypatch.setattr(pipeline, "join", lambda settings, **given: seen.append(("join", settings.ipc, given)))
    monkeypatch.setattr(verify, "run", lambda path: seen.append(("verify", path)) or 5)
    assert call(monkeypatch, capsys, "--config.ipc=2", "--workdir=w", "--artifacts=a", "--shard=1/3")[0] == 0
    assert call(monkeypatch, capsys, "join", "--config.ipc=3", "--workdir=w")[0] == 0
    assert call(monkeypatch, capsys, "verify", str(tmp_path))[0] == 5
    assert seen == [
        ("run", 2, {"workdir": "w", "artifacts": "a", "shard": (1, 3)}),
        ("join", 3, {"workdir": "w", "artifacts": "", "shard": (0, 1)}),
        ("verify", tmp_path),
    ]
    code, _, err = call(monkeypatch, capsys, "--require_accelerator", "--workdir=w")
    assert code == 4 and "no accelerator: JAX runs on 8 x cpu" in err and len(seen) == 3


def test_strict_makes_a_warning_an_error(monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "run", lambda *_, **__: progress.warn("two images are the same"))
    assert call(monkeypatch, capsys) == (0, "", "warning: two images are the same\n")
    code, _, err = call(monkeypatch, capsys, "--strict")
    assert code == 3 and err.startswith("error: two images are the same")


def test_the_plan_of_imagenet_needs_no_data(tmp_path):
    code, out, err, _ = run_main(
        f"--config={ROOT}/configs/imagenet_ipc10.py", "--dry_run", f"--config.data.path={tmp_path}/data", cwd=tmp_path
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "1,000 classes, 1,281,167 training and 50,000 validation images" in out
    assert re.search(r"infoutil +300,000 candidates, 38,400,000 coalition evaluations, 1,500,000 crops scored", out)
    assert re.search(r"resnet18: 11,689,512 parameters, [\d.]+ GFLOP a forward pass", out)
    assert re.search(r"missing +imagenet2012 is not prepared in .*/data/imagenet2012/.*--file_format=array_record", out)
    assert not list(tmp_path.iterdir())


# A run that is stopped, or finds its folder taken


RUN = (
    f"--config={ROOT}/configs/digits_ipc1.py", "--config.teacher.width=8", "--config.teacher.epochs=20",
    "--config.teacher.early_epoch=1", "--config.teacher.checkpoint_epochs=20", "--config.methods=('random_images',)",
    "--config.evaluate.seeds=1", "--config.evaluate.hard_seeds=0", "--config.evaluate.epochs=2",
)  # fmt: skip


def test_sigterm_while_the_teacher_trains_is_75_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    command = [sys.executable, str(ROOT / "main.py"), *RUN, f"--workdir={tmp_path / 'run'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(tmp_path.glob("run/artifacts/teacher/*/*/1*")):
            time.sleep(0.02)  # until something of the training is on disk
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 75 and out.startswith("digits: ")
    last = err.splitlines()[-1]
    assert last.startswith("stopped: ") and "run the same command again" in last and "Traceback" not in err
    assert not list(tmp_path.glob("run/.lock*")) and not list(tmp_path.rglob("*.tfrecord-*"))

    found, latest = [], checkpoints.Saves.latest
    monkeypatch.setattr(checkpoints.Saves, "latest", lambda *a, **k: found.append(latest(*a, **k)) or found[-1])
    code, out, err = call(monkeypatch, capsys, *RUN, f"--workdir={tmp_path / 'run'}")
    assert code == 0 and "random images" in out
    assert found[0] and found[0][0] > 0  # the step it went on from


def test_a_second_run_in_a_workdir_is_refused_and_changes_nothing(tmp_path, monkeypatch, capsys):
    with guard.owned(tmp_path / "run"):
        before = (tmp_path / "run" / guard.LOCK).read_bytes()
        code, _, err = call(monkeypatch, capsys, *RUN, f"--workdir={tmp_path / 'run'}")
        assert code == 6 and f"error: {tmp_path}/run is in use by a run with pid {os.getpid()} on host " in err
        assert [path.name for path in (tmp_path / "run").iterdir()] == [guard.LOCK]
        assert (tmp_path / "run" / guard.LOCK).read_bytes() == before


def test_another_config_prints_what_differs_old_and_new(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "evaluate_sets", raising(errors.Preempted("far enough")))
    monkeypatch.setattr(pipeline.teachers, "obtain", raising(errors.Preempted("far enough")))
    assert call(monkeypatch, capsys, *RUN, f"--workdir={tmp_path / 'run'}")[0] == 75
    code, _, err = call(monkeypatch, capsys, *RUN, f"--workdir={tmp_path / 'run'}", "--config.ipc=2", "--config.seed=1")
    assert code == 2 and "holds a run with other settings: ipc: 1 -> 2; seed: 0 -> 1. Use another --workdir." in err
    kept = store.read_json(tmp_path / "run" / pipeline.RECORD)
    assert (kept["ipc"], kept["seed"]) == (1, 0)
