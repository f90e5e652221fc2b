"""One class of one method, from real images to records: the chain of stages in the order of Algorithm 1.

A class needs its own candidates and the teacher, nothing else; so peak memory is one class, and an interrupted run
redoes at most one class.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infoutil_jax import records, store, tfrecord
from infoutil_jax.clock import CLOCK
from infoutil_jax.errors import DataError
from infoutil_jax.keys import generator
from infoutil_jax.progress import warn
from infoutil_jax.settings import Config
from infoutil_jax.stages import attribute, compose, crop, label, score, select
from infoutil_jax.stages.teacher import Teacher
from infoutil_jax.types import Candidates, DistilledImage, Scores

SECTIONS = ("attribute", "crop", "score", "select", "compose", "label")
VERSIONS = [stage.VERSION for stage in (attribute, crop, score, select, compose, label)]


class Method(NamedTuple):
    """What distilling any class by one method needs."""

    config: Config  # with the method's differences
    teacher: Teacher
    coalitions: object  # what attribute.design gave
    artifacts: Path
    origin: str  # fingerprint of the data, the seed and the candidate pool

    @property
    def tile(self) -> int:
        """Side of a patch in pixels, in the distilled image."""
        return self.config.data.image_size // self.config.compose.factor

    @property
    def identity(self) -> str:
        """Fingerprint of all that a class's records are made from."""
        sections = [dataclasses.asdict(getattr(self.config, name)) for name in SECTIONS]
        weights = [self.teacher.record[which]["sha256"] for which in ("early", "converged")]
        return store.fingerprint("shard", VERSIONS, sections, self.config.ipc, weights, self.origin)


def candidate_indices(split, label: int, n: int, seed: int) -> np.ndarray:
    """At most `n` randomly chosen training images of a class."""
    of_class = np.flatnonzero(split.labels == label)
    return generator(seed, "candidates", label).permutation(of_class)[:n]


def candidates(config: Config, split, label: int) -> Candidates:
    """A class's pool, decoded."""
    indices = candidate_indices(split, label, config.candidates, config.seed)
    return Candidates(split.images(indices), tuple(split.ids[i] for i in indices), label)


def data_identity(config: Config, dataset) -> list:
    """What names the images a run sees."""
    return [dataset.content_id, config.data.image_size, config.data.exif, config.seed]


def origin(config: Config, dataset) -> str:
    """Fingerprint of the candidate pools of a run."""
    return store.fingerprint(data_identity(config, dataset), config.candidates)


def require_enough(config: Config, method: str, labels, class_names) -> None:
    """Raises DataError before anything expensive when a class cannot fill its images, listing every such class."""
    one_each = config.crop.rule == "whole" or config.select.pool == "best_per_image"
    pools = np.minimum(np.bincount(labels, minlength=len(class_names)), config.candidates)
    have = pools * (1 if one_each else config.crop.per_image)
    short = [f"{class_names[c]} ({have[c]})" for c in np.flatnonzero(have < config.n_crops)]
    if short:
        patches = config.compose.factor**2
        raise DataError(
            f"{method}: needs {config.n_crops} crops a class (ipc={config.ipc} x {patches} patches), but too few can "
            f"be had for {', '.join(short)}; lower ipc or compose.factor, raise candidates, or add images."
        )


def attribution_file(method: Method, label: int) -> Path:
    """Where a class's Shapley values lie once they are known, for all runs with this teacher, pool and settings."""
    settings, weights = dataclasses.asdict(method.config.attribute), method.teacher.record["converged"]["sha256"]
    name = store.fingerprint("attribute", attribute.VERSION, settings, weights, method.origin)
    return method.artifacts / "attribute" / name / f"{label}.npz"


def attribution_of(method: Method, candidates: Candidates) -> attribute.Attribution:
    """Shapley values of a class's candidates."""
    settings, teacher = method.config.attribute, method.teacher
    labels = np.full(len(candidates.ids), candidates.label)

    @CLOCK.stage("attribute")
    def compute():
        images_u8 = candidates.images_u8
        return attribute.run(settings, teacher.network, teacher.converged, method.coalitions, images_u8, labels)

    return store.cached(attribution_file(method, candidates.label), attribute.Attribution, compute)


def _warn_of_flat(attribution: attribute.Attribution, where: str) -> None:
    """Where every patch of an image is worth the same, to rounding, chance alone places its crops."""
    flat_M = np.ptp(attribution.phi, axis=(1, 2)) <= 1e-6 * np.abs(attribution.full)
    if flat_M.mean() > select.TIES:
        warn(f"attribute: {where}: in {flat_M.sum()} of {len(flat_M)} images all patches are worth the same")


@CLOCK.stage("crop")
def cut(method: Method, candidates: Candidates, phi_MGG) -> tuple[crop.Crops, np.ndarray]:
    """Boxes and pixels (M, R, h, h, 3) uint8 of a class's crops; `phi_MGG` is None for rules that do not look at it."""
    config = method.config
    crops = crop.run(config.crop, config.seed, candidates.ids, config.data.image_size, config.attribute.grid, phi_MGG)
    return crops, crop.cut(candidates.images_u8, crops.boxes, method.tile)


