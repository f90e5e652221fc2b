"""Devices. The only file that names pmap, Mesh, PartitionSpec or a device.

Per-example work (attribution, scores, labels) runs on each device's own rows through `pmap`: the compiler must not
partition a `vmap(grad)` through a convolution, it does so wrongly (docs/architecture.md). Work that averages over a
batch (training) may be compiled for a sharded batch.
"""

import functools

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from infoutil_jax import guard
from infoutil_jax.errors import EnvironmentFault
from infoutil_jax.progress import warn


def describe() -> str:
    """What the work runs on, e.g. '2 x cpu (cpu)'."""
    devices = jax.local_devices()
    return f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})"


def require_accelerator() -> None:
    """Raises EnvironmentFault where JAX has CPUs only: it falls back on them without a word of its own."""
    if jax.local_devices()[0].platform == "cpu":
        way_out = "install JAX for it (pip install 'jax[cuda12]'), look at its driver and unset JAX_PLATFORMS"
        raise EnvironmentFault(f"no accelerator: JAX runs on {describe()}; {way_out}.")


def memory_of_device() -> int:
    """Bytes that JAX may use of a device's own memory; 0 on a CPU, which has none."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)


@functools.lru_cache(maxsize=None)
def _pmapped(fn):
    return jax.pmap(fn, devices=jax.local_devices())


def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), "batch", axis_types=(AxisType.Auto,))


def _copy_for_each_device(tree):
    """`tree` with a new leading axis over the devices, as pmap takes it."""
    mesh = _mesh()
    copies = lambda leaf: np.broadcast_to(np.asarray(leaf), (mesh.size, *np.shape(leaf)))
    return jax.tree.map(lambda leaf: jax.device_put(copies(leaf), NamedSharding(mesh, PartitionSpec("batch"))), tree)


def _pad(rows, to: int):
    missing = to - len(rows)
    return np.concatenate([rows, np.repeat(rows[:1], missing, axis=0)]) if missing else rows


def map_batches(fn, rows_per_device: int, shared, *arrays):
    """`fn(shared, *rows)` over all rows of `arrays` (same length N >= 1), as numpy, leading axis N.

    Every device gets `rows_per_device` rows a call with a copy of `shared` (a pytree); the last call is padded with
    copies of a row and trimmed. `fn` must be the same function object from call to call (compiled once) and return
    arrays with one row for each row given. Where memory runs out, half as many rows: see `map_sized`. Raises
    ValueError for unequal lengths.
    """
    return map_sized(lambda rows: (fn, rows), rows_per_device, shared, *arrays)


def map_sized(build, size: int, shared, *arrays):
    """`map_batches` with `fn, rows_per_device = build(size)`, which need less memory the smaller `size` is.

    Where memory runs out, `size` is halved with a warning; the finished rows stay, and the next call begins with what
    was enough. Results must not depend on it. Raises EnvironmentFault where 1 is too much.
    """
    n = len(arrays[0])
    if {len(a) for a in arrays} != {n}:
        raise ValueError(f"map_batches: arrays have {[len(a) for a in arrays]} rows; they must agree.")
    asked, _ = build(size)
    done, outputs, size = 0, [], min(size, _enough.get(asked, size))
    while done < n:
        fn, rows = build(size)
        try:
            for output in _calls(fn, rows, shared, [a[done:] for a in arrays]):
                outputs.append(output)
                done += rows * len(jax.local_devices())
        except RuntimeError as error:
            if not guard.is_out_of_memory(error):
                raise
            size = _enough[asked] = _half(asked, size, error)
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *outputs)


_enough = {}  # function -> the size of its calls that memory was enough for, where that is not what was asked for


def _half(fn, size: int, error) -> int:
    stage, fault = fn.__module__.rpartition(".")[2], guard.first_line(error)
    if size == 1:
        way_out = "end what else uses the device, or choose a smaller network or data.image_size, or a larger device"
        raise EnvironmentFault(f"{stage}: out of memory even with batches of 1 ({fault}); {way_out}.") from error
    warn(f"{stage}: out of memory with batches of {size} ({fault}); going on with {size // 2}")
    return size // 2


def _calls(fn, rows_per_device: int, shared, arrays):
    """What `fn` gives for every call's rows, padding included, as numpy."""
    n_devices, n = len(jax.local_devices()), len(arrays[0])
    step = rows_per_device * n_devices
    shape = (n_devices, rows_per_device)
    rows_of = lambda part: np.asarray(part).reshape(step, *part.shape[2:])
    copies, ahead = _copy_for_each_device(shared), None
    for start in range(0, n, step):
        guard.raise_if_stopped()
        rows = [_pad(np.asarray(a[start : start + step]), step) for a in arrays]
        sent = _pmapped(fn)(copies, *(r.reshape(shape + r.shape[1:]) for r in rows))
        if ahead is not None:  # one batch ahead of the device, no more
            yield jax.tree.map(rows_of, jax.block_until_ready(ahead))
        ahead = sent
    yield jax.tree.map(rows_of, jax.block_until_ready(ahead))


def shard_rows(tree):
    """A batch spread over the devices, its rows in order; an array whose rows do not divide stays whole on each."""
    mesh = _mesh()
    spec = lambda leaf: PartitionSpec("batch") if np.ndim(leaf) and len(leaf) % mesh.size == 0 else PartitionSpec()
    return jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec(leaf))), tree)


def replicate(tree):
    """A copy on every device, for training on batches from `shard_rows`."""
    return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec()))
