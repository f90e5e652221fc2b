"""What a run would cost, from its config alone: `--dry_run` reads no image and trains nothing."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from infoutil_jax import parallel
from infoutil_jax.settings import Config, for_method
from infoutil_jax.stages import evaluate, select
from infoutil_jax.stages.teacher import build_network

KNOWN_SIZES = {"imagenet2012": (1_281_167, 50_000), "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "fashion_mnist": (60_000, 10_000)}
PNG_SHARE = 0.8  # of raw pixels, photographs; digits and graphics take less
BACKWARD = 3  # a gradient costs about three forward passes


class Source(NamedTuple):
    """What is known of the data without reading it."""

    n_classes: int
    n_train: int  # 0 = unknown
    n_val: int
    missing: str  # what has to be got first, '' when nothing


def _tfds_source(settings) -> Source:
    import tensorflow_datasets as tfds

    if settings.name:
        builder = tfds.builder(settings.name, data_dir=settings.path or None)
    else:
        builder = tfds.builder_from_directory(settings.path)
    sizes = [builder.info.splits[s].num_examples if s in builder.info.splits else 0 for s in (settings.train_split, settings.val_split)]
    known = KNOWN_SIZES.get(builder.name, (0, 0))
    missing = "" if all(sizes) else f"{builder.name} is not prepared in {builder.data_dir}: tfds build {builder.name} --file_format=array_record (needs tensorflow)"
    return Source(builder.info.features["label"].num_classes, sizes[0] or known[0], sizes[1] or known[1], missing)


def _folder_source(settings) -> Source:
    train, val = (Path(settings.path) / split for split in ("train", "val"))
    if not train.is_dir() or not val.is_dir():
        return Source(1, 0, 0, f"no folders {train} and {val}")
    count = lambda root: sum(1 for path in root.glob("*/*") if path.is_file())
    return Source(sum(1 for path in train.iterdir() if path.is_dir()), count(train), count(val), "")


def source_of(config: Config) -> Source:
    """Classes, images and what is missing."""
    if config.data.source == "tfds":
        return _tfds_source(config.data)
    return _folder_source(config.data) if config.data.source == "folder" else Source(10, 1437, 360, "")


def forward_cost(network, side: int) -> tuple[float, int]:
    """(FLOPs of one image's forward pass as the compiler counts them, parameters)."""
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


def _distil_lines(config: Config, name: str, source: Source, flops: float) -> list[str]:
    pool = source.n_classes * config.candidates
    crops = pool * (1 if config.crop.rule == "whole" else config.crop.per_image)
    evaluations = pool * config.attribute.budget if config.crop.rule == "shapley" else 0
    scored = 0 if config.select.rule == "random" else crops
    cost = flops * (evaluations + scored * (1 + BACKWARD if config.select.rule in select.GRADIENT_RULES else 1))
    return [
        f"{name:15s} {pool:,} candidates, {evaluations:,} coalition evaluations, {scored:,} crops scored, "
        f"{source.n_classes * config.n_crops:,} kept: {_unit(cost, 'FLOP')}"
    ]


def _output_bytes(config: Config, n_classes: int) -> tuple[float, float]:
    """(pixels as PNG, soft labels) of one distilled set."""
    images = n_classes * config.ipc
    return images * 3 * config.data.image_size**2 * PNG_SHARE, images * config.compose.factor**2 * n_classes * 4


def _memory(config: Config, n_parameters: int) -> tuple[float, float]:
    """(host, device) bytes: one class's candidates and crops; gradients of one chunk, weights and one micro-batch of images."""
    image = 3 * config.data.image_size**2
    crops = config.crop.per_image * image / config.compose.factor**2
    gradients = config.score.batch_size * n_parameters * 4
    return config.candidates * (image + crops), gradients + 8 * n_parameters + config.attribute.micro_batch * image * 4


def describe(config: Config) -> str:
    """The plan as text: work per stage and method, memory, bytes written, what is missing."""
    source = source_of(config)
    network = build_network(config.teacher.model, config.teacher.width, source.n_classes, config.data.mean, config.data.std)
    flops, n_parameters = forward_cost(network, config.data.image_size)
    training = BACKWARD * flops * source.n_train * config.teacher.epochs
    batch = config.evaluate.batch_size or evaluate.default_batch_size(config.ipc, source.n_classes)
    steps = config.evaluate.epochs * math.ceil(config.ipc * source.n_classes / batch)
    student = flops * steps * batch * (BACKWARD + (config.evaluate.labels == "online"))
    students = len(config.methods) * (config.evaluate.seeds + config.evaluate.hard_seeds)
    host, device = _memory(config, n_parameters)
    png, labels = _output_bytes(config, source.n_classes)
    size = lambda n: f"{n:,}" if n else "unknown number of"
    lines = [
        f"plan of {config.name}: {config.data.source} {config.data.name or config.data.path}".rstrip() + f" at {config.data.image_size} px, IPC {config.ipc}",
        f"data            {source.n_classes:,} classes, {size(source.n_train)} training and {size(source.n_val)} validation images",
        f"devices         {parallel.describe()}",
        f"network         {config.teacher.model}: {n_parameters:,} parameters, {_unit(flops, 'FLOP')} a forward pass",
        f"teacher         {config.teacher.epochs} epochs: {_unit(training, 'FLOP')}" + ("" if source.n_train else " (size of the data unknown)"),
    ]
    for name in config.methods:
        lines += _distil_lines(for_method(config, name), name, source, flops)
    lines += [
        f"students        {students} x {steps:,} steps of {batch}: {_unit(student, 'FLOP')} each (with on-line labels)",
        f"memory          host {_unit(host, 'B', 1024)} for one class, device {_unit(device, 'B', 1024)} besides activations",
        f"output          {source.n_classes * config.ipc:,} images a set: about {_unit(png, 'B', 1024)} of PNG, {_unit(labels, 'B', 1024)} of soft labels",
        f"missing         {source.missing or 'nothing'}",
    ]
    return "\n".join(lines)
