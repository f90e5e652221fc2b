"""ImageNet-1K and ImageNet-21K on 1, 8 and 256 accelerators, on paper: the tables of docs/scaling.md.

    python experiments/scaling/plan.py [--tflops=31] [--images=252] [...]      # --help lists every rate
    python experiments/scaling/plan.py --check      # the same counts against what run.py measured

None of this was run. Work is counted by infoutil_jax/plan.py, as for `--dry_run`; rates are host.json's or arguments.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from configs import imagenet_ipc10  # noqa: E402  (found through the line above)
from experiments.scaling import tiny  # noqa: E402
from infoutil_jax import config, plan  # noqa: E402
from infoutil_jax.settings import Config, for_method  # noqa: E402
from infoutil_jax.stages.teacher import build_network  # noqa: E402

SETS = {  # the fall 2011 release of 21K has no validation split: as many images as ImageNet-1K's, held out
    "ImageNet-1K": plan.Source(1_000, 1_281_167, 50_000, ""),
    "ImageNet-21K": plan.Source(21_841, 14_197_122 - 50_000, 50_000, ""),
}
ACCELERATORS = (1, 8, 256)
HOST = 8  # most accelerators of one process
NEIGHBOUR_DRAWS = 10  # of 1-nearest-neighbour
READINGS = 3  # of every record after it was written: verified, loaded for students, loaded for the report
AS_IT_IS, LEAN = "the config as it is", "one method, a teacher from a file, 3 students"


class Rates(NamedTuple):
    """What the machines are assumed to do."""

    tflops: float  # of one accelerator, as used: peak times utilisation
    images: float  # decoded and resized a second by a core
    threads: float  # that decode in a process, a core each
    labels: float  # records a second whose label is read when a TFDS data set is opened
    megabytes: float  # read a second by a process
    image_bytes: float  # of a JPEG
    written: float  # records a second, by one thread
    read_back: float  # records a second, by one thread
    gflops: float  # of the host's float32 matrix products


def assumed() -> Rates:
    """A fifth of an A100's 156 TFLOP/s in TensorFloat-32, the 8 threads that the program starts, what host.json and
    docs/performance.md (452 GFLOP/s on 2 cores) measured, ImageNet's mean file, an ordinary disk."""
    host = json.loads((HERE / "host.json").read_text())
    return Rates(
        tflops=31.2,
        images=host["images_per_core_second"],
        threads=8,
        labels=10_000,
        megabytes=1000,
        image_bytes=110_000,
        written=host["records_written_per_core_second"],
        read_back=host["records_read_per_core_second"],
        gflops=400,
    )


class Stage(NamedTuple):
    """Seconds of each resource alone. The first three overlap, what the main thread does comes on top."""

    name: str
    accelerators: float
    decoding: float
    reading: float
    host: float

    @property
    def seconds(self) -> float:
        return max(self.accelerators, self.decoding, self.reading) + self.host

    @property
    def bound(self) -> str:
        return max(self._fields[1:], key=lambda name: getattr(self, name))


class Case(NamedTuple):
    """A data set's run: its settings, sizes, and FLOPs of a forward pass."""

    config: Config
    source: plan.Source
    flops: float
    n_parameters: int
    epochs: int  # of the teacher's training; 0 = its weights come from a file


def case(source: plan.Source, variant: str) -> Case:
    """The IPC 10 config on `source`."""
    c = imagenet_ipc10.get_config()
    if variant == LEAN:
        c.update_from_flattened_dict({"methods": ("infoutil",), "evaluate.hard_seeds": 0})
    settings = config.resolve(c)
    shape = (source.n_classes, settings.data.mean, settings.data.std)
    network = build_network(settings.teacher.model, settings.teacher.width, *shape)
    cost = plan.forward_cost(network, settings.data.image_size)
    return Case(settings, source, *cost, settings.teacher.epochs if variant == AS_IT_IS else 0)


def distil_passes(of: Case) -> int:
    """Forward passes of the teacher for all methods, labels of what is kept included."""
    works = [plan.work(for_method(of.config, method), of.source) for method in of.config.methods]
    return sum(asked.passes + asked.kept for asked in works)


def student_passes(of: Case) -> int:
    """Forward passes of all students' training and tests, and of the teacher for those with on-line labels."""
    settings, (count, steps, batch) = of.config.evaluate, plan.students(of.config, of.source)
    labelled = len(of.config.methods) * settings.seeds * (settings.labels == "online")
    tests = math.ceil(settings.epochs / 5 / settings.test_every)
    return steps * batch * (plan.BACKWARD * count + labelled) + tests * count * of.source.n_val


