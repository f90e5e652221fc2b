"""The few records that cross stage boundaries. Letters: N examples, H W image, C channels (3), K classes, G grid side,
P = G*G players, S coalitions, M candidates per class, R crops per image, I images per class, F mosaic side, k = F*F."""

from typing import NamedTuple

import numpy as np


class Candidates(NamedTuple):
    """One class's pool of real images."""

    images_u8: np.ndarray  # (M, H, W, 3) uint8
    ids: tuple[str, ...]  # M stable ids, unique within the dataset
    label: int


class Scores(NamedTuple):
    """What selection may look at, for every crop of a class; leading shape (M, R)."""

    loss: np.ndarray  # float32, cross-entropy in nats
    correct: np.ndarray  # bool
    gradient_norm: np.ndarray  # float32; NaN where it was not asked for
    features: np.ndarray = np.zeros(0, np.float32)  # (M, R, D), the classifier's input; empty where not asked for
    forgotten: np.ndarray = np.zeros(0, np.int32)  # times in the teacher's training; empty where not asked for


class DistilledImage(NamedTuple):
    """One record of a distilled set: an image of k patches, its labels and where each patch came from."""

    image_u8: np.ndarray  # (H, W, 3) uint8
    label: int
    patch_logits: np.ndarray  # (k, K) float32, the label teacher's logits on each patch at full size
    patch_ids: tuple[str, ...]  # k ids of the source images
    patch_boxes: np.ndarray  # (k, 4) int32, y x h w in the source image as fitted to H x W
    patch_shapley: np.ndarray  # (k,) float32, pooled Shapley value of the box; NaN where none was computed
    patch_gradient_norm: np.ndarray  # (k,) float32


class DistilledSet(NamedTuple):
    """A whole distilled set in memory, rows in the order of the files (class by class, best rank first)."""

    images_u8: np.ndarray  # (N, H, W, 3) uint8
    labels: np.ndarray  # (N,) int32
    patch_logits: np.ndarray  # (N, k, K) float32
    patch_ids: tuple[tuple[str, ...], ...]  # N tuples of k
    patch_boxes: np.ndarray  # (N, k, 4) int32
    patch_shapley: np.ndarray  # (N, k) float32
    patch_gradient_norm: np.ndarray  # (N, k) float32
    manifest: dict  # as written by the run
