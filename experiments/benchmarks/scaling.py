"""How the attribution stage's time and memory grow with candidates, coalitions, image side and classes.

    python experiments/benchmarks/scaling.py SCALE [NUMBER ...]      # peak memory of (these) points as JSON

Memory is taken in a process of its own, in which nothing else has been allocated.
"""

import ctypes
import dataclasses
import json
import subprocess
import sys
from typing import NamedTuple

import jax
import ours
import sizes
import timing

from infoutil_jax.stages import attribute


class Point(NamedTuple):
    candidates: int
    coalitions: int
    side: int
    classes: int


def curves(case: sizes.Scaling) -> dict:
    """{axis: [Point]}: along each axis the others stay at their first values."""
    values = dict(candidates=case.candidates, coalitions=case.coalitions, side=case.sides, classes=case.classes)
    corner = Point(**{axis: steps[0] for axis, steps in values.items()})
    return {axis: [corner._replace(**{axis: value}) for value in steps] for axis, steps in values.items()}


def work(case: sizes.Scaling, point: Point):
    """Attribution of all classes, one after the other, as the pipeline does it."""
    size = case.network._replace(side=point.side)
    network, variables = ours.build(size)
    settings = dataclasses.replace(ours.CONFIG.attribute, budget=point.coalitions)
    coalitions = attribute.design(settings, seed=0)
    images_u8, labels = ours.draw(point.candidates, size)

    def run():
        for _ in range(point.classes):
            attribute.run(settings, network, variables, coalitions, images_u8, labels)
        return 1

    return run


def run(all_sizes: sizes.Sizes, _) -> dict:
    """{axis: [{candidates, coalitions, side, classes, seconds, peak_bytes}]}."""
    case, result = all_sizes.scaling, {}
    memory = iter(peaks_elsewhere(all_sizes.scale, sum(map(len, curves(case).values()))))
    for axis, points in curves(case).items():
        timings = timing.interleave({point: work(case, point) for point in points}, all_sizes.repeats)
        result[axis] = [
            {**point._asdict(), "seconds": timing.median(seconds), "peak_bytes": next(memory)}
            for point, (_, seconds) in timings.items()
        ]
    return result


def peaks_elsewhere(scale: str, n_points: int) -> list[int]:
    """An accelerator's peak cannot be reset, so there every point gets its own process."""
    calls = [[]] if jax.default_backend() == "cpu" else [[str(i)] for i in range(n_points)]
    peaks = []
    for numbers in calls:
        command = [sys.executable, __file__, scale, *numbers]
        peaks += json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return peaks


def peak(variant) -> int:
    """Bytes of the device, or those of this process above what it held before; compilation left out."""
    variant()
    if jax.default_backend() != "cpu":
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # Linux: the peak starts anew at what is resident
    before = resident("VmHWM")
    for _ in range(3):
        variant()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))


def main(scale: str, *numbers: str):
    case = sizes.SCALES[scale].scaling
    points = [point for points in curves(case).values() for point in points]
    chosen = [points[int(number)] for number in numbers] or points
    print(json.dumps([peak(work(case, point)) for point in chosen]))


if __name__ == "__main__":
    main(*sys.argv[1:])
