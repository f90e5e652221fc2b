"""Metrics as (sum, count) pairs, so that no mean of batch means is ever taken."""

from typing import NamedTuple

import jax
import numpy as np


class Mean(NamedTuple):
    """A sum and how many examples it is over."""

    total: float = 0.0
    count: int = 0

    def add(self, values) -> "Mean":
        return Mean(self.total + float(np.sum(values)), self.count + int(np.size(values)))

    @property
    def value(self) -> float:
        return self.total / self.count


def top_k_correct(logits_BK, labels_B, k: int):
    """Whether the label is among the k largest logits, bool (B,)."""
    _, best_Bk = jax.lax.top_k(logits_BK, min(k, logits_BK.shape[-1]))
    return (best_Bk == labels_B[:, None]).any(axis=-1)


def mean_std(values) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1; 0 for a single value) over seeds."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else 0.0


def label_robust_score(full_hard, hard, soft, random_soft, weight: float = 0.5):
    """DD-Ranking's label-robust score (arXiv 2505.13300), in [0, 1]: what a set is worth beyond its soft labels.

    Accuracies are fractions in [0, 1], scalars or arrays over seeds: of a network trained with hard labels on all real
    images and on the set; of one trained by the set's own recipe on the set and on as many random real images. 0.27 is
    a set that is as good as random images and, with hard labels, as all real ones. Raises ValueError outside [0, 1]
    (the released code takes percentages into its exponential).
    """
    full_hard, hard, soft, random_soft = map(_fractions, (full_hard, hard, soft, random_soft))
    return _squash(weight * (soft - random_soft) - (1 - weight) * (full_hard - hard))


def augmentation_robust_score(augmented, random_augmented, plain, random_plain, weight: float = 0.5):
    """DD-Ranking's augmentation-robust score (arXiv 2505.13300), in [0, 1]; 0.27 is a set no better than random images.

    Accuracies are fractions in [0, 1], scalars or arrays over seeds, of networks trained with and without augmentation,
    on the set and on as many random real images each. Raises ValueError outside [0, 1].
    """
    augmented, random_augmented, plain, random_plain = map(
        _fractions, (augmented, random_augmented, plain, random_plain)
    )
    return _squash(weight * (augmented - random_augmented) + (1 - weight) * (plain - random_plain))


def _fractions(accuracy):
    accuracy = np.asarray(accuracy, np.float64)
    if not ((accuracy >= 0) & (accuracy <= 1)).all():
        raise ValueError(f"accuracies are fractions in [0, 1], not {accuracy}")
    return accuracy


def _squash(margin):
    """[-1, 1] -> [0, 1], convex and increasing."""
    return (np.exp(margin) - np.exp(-1)) / (np.exp(1) - np.exp(-1))
