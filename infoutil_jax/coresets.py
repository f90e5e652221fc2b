"""Coresets: whole real images chosen by what a network makes of them, the oldest rivals of distilled ones. Orders over
the features of one class, and how often an image was forgotten."""

import warnings

import numpy as np


def herding(features_ND) -> np.ndarray:
    """Rows (N,) int64 in the order in which herding takes them (Welling 2009; as in iCaRL,
    arXiv 1611.07725, Algorithm 4): always the one that brings the mean of those taken nearest to the mean of all.

    Features are scaled to unit length first. Distances are compared to five digits; ties go to the first row.
    """
    unit_ND = _unit_rows(features_ND)
    target, total = unit_ND.mean(axis=0), np.zeros(unit_ND.shape[1])
    left, order = np.ones(len(unit_ND), bool), []
    for k in range(1, len(unit_ND) + 1):
        distance = np.linalg.norm(target - (total + unit_ND) / k, axis=1)
        best = int(np.where(left, rounded(distance), np.inf).argmin())
        order.append(best)
        left[best] = False
        total += unit_ND[best]
    return np.array(order)


def k_means(features_ND, n: int, seed: int) -> np.ndarray:
    """Rows (N,) int64: first those nearest to the centroids of `n` clusters, then all others, by that distance.

    Clusters are scikit-learn's, from `seed`; fewer than `n` where rows are too alike. Ties go to the first row.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    features_ND = np.asarray(features_ND, np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # says that rows are too alike for `n` clusters
        fitted = KMeans(min(n, len(features_ND)), random_state=seed).fit(features_ND)
    own = fitted.labels_
    distance = rounded(np.linalg.norm(features_ND - fitted.cluster_centers_[own], axis=1))
    by_distance = np.argsort(distance, kind="stable")
    _, first = np.unique(own[by_distance], return_index=True)
    nearest = by_distance[np.sort(first)]
    return np.concatenate([nearest, by_distance[~np.isin(by_distance, nearest)]])


def forgetting_counts(correct_EN) -> np.ndarray:
    """How often each of N images was forgotten, (N,) int32: classified rightly in one epoch and wrongly in the next
    (Toneva et al. 2019, arXiv 1812.05159). An image that was never right counts E, more than any other can.

    correct_EN: bool, whether the network in training was right about the image in each of E epochs.
    """
    correct_EN = np.asarray(correct_EN, bool)
    events = (correct_EN[:-1] & ~correct_EN[1:]).sum(axis=0)
    return np.where(correct_EN.any(axis=0), events, len(correct_EN)).astype(np.int32)


def rounded(values) -> np.ndarray:
    """To five significant digits, so that rounding noise between devices cannot change an order."""
    values = np.asarray(values, np.float64)
    digits = 4 - np.floor(np.log10(np.abs(values), where=values != 0, out=np.zeros_like(values)))
    return np.round(values * 10.0**digits) / 10.0**digits


def _unit_rows(features_ND) -> np.ndarray:
    features_ND = np.asarray(features_ND, np.float64)
    length = np.linalg.norm(features_ND, axis=1, keepdims=True)
    return features_ND / np.where(length > 0, length, 1)
