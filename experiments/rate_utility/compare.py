"""From records to curves, and from curves to the comparisons that issue and README ask for. Accuracies are shares."""

import math
from typing import NamedTuple

from experiments.rate_utility.points import COMMON_LABELS

SMALLEST = 106_500  # bits per class of DD-RUO's smallest CIFAR-10 point
MIN_SEEDS = 5  # students of a point that something is concluded from
FEWER = 170  # times fewer bits than float32 pixels, which is what DD-RUO claims
NOMINAL = ("png sheets", "online")  # the set as the literature has it: exact pixels, a teacher that is not counted


class At(NamedTuple):
    """A place on a curve."""

    bits: float
    mean: float
    error: float  # standard error of the mean
    where: str  # the curve: coder and IPC

    @property
    def coder(self) -> str:
        return self.where.rpartition(", IPC ")[0]


class Verdict(NamedTuple):
    """One place against another at the same bits."""

    ours: At
    theirs: At

    @property
    def gain(self) -> float:
        return self.ours.mean - self.theirs.mean

    @property
    def two_errors(self) -> float:
        return 2 * math.hypot(self.ours.error, self.theirs.error)

    @property
    def holds(self) -> bool:
        return self.gain > self.two_errors


def at_point(record: dict, counted: bool) -> At:
    """A measured point. From fewer students than MIN_SEEDS nothing is concluded: their standard error is infinite."""
    seeds, point = record["top1"]["seeds"], record["point"]
    error = record["top1"]["std"] / len(seeds) ** 0.5 if len(seeds) >= MIN_SEEDS else math.inf
    where = f"{point['coder']}, IPC {point['ipc']}"
    return At(record["total" if counted else "without_labels"], record["top1"]["mean"], error, where)


def curves(records: list[dict], counted: bool) -> dict[tuple, list[At]]:
    """(method, IPC, coder) -> places by rising bits, of the points that share their labels."""
    found = {}
    for record in records:
        point = record["point"]
        if point["labels"] == COMMON_LABELS:
            found.setdefault((point["method"], point["ipc"], point["coder"]), []).append(at_point(record, counted))
    return {name: sorted(places) for name, places in found.items()}


def is_codec(coder: str) -> bool:
    return coder.startswith("codec")


def at(curve: list[At], bits: float) -> At | None:
    """What a curve has at so many bits: linear in the logarithm of the bits between two points; beyond the last point
    that point, which costs less; None before the first."""
    below = [place for place in curve if place.bits <= bits]
    above = [place for place in curve if place.bits > bits]
    if not below:
        return None
    if not above or below[-1].bits == bits:
        return below[-1]._replace(bits=bits)
    low, high = below[-1], above[0]
    share = math.log(bits / low.bits) / math.log(high.bits / low.bits)
    error = math.hypot((1 - share) * low.error, share * high.error)
    return At(bits, (1 - share) * low.mean + share * high.mean, error, low.where)


def best_at(of: list[list[At]], bits: float) -> At | None:
    """The highest that several curves have for so many bits or fewer, measured or between two points."""
    found = [place for curve in of for place in (at(curve, bits), *curve) if place and place.bits <= bits]
    return max(found, key=lambda place: place.mean, default=None)


def fewest_bits(curve: list[At], accuracy: float) -> float | None:
    """Where a curve first reaches an accuracy; None if it does not. Its first point is an upper bound."""
    for low, high in zip([None, *curve], curve):
        if high.mean >= accuracy:
            if low is None:
                return high.bits
            share = (accuracy - low.mean) / (high.mean - low.mean)
            return low.bits * (high.bits / low.bits) ** share
    return None


def _split(records, method: str, counted: bool):
    """A method's curves of standard formats, and of the codec."""
    found = {name: curve for name, curve in curves(records, counted).items() if name[0] == method}
    standard = [curve for (_, _, coder), curve in found.items() if not is_codec(coder)]
    return standard, [curve for (_, _, coder), curve in found.items() if is_codec(coder)]


def against_formats(records: list[dict], method: str, counted: bool = True) -> list[Verdict]:
    """Every point of the codec against the best standard format, of any IPC, at the same bits."""
    standard, own = _split(records, method, counted)
    pairs = [(place, best_at(standard, place.bits)) for curve in own for place in curve]
    return [Verdict(ours, theirs) for ours, theirs in pairs if theirs]


def at_their_bits(records: list[dict], method: str, against: str) -> list[Verdict]:
    """The first goal: the codec's best point of a method within DD-RUO's smallest bits, labels counted, against the
    best that each standard format of method `against` has at those bits, the best format first."""
    (standard, _), (_, own) = (_split(records, name, True) for name in (against, method))
    within = [place for curve in own for place in curve if place.bits <= SMALLEST]
    formats = {}
    for curve in standard:
        formats.setdefault(curve[0].coder, []).append(curve)
    theirs = [place for of in formats.values() if (place := best_at(of, SMALLEST))]
    theirs.sort(key=lambda place: -place.mean)
    return [Verdict(max(within, key=lambda place: place.mean), place) for place in theirs if within]


class Saving(NamedTuple):
    """How many times fewer bits than float32 pixels reach the accuracy of a set."""

    ipc: int
    labels: str  # of the set that is matched
    accuracy: float
    nominal: float  # bits per class of its float32 pixels, labels not counted
    bits: float | None  # the fewest, labels counted
    where: str

    @property
    def times(self) -> float:
        return self.nominal / self.bits if self.bits else 0.0


def savings(records: list[dict], method: str, of: str) -> list[Saving]:
    """The second goal, for each IPC of method `of`: which bits the codec and standard formats of `method` need for its
    accuracy with on-line labels, and for that with the labels which the points share."""
    coder, online = NOMINAL
    references = [
        r for r in records
        if (r["point"]["method"], r["point"]["coder"]) == (of, coder)
        and r["point"]["labels"] in (online, COMMON_LABELS)
    ]  # fmt: skip
    found = []
    for record in references:
        point, accuracy = record["point"], record["top1"]["mean"]
        for kind, own in zip(("standard formats", "codec"), _split(records, method, True), strict=True):
            reached = [(bits, c[0].where) for c in own if (bits := fewest_bits(c, accuracy))]
            bits, where = min(reached, default=(None, kind))
            found.append(Saving(point["ipc"], point["labels"], accuracy, record["float32_pixels"], bits, where))
    return found
