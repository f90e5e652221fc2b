"""Integers to bytes and back: Laplace laws as frozen integer frequencies, and a range coder, `constriction`'s.

A law has a mean in 1/64 of a symbol and the index i of a scale (mean deviation), 2^(i/8) of these 1/64. Laws whose
scale reaches four symbols code v >> s by a narrower law and the low s bits as they are, so that one table does:
frequencies of 2^24 for 64 scales, 64 places of the mean between symbols, 63 symbols about it and an escape. They are
integers made of integers, since a decoder on another machine has to find the same. docs/rate_utility.md has the format.
"""

import functools
import importlib.metadata
import itertools
from decimal import Context, Decimal, localcontext
from typing import NamedTuple

import numpy as np

from infoutil_jax.errors import CorruptArtifact, EnvironmentFault

ONE = 64  # a symbol, in the units of means and deviations
OCTAVE = 8  # scales in a factor of two
N_SCALES = 248  # the widest law keeps 23 low bits, constriction's limit
TABLE_SCALES = 64
REACH = 31  # symbols to each side of the one next to the mean; farther ones are escapes
WIDTH = 2 * REACH + 2
ESCAPE = WIDTH - 1
TOTAL = 1 << 24  # of the frequencies
CHUNK = 1 << 14  # symbols whose laws are in memory at once
_ONE_62 = 1 << 62  # fixed point of the exponentials
_DIGITS = Context(prec=40)
CONSTRICTION = "0.5.0"  # whose symbols the formats of this package are made of
_WAY_OUT = f"pip install 'constriction=={CONSTRICTION}'"


class _Law(NamedTuple):
    """Of n symbols: a symbol v is `nearest + offset`, shifted, and its low bits; its offset has a place in the row."""

    weights: np.ndarray  # (n, WIDTH)
    nearest: np.ndarray  # (n,)
    shifts: np.ndarray  # (n,)


class Encoder:
    """Takes symbols in calls; the decoder makes the same calls."""

    def __init__(self):
        self._constriction = _constriction()
        self._queue = self._constriction.stream.queue.RangeEncoder()

    def encode(self, symbols, means_64, scales):
        """All (n,) integers: symbols below 2^62 in size, means in 1/64 symbol, scales from 0 to N_SCALES - 1."""
        model = self._constriction.stream.model
        for part in _chunks(len(symbols)):
            law = _law(means_64[part], scales[part])
            indices, low = _split(np.asarray(symbols[part], np.int64), law)
            self._queue.encode(indices.astype(np.int32), model.Categorical(perfect=False), law.weights)
            wide = law.shifts > 0
            if wide.any():
                self._queue.encode(low[wide].astype(np.int32), model.Uniform(), _sizes(law.shifts[wide]))
            bits = [bit for number in _escaped(symbols[part], law, indices) for bit in _gamma(number)]
            if bits:
                self._queue.encode(np.array(bits, np.int32), model.Uniform(2))

    def finish(self) -> bytes:
        return self._queue.get_compressed().astype("<u4").tobytes()


class Decoder:
    def __init__(self, data: bytes):
        """Raises CorruptArtifact, as `decode` does, for some bytes that no encoder made. Most wrong bytes are symbols
        like others: whoever keeps a stream keeps a checksum with it."""
        if len(data) % 4:
            raise CorruptArtifact(f"range-coded stream: {len(data)} bytes are no 32-bit words; restore it from a copy")
        self._constriction = _constriction()
        self._queue = self._constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def decode(self, means_64, scales) -> np.ndarray:
        """Symbols (n,) int64 of one call of `encode`."""
        found = [self._decode(_law(means_64[part], scales[part])) for part in _chunks(len(means_64))]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def _decode(self, law) -> np.ndarray:
        model = self._constriction.stream.model
        indices = self._take(model.Categorical(perfect=False), law.weights).astype(np.int64)
        low = np.zeros(len(indices), np.int64)
        wide = law.shifts > 0
        if wide.any():
            low[wide] = self._take(model.Uniform(), _sizes(law.shifts[wide]))
        offsets = indices - REACH
        for at in np.flatnonzero(indices == ESCAPE):
            offsets[at] = _offset(self._take_gamma(model.Uniform(2)))
        return ((law.nearest + offsets) << law.shifts) + low

    def _take_gamma(self, bit) -> int:
        zeros = 0
        while not self._take(bit):
            zeros += 1
            if zeros > 63:
                raise _never_written()
        rest = self._take(bit, zeros).tolist() if zeros else []
        return functools.reduce(lambda number, b: 2 * number + b, rest, 1)

    def _take(self, *model):
        try:
            return self._queue.decode(*model)
        except AssertionError as error:
            raise _never_written() from error


def bits(symbols, means_64, scales) -> float:
    """Information of the symbols by their laws: what the encoder's bytes come to, less than 64 bits apart."""
    total = 0.0
    for part in _chunks(len(symbols)):
        law = _law(means_64[part], scales[part])
        indices, _ = _split(np.asarray(symbols[part], np.int64), law)
        frequencies = np.take_along_axis(law.weights, indices[:, None], 1) + 1.0
        total += float((24 - np.log2(frequencies)).sum() + law.shifts.sum())
        total += sum(2 * number.bit_length() - 1 for number in _escaped(symbols[part], law, indices))
    return total


