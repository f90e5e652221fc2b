"""A run that is told to stop, or finds its folder taken, its disk full, its memory spent, leaves well and goes on."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from infoutil_jax import config, guard, parallel, progress
from infoutil_jax.errors import Busy, DataError, EnvironmentFault, Preempted

ROOT = Path(__file__).resolve().parents[1]
HERE = socket.gethostname()


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_between_two_items(number):
    before, done = signal.getsignal(number), []
    with guard.signals():
        assert not guard.stop_asked()
        with pytest.raises(Preempted, match="run the same command again"):
            for item in progress.track(range(5), "work", total=5):
                done.append(item)
                if item == 2:
                    signal.raise_signal(number)
        assert done == [0, 1, 2] and guard.stop_asked()
    assert signal.getsignal(number) is before and not guard.stop_asked()
    guard.raise_if_stopped()


def test_a_signal_stops_the_run_between_two_batches():
    with guard.signals():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Preempted):
            parallel.map_batches(lambda shared, rows: rows, 1, 0, np.zeros((16, 2), np.float32))


def test_ctrl_c_after_another_signal_is_at_once():
    with guard.signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # clouds repeat it
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_main_thread_that_hangs_is_left(monkeypatch, capsys):
    left = []
    monkeypatch.setattr(guard.os, "_exit", left.append)
    monkeypatch.setattr(guard, "GRACE", 0.01)
    with guard.signals():
        send = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        send.start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)  # in C for a second: no handler of Python's runs
        assert left == [75]
    send.join()
    assert "still busy" in capsys.readouterr().err


def test_a_run_that_ends_in_time_is_not_left(monkeypatch):
    left = []
    monkeypatch.setattr(guard.os, "_exit", left.append)
    with guard.signals():
        signal.raise_signal(signal.SIGTERM)
    assert not left and not [thread for thread in threading.enumerate() if "_watch" in thread.name]


def test_outside_the_main_thread_signals_are_left_alone():
    found = []
    before = signal.getsignal(signal.SIGTERM)

    def work():
        with guard.signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


TWICE = """
import time
from infoutil_jax import guard
with guard.signals():
    try:
        print("ready", flush=True)
        while not guard.stop_asked():
            time.sleep(0.01)
        print("asked", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("at once", flush=True)
"""


@contextlib.contextmanager
def child(script, *arguments):
    """(process, its first line) of a script without JAX; killed at the end."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_ctrl_c_twice_in_a_real_process():
    with child(TWICE) as (process, line):
        assert line == "ready"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().strip() == "asked"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().strip() == "at once" and process.wait(30) == 0


# Warnings


def test_warnings_are_shown_and_counted_and_errors_when_strict(capsys):
    progress.restart()
    progress.warn("two images are the same")
    assert capsys.readouterr().err == "warning: two images are the same\n" and progress.warned() == 1
    progress.restart(strict=True)
    with pytest.raises(DataError, match="two images are the same .*--strict"):
        progress.warn("two images are the same")
    progress.restart()
    assert progress.warned() == 0


# One run a folder


def test_a_folder_has_one_owner(tmp_path):
    work = tmp_path / "deep" / "work"
    with guard.owned(work):
        note = json.loads((work / ".lock").read_text())
        assert note["pid"] == os.getpid() and note["host"] == HERE and note["command"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", note["started"])
        with pytest.raises(Busy) as error, guard.owned(work):
            raise AssertionError("two owners")
        for told in (
            f"{work} is in use",
            f"pid {os.getpid()} on host {HERE}",
            f"started {note['started']}",
            "choose another",
        ):
            assert told in str(error.value)
        assert "\n" not in str(error.value) and error.value.exit_code == 6
        with guard.owned(work, part="0-of-2"), guard.owned(work, part="1-of-2"):
            assert len(list(work.iterdir())) == 3
        (work / "result").touch()
    assert [path.name for path in work.iterdir()] == ["result"]
    with guard.owned(work):
        pass
    with guard.owned(tmp_path / "unused"):
        pass
    assert not (tmp_path / "unused").exists()


def test_a_lock_that_was_deleted_and_taken_by_another_stays_the_others(tmp_path):
    with guard.owned(tmp_path):
        (tmp_path / ".lock").unlink()
        (tmp_path / ".lock").write_text("another's")
    assert (tmp_path / ".lock").read_text() == "another's"


HOLD = """
import sys, time
from infoutil_jax import guard
with guard.owned(sys.argv[1]):
    print("mine", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_taken_over_in_silence(tmp_path, capsys):
    with child(HOLD, tmp_path) as (process, line):
        assert line == "mine"
        with pytest.raises(Busy, match=f"pid {process.pid} on host"), guard.owned(tmp_path):
            pass
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == process.pid
    with guard.owned(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert capsys.readouterr().err == ""


def test_who_may_wait_gets_the_folder_next_and_says_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(guard, "POLL", 0.01)
    order, waits = [], threading.Event()
    monkeypatch.setattr(guard, "_note", lambda text: (order.append(text), waits.set()))

    def second():
        with guard.owned(tmp_path, wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with guard.owned(tmp_path):
        (tmp_path / "kept").touch()
        thread.start()
        assert waits.wait(10)
        time.sleep(0.1)
        order.append("first is done")
    thread.join(10)
    assert len(order) == 3 and order[1:] == ["first is done", "second"] and f"pid {os.getpid()}" in order[0]


def test_who_waits_can_be_stopped(tmp_path):
    with guard.signals(), guard.owned(tmp_path):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Preempted), guard.owned(tmp_path, wait=True):
            raise AssertionError("two owners")


@contextlib.contextmanager
def living(path):
    """Signs of life of an owner that this kernel does not know."""
    ended = threading.Event()

    def beat():
        while not ended.wait(0.01):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("locks, host", [(True, "elsewhere"), (False, "elsewhere"), (False, HERE)])
def test_an_owner_the_kernel_does_not_know_is_alive_if_it_gives_signs_of_life(
    tmp_path, monkeypatch, capsys, locks, host
):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    if not locks:
        monkeypatch.setattr(guard.fcntl, "flock", no_locks)
    monkeypatch.setattr(guard, "POLL", 0.02)
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"pid": 7, "host": host, "started": "2026-01-01 00:00:00 UTC", "command": "x"}))
    with living(lock), pytest.raises(Busy, match=f"pid 7 on host {host}, started 2026.*delete {lock}"):
        with guard.owned(tmp_path):
            pass
    monkeypatch.setattr(guard, "PATIENCE", 0.1)
    with guard.owned(tmp_path):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert "sign of life" in capsys.readouterr().err


@pytest.mark.parametrize("note", ["", "{", "[1]", '"x"', "\x00\xff"])
def test_a_note_that_cannot_be_read_is_nobodys(tmp_path, note):
    (tmp_path / ".lock").write_text(note)
    with guard.owned(tmp_path):
        pass
    (tmp_path / ".lock").write_text(note)
    with open(tmp_path / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="pid unknown on host unknown"), guard.owned(tmp_path):
            pass


def test_an_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "PULSE", 0.01)
    lock = tmp_path / ".lock"
    with guard.owned(tmp_path):
        os.utime(lock, ns=(0, 0))
        end = time.monotonic() + 10
        while not lock.stat().st_mtime_ns and time.monotonic() < end:
            time.sleep(0.01)
        assert lock.stat().st_mtime_ns


# Space, rights, memory


@contextlib.contextmanager
def ordinary_user():
    """Root may write anywhere; for the block it may not."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def places():
    """(a folder that everybody may write, one that an ordinary user may not)"""
    with tempfile.TemporaryDirectory() as folder:  # the way to tmp_path is closed for others
        root = Path(folder)
        for name, mode in (("open", 0o777), ("locked", 0o555), (".", 0o755)):
            (root / name).mkdir(exist_ok=True)
            (root / name).chmod(mode)
        yield root / "open", root / "locked"


def test_a_folder_without_the_right_to_write_is_found_before_the_work(places):
    fine, locked = places
    for folders in ((locked, fine), (fine, locked / "deep" / "artifacts")):
        with ordinary_user(), pytest.raises(EnvironmentFault, match="locked.*cannot be written .Permission denied.;"):
            guard.preflight(*folders, 0)
    with ordinary_user(), pytest.raises(EnvironmentFault, match="locked.*Permission denied"), guard.owned(locked):
        pass


def test_space_is_looked_for_before_the_work(tmp_path):
    guard.preflight(tmp_path / "a" / "b", tmp_path / "c", 1000)
    assert not list(tmp_path.iterdir())
    with pytest.raises(EnvironmentFault) as error:
        guard.preflight(tmp_path / "a", tmp_path / "c", 10**18)
    assert re.match(rf"{tmp_path}/a: 1,000,000,000,000,000,000 bytes are needed, [\d,]+ are free;", str(error.value))
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="file: cannot be written"):
        guard.preflight(tmp_path, tmp_path / "file", 0)


def test_a_disk_that_takes_no_byte_is_found_before_the_work(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # Python ignores the signal, writing fails
    try:
        with pytest.raises(EnvironmentFault, match="cannot be written .File too large."):
            guard.preflight(tmp_path, tmp_path, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def allocate_on_the_device():
    jnp.zeros((1 << 46,), jnp.uint8).block_until_ready()


def allocate_on_the_host():
    np.zeros(1 << 62, np.uint8)


@pytest.mark.parametrize("allocate", [allocate_on_the_device, allocate_on_the_host])
def test_memory_that_is_not_there_names_the_settings_that_need_less(allocate):
    with pytest.raises(EnvironmentFault, match="out of (device )?memory") as error, guard.machine_faults():
        allocate()
    assert "\n" not in str(error.value)
    base = config.load(str(ROOT / "configs/base.py"))
    named = guard.MEMORY.split(", ")
    assert len(named) == 6 and guard.MEMORY in str(error.value)
    for key in named:
        assert base[key] is not None


def test_a_backend_that_is_not_installed_is_one_line():
    with (
        pytest.raises(EnvironmentFault, match="Unable to initialize backend 'tpu'.*JAX_PLATFORMS"),
        guard.machine_faults(),
    ):
        raise RuntimeError("Unable to initialize backend 'tpu': INTERNAL\n(set JAX_PLATFORMS='' to choose)")
    with pytest.raises(RuntimeError, match="a bug"), guard.machine_faults():
        raise RuntimeError("a bug")


def test_cpus_are_no_accelerator():
    with pytest.raises(EnvironmentFault, match=r"no accelerator: JAX runs on 8 x cpu"):
        parallel.require_accelerator()
