"""A file is whole under its final name or absent, whatever kills the process and whatever the disk says."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infoutil_jax import durable, tfrecord
from infoutil_jax.errors import DataError, EnvironmentFault

ROOT = Path(__file__).resolve().parents[1]


def child(code, cwd, crash_at=""):
    """A process that imports no JAX: (what became of it, what it printed)."""
    done = subprocess.run(
        [sys.executable, "-c", f"import os, resource\nfrom infoutil_jax import durable\n{code}"],
        cwd=cwd, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), durable.CRASH_AT: crash_at},
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, done.stdout


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_makes_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    durable.write(path, [b"one"])
    durable.write(path, (chunk for chunk in (b"tw", b"", b"o")))
    assert path.read_bytes() == b"two" and names(path.parent) == ["file"]


def test_the_file_is_synced_before_the_rename_and_the_names_after_it(tmp_path, monkeypatch):
    seen, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        seen.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: seen.append("rename") or replace(*names))
    durable.write(tmp_path / "a" / "b" / "file", [b"x"])
    folder = str(tmp_path)
    assert seen == [folder, f"{folder}/a", f"{folder}/a/b/.tmp-file", "rename", f"{folder}/a/b"]


# Kills


@pytest.mark.parametrize(
    "point, content, left",
    [("before", b"old", 0), ("written", b"old", 1), ("synced", b"old", 1), ("renamed", b"new", 0)],
)
def test_a_kill_at_any_point_leaves_the_old_file_or_the_new_one(point, content, left, tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    code, _ = child("durable.write('file', [b'ne', b'w'])", tmp_path, point)
    assert code == -signal.SIGKILL
    assert (tmp_path / "file").read_bytes() == content
    assert names(tmp_path) == [".tmp-file"] * left + ["file"]
    durable.write(tmp_path / "file", [b"n"])  # shorter than what was left there
    assert (tmp_path / "file").read_bytes() == b"n" and names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "crash_at, expected",
    [("before:b", ["a"]), ("before:b:2", ["a", "b", "c"]), ("renamed::3", ["a", "b", "c"]), ("x", list("abcd"))],
)
def test_the_crash_point_is_chosen_by_name_path_and_number(crash_at, expected, tmp_path):
    code, _ = child("for name in 'abcbd': durable.write(name, [b'1'])", tmp_path, crash_at)
    assert names(tmp_path) == expected
    assert code == (0 if crash_at == "x" else -signal.SIGKILL)


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    durable.write(tmp_path / "file", [b"old"])

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        durable.write(tmp_path / "file", [b"new"])
    assert (tmp_path / "file").read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_writers_of_one_file_take_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: time.sleep(1e-4))  # long enough for another to come
    contents = [bytes([i]) * size for i, size in enumerate((1, 50_000, 10, 200_000))]
    faults = []

    def work(content):
        try:
            for _ in range(40):
                durable.write(tmp_path / "file", [content])
                assert (tmp_path / "file").read_bytes() in contents
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and names(tmp_path) == ["file"]


# Disks


LIMITED = """
from infoutil_jax.errors import EnvironmentFault
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    durable.write('file', [b'x' * 900, b'y' * 1634])
except EnvironmentFault as error:
    print(error)
print(os.listdir(), open('file', 'rb').read())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
durable.write('file', [b'x' * 900, b'y' * 1634])
print(os.listdir(), os.path.getsize('file'))
"""


def test_a_file_that_outgrows_the_disk_is_a_fault_with_bytes_and_can_be_written_later(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    _, printed = child(LIMITED, tmp_path)
    fault, during, after = printed.splitlines()
    head, _, free = fault.partition("(File too large; 2,534 bytes needed, ")
    assert head == "file: cannot be written " and int(free.split(" free)")[0].replace(",", "")) > 0
    assert fault.endswith("free the space or choose another --workdir, and run the same command again.")
    assert (during, after) == ("['file'] b'old'", "['file'] 2534")


FORBIDDEN = """
from infoutil_jax.errors import EnvironmentFault
os.chmod('.', 0o555)
if os.geteuid() == 0:
    os.setuid(65534)
for path in ('file', 'new/file'):
    try:
        durable.write(path, [b'x'])
    except EnvironmentFault as error:
        print(error.exit_code, error)
"""


def test_a_folder_without_permission_is_a_fault(tmp_path):
    _, printed = child(FORBIDDEN, tmp_path)
    os.chmod(tmp_path, 0o755)
    first, second = printed.splitlines()
    assert first.startswith("4 file: cannot be written (Permission denied; 1 bytes needed, ")
    assert second.startswith("4 new/file: cannot be written (Permission denied; 1 bytes needed, ")
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_whatever_the_disk_says_is_a_fault_with_the_path(number, tmp_path, monkeypatch):
    durable.write(tmp_path / "file", [b"old"])

    def fails(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(
        EnvironmentFault, match=rf"{tmp_path}/file: cannot be written \({os.strerror(number)}; 3 bytes needed"
    ):
        durable.write(tmp_path / "file", [b"new"])
    assert (tmp_path / "file").read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_a_file_where_a_folder_is_due_is_a_fault(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentFault, match=r"file/x/y: cannot be written \((File exists|Not a directory); 1 bytes"):
        durable.write(tmp_path / "file" / "x" / "y", [b"1"])


# Written once


def test_write_once_goes_the_same_way_and_never_overwrites(tmp_path):
    code, _ = child("from infoutil_jax import tfrecord\nfrom pathlib import Path\ntfrecord.write_once(Path('s'), [b'1'])",
                    tmp_path, "synced:s")  # fmt: skip
    assert code == -signal.SIGKILL and names(tmp_path) == [".tmp-s"]
    for _ in range(2):
        tfrecord.write_once(tmp_path / "s", [b"1", b"2"])
    assert names(tmp_path) == ["s"]
    with pytest.raises(DataError, match="other content"):
        tfrecord.write_once(tmp_path / "s", [b"1"])
    assert (tmp_path / "s").read_bytes() == b"12"


def test_left_overs_are_no_shards(tmp_path):
    (tmp_path / ".tmp-d-train.tfrecord-00000-of-00001").write_bytes(b"half")
    durable.write(tmp_path / "d-train.tfrecord-00001-of-00002", [b"1"])
    tfrecord.check_names(tmp_path, ["d-train.tfrecord-00001-of-00002"])
