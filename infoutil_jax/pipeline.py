"""The run: which stage follows which. Everything on disk is found again by what it was made from, so that the same
command goes on where it was interrupted and a changed setting redoes only what depends on it."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np

from infoutil_jax import (
    checkpoints,
    clock,
    data,
    distil,
    guard,
    parallel,
    plan,
    pretrained,
    processes,
    provenance,
    records,
    results,
    selfcheck,
    sets,
    store,
    teachers,
)
from infoutil_jax.clock import CLOCK
from infoutil_jax.errors import ConfigError, EnvironmentFault
from infoutil_jax.processes import WHOLE
from infoutil_jax.progress import say, warned
from infoutil_jax.provenance import environment
from infoutil_jax.rate import accounting
from infoutil_jax.sets import write_sets
from infoutil_jax.settings import Config, for_method
from infoutil_jax.stages import evaluate
from infoutil_jax.stages import teacher as teacher_stage

RUNS = "runs"  # where a run without a workdir gets one
RECORD = "config.json"  # what makes a folder a run
DATA = "data.json"  # the images it sees
LISTED = 10  # differences that a message names


@guard.signals()
def run(config: Config, *, workdir: str = "", artifacts: str = "", shard=WHOLE, joining: bool = False) -> Path:
    """Distils by every method of `config`, trains students on what was written, prints the table -> the workdir.

    Of several processes (`processes.start`) each distils its classes and the first does the rest. Of a run in parts
    `shard`, (index, count), distils its classes and no more; `join` does the rest. Asked to stop by a signal it saves
    and raises Preempted: the same call goes on from there.
    """
    CLOCK.restart()
    warned_before = warned()
    shard = processes.Part(*shard)
    _require_one_way(shard, workdir, joining)
    guard.preflight(workdir or RUNS, artifacts or workdir or RUNS, 0)
    config, notes = pretrained.adopt(config)
    if workdir:
        _require_same_run(config, Path(workdir))
    selfcheck.run()
    dataset = open_data(config)
    guard.preflight(workdir or RUNS, artifacts or workdir or RUNS, _bytes_to_write(config, dataset, workdir))
    workdir = Path(workdir) if workdir else store.new_workdir(Path(RUNS), config.name)
    artifacts = Path(artifacts) if artifacts else workdir / "artifacts"
    say("\n".join([f"{config.name}: {parallel.describe()}, workdir {workdir}", *notes]))
    teacher_stage.blank_variables(student_network(config, dataset), config.data.image_size)  # or fail before the work
    part = processes.here() if shard.whole else shard
    with _owning(config, dataset, workdir, part):
        if joining:
            sets.require_begun(config, dataset.class_names, workdir)
        with _keeping_time(workdir / _timing_name(part)):
            with processes.first_goes_first("teacher"):
                teacher = teachers.obtain(config, dataset, artifacts)
            directories = write_sets(config, dataset, teacher, workdir, artifacts, shard, join=joining)
            processes.part_company()
            table = evaluate_sets(config, dataset, teacher, directories, artifacts) if directories else None
        if table:
            timing = clock.add(*map(_timing, sorted(workdir.glob("timing*.json"))))
            sizes = {results.TITLES[name]: accounting.report(path, artifacts) for name, path in directories.items()}
            rate = accounting.rows(sizes)
            results.publish(
                config, dataset, teacher, directories, table, workdir, artifacts, environment(), timing, rate
            )  # fmt: skip
    if count := warned() - warned_before:
        say(f"{count} warning{'s' * (count > 1)}, shown above on stderr")
    return workdir


def join(config: Config, *, workdir: str = "", artifacts: str = "", shard=WHOLE) -> Path:
    """The rest of a run whose parts are finished: sets, students, table -> the workdir.

    Raises DataError, with classes, parts and the commands to run, where a class is missing; distils none.
    """
    return run(config, workdir=workdir, artifacts=artifacts, shard=shard, joining=True)


def _require_one_way(shard: processes.Part, workdir: str, joining: bool) -> None:
    """Raises ConfigError for two ways at once to divide a run, and for parts that have no place to meet."""
    if [not shard.whole, joining, not processes.here().whole].count(True) > 1:
        raise ConfigError("--shard, join and --coordinator are three ways to go; choose one, see docs/clusters.md.")
    if not workdir and (joining or not shard.whole or not processes.here().whole):
        raise ConfigError("the parts of a run meet in one folder; name it with --workdir.")


@contextlib.contextmanager
def _owning(config: Config, dataset, workdir: Path, part: processes.Part):
    """Holds the workdir, by the first process for all, with the config and this environment recorded in it."""

    def admit():
        _require_same_run(config, workdir)
        store.write_json(workdir / RECORD, results.plain(config))
        _require_same_data(dataset, workdir / DATA)
        if not sets.finished(config, workdir):
            provenance.enter(workdir, str(part))

    _require_agreement(config, dataset)
    with contextlib.ExitStack() as held:
        with processes.first_goes_first("workdir"):
            if processes.here().index == 0:
                alone = processes.here().whole
                held.enter_context(processes.holding(workdir, part if alone else WHOLE, admit))
            elif not (workdir / RECORD).exists():
                fault = f"{workdir / RECORD} is not seen by process {processes.here().index}, but process 0 wrote it"
                raise EnvironmentFault(f"{fault}; --workdir must be on a filesystem that all share.")
        yield


def _require_agreement(config: Config, dataset) -> None:
    """Raises ConfigError in every process when one differs from process 0 in config, data, code or versions."""
    environment = {name: value for name, value in provenance.environment().items() if name != "devices"}
    mine = {"config": results.plain(config), "data": dataset.content_id, "environment": environment}
    differs = results.differences(processes.from_first("agreement", mine), mine)
    told = processes.to_first("differences", differs)
    faults = processes.from_first("faults", [(index, lines) for index, lines in told.items() if lines])
    if faults:
        processes.part_company()  # the first to leave would end the others before they say why
        each = ". ".join(f"process {index} differs from process 0: {'; '.join(lines)}" for index, lines in faults)
        raise ConfigError(f"{each}. Start all with one command.")


def _timing_name(part: processes.Part) -> str:
    return "timing.json" if part.whole else f"timing-{part.index}-of-{part.count}.json"


@contextlib.contextmanager
def _keeping_time(path: Path):
    """Adds the seconds of this run to those at `path`, also when it is interrupted; a run without work adds none."""
    try:
        yield
    finally:
        spent = CLOCK.read()
        if spent:
            with contextlib.suppress(EnvironmentFault):  # of a full disk the run's own files tell
                store.write_json(path, clock.add(_timing(path), spent))


def _timing(path: Path) -> list[dict]:
    return store.undamaged(store.read_json, path) or []


def _require_same_run(config: Config, path: Path) -> None:
    """Raises ConfigError unless `path` is new, empty or a run of the same config; lists what differs."""
    record = path / RECORD
    if record.exists():
        other = f"another --workdir and --artifacts={path / 'artifacts'}, which keeps its work"
        mend = f"restore it from a copy, or use {other}"
        changed = results.differences(store.read_json(record, mend=mend), results.plain(config))
        if changed:
            differs = "; ".join(changed)
            raise ConfigError(f"{path} holds a run with other settings: {differs}. Use another --workdir.")
    elif path.exists() and any(not found.name.startswith(".") for found in path.iterdir()):
        raise ConfigError(f"{path} is not empty and holds no run (no {RECORD}); choose another --workdir.")


def _require_same_data(dataset, path: Path) -> None:
    """Raises ConfigError unless `dataset` is that of the run's start, recorded at `path`; lists what differs."""
    counts = [np.bincount(s.labels, minlength=len(dataset.class_names)).tolist() for s in (dataset.train, dataset.val)]
    classes = zip(dataset.class_names, range(len(dataset.class_names)), *counts)
    of_class = {name: {"label": label, "train": train, "val": val} for name, label, train, val in classes}
    now = {"name": dataset.name, "content_id": dataset.content_id, "classes": of_class}
    before = store.undamaged(store.read_json, path)
    if before is None:
        store.write_json(path, now)
    elif changed := results.differences(before, now):
        more = f"; and {len(changed) - LISTED} more" if len(changed) > LISTED else ""
        way_out = "restore the data, or use another --workdir"
        raise ConfigError(f"{path.parent} holds a run on other data: {'; '.join(changed[:LISTED])}{more}; {way_out}.")


