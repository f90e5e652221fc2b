"""The command line from outside: exit codes, one line per error, nothing left behind."""

import errno
import os
import re
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest

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


def test_help_answers_at_once(tmp_path):
    code, out, err, seconds = run_main("--help", cwd=tmp_path, python=("-X", "importtime"))
    imported = {line.split("|")[-1].strip() for line in err.splitlines() if line.startswith("import time:")}
    assert "absl.flags" in imported  # the list is what it should be
    assert not {"jax", "flax", "tensorflow_datasets", "tensorflow"} & imported
    assert code == 0 and seconds < 1
    assert "--config" in out and "--workdir" in out and "--artifacts" in out and "dry_run" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.ipcc=2"], "--config.ipcc: unknown key 'ipcc', did you mean 'ipc'?"),
        (["--workdri=x"], "Unknown command line flag 'workdri'. Did you mean: workdir"),
        (["--config=configs/nowhere.py"], "--config=configs/nowhere.py: cannot be loaded (FileNotFoundError"),
        (["--config", "broken.py", "--config.ipc=2"], "--config=broken.py: cannot be loaded (SyntaxError"),
        (["configs/base.py"], "unexpected argument 'configs/base.py'; every argument is a flag"),
        (["--config.ipc=many"], "--config.ipc=many"),
        (["--config.ipc=0"], "ipc=0 is out of range"),
        (["--dry_run", "--config.data.source=tfds", "--config.data.name=cifar1O"], "did you mean 'cifar10'?"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, tmp_path):
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    code, out, err, _ = run_main(*arguments, cwd=tmp_path)
    assert code == 2 and out == ""
    assert re.fullmatch(r"error: [^\n]+\n", err) and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.py"]


def test_a_full_disk_is_one_line_and_code_4(monkeypatch, capsys):
    import main

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x")

    monkeypatch.setattr(main, "CONFIG", types.SimpleNamespace(value=None))
    monkeypatch.setattr(main.config, "resolve", full)
    assert main.main([]) == 4
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", err) and "No space left on device: 'runs/x'" in err


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
