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
