"""The label stream: what comes back, what it costs, and that decoding takes the bytes and the classes alone."""

import itertools
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from infoutil_jax.errors import ConfigError, CorruptArtifact, DataError
from infoutil_jax.rate import entropy, labels
from infoutil_jax.rate.labels import Settings

TABLE = np.array([4, 8, 16, 32, 64, 128, 256, 512, 1024])  # scales in 1/64 of a symbol


class Tape:
    """An encoder that keeps symbols as they are, with the model that they were to be coded by."""

    def __init__(self):
        self.calls = []

    def encode(self, symbols, means, scales):
        assert means.dtype == scales.dtype == np.int64 and len(symbols) == len(means) == len(scales)
        self.calls.append((symbols.copy(), means, scales))

    def finish(self):
        return pickle.dumps(self.calls)


class Replay:
    """Its decoder: gives the symbols only to who asks with the same model."""

    def __init__(self, data):
        self.calls = iter(pickle.loads(data))

    def decode(self, means, scales):
        symbols, due_means, due_scales = next(self.calls)
        assert np.array_equal(means, due_means) and np.array_equal(scales, due_scales)
        return symbols


def ideal_bits(symbols, means, scales):
    law = scipy.stats.laplace(means / 64, TABLE[scales] / 64)
    return float(-np.log2(np.maximum(law.cdf(symbols + 0.5) - law.cdf(symbols - 0.5), 2.0**-24)).sum())


def scale_index(deviations):
    return np.minimum(np.searchsorted(TABLE, deviations), len(TABLE) - 1)


CODER = SimpleNamespace(Encoder=Tape, Decoder=Replay, bits=ideal_bits, scale_index=scale_index)
CLASSES = np.array([0, 0, 0, 1, 1, 3, 3, 3, 3, 4])  # none of class 2, unequal numbers


def make_logits(seed=0, classes=CLASSES, k=2, n_classes=6):
    """Logits as a teacher gives: the own class high, every pair of classes with a mean of its own."""
    rng = np.random.default_rng(seed)
    means_KK = rng.normal(scale=4, size=(n_classes, n_classes)) + 8 * np.eye(n_classes)
    return (means_KK[classes][:, None] + rng.normal(size=(len(classes), k, n_classes))).astype(np.float32)


def relative(logits_NkK, classes=CLASSES):
    """Differences to the logit of the class."""
    return logits_NkK - np.stack([logits_NkK[i, :, c] for i, c in enumerate(classes)])[..., None]


def softmax(logits, temperature=1.0):
    p = np.exp(np.asarray(logits, np.float64) / temperature)
    return p / p.sum(-1, keepdims=True)


def there_and_back(logits, settings, classes=CLASSES):
    back = labels.decode(labels.encode(logits, classes, settings, CODER), classes, CODER)
    assert back.shape == logits.shape and back.dtype == np.float32
    return back


# What comes back


@pytest.mark.parametrize("step", [0.01, 0.35, 2.0])
def test_all_logits_come_back_within_half_a_step(step):
    logits = make_logits()
    error = np.abs(there_and_back(logits, Settings(step)) - relative(logits))
    assert error.max() <= step / 2 * (1 + 1e-5)
    assert error.max() > 0.4 * step


def test_a_constant_of_each_patch_changes_no_byte():
    logits = np.round(64 * make_logits()) / 64  # so that sums are exact
    moved = logits + 2.0 ** np.arange(2)[None, :, None]
    one, two = (labels.encode(x, CLASSES, Settings(0.5), CODER) for x in (logits, moved))
    assert one == two


@pytest.mark.parametrize("top", [1, 3, 4])
def test_the_top_logits_come_back_and_the_rest_is_level(top):
    logits, step = make_logits(1), 0.01
    back, due = there_and_back(logits, Settings(step, top)), relative(logits)
    for i, j in np.ndindex(logits.shape[:2]):
        own = CLASSES[i]
        order = [c for c in np.argsort(-logits[i, j]) if c != own]
        kept, rest = order[:top], order[top:]
        assert back[i, j, own] == 0
        assert np.abs(back[i, j, kept] - due[i, j, kept]).max() <= step / 2 * (1 + 1e-4)
        assert len(set(back[i, j, rest])) == 1


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_rest_keeps_its_probability_at_the_students_temperature(temperature):
    logits = make_logits(2)

    def ratios(trained_for):
        """Of the rest's probability as decoded to what it was, for every patch."""
        back = there_and_back(logits, Settings(0.001, 2, trained_for))
        due, found = softmax(logits, temperature), softmax(back, temperature)
        for i, j in np.ndindex(logits.shape[:2]):
            rest = [c for c in np.argsort(-logits[i, j]) if c != CLASSES[i]][2:]
            yield found[i, j, rest].sum() / due[i, j, rest].sum()

    assert list(ratios(temperature)) == pytest.approx([1.0] * 20, rel=3e-3)
    assert np.abs(np.log(list(ratios(21.0 - temperature)))).max() > 0.05


