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


def cosine(peak: float, steps_per_epoch: int, epochs: int):
    """peak * (1 + cos(pi t)) / 2 over the steps: from `peak` to 0."""
    return lambda step: peak * 0.5 * (1 + jnp.cos(math.pi * jnp.float32(step) / (steps_per_epoch * epochs)))


def ssrs(peak: float, steps_per_epoch: int, epochs: int):
    """EDC's smoothing schedule (arXiv 2404.13733): half-speed cosine for 5/6 of training, then linear to 0."""
    cosine_part = half_speed_cosine(peak, steps_per_epoch, epochs)
    turn = 5 * epochs // 6

    def schedule(step):
        epoch = step // steps_per_epoch
        falling = cosine_part(turn * steps_per_epoch) * jnp.float32(epochs - epoch) / (epochs - turn)
        return jnp.where(epoch < turn, cosine_part(step), falling)

    return schedule


SCHEDULES = {"half_cosine": half_speed_cosine, "cosine": cosine, "ssrs": ssrs}


def warmup_cosine(peak: float, warmup_steps: int, total_steps: int):
    """Linear from 0 to `peak`, then a cosine to 0."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, max(total_steps, warmup_steps + 1))


def _is_kernel(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def adamw(schedule, weight_decay: float):
    """AdamW(0.9, 0.999); weight decay on kernels only, not on biases, norms, tokens, temperatures (RDED's grouping)."""
    return optax.adamw(schedule, weight_decay=weight_decay, mask=_is_kernel)


def sgd(schedule, weight_decay: float):
    """SGD with Nesterov momentum 0.9; weight decay on kernels only."""
    decay = optax.add_decayed_weights(weight_decay, mask=_is_kernel)
    return optax.chain(decay, optax.sgd(schedule, momentum=0.9, nesterov=True))


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}
