"""A set through a point's coders: bytes, and what they decode to."""

import dataclasses
from typing import NamedTuple

import numpy as np

from experiments.rate_utility.points import LABELS, Latents
from infoutil_jax.errors import CorruptArtifact
from infoutil_jax.rate import accounting, decoded, image_codecs, labels
from infoutil_jax.types import DistilledSet


class Coded(NamedTuple):
    n_bytes: dict[str, int]  # by part: images, networks, labels, header
    distilled: DistilledSet  # what the bytes decode to
    estimate: float | None  # bits of the latents by the model that was trained, of the codec alone


def through(bench, point) -> Coded:
    """The set of `bench` (measure.Bench) as the students of this point get it."""
    soft, code = _soft_labels(bench, point), _latents if isinstance(point.images, Latents) else _standard
    n_bytes, images_u8, labels_N, logits, estimate = code(bench, point, soft)
    if not np.array_equal(labels_N, bench.distilled.labels):
        raise CorruptArtifact(f"{point.name}: the hard labels did not come back; report it.")
    distilled = decoded.with_images(bench.distilled, images_u8)
    if logits is not None:
        distilled = decoded.with_logits(distilled, logits)
    return Coded(n_bytes | {"labels": len(soft)}, distilled, estimate)


def _latents(bench, point, soft: bytes):
    from experiments.rate_utility import latents

    n_bytes, found, estimate = latents.code(bench, point, soft)
    return n_bytes, found.images_u8, found.labels, found.patch_logits, estimate


def _standard(bench, point, soft: bytes):
    own = bench.distilled
    data = image_codecs.encode(own.images_u8, own.labels, own.patch_logits.shape[2], point.images)
    files = image_codecs.image_bytes(data)
    images_u8, labels_N = image_codecs.decode(data)
    logits = None if point.labels == "online" else _logits(bench, point, soft, labels_N)
    return {"images": files, "networks": 0, "header": len(data) - files}, images_u8, labels_N, logits, None


def _soft_labels(bench, point) -> bytes:
    """The label stream; on line there is none."""
    settings, logits = LABELS[point.labels], bench.distilled.patch_logits
    if settings == "online":
        return b""
    if settings == "float16":
        return logits.astype("<f2").tobytes()
    from infoutil_jax.rate import entropy

    settings = dataclasses.replace(settings, temperature=bench.settings.evaluate.temperature)
    return labels.encode(logits, bench.distilled.labels, settings, entropy)


def _logits(bench, point, data: bytes, labels_N) -> np.ndarray:
    """(N, k, K) float32, as the stream has them."""
    if point.labels == "float16":
        return np.frombuffer(data, "<f2").reshape(bench.distilled.patch_logits.shape).astype(np.float32)
    from infoutil_jax.rate import entropy

    return labels.decode(data, labels_N, entropy)


def teacher_bits(settings, n_classes: int) -> float:
    """Bits per class of the teacher that on-line labels ask for, in float32, as students ask it."""
    teacher = settings.teacher
    n_values = accounting.n_network_values(teacher.model, teacher.width, n_classes, settings.data.image_size)
    return accounting.network_bits(n_values, n_classes, 32)


def psnr(one_u8, other_u8) -> float | None:
    """Of all pixels together, in dB; None where they are equal."""
    error = np.mean((one_u8.astype(np.float64) - other_u8) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else None
