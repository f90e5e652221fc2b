"""What a run would cost, from its config alone: `--dry_run` reads no image and trains nothing."""

import functools
import math
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from infoutil_jax import parallel, pretrained
from infoutil_jax.checks import nearest
from infoutil_jax.errors import ConfigError, DataError
from infoutil_jax.settings import Config, for_method
from infoutil_jax.stages import attribute, evaluate, select
from infoutil_jax.stages.teacher import build_network

KNOWN_SIZES = {  # of what TFDS has to build first: training and validation images
    "imagenet2012": (1_281_167, 50_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "fashion_mnist": (60_000, 10_000),
    "imagenette": (9_469, 3_925),
}
PNG_SHARE = 0.8  # of raw pixels, photographs; digits and graphics take less
BACKWARD = 3  # a gradient costs about three forward passes


class Source(NamedTuple):
    """What is known of the data without reading it."""

    n_classes: int
    n_train: int  # 0 = unknown
    n_val: int
    missing: str  # what has to be got first, '' when nothing


def _tfds_builder(settings):
    """Of a prepared dataset or one that TFDS can build; looking up other names would import TensorFlow."""
    import tensorflow_datasets as tfds

    registered, dataset = tfds.core.registered, re.split("[:/]", settings.name)[0]
    known = registered.list_imported_builders()
    try:
        if dataset in known:
            return tfds.builder(settings.name, data_dir=settings.path or None)
        if settings.name:
            return tfds.core.read_only_builder.builder_from_files(settings.name, data_dir=settings.path or None)
        return tfds.builder_from_directory(settings.path)
    except registered.DatasetNotFoundError as error:
        near = nearest(dataset, known)
        raise ConfigError(f"data.name={settings.name!r} is no dataset that TFDS knows{near}") from error
    except (AssertionError, ValueError, OSError) as error:
        fault = str(error).splitlines()[0]
        raise ConfigError(f"data.name={settings.name!r}, data.path={settings.path!r}: {fault}") from error


def _tfds_sizes(settings, builder) -> tuple[int, int]:
    """Images of the two splits, 0 where the dataset is neither prepared nor known."""
    if not builder.info.splits:
        return KNOWN_SIZES.get(builder.name, (0, 0))
    try:
        return tuple(builder.info.splits[split].num_examples for split in (settings.train_split, settings.val_split))
    except ValueError as error:
        raise ConfigError(f"data.train_split or data.val_split: {str(error).splitlines()[0]}") from error


def _tfds_source(settings) -> Source:
    builder = _tfds_builder(settings)
    if "label" not in builder.info.features:
        raise DataError(f"data.name={settings.name!r} has no feature 'label'; choose an image-classification dataset.")
    name = "/".join(filter(None, (builder.name, builder.builder_config and builder.builder_config.name)))
    recipe = f"tfds build {name} --file_format=array_record (needs tensorflow)"
    missing = "" if builder.info.splits else f"{name} is not prepared in {builder.data_dir}: {recipe}"
    return Source(builder.info.features["label"].num_classes, *_tfds_sizes(settings, builder), missing)


def _folder_source(settings) -> Source:
    train, val = (Path(settings.path) / split for split in (settings.train_split, settings.val_split))
    if not train.is_dir() or not val.is_dir():
        return Source(1, 0, 0, f"no folders {train} and {val}")
    count = lambda root: sum(1 for path in root.glob("*/**/*") if path.is_file())
    return Source(sum(1 for path in train.iterdir() if path.is_dir()), count(train), count(val), "")


def source_of(config: Config) -> Source:
    """Classes, images and what is missing."""
    if config.data.source == "tfds":
        return _tfds_source(config.data)
    return _folder_source(config.data) if config.data.source == "folder" else Source(10, 1437, 360, "")


def forward_cost(network, side: int) -> tuple[float, int]:
    """(FLOPs of one image's forward pass as the compiler counts them, without those on padding; parameters)."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(network.model.init, train=False), jax.random.key(0), image)
    cost = jax.jit(network.logits).lower(variables, image).cost_analysis()
    return float(cost["flops"]), sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def _unit(value: float, unit: str, base: int = 1000) -> str:
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < base:
            return f"{value:.3g} {prefix}{unit}"
        value /= base
    return f"{value:.3g} E{unit}"


class Work(NamedTuple):
    """What one method asks of the teacher, over all classes."""

    candidates: int
    evaluations: int  # of coalitions
    scored: int  # crops
    kept: int
    passes: int  # forward passes of all this; a gradient counts as BACKWARD of them


def work(config: Config, source: Source) -> Work:
    """Of a config that `settings.for_method` gave."""
    most = source.n_classes * config.candidates
    pool = min(most, source.n_train or most)
    crops = pool * (1 if config.crop.rule == "whole" else config.crop.per_image)
    attributed, by_gradient = pool * (config.crop.rule == "shapley"), config.attribute.estimator == attribute.GRAD_CAM
    evaluations = 0 if by_gradient else attributed * min(config.attribute.budget, 2**config.attribute.grid**2)
    attribution = attributed * (1 + BACKWARD) if by_gradient else evaluations
    scored = 0 if config.select.rule in ("random", "forgetting") else crops
    passes = 1 + BACKWARD if config.select.rule in select.GRADIENT_RULES else 1
    return Work(pool, evaluations, scored, source.n_classes * config.n_crops, attribution + scored * passes)


class Students(NamedTuple):
    """All students of a run; each takes `steps` of `batch` images."""

    count: int
    steps: int
    batch: int


def students(config: Config, source: Source) -> Students:
    settings = config.evaluate
    images = config.ipc * source.n_classes
    batch = min(settings.batch_size or evaluate.default_batch_size(config.ipc, source.n_classes), images)
    steps = settings.epochs * math.ceil(images / batch)
    hard = settings.hard_seeds if settings.labels != "hard" else 0
    return Students(len(config.methods) * (settings.seeds + hard), steps, batch)


def _distil_line(config: Config, name: str, source: Source, flops: float) -> str:
    asked = work(config, source)
    return (
        f"{name:15s} {asked.candidates:,} candidates, {asked.evaluations:,} coalition evaluations, "
        f"{asked.scored:,} crops scored, {asked.kept:,} kept: {_unit(flops * asked.passes, 'FLOP')}"
    )


def _student_line(config: Config, source: Source, flops: float, teacher_flops: float) -> str:
    labels, (count, steps, batch) = config.evaluate.labels, students(config, source)
    cost = steps * batch * (BACKWARD * flops + (labels == "online") * teacher_flops)
    return f"students        {count} x {steps:,} steps of {batch}: {_unit(cost, 'FLOP')} each ({labels} labels)"


def output_bytes(config: Config, n_classes: int) -> tuple[float, float]:
    """(pixels as PNG, soft labels) of one distilled set."""
    images = n_classes * config.ipc
    return images * 3 * config.data.image_size**2 * PNG_SHARE, images * config.compose.factor**2 * n_classes * 4


def _memory(config: Config, n_parameters: int, micro_batch: int) -> tuple[float, float]:
    """(host, device) bytes: a class's candidates and crops; a chunk's gradients, weights, a micro-batch of images."""
    image = 3 * config.data.image_size**2
    crops = config.crop.per_image * image / config.compose.factor**2
    gradients = config.score.batch_size * n_parameters * 4 if config.score.norms == "vmap" else 0
    return config.candidates * (image + crops), gradients + 8 * n_parameters + micro_batch * image * 4


def _data_line(source: Source) -> str:
    train, val = (f"{n:,}" if n else "unknown number of" for n in (source.n_train, source.n_val))
    return f"data            {source.n_classes:,} classes, {train} training and {val} validation images"


def _teacher_line(settings, source: Source, flops: float) -> str:
    files, epochs = filter(None, (settings.weights, settings.early_weights)), 0 if settings.weights else settings.epochs
    parts = [f"{epochs} epochs" if epochs else f"from {', '.join(files)}"]
    if settings.early_learning_rate:
        parts.append(f"{settings.early_epoch} epochs of the early one")
        epochs += settings.early_epoch
    training = _unit(BACKWARD * flops * source.n_train * epochs, "FLOP")
    known = source.n_train or not epochs
    return (
        f"teacher         {' and '.join(parts)}: {f'{training} of training' if known else 'size of the data unknown'}"
    )


def _disk_and_memory_lines(config: Config, source: Source, network, n_parameters: int) -> list[str]:
    micro_batch = attribute.micro_batch(config.attribute, network, config.data.image_size)
    host, device = (_unit(n, "B", 1024) for n in _memory(config, n_parameters, micro_batch))
    png, labels = (_unit(n, "B", 1024) for n in output_bytes(config, source.n_classes))
    return [
        f"memory          host {host} for one class, device {device} besides activations",
        f"output          {source.n_classes * config.ipc:,} images a set: about {png} of PNG, {labels} of soft labels",
    ]


def describe(config: Config) -> str:
    """The plan as text: work per stage and method, memory, bytes written, what is missing.

    Raises ConfigError or DataError for a dataset or split that does not exist.
    """
    absent = pretrained.absent(config.teacher)
    config, notes = (config, []) if absent else pretrained.adopt(config)
    source, teacher, side = source_of(config), config.teacher, config.data.image_size
    shape = (source.n_classes, config.data.mean, config.data.std)
    network = build_network(teacher.model, teacher.width, *shape)
    flops, n_parameters = forward_cost(network, side)
    student_flops, _ = forward_cost(build_network(config.evaluate.model, config.evaluate.width, *shape), side)
    name = " ".join(filter(None, (config.data.source, config.data.name or config.data.path)))
    return "\n".join(
        [
            f"plan of {config.name}: {name} at {config.data.image_size} px, IPC {config.ipc}",
            _data_line(source),
            f"devices         {parallel.describe()}",
            f"network         {teacher.model}: {n_parameters:,} parameters, {_unit(flops, 'FLOP')} a forward pass",
            _teacher_line(teacher, source, flops),
            *notes,
            *(_distil_line(for_method(config, method), method, source, flops) for method in config.methods),
            _student_line(config, source, student_flops, flops),
            *_disk_and_memory_lines(config, source, network, n_parameters),
            f"missing         {'; '.join(filter(None, [source.missing, *absent])) or 'nothing'}",
        ]
    )
