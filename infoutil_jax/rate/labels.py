"""The label stream: every patch's soft label in a few bits a class instead of 16.

What is coded of a patch's logits is their difference to the logit of its class, in steps: all K - 1 of them, or the
`top` largest, which they are, and one level for the rest. A softmax does not see what the differences leave out; a loss
on the logits themselves (evaluate.loss = mse) does. Every difference is a Laplace symbol about the mean of those that
were coded before for the same pair (class of the patch, class of the logit), with their mean deviation as its scale.
All of that is integer arithmetic, which the decoder repeats, so nothing of it has to be stored.

`coder` is `rate.entropy`, or what behaves like it. Letters: N images, k patches, K classes, R = N * k rows.
"""

import bisect
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from infoutil_jax.checks import in_range
from infoutil_jax.errors import CorruptArtifact, DataError

MAGIC = b"IUL1"
# magic | step float32 | N | k | K | top uint32 | prior mean, prior deviation int32, 1/64 of a symbol | CRC-32 uint32
HEADER = struct.Struct("<4sfIIIIiiI")
ONE = 64  # a symbol, in the units of means and deviations
PRIOR_MEAN, PRIOR_DEVIATION = 1, 2  # how many earlier symbols the priors weigh


@dataclass(frozen=True)
class Settings:
    step: float  # of a logit; it comes back within half of this
    top: int = 0  # logits kept besides the class's own, 0 = all
    temperature: float = 1.0  # of the students' softmax: at this one the rest keeps its share of probability

    def __post_init__(self):
        in_range("labels.step", self.step, 1e-3)
        in_range("labels.top", self.top, 0)
        in_range("labels.temperature", self.temperature, 1e-3)


def encode(patch_logits_NkK, labels_N, settings: Settings, coder) -> bytes:
    """Logits as bytes. The decoder needs `labels_N` too; they come with the images. Raises DataError for others, and
    for logits that are not finite."""
    symbols_RK, coded_RK, classes_R = _quantise(patch_logits_NkK, labels_N, settings)
    prior, encoder = _prior(symbols_RK[coded_RK]), coder.Encoder()

    def put(rows, columns, means, scales):
        values = symbols_RK[rows, columns]
        encoder.encode(values, means, scales)
        return values

    _walk(coded_RK, classes_R, prior, coder, put)
    step = np.float32(settings.step)
    header = HEADER.pack(MAGIC, step, *np.shape(patch_logits_NkK), settings.top, *prior, 0)
    return _sealed(header, _pack_subsets(coded_RK, classes_R, settings.top) + encoder.finish(), labels_N)


def decode(data: bytes, labels_N, coder) -> np.ndarray:
    """Logits (N, k, K) float32, 0 for each patch's class. Raises CorruptArtifact for what `encode` never wrote, and for
    the labels of other images."""
    labels_N, step, shape, top, prior, body = *open_stream(data, labels_N), data[HEADER.size :]
    n, k, n_classes = shape
    classes_R = np.repeat(labels_N, k)
    coded_RK, used = _unpack_subsets(body, classes_R, n_classes, top)
    decoder = coder.Decoder(body[used:])
    symbols_RK = _walk(coded_RK, classes_R, prior, coder, lambda rows, columns, *model: decoder.decode(*model))
    rows = np.arange(len(classes_R))
    if top:
        symbols_RK = np.where(coded_RK, symbols_RK, symbols_RK[rows, classes_R, None])
    symbols_RK[rows, classes_R] = 0
    return (symbols_RK.astype(np.float32) * np.float32(step)).reshape(shape)


