"""Rows spread over devices come back in order, each once, whatever the number of devices; training batches too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from infoutil_jax import parallel, progress
from infoutil_jax.errors import DataError, EnvironmentFault


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
    monkeypatch.setattr(jax, "block_until_ready", lambda part: log.append(f"await {part.min():.0f}") or part)
    n_devices = len(jax.local_devices())
    parallel.map_batches(scaled, 1, {"weights": np.ones(2, np.float32)}, np.repeat(np.arange(4.0), n_devices))
    assert log == ["send 0", "send 1", "await 0", "send 3", "await 1", "send 5", "await 2", "await 3"]
    assert len(calls) == 1


def hungry(fits):
    """A function that needs more memory than there is for more than `fits` rows, and the sizes it was compiled for."""
    sizes = []

    def fn(shared, rows):
        sizes.append(len(rows))
        if len(rows) > fits:
            rows += jnp.sort(jnp.sin(rows[0] + jnp.arange(2.0**44, dtype=jnp.float32)))[::-1][: len(rows)]
        return rows * shared

    return fn, sizes


def test_where_memory_runs_out_smaller_batches_go_on_from_what_is_finished(n_devices, capsys):
    rows = np.arange(13 * n_devices, dtype=np.float32)
    fn, sizes = hungry(fits=3)
    np.testing.assert_array_equal(parallel.map_batches(fn, 8, np.float32(2), rows), 2 * rows)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: test_parallel: out of memory with batches of 8 (RESOURCE_EXHAUSTED: ")
    assert "with batches of 4 (" in second and second.endswith("; going on with 2") and sizes == [8, 4, 2]
    np.testing.assert_array_equal(parallel.map_batches(fn, 8, np.float32(3), rows), 3 * rows)  # begins with 2
    assert not capsys.readouterr().err and sizes == [8, 4, 2]


def test_finished_rows_are_not_computed_again(monkeypatch, capsys):
    n_devices, sent = len(jax.local_devices()), []

    def program(copies, rows):
        sent.append(rows.ravel()[:: rows.shape[1]].tolist()[0])
        if rows.shape[1] == 4 and len(sent) == 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: none left")
        return rows

    monkeypatch.setattr(parallel, "_pmapped", lambda fn: program)
    rows = np.arange(16.0 * n_devices, dtype=np.float32)
    np.testing.assert_array_equal(parallel.map_batches(lambda: 0, 4, (), rows), rows)
    per_call = 4.0 * n_devices  # the second call was on its way when the third failed
    assert sent == [0, per_call, 2 * per_call, *(per_call + half * per_call / 2 for half in range(6))]
    assert "going on with 2" in capsys.readouterr().err


def test_without_memory_for_one_row_or_under_strict_the_run_stops(capsys):
    with pytest.raises(
        EnvironmentFault, match=r"^test_parallel: out of memory even with batches of 1 \(RES.*device\.$"
    ):
        parallel.map_batches(hungry(fits=0)[0], 4, np.float32(1), np.zeros(3, np.float32))
    assert capsys.readouterr().err.count("warning: ") == 2
    progress.restart(strict=True)
    with pytest.raises(DataError, match="out of memory with batches of 4 .*a warning, but for --strict"):
        parallel.map_batches(hungry(fits=0)[0], 4, np.float32(1), np.zeros(3, np.float32))
    progress.restart()


def test_other_errors_of_the_device_are_not_taken_for_memory():
    def fn(shared, rows):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        parallel.map_batches(fn, 4, np.float32(1), np.zeros(3, np.float32))


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