def scores_of(method: Method, candidates: Candidates, crops: crop.Crops, crops_u8) -> Scores:
    """What the selection rule needs to know of every crop, and no more."""
    config, teacher, rule = method.config, method.teacher, method.config.select.rule
    unknown = np.full(crops_u8.shape[:2], np.nan, np.float32)
    nothing = Scores(unknown, np.zeros(unknown.shape, bool), unknown)
    if rule == "random":
        return nothing
    if rule == "forgetting":
        counts_M1 = np.array([[teacher.forgotten[name]] for name in candidates.ids], np.int32)
        return nothing._replace(forgotten=np.broadcast_to(counts_M1, unknown.shape))
    gradients, parts = rule in select.GRADIENT_RULES, [config.attribute, config.crop, config.score]
    wanted = "features" if rule in select.FEATURE_RULES else gradients
    name = store.fingerprint(
        "score", attribute.VERSION, crop.VERSION, score.VERSION, [dataclasses.asdict(p) for p in parts], method.tile,
        wanted, teacher.record[config.score.teacher]["sha256"], teacher.record["converged"]["sha256"], method.origin,
    )  # fmt: skip

    def compute():
        if rule in select.FEATURE_RULES:
            return nothing._replace(features=_features(method, crops_u8, candidates.label))
        return _score(method, crops_u8, candidates.label, with_gradients=gradients)

    return store.cached(method.artifacts / "score" / name / f"{candidates.label}.npz", Scores, compute)


@CLOCK.stage("score")
def _score(method: Method, crops_u8, label: int, *, with_gradients: bool) -> Scores:
    config, network = method.config, method.teacher.network
    variables, side = method.teacher.variables(config.score.teacher), config.data.image_size
    return score.run(config.score, network, variables, crops_u8, label, side, with_gradients=with_gradients)


@CLOCK.stage("score")
def _features(method: Method, crops_u8, label: int) -> np.ndarray:
    config, network = method.config, method.teacher.network
    variables, side = method.teacher.variables(config.score.teacher), config.data.image_size
    return score.features(config.score, network, variables, crops_u8, label, side)


def _gradient_norms(method: Method, scores: Scores, rows, tiles_u8, label: int):
    """Gradient norms of the chosen crops (I, k): known from scoring, or computed for these alone."""
    if method.config.select.rule in select.GRADIENT_RULES:
        return scores.gradient_norm[rows[..., 0], rows[..., 1]]
    return _score(method, tiles_u8, label, with_gradients=True).gradient_norm


@CLOCK.stage("select")
def _select(method: Method, candidates: Candidates, crops: crop.Crops, scores: Scores, where: str) -> np.ndarray:
    """(I, k, 2): the image and the crop in every place of every mosaic."""
    config = method.config
    ranked = select.run(config.select, config.seed, scores, crops.boxes, candidates.ids, config.n_crops, where=where)
    return ranked[compose.arrange(config.ipc, config.compose.factor**2, config.compose.order)]


@CLOCK.stage("label")
def _logits(method: Method, tiles_u8) -> np.ndarray:
    """(I, k, K) of tiles (I, k, h, h, 3)."""
    config, teacher = method.config, method.teacher
    flat = tiles_u8.reshape(-1, *tiles_u8.shape[2:])
    logits = label.run(teacher.network, teacher.variables(config.label.teacher), flat, config.data.image_size)
    return logits.reshape(*tiles_u8.shape[:2], -1)


def distil_class(method: Method, candidates: Candidates, where: str) -> list[DistilledImage]:
    """The ipc records of one class, best rank first."""
    phi_MGG = None
    if method.config.crop.rule == "shapley":
        attribution = attribution_of(method, candidates)
        _warn_of_flat(attribution, where)
        phi_MGG = attribution.phi
    crops, crops_u8 = cut(method, candidates, phi_MGG)
    scores = scores_of(method, candidates, crops, crops_u8)
    rows_Ik2 = _select(method, candidates, crops, scores, where)
    image, number = rows_Ik2[..., 0], rows_Ik2[..., 1]
    tiles_u8 = crops_u8[image, number]
    logits = _logits(method, tiles_u8)
    norms = _gradient_norms(method, scores, rows_Ik2, tiles_u8, candidates.label)
    with CLOCK.stage("compose"):
        images_u8 = compose.stitch(tiles_u8)
    return [
        DistilledImage(
            image_u8,
            candidates.label,
            logits[i],
            tuple(candidates.ids[m] for m in image[i]),
            crops.boxes[image[i], number[i]],
            crops.pooled[image[i], number[i]].astype(np.float32),
            norms[i].astype(np.float32),
        )  # fmt: skip
        for i, image_u8 in enumerate(images_u8)
    ]


class Output(NamedTuple):
    """Where a method's records go."""

    directory: Path
    lines: Path  # a folder of the method's identity, with the manifest's line of every finished shard
    layout: records.Layout


def finished_line(output: Output, label: int) -> dict | None:
    """A class's line in the manifest, None without a finished shard. Raises CorruptArtifact if it was cut since."""
    shard = output.directory / output.layout.shard_names[label]
    line = store.undamaged(store.read_json, output.lines / f"{label}.json")
    if line is None or not shard.exists():
        return None
    if (size := shard.stat().st_size) != line["bytes"]:
        raise tfrecord.corrupt(shard, f"{size} bytes, but {line['bytes']} were written")
    return line


def write_class(method: Method, output: Output, candidates: Candidates) -> dict:
    """Makes and writes the shard of a class; returns its line in the manifest."""
    label, layout = candidates.label, output.layout
    examples = distil_class(method, candidates, where=f"class {layout.class_names[label]}")
    with CLOCK.stage("write"):
        line = records.write_shard(output.directory, label, examples, layout)
        store.write_json(output.lines / f"{label}.json", line, artifact=True)
    return line
