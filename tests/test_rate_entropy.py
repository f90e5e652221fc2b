"""The range coder: every integer comes back, laws are frozen integers, and bytes are what the estimate says."""

import decimal
import hashlib
import importlib.metadata
import sys

import constriction
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from infoutil_jax.errors import CorruptArtifact, EnvironmentFault
from infoutil_jax.rate import entropy

FREE = 2**24 - 64
LARGEST = 2**62 - 1


def encode(*calls):
    encoder = entropy.Encoder()
    for call in calls:
        encoder.encode(*map(np.array, call))
    return encoder.finish()


def drawn(n, deviation, seed=0):
    """Symbols of Laplace laws about known means, with the scale that is next to their deviation."""
    rng = np.random.default_rng(seed)
    means_64 = rng.integers(-(10**5), 10**5, n)
    symbols = np.rint(means_64 / 64 + rng.laplace(scale=deviation, size=n)).astype(np.int64)
    return symbols, means_64, np.full(n, entropy.scale_index(round(64 * deviation)))


# What comes back


NUMBERS = st.one_of(st.integers(-40, 40), st.integers(-LARGEST, LARGEST))
SYMBOLS = st.tuples(NUMBERS, st.integers(-(2**40), 2**40), st.integers(0, entropy.N_SCALES - 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(SYMBOLS, min_size=1, max_size=6), max_size=4))
def test_every_integer_comes_back(calls):
    columns = [tuple(np.array(column) for column in zip(*call, strict=True)) for call in calls]
    decoder = entropy.Decoder(encode(*columns))
    for symbols, means, scales in columns:
        found = decoder.decode(means, scales)
        assert found.dtype == np.int64 and found.tolist() == symbols.tolist()


def test_a_call_of_many_symbols_is_coded_in_chunks(monkeypatch):
    symbols, means, scales = drawn(1000, 20.0)  # with low bits, and some escapes at a scale of a quarter
    scales[::3] = 30
    whole = encode((symbols, means, scales))
    monkeypatch.setattr(entropy, "CHUNK", 100)
    parts = [(symbols[i : i + 100], means[i : i + 100], scales[i : i + 100]) for i in range(0, 1000, 100)]
    data = encode((symbols, means, scales))
    assert data == encode(*parts) != whole
    assert np.array_equal(entropy.Decoder(data).decode(means, scales), symbols)
    assert entropy.bits(symbols, means, scales) == pytest.approx(sum(entropy.bits(*part) for part in parts))


# The law


def test_the_table_is_the_laplace_law():
    table = entropy.table().astype(np.int64)
    distances = np.arange(-31, 33) - 0.5
    for i in range(64):
        law = scipy.stats.laplace(((np.arange(64) - 32) / 64)[:, None], 2 ** (i / 8) / 64)
        due = FREE * np.diff(law.cdf(distances))
        assert np.abs(table[i, :, :63] - due).max() < 2  # both ends rounded down, towards the mean from either side
    assert (table.sum(2) == FREE).all() and table.min() == 0


def test_the_table_is_the_same_everywhere():
    with decimal.localcontext(prec=9):  # somebody else's
        table, thresholds = entropy.table.__wrapped__(), entropy._thresholds.__wrapped__()
    assert np.array_equal(table, entropy.table()) and np.array_equal(thresholds, entropy._thresholds())
    digest = hashlib.sha256(table.astype("<u4").tobytes()).hexdigest()
    assert digest == "e970f69004cb0a875d0afcc2639452f3469df01eb91bae9d0379e4925093544c"
    assert entropy.table()[20, 32, 29:34].tolist() == [0, 29_305, 16_718_542, 29_305, 0]


def test_constriction_rounds_nothing():
    """A fresh decoder asked for the first and the last number of a symbol's interval: both sides of every border."""
    rng = np.random.default_rng(0)
    rows = entropy.table()[[0, 0, 63, 63, *rng.integers(0, 64, 60)], [0, 32, 0, 63, *rng.integers(0, 64, 60)]]
    for weights in rows:
        ends = np.cumsum(weights.astype(np.int64) + 1)
        model = constriction.stream.model.Categorical(weights, perfect=False)
        for symbol, end in enumerate(ends.tolist()):
            start = ends[symbol - 1].item() if symbol else 0
            for quantile in (start, end - 1):
                point = quantile * (2**40 - 1)  # of the first 64 bits, cut into 2^24 intervals
                words = np.array([point >> 32, point & 0xFFFFFFFF], np.uint32)
                assert constriction.stream.queue.RangeDecoder(words).decode(model) == symbol


def test_the_scale_is_the_nearest_by_ratio():
    deviations = np.unique(np.concatenate([np.arange(300), np.geomspace(300, 2**30, 2000).astype(np.int64)]))
    logs = np.log2(np.maximum(deviations, 1))
    due = np.abs(logs[:, None] - np.arange(entropy.N_SCALES) / 8).argmin(1)
    assert entropy.scale_index(deviations).tolist() == due.tolist()
    assert entropy.scale_index(np.array([0, 2**40])).tolist() == [0, entropy.N_SCALES - 1]


