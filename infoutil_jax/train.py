"""Training and testing of a classifier; used by the teacher and by evaluation alike."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from infoutil_jax import metrics, parallel
from infoutil_jax.data.batches import load_ahead
from infoutil_jax.errors import NumericError
from infoutil_jax.progress import track


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


def update(network: Network, optimizer, state: TrainState, images, loss_of_logits):
    """One step on images (B, H, W, 3) in [0, 1]; `loss_of_logits` maps (B, K) to a scalar. Returns (state, loss)."""

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, new = network.model.apply(variables, network.normalize(images), train=True, mutable=["batch_stats"])
        return loss_of_logits(logits), new.get("batch_stats", {})

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its integer step count with floats
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, batch_stats, opt_state, state.step + 1), loss


def fit(step, state, batches, *, epochs: int, steps_per_epoch: int, label: str, first_epoch: int = 0, after_epoch=None):
    """Runs `state, loss = step(state, *batch)` over `batches(epoch)` for epochs [first_epoch, epochs).

    `after_epoch(epochs_done, state, mean_loss)` is called at each epoch's end. Raises NumericError when a loss is not
    finite, before `after_epoch` sees that epoch.
    """
    stream = ((epoch, i, b) for epoch in range(first_epoch, epochs) for i, b in enumerate(batches(epoch)))
    losses = []
    for epoch, i, batch in track(stream, label, total=(epochs - first_epoch) * steps_per_epoch, unit="steps"):
        if losses:
            jax.block_until_ready(losses[-1])  # keep the queue one step long
        state, loss = step(state, *batch)
        losses.append(loss)
        if i + 1 == steps_per_epoch:
            values, losses = np.array(jax.device_get(losses)), []
            _require_finite(values, label, epoch)
            if after_epoch:
                after_epoch(epoch + 1, state, float(values.mean()))
    return state


def _require_finite(losses, label, epoch):
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise NumericError(
            f"{label}: the loss is not finite at epoch {epoch + 1}, step {bad[0] + 1}; lower the learning rate "
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
