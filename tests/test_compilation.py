"""Compiled programs are found again by the next process, where the user wants them and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from infoutil_jax import compilation

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import jax
from infoutil_jax import compilation
compilation.LEAST_SECONDS = 0.0
compilation.keep_programs()
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("/cache_hits")))
print(jax.jit(lambda x: x * 3 + 1)(2.0), sum(hits))
"""


@pytest.fixture
def undecided():
    """JAX's settings as they are in a new process; put back afterwards."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize("variable, below", [("XDG_CACHE_HOME", ""), ("HOME", ".cache")])
def test_the_folder_lies_in_the_users_cache(variable, below, undecided, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    compilation.keep_programs()
    folder = tmp_path / below / "infoutil_jax" / "jax"
    assert jax.config.jax_compilation_cache_dir == str(folder) and list(folder.iterdir()) == []
    assert jax.config.jax_persistent_cache_min_compile_time_secs == compilation.LEAST_SECONDS


@pytest.mark.parametrize("chosen", ["", "elsewhere"])
def test_what_was_chosen_before_stays(chosen, undecided, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", chosen)
    compilation.keep_programs()
    assert jax.config.jax_compilation_cache_dir == chosen and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_note(undecided, tmp_path, monkeypatch, capsys):
    (tmp_path / "infoutil_jax").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None
    note = capsys.readouterr().err
    assert note.startswith("note: compiled programs are not kept") and str(tmp_path) in note and note.count("\n") == 1


def test_the_next_process_finds_the_programs(tmp_path):
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}

    def start(**variables):
        environment = {**inherited, "XDG_CACHE_HOME": str(tmp_path / "user"), "XLA_FLAGS": "", **variables}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0 and "mismatch" not in done.stderr, done.stderr
        value, hits = done.stdout.split()
        assert float(value) == 7
        return int(hits)

    assert start(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "chosen")) == 0
    assert (tmp_path / "chosen").exists() and not (tmp_path / "user").exists()
    assert start() == 0 and start() > 0