def estimate_bits(patch_logits_NkK, labels_N, settings: Settings, coder) -> float:
    """Bits of `encode` by the model alone: header, subsets and the information of every symbol."""
    symbols_RK, coded_RK, classes_R = _quantise(patch_logits_NkK, labels_N, settings)
    bits = 8 * (HEADER.size + len(_pack_subsets(coded_RK, classes_R, settings.top)))

    def count(rows, columns, means, scales):
        nonlocal bits
        values = symbols_RK[rows, columns]
        bits += coder.bits(values, means, scales)
        return values

    _walk(coded_RK, classes_R, _prior(symbols_RK[coded_RK]), coder, count)
    return float(bits)


def _quantise(patch_logits_NkK, labels_N, settings: Settings):
    """Symbols (R, K) int64, which of them are coded, and the rows' classes. With `top`, the place of a row's own class,
    whose difference is always 0, holds the level of the rest."""
    n, k, n_classes = np.shape(patch_logits_NkK)
    labels_N = np.asarray(labels_N)
    if not n or labels_N.shape != (n,) or labels_N.min() < 0 or labels_N.max() >= n_classes:
        raise DataError(f"labels: {labels_N.shape} do not name {n} of {n_classes} classes; give those of the images")
    if n_classes < 2:
        raise DataError("labels: a softmax over one class says nothing; leave its soft labels out")
    if settings.top and settings.top > n_classes - 2:
        raise DataError(f"labels.top={settings.top}: {n_classes} classes leave no rest; give 0 to keep all logits")
    classes_R, rows = np.repeat(labels_N, k), np.arange(n * k)
    logits_RK = np.asarray(patch_logits_NkK, np.float64).reshape(n * k, n_classes)
    if not np.isfinite(logits_RK).all():
        raise DataError("labels: logits are not finite; load the set with its logits")
    differences_RK = logits_RK - logits_RK[rows, classes_R, None]
    coded_RK = np.ones(logits_RK.shape, bool)
    coded_RK[rows, classes_R] = False
    if settings.top:
        others_RK = np.where(coded_RK, logits_RK, -np.inf)
        kept_Rt = np.argsort(-others_RK, axis=1, kind="stable")[:, : settings.top]
        coded_RK[:] = False
        np.put_along_axis(coded_RK, kept_Rt, True, axis=1)
        coded_RK[rows, classes_R] = True
        differences_RK[rows, classes_R] = _level(np.where(coded_RK, -np.inf, differences_RK), settings.temperature)
    return np.rint(differences_RK / np.float64(np.float32(settings.step))).astype(np.int64), coded_RK, classes_R


def _level(rest_RK, temperature: float) -> np.ndarray:
    """The one logit that, in the place of each of the rest (-inf elsewhere), keeps the sum of their probabilities."""
    top_R1 = rest_RK.max(1, keepdims=True)
    n_rest = np.isfinite(rest_RK).sum(1)
    return top_R1[:, 0] + temperature * np.log(np.exp((rest_RK - top_R1) / temperature).sum(1) / n_rest)


def _prior(symbols) -> tuple[int, int]:
    """Mean and mean deviation of all symbols, for pairs of classes that have none yet."""
    mean = round(ONE * float(symbols.mean()))
    deviation = round(float(np.abs(ONE * symbols - mean).mean()))
    if max(abs(mean), deviation) >= 1 << 31:
        raise DataError(f"labels.step: logits are {abs(mean) / ONE:.0f} steps from their class's; give a larger one")
    return mean, deviation


def _walk(coded_RK, classes_R, prior, coder, exchange) -> np.ndarray:
    """Calls `exchange(rows, columns, means, scales)` -> symbols for all coded places, in an order and with a model that
    depend on earlier symbols alone; returns them as (R, K). Each round is the next patch of every class, so that no
    pair of classes is in it twice."""
    n_classes = coded_RK.shape[1]
    symbols_RK = np.zeros(coded_RK.shape, np.int64)
    count_KK, sum_KK, deviation_KK = np.zeros((3, n_classes, n_classes), np.int64)
    for rows in _rounds(classes_R):
        at, columns = np.nonzero(coded_RK[rows])
        pair = classes_R[rows[at]], columns
        seen = count_KK[pair]
        means = (sum_KK[pair] + PRIOR_MEAN * prior[0]) // (seen + PRIOR_MEAN)
        deviations = (deviation_KK[pair] + PRIOR_DEVIATION * prior[1]) // (seen + PRIOR_DEVIATION)
        symbols = exchange(rows[at], columns, means, coder.scale_index(deviations))
        symbols_RK[rows[at], columns] = symbols
        count_KK[pair] += 1
        sum_KK[pair] += ONE * symbols
        deviation_KK[pair] += np.abs(ONE * symbols - means)
    return symbols_RK


