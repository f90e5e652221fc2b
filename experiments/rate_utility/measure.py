"""A point's bits and its students' accuracy."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

from experiments.cells import YOUNG
from experiments.rate_utility import coded, latents
from infoutil_jax import pipeline, pretrained, records, results, selfcheck, sets, store, teachers
from infoutil_jax.rate import accounting
from infoutil_jax.stages import evaluate
from infoutil_jax.stages.teacher import Teacher
from infoutil_jax.train import Network
from infoutil_jax.types import DistilledSet

VERSION = 1  # of what a record is made from


class Bench(NamedTuple):
    """What all points of a method and IPC share."""

    settings: pipeline.Config  # of one method, students on stored labels
    dataset: object
    teacher: Teacher
    student: Network
    distilled: DistilledSet
    artifacts: Path
    training: dict  # what differs from latents.FIT


def identity(settings, point) -> str:
    """What a record is of, but for the number of students. A key younger than some records counts once it is used."""
    plain = results.plain(settings) | {"name": ""}
    plain["data"]["path"], plain["evaluate"]["seeds"] = "", 0
    for section, young in YOUNG.items():
        plain[section] = {key: value for key, value in plain[section].items() if young.get(key) != value}
    return store.fingerprint(VERSION, evaluate.VERSION, latents.FIXED, point.plain, plain)


def teacher_name(record: dict) -> str:
    """By which results.json keeps the points of one teacher apart from another's: the first digits of its SHA-256."""
    return record["converged"]["sha256"][:6]


def prepare(settings, runs: Path, artifacts: Path, training: dict) -> Bench:
    """Opens data and teacher; makes the distilled set by the pipeline's own stages, or finds it."""
    settings, _ = pretrained.adopt(settings)
    selfcheck.run()
    dataset = pipeline.open_data(settings)
    teacher = teachers.obtain(settings, dataset, artifacts)
    one = dataclasses.replace(settings, evaluate=dataclasses.replace(settings.evaluate, seeds=1))  # in the manifest
    workdir = (
        runs / "rate_utility" / f"{settings.methods[0]}-ipc{settings.ipc}-{store.fingerprint(results.plain(one))[:8]}"
    )
    (directory,) = sets.write_sets(one, dataset, teacher, workdir, artifacts).values()
    records.verify(directory)
    student = pipeline.student_network(settings, dataset)
    return Bench(settings, dataset, teacher, student, records.load(directory), artifacts, training)


def measure(bench: Bench, point) -> dict:
    """What results.json keeps of a point."""
    watch = {}
    with _timed(watch, "coding"):
        through = coded.through(bench, point)
    with _timed(watch, "students"):
        curves = _students(bench, point, through.distilled)
    n_classes = len(bench.dataset.class_names)
    bits = {part: accounting.per_class(size, n_classes) for part, size in through.n_bytes.items()}
    if point.labels == "online":
        bits["labels"] = coded.teacher_bits(bench.settings, n_classes)
    return {
        "point": point.plain, "made_from": identity(bench.settings, point), "teacher": bench.teacher.record,
        "bits_per_class": bits,
        "total": sum(bits.values()), "without_labels": sum(bits.values()) - bits["labels"],
        "float32_pixels": accounting.pixels(bench.distilled.images_u8.size, n_classes)["pixels as float32"],
        "estimated_latents": through.estimate and through.estimate / n_classes,
        "psnr": coded.psnr(through.distilled.images_u8, bench.distilled.images_u8),
        "top1": results.statistics(results.final(curves)),
        "best_epoch_top1": results.statistics([max(tested[1] for tested in curve) for curve in curves]),
        "seconds": {name: round(spent, 1) for name, spent in watch.items()},
    }  # fmt: skip


def _students(bench: Bench, point, distilled) -> list:
    """A curve per seed. Students of equal pixels and labels are trained once, whatever coded them."""
    settings, labels = bench.settings, "online" if point.labels == "online" else "stored"
    return [
        pipeline.train_student(
            settings, bench.dataset, bench.teacher, distilled, bench.student, labels, settings.seed + i,
            bench.artifacts, f"{point.name}, seed {i}",
        )
        for i in range(settings.evaluate.seeds)
    ]  # fmt: skip


@contextlib.contextmanager
def _timed(watch: dict, name: str):
    start = time.monotonic()
    yield
    watch[name] = time.monotonic() - start
