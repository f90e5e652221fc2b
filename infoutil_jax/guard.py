"""What may befall a run from outside: a signal, a second run in its folder, a full disk, no right to write, no memory.

Whatever lies under its final name is complete (durable.py), so leaving at any moment is safe; this is to leave well.
"""

import contextlib
import errno
import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from infoutil_jax.durable import is_at
from infoutil_jax.errors import Busy, EnvironmentFault, Preempted

GRACE = 25.0  # seconds from the first signal until the process leaves, whatever hangs; clouds give 30
PULSE = 5.0  # seconds between two signs of life of a lock's owner
PATIENCE = 30.0  # seconds without one, and an owner on another host is dead
POLL = 0.5  # seconds between two looks at a lock that is waited for
LOCK = ".lock"
MEMORY = "attribute.micro_batch, score.batch_size, teacher.batch_size, evaluate.batch_size, candidates, data.cache_gib"

_asked = threading.Event()


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Signals


def stop_asked() -> bool:
    """Whether SIGTERM or Ctrl-C asked this run to stop; what can save first does so and raises Preempted."""
    return _asked.is_set()


def raise_if_stopped() -> None:
    """Raises Preempted when the run was asked to stop. For the moments between two pieces of work."""
    if _asked.is_set():
        raise Preempted("what is finished is saved; run the same command again and it goes on from there.")


@contextlib.contextmanager
def signals():
    """Within, SIGTERM and the first Ctrl-C only ask to stop; Ctrl-C after that is KeyboardInterrupt.

    A thread hears of the signal at once, even while the main thread sits in a compiler, and ends the process with 75
    when it is still there after GRACE seconds. Outside the main thread, where no signal arrives, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = []
    _asked.clear()

    def handler(number, _):
        _asked.set()
        seen.append(number)
        if number == signal.SIGINT and len(seen) > 1:
            raise KeyboardInterrupt

    heard, wakeup = socket.socketpair()
    wakeup.setblocking(False)  # as set_wakeup_fd wants it
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    old_fd = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(heard,), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_fd)
        for number, old in before.items():
            signal.signal(number, old)
        wakeup.close()  # the thread reads the end and leaves
        watch.join()
        heard.close()
        _asked.clear()


def _watch(heard: socket.socket) -> None:
    """Sets the flag at the first signal; ends the process GRACE seconds later unless the socket is closed before."""
    try:
        while (number := heard.recv(1)) and number[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        if number:
            _asked.set()
            end = time.monotonic() + GRACE
            while number:
                heard.settimeout(max(end - time.monotonic(), 0.001))
                number = heard.recv(1)
                if number and number[0] == signal.SIGINT:  # somebody is in a hurry, and the main thread may be deaf
                    end = min(end, time.monotonic() + 1)
    except TimeoutError:
        _note("stopped: still busy, and left as it is; what is finished is saved, run the same command again.")
        os._exit(Preempted.exit_code)


# One run a folder


@contextlib.contextmanager
def owned(folder: Path, *, wait: bool = False, part: str = ""):
    """Holds `folder` for this process; with `part` only that part of its work, e.g. '2-of-8'. Makes the folder where
    there is none, and takes it away again when nothing was written into it.

    Raises Busy, naming the owner, while another live run holds it; with `wait` that run is waited for instead, said
    once. A dead run's lock is taken over: its kernel has freed it. Where the kernel cannot tell (a run on another host,
    a filesystem without locks), an owner is dead after PATIENCE seconds without a sign of life.
    """
    path = Path(folder) / (f"{LOCK}-{part}" if part else LOCK)
    made = not path.parent.exists()
    try:
        file = _acquire(path, wait)
    except OSError as error:
        raise EnvironmentFault(
            f"{path}: {error.strerror or error}; choose another --workdir or --artifacts."
        ) from error
    released = threading.Event()
    pulse = threading.Thread(target=_beat, args=(file, released), daemon=True)
    pulse.start()
    try:
        yield
    finally:
        released.set()
        pulse.join()
        if is_at(file, path):
            path.unlink()  # still held: whoever opened this file finds it gone when it gets the lock
        file.close()
        if made:
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # if nothing was written


def _acquire(path: Path, wait: bool):
    """The file at `path`, locked and signed."""
    said = False
    while (file := _claim(path)) is None:
        owner = _named(_read(path))
        if not wait:
            way_out = f"wait for it, or choose another folder; if it is dead all the same, delete {path}"
            raise Busy(f"{path.parent} is in use by {owner}; {way_out}.")
        if not said:
            _note(f"note: waiting for {owner}, at work in {path.parent}")
        said = True
        raise_if_stopped()
        time.sleep(POLL)
    return file


def _claim(path: Path):
    """As `_acquire`, or None when a live run holds it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "a+")
        except FileNotFoundError:
            continue  # a run that wrote nothing took its folder away
        try:
            held_by_kernel = _lock(file)
        except BlockingIOError:
            file.close()
            return None
        if is_at(file, path):
            break
        file.close()  # its owner removed it before we got the lock
    owner = _read(path)
    if owner and not (held_by_kernel and owner.get("host") == socket.gethostname()) and _lives(path, owner):
        file.close()
        return None
    file.truncate(0)
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "started": started, "command": shlex.join(sys.argv)}
    file.write(json.dumps(mine))
    file.flush()
    return file