def _rounds(classes_R) -> list[np.ndarray]:
    """Rows by how many of their class come before them."""
    order = np.argsort(classes_R, kind="stable")
    starts = np.searchsorted(classes_R[order], classes_R[order])
    place = np.arange(len(order)) - starts
    return [np.sort(order[place == i]) for i in range(place.max() + 1)]


def _subset_bits(n_classes: int, top: int) -> int:
    return (math.comb(n_classes - 1, top) - 1).bit_length()


def _pack_subsets(coded_RK, classes_R, top: int) -> bytes:
    """Which logits are kept, each row's subset as its number among all subsets of its size (combinatorial number
    system), in as many bits as the largest needs."""
    if not top:
        return b""
    width, text = _subset_bits(coded_RK.shape[1], top), []
    for coded_K, own in zip(coded_RK, classes_R, strict=True):
        kept = np.flatnonzero(np.delete(coded_K, own)).tolist()
        text.append(f"{sum(math.comb(c, i) for i, c in enumerate(kept, start=1)):0{width}b}")
    bits = "".join(text)
    return np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0")).tobytes()


def _unpack_subsets(data: bytes, classes_R, n_classes: int, top: int) -> tuple[np.ndarray, int]:
    """What is coded (R, K), and the bytes that said so."""
    coded_RK = np.ones((len(classes_R), n_classes), bool)
    if not top:
        coded_RK[np.arange(len(classes_R)), classes_R] = False
        return coded_RK, 0
    width = _subset_bits(n_classes, top)
    used = -(-width * len(classes_R) // 8)
    bits = (np.unpackbits(np.frombuffer(data[:used], np.uint8)) + ord("0")).tobytes().decode()
    for row, own in enumerate(classes_R):
        number, others = int(bits[row * width : (row + 1) * width], 2), np.zeros(n_classes - 1, bool)
        for i in range(top, 0, -1):
            c = bisect.bisect_right(range(n_classes - 1), number, key=lambda c, i=i: math.comb(c, i)) - 1
            number -= math.comb(c, i)
            others[c] = True
        coded_RK[row] = np.insert(others, own, True)
    return coded_RK, used


def _sealed(header: bytes, body: bytes, labels_N) -> bytes:
    """With the CRC-32 of the labels, which the decoder has, and of all bytes but its own four."""
    known = np.asarray(labels_N, "<i4").tobytes()
    return header[:-4] + struct.pack("<I", zlib.crc32(known + header[:-4] + body)) + body


def open_stream(data: bytes, labels_N):
    """Labels, step, shape, top and prior of a whole stream of these images; CorruptArtifact for any other."""
    if len(data) < HEADER.size or data[: len(MAGIC)] != MAGIC:
        raise CorruptArtifact("label stream: does not begin as one; give the bytes that labels.encode made")
    if _sealed(data[: HEADER.size], data[HEADER.size :], labels_N) != data:
        fault = "label stream: CRC-32 differs, so bytes were changed or lost, or the labels are of other images"
        raise CorruptArtifact(f"{fault}; restore it from a copy, or give the labels that it was made with")
    _, step, n, k, n_classes, top, mean, deviation, _ = HEADER.unpack_from(data)
    return np.asarray(labels_N), step, (n, k, n_classes), top, (mean, deviation)
