"""Where a run's teacher comes from: files that the config names, or a training of its own, kept on disk and shared."""

import contextlib
import dataclasses
import functools
from pathlib import Path

import numpy as np

from infoutil_jax import checkpoints, coresets, distil, guard, pretrained, store, train
from infoutil_jax.clock import CLOCK
from infoutil_jax.errors import CorruptArtifact
from infoutil_jax.progress import say
from infoutil_jax.settings import Config, for_method
from infoutil_jax.stages import teacher as stage
from infoutil_jax.weights import require_finite

MEASURED = 2  # version of what is kept of imported weights: stage.examine_imported


def obtain(config: Config, dataset, artifacts: Path) -> stage.Teacher:
    """The teacher of a config that `pretrained.adopt` has seen; its accuracy is measured once, and printed."""
    settings, shape = config.teacher, (len(dataset.class_names), config.data.mean, config.data.std)
    network = stage.build_network(settings.model, settings.width, *shape)
    teacher = (_imported if settings.weights else _trained)(config, network, dataset, artifacts)
    if settings.early_learning_rate:
        teacher = _with_its_own_early(teacher, config, dataset, artifacts)
    for which in ("early", "converged"):
        seen = teacher.record[which]
        origin = seen.get("file") or f"epoch {seen['epoch']}"
        say(f"teacher ({which}, {origin}): {seen['top1']:.2%} on {seen['count']} validation images")
    return teacher


def _imported(config: Config, network, dataset, artifacts: Path) -> stage.Teacher:
    """Read anew in every run, and tested against the accuracy that is recorded for it."""
    blank = stage.blank_variables(network, config.data.image_size)
    loaded, notes = pretrained.of_teacher(config, blank, dataset.class_names)
    say("\n".join(notes))
    record, identity = {"model": config.teacher.model}, distil.data_identity(config, dataset)
    for which, found in loaded.items():
        name = store.fingerprint("imported", MEASURED, found.identity, identity)
        path = artifacts / "teacher" / name / "teacher.json"

        @CLOCK.stage("teacher")
        def measure(variables=found.variables):
            return stage.examine_imported(network, variables, dataset)

        measured = store.cached_json(path, measure)
        stage.self_test(config.teacher, len(dataset.class_names), which, found.file, measured, found.top1)
        record[which] = {**found.record, **{name: measured[name] for name in train.Accuracy._fields}}
    return stage.Teacher(network, loaded["early"].variables, loaded["converged"].variables, record)


def _trained(config: Config, network, dataset, artifacts: Path) -> stage.Teacher:
    """From disk where it was trained before. Runs that differ in `early_epoch` alone share one training."""
    settings, shape = config.teacher, (len(dataset.class_names), config.data.mean, config.data.std)
    identity = distil.data_identity(config, dataset)
    name = store.fingerprint("teacher", stage.VERSION, settings.training, shape, config.data.flip, identity)
    directory = artifacts / "teacher" / name
    epochs = {"early": settings.early_epoch, "converged": settings.epochs}
    weights = dict(zip(epochs, _snapshots(config, network, dataset, directory, [*epochs.values()])))
    record = {"model": settings.model}
    for which, variables in weights.items():
        path = directory / f"epoch{epochs[which]}.json"
        record[which] = {"epoch": epochs[which], **_measured(config, network, dataset, path, which, variables)}
    forgotten = _forgotten(settings.epochs, directory, dataset.train) if _wants_forgetting(config) else None
    return stage.Teacher(network, weights["early"], weights["converged"], record, forgotten)


def _with_its_own_early(teacher: stage.Teacher, config: Config, dataset, artifacts: Path) -> stage.Teacher:
    """Its early network replaced by that of a training of its own, `early_epoch` long."""
    settings = config.teacher
    warmup = min(settings.warmup_epochs, settings.early_epoch)
    short = {"epochs": settings.early_epoch, "learning_rate": settings.early_learning_rate, "warmup_epochs": warmup}
    own = dataclasses.replace(config, teacher=dataclasses.replace(settings, **short))
    early = _trained(own, teacher.network, dataset, artifacts)
    return teacher._replace(early=early.converged, record=teacher.record | {"early": early.record["converged"]})


def _snapshots(config: Config, network, dataset, directory: Path, epochs: list[int]) -> list[dict]:
    """The variables after each of `epochs`. What is absent or damaged is trained, by one run at a time."""
    snapshots = checkpoints.Checkpoints(directory / "snapshots")
    like = stage.blank_variables(network, config.data.image_size)
    with contextlib.suppress(CorruptArtifact):
        return [snapshots.restore(epoch, like) for epoch in epochs]
    with guard.owned(directory, wait=True):
        found = [snapshots.get(epoch, like) for epoch in epochs]  # sets aside what is damaged
        if None in found:
            stores = {"snapshots": snapshots, "saves": checkpoints.Saves(directory / "saves")}
            stores["keep"] = functools.partial(_keep, directory)
            size = {"side": config.data.image_size, "flip": config.data.flip}
            with CLOCK.stage("teacher"):
                stage.run(config.teacher, network, dataset, config.seed, **size, **stores)
        return [snapshots.restore(epoch, like) for epoch in epochs]


def _measured(config: Config, network, dataset, path: Path, which: str, variables) -> dict:
    """Hash and accuracy of one snapshot, measured once; later the weights are checked against the hash."""
    require_finite(variables, f"teacher ({which}) of {path.parent}", "delete that folder to train again")
    sha256 = store.tree_hash(variables)

    @CLOCK.stage("teacher")
    def measure():
        return {"sha256": sha256, **stage.examine(config.teacher, network, variables, dataset, which)}

    measured = store.cached_json(path, measure)
    if measured["sha256"] != sha256:
        fault = f"the {which} teacher's weights are not those that were measured"
        raise CorruptArtifact(f"{path}: {fault}; delete {path.parent} to train again.")
    stage.require_above_chance(config.teacher, measured["top1"], len(dataset.class_names), which)
    return measured


def _wants_forgetting(config: Config) -> bool:
    return any(for_method(config, name).select.rule == "forgetting" for name in config.methods)


def _history(directory: Path, epoch: int) -> Path:
    """Which training images the network in training was right about in one epoch."""
    return directory / f"correct{epoch}.npz"  # beside the fingerprint, which its seal covers


def _keep(directory: Path, epoch: int, correct_N) -> None:
    """Once: epochs that a later snapshot has to run again are those of the first training."""
    if not _history(directory, epoch).exists():
        store.save_arrays(_history(directory, epoch), {"bits": np.packbits(correct_N)})


def _forgotten(epochs: int, directory: Path, split) -> dict[str, int]:
    """How often each training image was forgotten, by its id."""
    paths = [_history(directory, epoch) for epoch in range(1, epochs + 1)]
    absent = [path.name for path in paths if not path.exists()]
    if absent:
        raise CorruptArtifact(f"{directory}: {', '.join(absent)} are missing; delete it to train again.")
    correct_EN = np.stack([np.unpackbits(store.load_arrays(path)["bits"], count=len(split)) for path in paths])
    return dict(zip(split.ids, coresets.forgetting_counts(correct_EN).tolist()))
