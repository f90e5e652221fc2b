"""The benchmark's arithmetic of timings, and what it says where its peers are missing; it times nothing here."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "experiments" / "benchmarks"


@pytest.fixture
def timing(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("timing")


def variants_and_clock(durations):
    """Variants whose i-th run takes durations[name][i] on the clock that comes with them, and the log of their runs."""
    now, log = [0.0], []

    def variant(name):
        def run():
            now[0] += durations[name][log.count(name)]
            log.append(name)
            return 10

        return run

    return {name: variant(name) for name in durations}, lambda: now[0], log


def test_variants_take_turns_after_one_run_each_that_does_not_count(timing):
    durations = {"a": [1000, 1, 2, 3], "b": [2000, 40, 50, 60]}
    variants, clock, log = variants_and_clock(durations)
    timings = timing.interleave(variants, 3, clock)
    assert log == ["a", "b"] * 4
    for name, measured in timings.items():
        assert measured.units == 10
        np.testing.assert_allclose(measured.seconds, np.array(durations[name][1:]) / 10)


def test_a_ratio_is_the_median_of_the_rounds_and_not_of_the_medians(timing):
    durations = {"base": [1, 1, 10, 2], "slow": [1, 3, 20, 8]}  # 3, 2 and 4 times; medians 8 and 2 would give 4
    durations[timing.CEILING] = [1, 1.5, 2, 2]  # 1/2, 1/10 and 1/4 of slow's rounds
    variants, clock, _ = variants_and_clock(durations)
    baselines = {"base": "base", "slow": "base", timing.CEILING: "base"}
    summary = timing.summarise(timing.interleave(variants, 3, clock), baselines, "image")
    slow, base = summary["slow"], summary["base"]
    assert slow["baseline"] == "base" and base["ratio"]["median"] == 1 and base["images"] == 10
    np.testing.assert_allclose([slow["ratio"]["median"], *slow["ratio"]["quartiles"]], [3, 2.5, 3.5])
    np.testing.assert_allclose([slow["seconds_per_image"]["median"], slow["images_per_second"]], [0.8, 1.25])
    np.testing.assert_allclose(slow["utilisation"]["median"], 0.25)


def test_the_fastest_has_the_lowest_median(timing, monkeypatch):
    durations = {"spiky": [1, 2, 2, 99], "steady": [1, 3, 3, 3]}
    variants, clock, _ = variants_and_clock(durations)
    monkeypatch.setattr(timing.interleave, "__defaults__", (clock,))
    assert timing.fastest(variants, 3) == "spiky"


WITHOUT = """
import importlib.util, runpy, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "captum" else real(name, *rest)
sys.path.insert(0, sys.argv[1])
sys.argv[1:] = []
runpy.run_path(sys.path[0] + "/run.py", run_name="__main__")
"""


def test_a_missing_peer_is_named_with_the_extra_that_brings_it():
    command = [sys.executable, "-c", WITHOUT, str(BENCHMARKS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "captum" in done.stderr and ".[bench]" in done.stderr
    assert "Traceback" not in done.stderr
