"""Devices. The only file that names pmap, Mesh, PartitionSpec or a device.

Per-example work (attribution, scores, labels) runs on each device's own rows through `pmap`: the compiler must not
partition a `vmap(grad)` through a convolution, it does so wrongly (docs/architecture.md). Work that averages over a
batch (training) may be compiled for a sharded batch.
"""

import functools

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from infoutil_jax.errors import EnvironmentFault
from infoutil_jax.guard import raise_if_stopped


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
    arrays with one row for each row given. Raises ValueError for unequal lengths.
    """
    n_devices, n = len(jax.local_devices()), len(arrays[0])
    if {len(a) for a in arrays} != {n}:
        raise ValueError(f"map_batches: arrays have {[len(a) for a in arrays]} rows; they must agree.")
    step = rows_per_device * n_devices
    shape = (n_devices, rows_per_device)
    copies, outputs = _copy_for_each_device(shared), []
    for start in range(0, n, step):
        raise_if_stopped()
        rows = [_pad(np.asarray(a[start : start + step]), step) for a in arrays]
        outputs.append(_pmapped(fn)(copies, *(r.reshape(shape + r.shape[1:]) for r in rows)))
        if len(outputs) > 1:
            jax.block_until_ready(outputs[-2])  # one batch ahead of the device, no more
    rows_of = lambda part: np.asarray(part).reshape(step, *part.shape[2:])
    return jax.tree.map(lambda *parts: np.concatenate([rows_of(part) for part in parts])[:n], *outputs)


def shard_rows(tree):
    """A batch spread over the devices, its rows in order; an array whose rows do not divide stays whole on each."""
    mesh = _mesh()
    spec = lambda leaf: PartitionSpec("batch") if np.ndim(leaf) and len(leaf) % mesh.size == 0 else PartitionSpec()
    return jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec(leaf))), tree)


def replicate(tree):
    """A copy on every device, for training on batches from `shard_rows`."""
    return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec()))