# The bytes


def reference_decode(data, means_64, scales):
    """The format as docs/rate_utility.md has it, one symbol at a time, for one call."""
    words = iter([*np.frombuffer(data, "<u4").tolist(), *[0] * 4])
    lower, width, point = 0, 2**64 - 1, next(words) << 32 | next(words)

    def take(frequencies):
        nonlocal lower, width, point
        step = width >> 24
        quantile = (point - lower) % 2**64 // step
        symbol, start = 0, 0
        while start + frequencies[symbol] <= quantile:
            start += frequencies[symbol]
            symbol += 1
        lower, width = (lower + step * start) % 2**64, step * frequencies[symbol]
        if width < 2**32:
            lower, width = (lower << 32) % 2**64, width << 32
            point = (point << 32 | next(words)) % 2**64
        return symbol

    table, offsets, low = entropy.table().astype(np.int64) + 1, [], []
    shifts = [max(0, (scale - 56) // 8) for scale in scales]
    middles = [(mean + 32) >> shift for mean, shift in zip(means_64, shifts, strict=True)]
    for middle, scale, shift in zip(middles, scales, shifts, strict=True):
        offsets.append(take(table[scale - 8 * shift, middle % 64].tolist()) - 31)
    for shift in shifts:
        low.append(take([2 ** (24 - shift)] * 2**shift) if shift else 0)
    for at, offset in enumerate(offsets):
        if offset == 32:
            n_bits = 0
            while not take([2**23] * 2):
                n_bits += 1
            number = int("1" + "".join(str(take([2**23] * 2)) for _ in range(n_bits)), 2)
            offsets[at] = 31 + (number + 1) // 2 if number % 2 else -31 - number // 2
    places = zip(middles, offsets, shifts, low, strict=True)
    return [((middle // 64 + offset) << shift) + bits for middle, offset, shift, bits in places]


def test_the_stream_is_as_documented():
    rng = np.random.default_rng(1)
    symbols, means, _ = drawn(3000, 3.0)
    scales = rng.integers(0, 90, 3000)
    symbols[::100] *= 1000
    assert len(set(np.abs(symbols - means // 64) > 40)) == 2
    data = encode((symbols, means, scales))
    assert reference_decode(data, means.tolist(), scales.tolist()) == symbols.tolist()


def test_the_bytes_of_a_small_stream():
    data = encode(([0, -3, 500, 7], [0, 90, 1000, -64], [10, 40, 50, 80]), ([1], [64], [0]))
    assert data.hex() == "fb880d0093243171"


@pytest.mark.parametrize("deviation", [0.05, 0.3, 1.0, 3.9, 4.1, 30.0, 3000.0])
def test_bytes_estimate_and_entropy_agree(deviation):
    symbols, means, scales = drawn(20_000, deviation)
    written, estimate = 8 * len(encode((symbols, means, scales))), entropy.bits(symbols, means, scales)
    assert -1 <= written - estimate < 64 + 1e-4 * estimate
    law = scipy.stats.laplace(means / 64, deviation)
    ideal = -np.log2(law.cdf(symbols + 0.5) - law.cdf(symbols - 0.5)).sum()
    assert estimate == pytest.approx(ideal, rel=6e-3)


def test_an_escape_costs_its_law_and_twice_its_digits():
    zero = np.zeros(1, np.int64)
    for offset, digits in ((32, 1), (-32, 2), (33, 2), (-33, 3), (1000, 11)):
        assert entropy.bits(zero + offset, zero, zero) == 24 + 2 * digits - 1


# What is refused


def test_bytes_that_are_no_words_are_refused():
    with pytest.raises(CorruptArtifact, match="5 bytes are no 32-bit words"):
        entropy.Decoder(b"12345")


def test_an_escape_without_end_is_refused():
    """The point on the lower end of the escape's interval, and so of each interval of a zero in it, for ever."""
    ends = np.cumsum(entropy.table()[0, 32].astype(np.int64) + 1)
    point = int(ends[62]) * (2**40 - 1)
    data = np.array([point >> 32, point & 0xFFFFFFFF], "<u4").tobytes()
    with pytest.raises(CorruptArtifact, match="no encoder of these laws"):
        entropy.Decoder(data).decode(np.zeros(1, int), np.zeros(1, int))


def test_what_no_encoder_wrote_is_refused():
    """The very last of 2^64 points lies beyond 2^24 intervals of equal width."""
    with pytest.raises(CorruptArtifact, match="no encoder of these laws"):
        entropy.Decoder(b"\xff" * 8).decode(np.zeros(1, int), np.zeros(1, int))


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    for made in (entropy.Encoder, lambda: entropy.Decoder(b"")):
        with pytest.raises(EnvironmentFault, match="pip install 'constriction==0.5.0'"):
            made()


def test_another_version_is_refused_as_it_might_decode_other_symbols(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"constriction": "0.6.1"}[name])
    with pytest.raises(EnvironmentFault, match="constriction 0.6.1 may decode other symbols than 0.5.0; pip install"):
        entropy.Encoder()