def stages(of: Case, accelerators: int, rates: Rates) -> list[Stage]:
    """What follows one another in a run with one process for up to HOST accelerators.

    The classes are divided among the processes. Every process opens the data; one trains the teacher on its
    accelerators, trains the students on one of them, one after the other, and looks for nearest neighbours.
    """
    source, settings, local = of.source, of.config, min(accelerators, HOST)
    forward = of.flops / (rates.tflops * 1e12)
    decode = lambda n: n / (rates.images * rates.threads)
    read = lambda n: n * rates.image_bytes / (rates.megabytes * 1e6)
    n_all, val = source.n_train + source.n_val, source.n_val
    seen = of.epochs * source.n_train  # by the teacher in training, which no cache of 8 GiB holds
    share = math.ceil(source.n_classes / math.ceil(accelerators / HOST)) / source.n_classes  # of a process
    pool = share * plan.work(settings, source).candidates
    images = source.n_classes * settings.ipc
    records = len(settings.methods) * images
    products = 2 * NEIGHBOUR_DRAWS * images * val * 3 * settings.data.image_size**2
    drawn = NEIGHBOUR_DRAWS * images
    return [
        Stage("open the data", 0, 0, read(n_all), n_all / rates.labels),
        Stage("teacher", plan.BACKWARD * forward * seen / local, decode(seen), read(seen), 0),
        Stage(
            "distil", distil_passes(of) * forward * share / local, decode(pool), read(pool),
            share * records / rates.written,
        ),
        Stage(
            "students", student_passes(of) * forward, decode(val), read(val), READINGS * records / rates.read_back
        ),
        Stage("1-nearest neighbour", 0, decode(drawn), read(drawn), products / (rates.gflops * 1e9)),
    ]  # fmt: skip


def counts(of: Case, image_bytes: float) -> dict[str, str]:
    """What does not depend on the machines."""
    asked, students = plan.work(of.config, of.source), plan.students(of.config, of.source)
    images, side = of.source.n_classes * of.config.ipc, of.config.data.image_size
    pixels, soft = images * 3 * side**2, plan.output_bytes(of.config, of.source.n_classes)[1]
    flop, size = lambda n: plan._unit(n, "FLOP"), lambda n: plan._unit(n, "B")
    return {
        "classes": f"{of.source.n_classes:,}",
        "training images": f"{of.source.n_train:,}",
        "teacher's parameters": f"{of.n_parameters:,}",
        "a forward pass": flop(of.flops),
        "teacher's training": flop(plan.BACKWARD * of.flops * of.epochs * of.source.n_train),
        "candidates": f"{asked.candidates:,}",
        "coalition evaluations": f"{asked.evaluations:,}",
        "crops scored for InfoUtil": f"{asked.scored:,}",
        "distilling, all methods": flop(distil_passes(of) * of.flops),
        "students": f"{students.count} of {students.steps:,} steps of {students.batch}",
        "students, all": flop(student_passes(of) * of.flops),
        "bytes read to open the data, by every process": size(image_bytes * (of.source.n_train + of.source.n_val)),
        "by the teacher's training": size(image_bytes * of.epochs * of.source.n_train),
        "by distilling": size(image_bytes * asked.candidates),
        "a set on disk: PNG": size(plan.output_bytes(of.config, of.source.n_classes)[0]),
        "a set on disk: soft labels": size(soft),
        "memory of evaluation: pixels of a set": size(pixels),
        "its soft labels": size(soft),
        "its classes, one-hot": size(4 * images * of.source.n_classes),
        "1-nearest neighbour's real images, float32": size(4 * pixels),
    }


def duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def tables(rates: Rates) -> str:
    of = {(name, variant): case(source, variant) for variant in (AS_IT_IS, LEAN) for name, source in SETS.items()}
    columns = [counts(of[name, AS_IT_IS], rates.image_bytes) for name in SETS]
    parts = [markdown(["work", *SETS], [[row, *(column[row] for column in columns)] for row in columns[0]])]
    for variant in (AS_IT_IS, LEAN):
        runs = [stages(of[name, variant], n, rates) for name in SETS for n in ACCELERATORS]
        shown = lambda stage: f"{duration(stage.seconds)}, {stage.bound}" if stage.seconds else "-"
        rows = [[same[0].name, *map(shown, same)] for same in zip(*runs)]
        rows += [["together", *(duration(sum(stage.seconds for stage in run)) for run in runs)]]
        header = [variant, *(f"{name}, {n}" for name in SETS for n in ACCELERATORS)]
        parts.append(markdown(header, rows))
    return "\n\n".join(parts)


def check(record: dict) -> str:
    """What infoutil_jax/plan.py counts for the runs of run.py beside what they took; with the cache left out."""
    rows = []
    images = record["images_per_class"]
    for run in (run for run in record["runs"] if not run["cache_gib"]):
        k = run["classes"]
        c = tiny.get_config()
        c.data.path = "images"
        settings = config.resolve(c)
        source = plan.Source(k, k * images["train"], k * images["val"], "")
        evaluations = plan.work(for_method(settings, "infoutil"), source).evaluations
        seconds = {stage["stage"]: stage["working"] for stage in run["timing"]}
        written = run["bytes_written"]["distilled"]
        soft = plan.output_bytes(settings, k)[1]
        cells = [f"{k:,}", f"{evaluations:,}", f"{1e3 * seconds['distil/attribute'] / k:.1f} ms"]
        cells += [f"{soft:,.0f}", f"{written:,}", f"{(written - soft) / k:,.0f}"]
        rows.append(cells)
    header = ["classes", "evaluations", "attribution, a class", "soft labels, B", "the set, B", "rest of it, a class"]
    return markdown(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in assumed()._asdict().items():
        parser.add_argument(f"--{name}", type=float, default=value, help=f"class Rates says what; {value}")
    parser.add_argument("--check", action="store_true", help="print what is known of results.json instead")
    flags = vars(parser.parse_args())
    print(check(json.loads((HERE / "results.json").read_text())) if flags.pop("check") else tables(Rates(**flags)))


if __name__ == "__main__":
    main()
