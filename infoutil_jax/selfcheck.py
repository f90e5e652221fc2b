"""A start-up check on the devices that are really there: are per-example gradients right on all of them?"""

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import layerwise, models, parallel, utility
from infoutil_jax.errors import NumericError

ROWS = 16  # or two a device, where that is more
TOLERANCE = 1e-3  # of float32 arithmetic in another order; the fault that is looked for is of order 1


def _network():
    return models.build("convnet3", 4, width=8)


def _logits(variables, images):
    return _network().apply(variables, images, train=False)


def _norms(variables, images, labels):
    """(B, 2): by both values of `score.norms`."""
    by_layer, _ = layerwise.gradient_norms(_logits, variables, images, labels)
    return jnp.stack([by_layer, utility.gradient_norms(_logits, variables, images, labels)], axis=1)


def run() -> float:
    """Gradient norms of a few rows of a small network, spread over all devices, against single examples on one device.

    Returns the largest relative error; raises NumericError when it exceeds the tolerance. (Some compilers return 0 for
    rows off the first device, and a selection from such scores still looks plausible.)
    """
    rng = np.random.default_rng(0)
    n_devices = len(jax.local_devices())
    n = max(ROWS, 2 * n_devices)
    images = rng.normal(size=(n, 8, 8, 3)).astype(np.float32)
    labels = np.arange(n, dtype=np.int32) % 4
    # twice a fresh network's weights: the norms are then those of the convolutions, not of the last bias
    variables = jax.tree.map(lambda leaf: 2 * leaf, models.initialize(_network(), jax.random.key(0), 8))
    with jax.default_matmul_precision("highest"):  # accelerators round products otherwise
        spread = parallel.map_batches(_norms, -(-n // n_devices), variables, images, labels)
        single = utility.gradient_norms_one_by_one(_logits, variables, jnp.asarray(images), jnp.asarray(labels))
    error = float(np.max(np.abs(spread / single[:, None] - 1)))
    if not error < TOLERANCE:
        raise NumericError(
            f"self-check: per-example gradient norms on {parallel.describe()} are wrong by {error:.1%}; "
            "use another jax version, or one device."
        )
    return error
