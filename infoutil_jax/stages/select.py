"""Which crops a class keeps: the top n by a rule over their scores (InfoUtil Algorithm 1; RDED's and coresets' for the
controls)."""

from dataclasses import dataclass

import numpy as np

from infoutil_jax import coresets
from infoutil_jax.checks import one_of
from infoutil_jax.coresets import rounded
from infoutil_jax.errors import DataError
from infoutil_jax.keys import generator
from infoutil_jax.progress import warn
from infoutil_jax.types import Scores

VERSION = 1
GRADIENT_RULES = ("largest_gradient_norm", "smallest_gradient_norm", "middle_gradient_norm", "largest_correct")
TIES = 0.1  # share of a class's crops that may be chosen by id alone without a warning
FEATURE_RULES = ("herding", "k_means")
RULES = (*GRADIENT_RULES, *FEATURE_RULES, "lowest_loss", "forgetting", "random")


@dataclass(frozen=True)
class Settings:
    rule: str  # largest_gradient_norm (the paper's) | smallest_.. | middle_.. (nearest the class's median)
    #            | largest_correct (correctly classified crops before others) | lowest_loss (RDED's) | random
    #            | herding | k_means | forgetting: see coresets.py
    pool: str  # all crops compete | best_per_image: each image's best crop only
    duplicates: bool  # whether the same box of the same image may be kept more than once

    def __post_init__(self):
        one_of("select.rule", self.rule, RULES)
        one_of("select.pool", self.pool, ("all", "best_per_image"))


def badness(rule: str, scores: Scores, draws) -> tuple[np.ndarray, ...]:
    """Keys to sort crops (M, R) by, most important first, best crop smallest."""
    if rule == "random":
        return (draws,)
    if rule == "lowest_loss":
        return (rounded(scores.loss),)
    if rule == "forgetting":
        return (-scores.forgotten, draws)
    norm = rounded(scores.gradient_norm)
    if rule == "smallest_gradient_norm":
        return (norm,)
    if rule == "middle_gradient_norm":
        return (rounded(np.abs(norm - np.median(norm))),)
    if rule == "largest_correct":
        return (~scores.correct, -norm)
    return (-norm,)


def _places(rule: str, features_MRD, ids, n: int, seed: int) -> np.ndarray:
    """The place (M, R) of every crop in the order of a rule that looks at all crops at once."""
    by_id = sorted(range(len(ids)), key=lambda i: ids[i])  # so that the order of the candidates cannot matter
    features_ND = features_MRD[by_id].reshape(-1, features_MRD.shape[2])
    if rule == "herding":
        order = coresets.herding(features_ND)
    else:
        order = coresets.k_means(features_ND, n, int(generator(seed, "select", rule).integers(2**31)))
    places = np.empty(features_MRD.shape[:2], np.int64)
    places[by_id] = np.argsort(order).reshape(places.shape)
    return places


def _order(keys, ids) -> np.ndarray:
    """All (image, crop) pairs, (M * R, 2) int32, best first; ties by image id, then crop number."""
    m, r = keys[0].shape
    id_rank = np.empty(m, np.int64)
    id_rank[sorted(range(m), key=lambda i: ids[i])] = np.arange(m)
    image, crop = np.divmod(np.arange(m * r), r)
    flat = np.lexsort((crop, id_rank[image], *(k.reshape(-1) for k in reversed(keys))))
    return np.stack([image[flat], crop[flat]], axis=1).astype(np.int32)


def _first_of_each(rows, labels) -> np.ndarray:
    """`rows` without those whose label occurred before."""
    _, first = np.unique(labels, axis=0, return_index=True)
    return rows[np.sort(first)]


def ties(keys, rows, boxes, n: int) -> tuple[int, int]:
    """Of the first n of `rows`, how many were chosen by id alone, and from how many others: the keys of both are those
    of the last chosen one. The same box of the same image is no other crop."""
    keys_NJ = np.stack([key[rows[:, 0], rows[:, 1]] for key in keys], axis=1)
    tied_N = (keys_NJ == keys_NJ[n - 1]).all(axis=1)
    crops = [(image, *box) for image, box in zip(rows[:, 0].tolist(), boxes[rows[:, 0], rows[:, 1]].tolist())]
    others = {crop for crop, tied in zip(crops[n:], tied_N[n:]) if tied} - set(crops[:n])
    return (int(tied_N[:n].sum()), len(others)) if others else (0, 0)


def run(settings: Settings, seed: int, scores: Scores, boxes, ids, n: int, *, where: str) -> np.ndarray:
    """The n best crops of a class in rank order: (n, 2) int32 rows of (image, crop).

    scores (M, R), boxes (M, R, 4), ids of the M images. Permuting the candidates permutes nothing but the row numbers.
    Warns where more than TIES of them were chosen by id alone. Raises DataError when fewer than n crops are left to
    choose from; `where` names the class in it.
    """
    if settings.rule in FEATURE_RULES:
        keys = (_places(settings.rule, scores.features, ids, n, seed),)
    else:
        draws = np.stack([generator(seed, "select", i).uniform(size=scores.loss.shape[1]) for i in ids])
        keys = badness(settings.rule, scores, draws)
    rows = _order(keys, ids)
    if settings.pool == "best_per_image":
        rows = _first_of_each(rows, rows[:, :1])
    elif not settings.duplicates:
        rows = _first_of_each(rows, np.concatenate([rows[:, :1], boxes[rows[:, 0], rows[:, 1]]], axis=1))
    if len(rows) < n:
        raise DataError(
            f"select: {where} needs {n} crops (ipc x patches per image) but has {len(rows)} to choose from; lower ipc "
            "or compose.factor, raise candidates or crop.per_image, or set select.pool=all and select.duplicates=True."
        )
    tied, others = ties(keys, rows, boxes, n)
    if tied > TIES * n and tied + others > 2:  # two may agree in five digits by chance
        warn(f"select: {where}, {settings.rule}: {tied} of {n} crops were chosen by id, {others} others score the same")
    return rows[:n]