def scale_index(deviations_64) -> np.ndarray:
    """Index of the scale nearest, by ratio, to mean deviations in 1/64 of a symbol (integers): 0 below the first."""
    return np.searchsorted(_thresholds(), np.asarray(deviations_64), side="right").astype(np.int64)


@functools.lru_cache(maxsize=1)
def table() -> np.ndarray:
    """Weights (scale, place, symbol), the frequencies less one, as float32, which holds these integers exactly.

    Symbol j of a place f is j - REACH away from the one next to the mean, which lies f - 32 sixty-fourths above that.
    `constriction` turns weights w that sum to TOTAL - WIDTH into the frequencies w + 1 without rounding.
    """
    free = TOTAL - WIDTH
    edges_ff = ONE * np.arange(-REACH, REACH + 2)[None, :] - ONE // 2 - (np.arange(ONE)[:, None] - ONE // 2)
    weights = np.empty((TABLE_SCALES, ONE, WIDTH), np.int64)
    for i in range(TABLE_SCALES):
        tails = _tails(i, int(np.abs(edges_ff).max()))
        below = np.array([tail * free // (2 * _ONE_62) for tail in tails])  # free weight beyond a distance
        cumulative = np.where(edges_ff <= 0, below[np.abs(edges_ff)], free - below[np.abs(edges_ff)])
        weights[i, :, :ESCAPE] = np.diff(cumulative, axis=1)
        weights[i, :, ESCAPE] = free - weights[i, :, :ESCAPE].sum(1)
    table_f32 = weights.astype(np.float32)
    table_f32.flags.writeable = False
    return table_f32


def _tails(i: int, reach: int) -> list[int]:
    """exp(-k / b) for k = 0 .. reach sixty-fourths of a symbol, b the i-th scale, in units of 2^-62."""
    with localcontext(_DIGITS):  # of all arithmetic, whatever the caller's is
        ratio = int((-_power(Decimal(-i) / OCTAVE)).exp() * _ONE_62)
    return list(itertools.accumulate(range(reach), lambda tail, _: tail * ratio >> 62, initial=_ONE_62))


def _power(exponent: Decimal) -> Decimal:
    return _DIGITS.power(2, exponent)


@functools.lru_cache(maxsize=1)
def _thresholds() -> np.ndarray:
    """The least deviation of every scale but the first: half a step, by ratio, below it."""
    with localcontext(_DIGITS):
        return np.array([int(_power(Decimal(2 * i - 1) / (2 * OCTAVE))) + 1 for i in range(1, N_SCALES)])


def _law(means_64, scales) -> _Law:
    means_64, scales = np.asarray(means_64, np.int64), np.asarray(scales, np.int64)
    shifts = np.maximum(scales - TABLE_SCALES + OCTAVE, 0) // OCTAVE
    middles = (means_64 + ONE // 2) >> shifts  # of the mean, from the lower edge of symbol 0
    weights = table()[scales - OCTAVE * shifts, middles & (ONE - 1)]
    return _Law(weights, middles >> 6, shifts)


def _split(symbols, law):
    """The index of each symbol in its row, and its low bits."""
    offsets = (symbols >> law.shifts) - law.nearest
    return np.where(np.abs(offsets) > REACH, ESCAPE, offsets + REACH), symbols & ((1 << law.shifts) - 1)


def _escaped(symbols, law, indices):
    """The positive numbers that stand for offsets beyond REACH, nearest first: odd above, even below."""
    for at in np.flatnonzero(indices == ESCAPE):
        offset = (int(symbols[at]) >> int(law.shifts[at])) - int(law.nearest[at])
        yield 2 * (abs(offset) - REACH) - (offset > 0)


def _offset(number: int) -> int:
    """Of which `_escaped` made a number."""
    size = (number + 1) // 2 + REACH
    return size if number % 2 else -size


def _gamma(number: int) -> list[int]:
    """Elias's gamma code: as many zeros as there are bits after the first, then the number."""
    return [0] * (number.bit_length() - 1) + [int(bit) for bit in f"{number:b}"]


def _sizes(shifts) -> np.ndarray:
    return (1 << shifts).astype(np.int32)


def _chunks(n: int):
    return (slice(start, start + CHUNK) for start in range(0, n, CHUNK))


def _never_written() -> CorruptArtifact:
    return CorruptArtifact("range-coded stream: no encoder of these laws wrote it; restore it from a copy")


def _constriction():
    try:
        import constriction
    except ImportError as error:
        raise EnvironmentFault(f"rate: the range coder needs the package constriction; {_WAY_OUT}") from error
    if (found := importlib.metadata.version("constriction")) != CONSTRICTION:
        raise EnvironmentFault(f"rate: constriction {found} may decode other symbols than {CONSTRICTION}; {_WAY_OUT}")
    return constriction
