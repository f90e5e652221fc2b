"""Timing in turns: A B C A B C, so that whatever else the machine does meets all variants alike."""

import time
from typing import NamedTuple

import numpy as np

CEILING = "measured ceiling"  # the variant whose units take the arithmetic of the others' and nothing else


class Timing(NamedTuple):
    units: int  # of work in one run, whatever the caller counts
    seconds: np.ndarray  # (repeats,) per unit; entry i belongs to round i


def interleave(variants: dict, repeats: int, clock=time.perf_counter) -> dict:
    """{name: Timing} of functions without arguments that work until all is done and return how many units that was.

    Every variant runs once before the first round: compilation is no part of any figure.
    """
    units = {name: variant() for name, variant in variants.items()}
    timings = {name: Timing(units[name], np.zeros(repeats)) for name in variants}
    for i in range(repeats):
        for name, variant in variants.items():
            start = clock()
            variant()
            timings[name].seconds[i] = (clock() - start) / units[name]
    return timings


def fastest(variants: dict, repeats: int = 3):
    """The name of the variant with the lowest median; for the choice of a batch size or layout."""
    timings = interleave(variants, repeats)
    return min(timings, key=lambda name: np.median(timings[name].seconds))


def median(values) -> dict:
    """Median and quartiles as plain numbers, for JSON."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return {"median": float(middle), "quartiles": [float(low), float(high)]}


def summarise(timings: dict, baseline_of: dict, unit: str) -> dict:
    """{name: units of a run, seconds per unit, units per second, ratio to `baseline_of[name]`, share of the ceiling}.

    A ratio is the median over rounds of the ratios within a round, not a ratio of medians.
    """
    over = lambda timing, other: median(timing.seconds / timings[other].seconds)
    return {
        name: {
            f"{unit}s": timing.units,
            f"seconds_per_{unit}": median(timing.seconds),
            f"{unit}s_per_second": float(1 / np.median(timing.seconds)),
            "baseline": baseline_of[name],
            "ratio": over(timing, baseline_of[name]),
            "utilisation": over(timings[CEILING], name),
        }
        for name, timing in timings.items()
    }
