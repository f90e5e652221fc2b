"""Training and testing of a classifier; used by the teacher and by evaluation alike."""

import bisect
import functools
import itertools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from infoutil_jax import metrics, parallel
from infoutil_jax.data.batches import load_ahead
from infoutil_jax.errors import NumericError, Preempted
from infoutil_jax.progress import track

SECONDS = 0.5  # a chunk of steps takes this long, up to four times as long


class Network(NamedTuple):
    """A model with the normalisation of its input. Hashable, so that compiled functions of it are made once."""

    model: object  # flax.linen.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalize(self, images):
        """[0, 1] images (..., 3) -> (image - mean) / std."""
        mean, std = (jnp.array(value, jnp.float32, ndmin=images.ndim) for value in (self.mean, self.std))
        return (images - mean) / std

    def logits(self, variables, images):
        """Logits (B, K) of images (B, H, W, 3) in [0, 1], BatchNorm in eval mode."""
        return self.model.apply(variables, self.normalize(images), train=False)


class TrainState(NamedTuple):
    params: dict
    batch_stats: dict  # empty for networks without BatchNorm
    opt_state: tuple
    step: jax.Array

    @property
    def variables(self) -> dict:
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(variables, optimizer) -> TrainState:
    params = variables["params"]
    return TrainState(params, variables.get("batch_stats", {}), optimizer.init(params), jnp.int32(0))


def update(network: Network, optimizer, state: TrainState, key, images, loss_of_logits):
    """One step on images (B, H, W, 3) in [0, 1]; `loss_of_logits` maps (B, K) to a scalar: (state, loss, logits).

    `key` draws dropout and stochastic depth, in networks that have them.
    """

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        options = dict(train=True, mutable=["batch_stats"], rngs={"dropout": key})
        logits, new = network.model.apply(variables, network.normalize(images), **options)
        return loss_of_logits(logits), (new.get("batch_stats", {}), logits)

    (loss, (batch_stats, logits)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its integer step count with floats
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, batch_stats, opt_state, state.step + 1), loss, logits


def chunked(batches, ends: list[int], most: int, first: int = 0):
    """Groups `batches`, arrays (B,) of rows, one a step, into arrays (steps, B): the work of one dispatch each.

    A chunk holds `most` steps at most, all of one batch size, and ends at every count of steps in `ends` (ascending);
    `first` steps were made before.
    Its length follows the time that chunks take, so that progress shows every few seconds on slow machines too.
    """
    span = lambda numbered: (bisect.bisect_left(ends, numbered[0]), len(numbered[1]))
    length = 1
    for _, steps in itertools.groupby(enumerate(batches, start=first + 1), span):
        while chunk := [rows for _, rows in itertools.islice(steps, length)]:
            began = time.monotonic()
            yield np.stack(chunk)
            seconds = time.monotonic() - began
            if seconds < SECONDS:
                length = min(2 * length, most)
            elif seconds > 4 * SECONDS:
                length = max(length // 2, 1)


def fit(
    advance, state, chunks, *, epochs: int, steps_per_epoch: int, label: str, host=(), after_epoch=None,
    saves=None, save_epochs: int = 0, up_to: int | None = None,
):  # fmt: skip
    """Runs `state, losses = advance(state, *chunk)` over `chunks(first)`, together the steps from number `first` (0 is
    the first of all) to the end of `epochs`; returns the last state.

    A chunk is one step or more; `losses` is a number or holds one for each of its steps. `after_epoch(epochs_done,
    state)` is called after every chunk that ends with an epoch. Raises NumericError when a loss is not finite, before
    `after_epoch` or a save sees that chunk.

    `saves` (checkpoints.Saves) gets the state and `host`, numpy arrays that `advance` and `after_epoch` write into,
    when it is due, after every multiple of `save_epochs`, and when the run is asked to stop (Preempted). Training goes
    on from its last good save, of those at step `up_to` or before. A save at the end of an epoch is from before
    `after_epoch`, which is called, maybe again, when training goes on from it.
    """
    done, state = _last_save(saves, state, host, up_to)
    total = epochs * steps_per_epoch

    def save():
        saves.save(done, {"state": state, "host": host})

    def end_chunk():
        if after_epoch and done and done % steps_per_epoch == 0:
            after_epoch(done // steps_per_epoch, state)

    def steps():
        nonlocal state, done
        end_chunk()
        for chunk in chunks(done):
            state, losses = advance(state, *chunk)
            losses = np.atleast_1d(losses)
            for step, loss in enumerate(losses, start=done):
                _require_finite(loss, label, *divmod(step, steps_per_epoch))
            done += len(losses)
            ends = save_epochs and done % (save_epochs * steps_per_epoch) == 0
            if saves and done < total and (ends or saves.due()):
                save()
            yield from range(done - len(losses) + 1, done + 1)
            end_chunk()

    try:
        for _ in track(steps(), label, total=total - done, unit="steps"):
            pass
    except Preempted:
        if saves and done:
            save()
        raise
    return state


def _last_save(saves, state, host, up_to) -> tuple[int, object]:
    """Step and state to go on from, placed as `state` is; `host` is filled in place. (0, state) without a save."""
    found = saves and saves.latest({"state": state, "host": host}, up_to)
    if not found:
        return 0, state
    done, saved = found
    jax.tree.map(np.copyto, host, saved["host"])
    return done, jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), saved["state"], state)


def _require_finite(loss, label, epoch, step):
    if not np.isfinite(loss):
        raise NumericError(
            f"{label}: the loss is not finite at epoch {epoch + 1}, step {step + 1}; lower the learning rate "
            "or look for NaN in the images."
        )


@functools.lru_cache(maxsize=None)
def _hits_fn(network: Network):
    def hits(variables, images_u8, labels):
        logits = network.logits(variables, images_u8.astype(jnp.float32) / 255)
        return metrics.top_k_correct(logits, labels, 1), metrics.top_k_correct(logits, labels, 5)

    return hits


class Accuracy(NamedTuple):
    """Shares of a split in [0, 1], and how many images they are over."""

    top1: float
    top5: float
    count: int


def test(network: Network, variables, split, *, rows_per_device: int = 125, chunk: int = 2000) -> Accuracy:
    """Accuracy over all of `split` (labels, images(indices)), every image counted once."""
    top1 = top5 = metrics.Mean()
    chunks = [np.arange(i, min(i + chunk, len(split))) for i in range(0, len(split), chunk)]
    for indices, images_u8 in zip(chunks, load_ahead(split.images, chunks)):
        hits = parallel.map_batches(_hits_fn(network), rows_per_device, variables, images_u8, split.labels[indices])
        top1, top5 = top1.add(hits[0]), top5.add(hits[1])
    return Accuracy(top1.value, top5.value, top1.count)
