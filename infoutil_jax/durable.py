"""Files that survive: each is whole under its final name, or absent, whenever the process dies or the disk fills up.

The only file that knows how a program can die; everything that a run writes goes through `write`.
"""

import collections
import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

from infoutil_jax.errors import EnvironmentFault

TEMPORARY = ".tmp-"  # prefix of a file that is still being written, never data
CRASH_AT = "INFOUTIL_CRASH_AT"

_passed = collections.Counter()  # how often this process came by a crash point


def write(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes a file that is never seen half done: temporary name, fsync, rename, fsync of its folder.

    What lay under the name is replaced; missing folders are made. Raises EnvironmentFault naming path, needed and
    free bytes where that cannot be; what lay there before is untouched then.
    """
    path, chunks = Path(path), list(chunks)
    crash_point("before", path)
    try:
        make_folder(path.parent)
        with _alone(path.with_name(TEMPORARY + path.name)) as file:
            file.writelines(chunks)
            file.flush()
            crash_point("written", path)
            os.fsync(file.fileno())
            crash_point("synced", path)
            os.replace(file.name, path)
        crash_point("renamed", path)
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error, sum(map(len, chunks))) from error


@contextlib.contextmanager
def _alone(temporary: Path):
    """A temporary file, empty and locked: what a dead process left there is written over, a live one is waited for.

    So a name has one temporary file at most, and the next write of that name takes it away.
    """
    while True:
        with open(temporary, "ab") as file:
            with contextlib.suppress(OSError):  # a filesystem without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if not is_at(file, temporary):
                continue  # who held it renamed or removed it
            try:
                file.truncate(0)
                yield file
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            return


def is_at(file, path: Path) -> bool:
    """Whether the open `file` still lies under `path`, neither renamed nor replaced."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def make_folder(path: Path) -> None:
    """A folder, and those above it, that survive a power cut."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Asks the disk to keep a file, or the names in a folder, through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_below(folder: Path) -> None:
    """`sync` of all files and folders in a folder that another library wrote, and of it."""
    for path in [*Path(folder).rglob("*"), folder]:
        sync(path)


def cannot_write(path: Path, error: OSError, needed: int | None = None) -> EnvironmentFault:
    """The error for a file or folder that cannot be written, to be raised by the caller; `needed` in bytes."""
    at = next(folder for folder in Path(path).absolute().parents if os.path.isdir(folder))
    size = "" if needed is None else f"{needed:,} bytes needed, "
    reason, space = error.strerror or error, f"{size}{shutil.disk_usage(at).free:,} free"
    way_out = "free the space or choose another --workdir, and run the same command again"
    return EnvironmentFault(f"{path}: cannot be written ({reason}; {space}); {way_out}.")


def crash_point(name: str, path: Path | str = "") -> None:
    """Kills the own process (SIGKILL) where the environment variable INFOUTIL_CRASH_AT says so, for tests.

    Its form is POINT[:TEXT[:N]]: at the N-th passing (default: the first) of a point with TEXT in the path. The points
    of `write` are `before` (nothing is written yet), `written` (before fsync), `synced` (before the rename), `renamed`.
    """
    point, text, n = (os.environ.get(CRASH_AT, "") + "::").split(":")[:3]
    if point == name and text in str(path):
        _passed[point, text] += 1
        if _passed[point, text] == int(n or 1):
            os.kill(os.getpid(), signal.SIGKILL)