def _bytes_to_write(config: Config, dataset, workdir: str) -> int:
    """The plan's estimate of all distilled sets, less what is there."""
    n_classes = len(dataset.class_names)
    planned = sum(sum(plan.output_bytes(for_method(config, name), n_classes)) for name in config.methods)
    written = Path(workdir).rglob("*.tfrecord-*") if workdir else ()
    return max(0, int(planned) - sum(path.stat().st_size for path in written))


def open_data(config: Config) -> data.Dataset:
    """The dataset, with what is unusual about it said and enough images for every method (else DataError)."""
    dataset = data.open_dataset(config.data)
    sizes = f"{len(dataset.train)} training and {len(dataset.val)} validation images"
    say(f"{dataset.name}: {sizes} of {len(dataset.class_names)} classes")
    for note in dataset.notes:
        say(f"note: {note}")
    for name in config.methods:
        distil.require_enough(for_method(config, name), name, dataset.train.labels, dataset.class_names)
    return dataset


def student_network(config: Config, dataset):
    settings, shape = config.students, (len(dataset.class_names), config.data.mean, config.data.std)
    return teacher_stage.build_network(settings.model, settings.width, *shape, bn_momentum=settings.bn_momentum)


def evaluate_sets(config: Config, dataset, teacher, directories: dict[str, Path], artifacts: Path) -> results.Table:
    """Students on what was written: curves[method][labels] = one list of (epoch, top-1, top-5) per seed."""
    settings, student = config.students, student_network(config, dataset)
    columns = {settings.labels: settings.seeds}
    if settings.hard_seeds and settings.labels != "hard":
        columns["hard"] = settings.hard_seeds
    curves = {name: {labels: [] for labels in columns} for name in directories}
    for name, directory in directories.items():
        records.verify(directory)
        distilled = records.load(directory, with_logits=settings.labels == "stored")
        for labels, n_seeds in columns.items():
            for i in range(n_seeds):
                label = f"{name}, {labels} labels, seed {i}"
                curve = train_student(
                    config, dataset, teacher, distilled, student, labels, config.seed + i, artifacts, label
                )  # fmt: skip
                curves[name][labels].append(curve)
    return results.Table(curves, settings.labels, _neighbour(config, dataset, artifacts))