def _lock(file) -> bool:
    """True: the kernel holds it for us; False: this filesystem has no locks. BlockingIOError: it is another's."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
            return False
        raise
    return True


def _read(path: Path) -> dict:
    """What the owner wrote, {} if nothing that can be read."""
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _named(owner: dict) -> str:
    pid, host, started = (owner.get(key, "unknown") for key in ("pid", "host", "started"))
    return f"a run with pid {pid} on host {host}, started {started}"


def _beat(file, released: threading.Event) -> None:
    while not released.wait(PULSE):
        with contextlib.suppress(OSError):
            os.utime(file.fileno())


def _lives(path: Path, owner: dict) -> bool:
    """Whether the lock file is touched within PATIENCE seconds."""
    _note(f"note: {path} was left by {_named(owner)}; waiting {PATIENCE:.0f} s for a sign of life")
    first, end = _touched(path), time.monotonic() + PATIENCE
    while time.monotonic() < end:
        raise_if_stopped()
        time.sleep(POLL)
        if _touched(path) != first:
            return True
    return False


def _touched(path: Path) -> int:
    with contextlib.suppress(OSError), open(path) as file:  # opening it makes a network filesystem ask its server
        return os.fstat(file.fileno()).st_mtime_ns
    return 0


# Space, rights, memory


def preflight(workdir: Path, artifacts: Path, need_bytes: int) -> None:
    """Raises EnvironmentFault unless both folders can be written and `need_bytes` are free; makes neither."""
    for folder in dict.fromkeys((Path(workdir), Path(artifacts))):
        try:
            here = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
            free = shutil.disk_usage(here).free
            with tempfile.TemporaryFile(dir=here) as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = f"cannot be written ({error.strerror or error})"
            raise EnvironmentFault(
                f"{folder}: {reason}; mend that, or choose another --workdir or --artifacts."
            ) from error
        if free < need_bytes:
            sizes = f"{need_bytes:,} bytes are needed, {free:,} are free"
            raise EnvironmentFault(f"{folder}: {sizes}; free some, or choose another --workdir or --artifacts.")


@contextlib.contextmanager
def machine_faults():
    """What the machine lacks or refuses, as an EnvironmentFault with the way out; other errors pass."""
    try:
        yield
    except BrokenPipeError:  # nobody reads on; nothing is wrong with the machine
        raise
    except OSError as error:
        raise EnvironmentFault(f"{error}; check space and permissions, or choose another --workdir.") from error
    except MemoryError as error:
        raise EnvironmentFault(f"out of memory ({first_line(error)}); lower one of {MEMORY}.") from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise EnvironmentFault(f"out of device memory ({first_line(error)}); lower one of {MEMORY}.") from error
        if "Unable to initialize backend" in str(error):
            way_out = "install that backend, or set JAX_PLATFORMS=cpu"
            raise EnvironmentFault(f"{first_line(error)}; {way_out}.") from error
        raise


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether XLA, whose errors are of one type, had no memory for a program or its compilation."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def first_line(error) -> str:
    """An error's text for a message, cut."""
    return str(error).strip().split("\n")[0].rstrip(".")[:300] or type(error).__name__
