"""Rows spread over devices come back in order, each once, whatever the number of devices; training batches too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from infoutil_jax import parallel


@pytest.fixture(params=[1, 2, 8])
def n_devices(request, monkeypatch):
    devices = jax.devices()[: request.param]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    parallel._pmapped.cache_clear()
    yield request.param
    parallel._pmapped.cache_clear()


def scaled(shared, rows, numbers):
    return {"sum": shared["a"] * rows.sum(axis=1) + numbers, "rows": rows[:, ::-1] + shared["b"][None, :]}


def test_rows_come_back_in_order_each_once(n_devices):
    shared = {"a": np.float32(2), "b": np.arange(3, dtype=np.float32)}
    step = 2 * n_devices
    for n in {1, n_devices - 1, step - 1, step, step + 1, 3 * step + 1} - {0}:
        rows = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
        numbers = 1000 * np.arange(n, dtype=np.float32)
        out = parallel.map_batches(scaled, 2, shared, rows, numbers)
        np.testing.assert_allclose(out["sum"], 2 * rows.sum(1) + numbers, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(out["rows"], rows[:, ::-1] + shared["b"])


def test_every_device_gets_its_own_rows(n_devices):
    def whole_part(_, rows):
        return jnp.broadcast_to(rows, (len(rows), *rows.shape))

    parts = parallel.map_batches(whole_part, 3, np.float32(0), np.arange(3 * n_devices, dtype=np.int32))
    np.testing.assert_array_equal(parts, np.repeat(np.arange(3 * n_devices).reshape(-1, 3), 3, axis=0))


def test_a_batch_is_sent_before_the_one_before_it_is_awaited_and_weights_are_sent_once(monkeypatch):
    log = []

    def program(copies, rows):
        log.append(f"send {len(log)}")
        return rows

    copy, calls = parallel._copy_for_each_device, []
    monkeypatch.setattr(parallel, "_copy_for_each_device", lambda tree: calls.append(tree) or copy(tree))
    monkeypatch.setattr(parallel, "_pmapped", lambda fn: program)
    monkeypatch.setattr(jax, "block_until_ready", lambda part: log.append(f"await {part.min():.0f}"))
    n_devices = len(jax.local_devices())
    parallel.map_batches(scaled, 1, {"weights": np.ones(2, np.float32)}, np.repeat(np.arange(4.0), n_devices))
    assert log == ["send 0", "send 1", "await 0", "send 3", "await 1", "send 5", "await 2"]
    assert len(calls) == 1


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 1\] rows"):
        parallel.map_batches(scaled, 2, {}, np.zeros((3, 3)), np.zeros(1))


def test_training_batches_are_sharded_where_they_divide_and_keep_their_rows(n_devices):
    batch = {"images": np.arange(16.0, dtype=np.float32).reshape(16, 1), "last": np.arange(5), "key": np.float32(3)}
    placed = parallel.shard_rows(batch)
    jax.tree.map(np.testing.assert_array_equal, placed, batch)
    assert placed["images"].sharding.shard_shape((16, 1)) == (16 // n_devices, 1)
    assert len(placed["images"].sharding.device_set) == n_devices
    assert placed["last"].sharding.is_fully_replicated
    assert placed["key"].sharding.spec == PartitionSpec()


def test_replicated_values_are_whole_on_every_device(n_devices):
    copies = parallel.replicate({"w": np.arange(3.0, dtype=np.float32)})["w"]
    assert [shard.data.tolist() for shard in copies.addressable_shards] == [[0, 1, 2]] * n_devices


def test_the_description_counts_the_devices(n_devices):
    assert parallel.describe() == f"{n_devices} x cpu (cpu)"
