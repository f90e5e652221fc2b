"""One run on several machines: whose classes are whose, who may work in a workdir, what processes tell each other.

Parts (`--shard=i/n`) meet in the workdir only. Processes (`jax.distributed`) are parts that also talk, by keys of its
coordination service and never by a collective: no class needs another's result, a wait may last as long as a
teacher's training, and where one process dies the service ends the others.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import jax

from infoutil_jax import guard
from infoutil_jax.errors import ConfigError, EnvironmentFault

HEARTBEAT = 100  # seconds without a sign of life until a process counts as dead and all others are ended
AUTO = "auto"  # a coordinator that JAX finds by itself: SLURM, Open MPI, Cloud TPU
_POLL_MS = 500  # of waiting before a look at the signals
_START = "start"


class Part(NamedTuple):
    """The classes of a run whose label leaves `index` when divided by `count`."""

    index: int = 0
    count: int = 1

    @property
    def whole(self) -> bool:
        return self.count == 1

    def of(self, labels) -> list[int]:
        """Its classes among `labels`."""
        return [label for label in labels if label % self.count == self.index]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Part()


def parse_part(text: str) -> Part:
    """The Part of --shard=i/n. Raises ConfigError unless 0 <= i < n."""
    try:
        part = Part(*(int(number) for number in text.split("/")))
    except (ValueError, TypeError):
        part = Part(0, 0)
    if not 0 <= part.index < part.count:
        raise ConfigError(f"--shard={text!r} is no part: write i/n with 0 <= i < n, e.g. --shard=0/4.")
    return part


# Workdirs


@contextlib.contextmanager
def holding(workdir: Path, part: Part, admit):
    """Holds `workdir` for a part of a run or for a whole one; admit() is called while nothing else can start there.

    A whole run wants the folder for itself, different parts share it; Busy is raised otherwise, naming the owner. All
    starts pass through one lock, one at a time, so that what is found there stays true.
    """
    with contextlib.ExitStack() as held:
        with guard.owned(workdir, part=_START, wait=True):
            if part.whole:
                held.enter_context(guard.owned(workdir))
                for path in sorted(Path(workdir).glob(f"{guard.LOCK}-*-of-*")):
                    with guard.owned(workdir, part=path.name.removeprefix(f"{guard.LOCK}-")):
                        pass  # this part is not at work
            else:
                with guard.owned(workdir):
                    pass  # no whole run is at work
                held.enter_context(guard.owned(workdir, part=f"{part.index}-of-{part.count}"))
            admit()
        yield


# jax.distributed


def start(coordinator: str = "", count: int | None = None, index: int | None = None) -> None:
    """Joins this process to the others, before JAX touches a device; does nothing where no coordinator is named.

    What is not given is read from JAX_COORDINATOR_ADDRESS (host:port of process 0, or 'auto'), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. All but process 0 print on stderr only. Raises ConfigError, or EnvironmentFault when the others
    cannot be reached.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    if not coordinator:
        if (count, index) != (None, None):
            raise ConfigError("--processes and --process need --coordinator=HOST:PORT, the address of process 0.")
        return
    if coordinator == AUTO:
        where = {}
    else:
        count = _number("--processes", count, "JAX_NUM_PROCESSES")
        index = _number("--process", index, "JAX_PROCESS_ID")
        if not 0 <= index < count or ":" not in coordinator:
            given = f"--coordinator={coordinator} --processes={count} --process={index}"
            raise ConfigError(f"{given}: they are HOST:PORT of process 0, how many there are, and which of 0 to n-1.")
        where = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
    try:
        jax.distributed.initialize(**where, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        fault = " ".join(str(error).split())[:300]
        raise EnvironmentFault(f"jax.distributed does not start ({fault}); see docs/clusters.md.") from error
    if here().index:
        sys.stdout = open(os.devnull, "w")


def _number(flag: str, given: int | None, variable: str) -> int:
    if given is not None:
        return given
    try:
        return int(os.environ[variable])
    except (KeyError, ValueError):
        raise ConfigError(f"{flag} or {variable} must say a number where a coordinator is named.") from None


def _state():
    from jax._src import distributed  # the coordination service has no public door

    return distributed.global_state


def here() -> Part:
    """The part of this process, WHOLE where it is alone."""
    state = _state()
    return WHOLE if state.client is None else Part(state.process_id, state.num_processes)


def _tell(key: str, value) -> None:
    _state().client.key_value_set(f"infoutil/{key}/{here().index}", json.dumps(value))


def _hear(key: str, index: int):
    """What process `index` tells under `key`, as soon as it does."""
    while True:
        guard.raise_if_stopped()
        try:
            return json.loads(_state().client.blocking_key_value_get(f"infoutil/{key}/{index}", _POLL_MS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                way_out = "run the same command again in all of them; finished classes are kept"
                raise EnvironmentFault(f"process {index} is out of reach; {way_out}.") from error


def from_first(key: str, value):
    """Process 0's `value`, in all of them; each `key` can be used once."""
    part = here()
    if not part.whole and not part.index:
        _tell(key, value)
    return _hear(key, 0) if part.index else value


def to_first(key: str, value) -> dict:
    """index -> `value` of every process, in process 0; the others have their own only. Each `key` can be used once."""
    part = here()
    if part.index:
        _tell(key, value)
        return {part.index: value}
    return {0: value} | {index: _hear(key, index) for index in range(1, part.count)}


@contextlib.contextmanager
def first_goes_first(key: str):
    """The block is run by process 0, and when that is done by all others."""
    others_wait = not here().index
    if not others_wait:
        _hear(key, 0)
    yield
    if others_wait:
        from_first(key, None)


def part_company() -> None:
    """From here on no process needs another: waits until all are here, then each is alone."""
    if not here().whole:
        jax.distributed.shutdown()
