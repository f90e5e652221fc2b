"""Optimisers and learning-rate schedules of the teacher and of the student."""

import math

import jax
import jax.numpy as jnp
import optax


def half_speed_cosine(peak: float, steps_per_epoch: int, epochs: int):
    """RDED's schedule: constant within an epoch, peak * (1 + cos(pi e / 2E)) / 2, from `peak` towards its half."""

    def schedule(step):
        epoch = jnp.float32(step // steps_per_epoch)
        return peak * 0.5 * (1 + jnp.cos(math.pi * epoch / (2 * epochs)))

    return schedule


def warmup_cosine(peak: float, warmup_steps: int, total_steps: int):
    """Linear from 0 to `peak`, then a cosine to 0."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, max(total_steps, warmup_steps + 1))


def _is_matrix(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


def adamw(schedule, weight_decay: float):
    """AdamW(0.9, 0.999); weight decay on kernels only, never on biases or BatchNorm (RDED's grouping)."""
    return optax.adamw(schedule, weight_decay=weight_decay, mask=_is_matrix)


def sgd(schedule, weight_decay: float):
    """SGD with Nesterov momentum 0.9; weight decay on kernels only."""
    decay = optax.add_decayed_weights(weight_decay, mask=_is_matrix)
    return optax.chain(decay, optax.sgd(schedule, momentum=0.9, nesterov=True))


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}
