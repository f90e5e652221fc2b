"""Per-example losses on logits (B, K). Nothing here takes a mean: the caller decides over what."""

import jax
import jax.numpy as jnp


def cross_entropy(logits_BK, labels_B):
    """-log softmax(logits)[label], shape (B,), in nats; labels int32 (B,)."""
    log_p = jax.nn.log_softmax(logits_BK)
    return -jnp.take_along_axis(log_p, labels_B[:, None], axis=-1)[:, 0]


def soft_cross_entropy(logits_BK, target_BK):
    """-sum_k target_k log softmax(logits)_k, shape (B,); rows of `target_BK` sum to 1."""
    return -jnp.sum(target_BK * jax.nn.log_softmax(logits_BK), axis=-1)


def distillation(logits_BK, target_BK, temperature: float):
    """KL(target || softmax(logits / T)), shape (B,), with no T^2 factor (RDED's loss).

    `target_BK` holds probabilities that were softened with the same temperature; zeros in it add nothing.
    """
    log_q = jax.nn.log_softmax(logits_BK / temperature)
    log_p = jnp.log(jnp.where(target_BK > 0, target_BK, 1.0))
    return jnp.sum(target_BK * (log_p - log_q), axis=-1)


def squared_error(logits_BK, target_BK):
    """Mean over the classes of (logit - target logit)^2, shape (B,)."""
    return jnp.mean(jnp.square(logits_BK - target_BK), axis=-1)