def test_subsets_are_numbered_without_gap_or_double():
    n_classes, top, own = 7, 3, 2
    subsets = list(itertools.combinations([c for c in range(n_classes) if c != own], top))
    coded = np.zeros((len(subsets), n_classes), bool)
    for row, subset in zip(coded, subsets, strict=True):
        row[[*subset, own]] = True
    classes = np.full(len(subsets), own)
    data = labels._pack_subsets(coded, classes, top)
    width = math.ceil(math.log2(math.comb(6, 3)))
    assert len(data) == math.ceil(len(subsets) * width / 8)
    bits = "".join(f"{byte:08b}" for byte in data)
    assert sorted(int(bits[i * width :][:width], 2) for i in range(len(subsets))) == list(range(len(subsets)))
    back, used = labels._unpack_subsets(data + b"more", classes, n_classes, top)
    assert used == len(data) and np.array_equal(back, coded)


# The model


def model_by_hand(symbols_RK, coded_RK, classes_R, prior):
    """(symbol, mean, deviation) in the order of the stream, by plain loops over earlier rows."""
    places = []
    for row, own in enumerate(classes_R):
        turn = sum(c == own for c in classes_R[:row])
        for column in np.flatnonzero(coded_RK[row]):
            total, deviation, seen = prior[0], 2 * prior[1], 0
            for before in range(row):
                if classes_R[before] == own and coded_RK[before, column]:
                    value = 64 * int(symbols_RK[before, column])
                    deviation += abs(value - total // (seen + 1))
                    total, seen = total + value, seen + 1
            places.append(
                (turn, row, column, int(symbols_RK[row, column]), total // (seen + 1), deviation // (seen + 2))
            )
    return [place[3:] for place in sorted(places)]


@pytest.mark.parametrize("top", [0, 2])
def test_every_symbol_is_coded_by_the_model_of_the_symbols_before_it(top):
    logits, settings, tape = make_logits(3), Settings(0.35, top), Tape()
    coder = SimpleNamespace(**{**vars(CODER), "Encoder": lambda: tape})
    labels.encode(logits, CLASSES, settings, coder)
    found = [np.concatenate(column).tolist() for column in zip(*tape.calls, strict=True)]
    symbols, coded, classes = labels._quantise(logits, CLASSES, settings)
    assert coded.sum() == 20 * (5 if not top else 3)
    due = model_by_hand(symbols, coded, classes, labels._prior(symbols[coded]))
    assert found[0] == [symbol for symbol, _, _ in due]
    assert found[1] == [mean for _, mean, _ in due]
    assert found[2] == scale_index(np.array([deviation for _, _, deviation in due])).tolist()


def test_the_estimate_is_header_subsets_and_information():
    logits = make_logits(4)
    for top, subsets in ((0, 0), (2, math.ceil(20 * 4 / 8))):  # 10 subsets of 2 of 5: 4 bits for each of 20 patches
        tape = Tape()
        labels.encode(
            logits, CLASSES, Settings(0.35, top), SimpleNamespace(**{**vars(CODER), "Encoder": lambda t=tape: t})
        )
        information = sum(ideal_bits(*call) for call in tape.calls)
        estimate = labels.estimate_bits(logits, CLASSES, Settings(0.35, top), CODER)
        assert estimate == pytest.approx(8 * (36 + subsets) + information, rel=1e-12)


def test_the_pair_of_classes_and_the_step_are_what_saves_bits():
    classes = np.repeat(np.arange(6), 20)
    logits = make_logits(5, classes)
    fine, coarse = (labels.estimate_bits(logits, classes, Settings(s), CODER) for s in (0.25, 0.5))
    n_symbols = 120 * 2 * 5
    assert 0.9 < (fine - coarse) / n_symbols < 1.1  # half the step costs a bit
    mixed = np.random.default_rng(0).permutation(classes)  # the same patches under classes that say nothing of them
    assert labels.estimate_bits(logits, mixed, Settings(0.25), CODER) > 1.15 * fine
    assert fine < 16 * n_symbols / 3


# With the range coder


def ideal_of_scale(symbols, means, scales):
    law = scipy.stats.laplace(means / 64, 2 ** (scales / 8) / 64)
    return float(-np.log2(law.cdf(symbols + 0.5) - law.cdf(symbols - 0.5)).sum())


@pytest.mark.parametrize("top", [0, 2])
@pytest.mark.parametrize("step", [0.01, 0.35, 2.0])
def test_the_range_coder_loses_nothing(step, top):
    logits, settings = make_logits(6), Settings(step, top)
    data = labels.encode(logits, CLASSES, settings, entropy)
    assert np.array_equal(labels.decode(data, CLASSES, entropy), there_and_back(logits, settings))


@pytest.mark.parametrize("step, top", [(0.01, 0), (0.35, 0), (2.0, 0), (0.35, 2)])
def test_the_range_coders_bytes_are_what_the_estimate_and_the_laws_say(step, top):
    classes, settings = np.repeat(np.arange(6), 50), Settings(step, top)
    logits = make_logits(7, classes)
    written = 8 * len(labels.encode(logits, classes, settings, entropy))
    estimate = labels.estimate_bits(logits, classes, settings, entropy)
    assert -1 < written - estimate < 64 + 1e-3 * estimate
    ideal = SimpleNamespace(bits=ideal_of_scale, scale_index=entropy.scale_index)
    assert estimate == pytest.approx(labels.estimate_bits(logits, classes, settings, ideal), rel=5e-3)


# What is refused


@pytest.mark.parametrize("harm", [lambda d: d[:-1], lambda d: d[:20], lambda d: d[:50] + bytes([d[50] ^ 1]) + d[51:],
                                  lambda d: d[:5] + b"x" + d[6:], lambda d: b"X" + d[1:]])  # fmt: skip
def test_damage_is_found(harm):
    data = labels.encode(make_logits(), CLASSES, Settings(0.5), CODER)
    with pytest.raises(CorruptArtifact, match="label stream: "):
        labels.decode(harm(data), CLASSES, CODER)


@pytest.mark.parametrize("classes", [CLASSES[:-1], CLASSES + 2, CLASSES - 1, CLASSES[::-1].copy()])
def test_classes_of_other_images_are_refused(classes):
    data = labels.encode(make_logits(), CLASSES, Settings(0.5), CODER)
    with pytest.raises(CorruptArtifact, match="or give the labels that it was made with"):
        labels.decode(data, classes, CODER)


@pytest.mark.parametrize("classes", [CLASSES[:-1], CLASSES + 2, CLASSES - 1])
def test_classes_that_the_logits_do_not_have_are_refused(classes):
    with pytest.raises(DataError, match="give those of the images"):
        labels.encode(make_logits(), classes, Settings(0.5), CODER)


def test_sets_without_images_or_with_one_class_are_refused():
    with pytest.raises(DataError, match="one class says nothing"):
        labels.encode(np.zeros((2, 1, 1)), [0, 0], Settings(1.0), entropy)
    with pytest.raises(DataError, match="do not name 0 of 3 classes"):
        labels.encode(np.zeros((0, 1, 3)), np.zeros(0, int), Settings(1.0), entropy)


def test_a_step_that_numbers_of_32_bits_cannot_count_is_refused():
    with pytest.raises(DataError, match="labels.step: logits are .* steps from"):
        labels.encode(np.array([[[0.0, 9e4, 9e4]]]), [0], Settings(1e-3), entropy)


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="load the set with its logits"):
        labels.encode(np.full_like(make_logits(), np.nan), CLASSES, Settings(0.5), CODER)


def test_settings_are_checked():
    for given in ((0.0,), (0.5, -1), (0.5, 0, 0.0)):
        with pytest.raises(ConfigError, match="out of range"):
            Settings(*given)
    with pytest.raises(DataError, match="leave no rest"):
        labels.encode(make_logits(), CLASSES, Settings(0.5, 5), CODER)