def _neighbour(config: Config, dataset, artifacts: Path) -> list[float]:
    """Accuracy of 1-nearest-neighbour on random real images, as many as are distilled, in ten draws; measured once."""
    per_class = min(config.ipc, int(np.bincount(dataset.train.labels).min()))
    name = store.fingerprint("neighbour", evaluate.VERSION, per_class, distil.data_identity(config, dataset))
    path = artifacts / "evaluate" / f"{name}.json"

    @CLOCK.stage("evaluate")
    def measure():
        return [evaluate.nearest_neighbour(dataset, per_class, seed) for seed in range(10)]

    return store.cached_json(path, measure)


def train_student(
    config: Config, dataset, teacher, distilled, student, labels: str, seed: int, artifacts: Path, label: str
) -> list:
    """One student's curve, trained unless it was before: the cache's name is made of the written bytes."""
    settings = dataclasses.replace(config.students, labels=labels, seeds=1, hard_seeds=0)
    labeller = distilled.manifest["label_teacher"]
    shards = [shard["sha256"] for shard in distilled.manifest["shards"]]
    name = store.fingerprint(
        "evaluate", evaluate.VERSION, dataclasses.asdict(settings), seed, shards, config.data.mean, config.data.std,
        config.data.flip, teacher.record[labeller]["sha256"], distil.data_identity(config, dataset),
    )  # fmt: skip
    path = artifacts / "evaluate" / f"{name}.json"
    saves = checkpoints.Saves(path.with_suffix(""))

    @CLOCK.stage("evaluate")
    def train():
        return evaluate.run(
            settings, distilled, student, teacher.network, teacher.variables(labeller), dataset.val, seed,
            flip=config.data.flip, label=label, saves=saves,
        )  # fmt: skip

    curve = store.undamaged(store.read_json, path)
    if curve is None:
        with guard.owned(path.parent, wait=True, part=name):
            curve = store.cached_json(path, train)
    saves.remove()
    return curve
