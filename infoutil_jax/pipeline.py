"""The run: which stage follows which. Everything on disk is found again by what it was made from, so that the same
command goes on where it was interrupted and a changed setting redoes only what depends on it."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path

import numpy as np

from infoutil_jax import (
    __version__,
    clock,
    data,
    distil,
    parallel,
    pretrained,
    records,
    results,
    selfcheck,
    store,
    teachers,
)
from infoutil_jax.clock import CLOCK
from infoutil_jax.data.batches import load_ahead
from infoutil_jax.errors import ConfigError
from infoutil_jax.progress import say, track
from infoutil_jax.settings import Config, for_method
from infoutil_jax.stages import attribute, evaluate
from infoutil_jax.stages import teacher as teacher_stage

RECORD = "config.json"  # what makes a folder a run
TIMING = "timing.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy", "pillow")


def run(config: Config, *, workdir: str = "", artifacts: str = "") -> Path:
    """Distils by every method of `config`, trains students on what was written, prints the table -> the workdir."""
    CLOCK.restart()
    config, notes = pretrained.adopt(config)
    if workdir:
        _require_same_run(config, Path(workdir))
    selfcheck.run()
    dataset = open_data(config)
    workdir = Path(workdir) if workdir else store.new_workdir(Path("runs"), config.name)
    store.write_json(workdir / RECORD, results.plain(config))
    artifacts = Path(artifacts) if artifacts else workdir / "artifacts"
    say("\n".join([f"{config.name}: {parallel.describe()}, workdir {workdir}", *notes]))
    teacher_stage.blank_variables(student_network(config, dataset), config.data.image_size)  # or fail before the work
    with _keeping_time(workdir / TIMING):
        teacher = teachers.obtain(config, dataset, artifacts)
        directories = write_sets(config, dataset, teacher, workdir, artifacts)
        table = evaluate_sets(config, dataset, teacher, directories, artifacts)
    timing = _timing(workdir / TIMING)
    results.publish(config, dataset, teacher, directories, table, workdir, artifacts, environment(), timing)
    return workdir


@contextlib.contextmanager
def _keeping_time(path: Path):
    """Adds the seconds of this run to those at `path`, also when it is interrupted; a run without work adds none."""
    try:
        yield
    finally:
        spent = CLOCK.read()
        if spent:
            store.write_json(path, clock.add(_timing(path), spent))


def _timing(path: Path) -> list[dict]:
    return store.read_json(path) if path.exists() else []


def _require_same_run(config: Config, path: Path) -> None:
    """Raises ConfigError unless `path` is new, empty or a run of the same config; lists what differs."""
    record = path / RECORD
    if record.exists():
        changed = results.differences(store.read_json(record), results.plain(config))
        if changed:
            differs = "; ".join(changed)
            raise ConfigError(f"{path} holds a run with other settings: {differs}. Use another --workdir.")
    elif path.exists() and any(path.iterdir()):
        raise ConfigError(f"{path} is not empty and holds no run (no {RECORD}); choose another --workdir.")


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


def environment() -> dict:
    """What a result may depend on besides the config."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    own = {"infoutil_jax": __version__, "git": _git_commit()}
    return {**own, "python": platform.python_version(), "devices": parallel.describe(), **versions}


def _git_commit() -> str:
    """The commit of the checkout this package lies in, with '+' where files differ from it; or 'unknown'."""
    git = functools.partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    try:
        head, dirty = git(["git", "rev-parse", "HEAD"]), git(["git", "status", "--porcelain"])
    except FileNotFoundError:
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else "unknown"


def write_sets(config: Config, dataset, teacher, workdir: Path, artifacts: Path) -> dict[str, Path]:
    """The distilled set of every method: WORKDIR/distilled for the first, WORKDIR/controls/METHOD for the others."""
    origin = distil.origin(config, dataset)
    coalitions = attribute.design(config.attribute, config.seed)
    methods = {
        name: distil.Method(for_method(config, name), teacher, coalitions, artifacts, origin) for name in config.methods
    }
    outputs = {}
    for name, method in methods.items():
        directory = workdir / ("distilled" if name == config.methods[0] else f"controls/{name}")
        lines = workdir / "shards" / name / method.identity
        outputs[name] = distil.Output(directory, lines, _layout(method.config, dataset))
    lines = _write_missing(config, dataset.train, methods, outputs, range(len(dataset.class_names)))
    for name, method in methods.items():
        directory, manifest = outputs[name].directory, _manifest(method.config, name, dataset, teacher)
        if (directory / records.MANIFEST).exists():  # a finished set keeps the environment that it was made in
            manifest["environment"] = records.read_manifest(directory)["environment"]
        records.finish(directory, outputs[name].layout, lines[name], manifest)
    return {name: output.directory for name, output in outputs.items()}


def _write_missing(config: Config, split, methods: dict, outputs: dict, classes) -> dict[str, list[dict]]:
    """The manifest lines of every method, class by class. The candidates of a class with work to do are loaded while
    the class before is worked on."""
    lines = {name: [distil.finished_line(output, label) for label in classes] for name, output in outputs.items()}
    missing = [label for label in classes if any(of_method[label] is None for of_method in lines.values())]
    if not missing:
        return lines
    loaded = load_ahead(functools.partial(distil.candidates, config, split), missing)
    with CLOCK.stage("distil"):
        for candidates in track(loaded, "distil", total=len(missing), unit="classes"):
            label = candidates.label
            for name, method in methods.items():
                lines[name][label] = lines[name][label] or distil.write_class(method, outputs[name], candidates)
    return lines


def _layout(config: Config, dataset) -> records.Layout:
    n_classes = len(dataset.class_names)
    name = re.sub("[^a-z0-9]+", "_", f"distilled {dataset.name}".lower()).strip("_")
    n_patches = config.compose.factor**2
    return records.Layout(name, dataset.class_names, n_classes, config.data.image_size, n_patches, n_classes)


def _manifest(config: Config, name: str, dataset, teacher) -> dict:
    return {
        "method": name,
        "config": results.plain(config),
        "data": {"name": dataset.name, "content_id": dataset.content_id},
        "teacher": teacher.record,
        "label_teacher": config.label.teacher,
        "environment": environment(),
    }


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
        distilled = records.load(directory)
        for labels, n_seeds in columns.items():
            for i in range(n_seeds):
                label = f"{name}, {labels} labels, seed {i}"
                curve = _student(
                    config, dataset, teacher, distilled, student, labels, config.seed + i, artifacts, label
                )  # fmt: skip
                curves[name][labels].append(curve)
    return results.Table(curves, settings.labels, _neighbour(config, dataset, artifacts))


def _neighbour(config: Config, dataset, artifacts: Path) -> list[float]:
    """Accuracy of 1-nearest-neighbour on random real images, as many as are distilled, in ten draws; measured once."""
    per_class = min(config.ipc, int(np.bincount(dataset.train.labels).min()))
    name = store.fingerprint("neighbour", evaluate.VERSION, per_class, distil.data_identity(config, dataset))
    path = artifacts / "evaluate" / f"{name}.json"
    if not path.exists():
        with CLOCK.stage("evaluate"):
            store.write_json(path, [evaluate.nearest_neighbour(dataset, per_class, seed) for seed in range(10)])
    return store.read_json(path)


def _student(
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
    if not path.exists():
        with CLOCK.stage("evaluate"):
            curve = evaluate.run(
                settings, distilled, student, teacher.network, teacher.variables(labeller), dataset.val, seed,
                flip=config.data.flip, label=label,
            )  # fmt: skip
        store.write_json(path, curve)
    return store.read_json(path)
