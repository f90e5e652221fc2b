"""A run's teacher from elsewhere: the files that the config names, pinned by SHA-256, and the numbers they come with.

Mean, std, resize rule and accuracy are the weights' own where these say so, in timm's form; docs/teachers.md.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infoutil_jax import store, weights
from infoutil_jax.errors import ConfigError, CorruptArtifact, DataError

# what timm calls our networks; its tf_efficientnet_b0, say, has the same keys and is another network
TIMM_NAMES = {
    "mobilenet_v2": "mobilenetv2_100",
    "swin_v2_t": "swinv2_tiny_window8_256",
    "convnext_t": "convnext_tiny",
    "mixer_b16": "mixer_b16_224",
}
FIELDS = ("architecture", "mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation", "label_names", "top1")


class Weights(NamedTuple):
    """The variables that a file gave, and what is known about them."""

    variables: dict
    file: str
    sha256: str  # of the file
    identity: str  # hash of all that the logits follow from: the variables, the model, the normalisation
    top1: float  # recorded accuracy in [0, 1], 0 = unknown

    @property
    def record(self) -> dict:
        """What manifest and results say of them, besides what is measured."""
        file = {"file": self.file, "file_sha256": self.sha256, "recorded_top1": self.top1}
        return {**file, "sha256": self.identity, "epoch": 0}


def own_config(path: Path) -> tuple[dict, str]:
    """(the FIELDS that the weights come with, where they stand); ({}, '') where there are none.

    In the file's header as 'pretrained_cfg', a JSON text, else in FILE.json or config.json beside it, both as timm
    writes config.json. Raises DataError where that is no JSON object.
    """
    text, where = weights.metadata(path).get("pretrained_cfg"), f"{path}, pretrained_cfg in its header"
    beside = [other for other in (path.with_suffix(".json"), path.with_name("config.json")) if other.is_file()]
    if text is None and not beside:
        return {}, ""
    if text is None:
        text, where = beside[0].read_bytes(), str(beside[0])
    try:
        given = json.loads(text)
        given = {**given, **given.get("pretrained_cfg", {})}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{where}: no JSON object ({error}); mend or remove it.") from error
    return {field: given[field] for field in FIELDS if given.get(field) is not None}, where


def _side(input_size) -> int:
    _, height, width = input_size
    if height != width:
        raise ValueError("images are square here")
    return int(height)


def _three(values) -> tuple[float, ...]:
    return tuple(map(float, values))


def _share(value) -> float:
    if not 0 <= value <= 1:
        raise ValueError("a share lies in [0, 1]")
    return float(value)


def _texts(names) -> tuple[str, ...]:
    """A list, or timm's dictionary by class number."""
    return tuple(map(str, [names[i] for i in sorted(names, key=int)] if isinstance(names, dict) else names))


READ = {  # a field of the weights' own config -> our name and how to read it
    "mean": ("mean", _three),
    "std": ("std", _three),
    "input_size": ("image_size", _side),
    "crop_pct": ("crop_share", float),
    "interpolation": ("interpolation", str),
    "label_names": ("label_names", _texts),
    "top1": ("top1", _share),
}


def _brought(path: Path, model: str) -> tuple[dict, str]:
    """(what the weights come with, under our names; where it stands).

    Raises DataError for a field that cannot be used, ConfigError where the architecture is not `model`.
    """
    own, where = own_config(path)
    known = (model, model.removesuffix("_cifar"), TIMM_NAMES.get(model, model))
    if own.get("architecture", model) not in known:
        fault = f"{where}: architecture {own['architecture']!r} is not teacher.model={model!r}"
        raise ConfigError(f"{fault} (known here as {', '.join(dict.fromkeys(known))}); set the model or the file.")
    if own.get("crop_mode", "center") != "center":
        raise DataError(f"{where}: crop_mode={own['crop_mode']!r} is not supported, only 'center' is.")
    brought = {}
    for field in own.keys() & READ.keys():
        name, read_field = READ[field]
        try:
            brought[name] = read_field(own[field])
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{where}: {field}={own[field]!r} cannot be used ({error}); mend it.") from error
    return brought, where


def _with_its_data(config, path: Path) -> tuple:
    """(`config` with the mean, std and resize rule of the weights at `path`, a line to print)."""
    brought, where = _brought(path, config.teacher.model)
    changes = {name: value for name, value in sorted(brought.items()) if name not in ("label_names", "top1")}
    if not changes:
        return config, f"teacher weights: {path} brings no mean, std or resize rule, those of the config hold"
    try:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    taken = ", ".join(f"{name}={value}" for name, value in changes.items())
    return config, f"teacher weights: {taken}, as {where} has it"


def adopt(config) -> tuple:
    """(`config` with the mean, std and resize rule that the teacher's weights come with, lines to print).

    Called before anything is read, so that students and every hash see the same numbers. Raises ConfigError where
    the two files, or the weights and teacher.model, contradict each other.
    """
    settings = config.teacher
    if not settings.weights:
        return config, []
    config, note = _with_its_data(config, Path(settings.weights))
    if not settings.early_weights:
        return config, [note]
    early, early_note = _with_its_data(config, Path(settings.early_weights))
    if early != config:
        raise ConfigError(f"{early_note}, but {settings.weights} has other numbers; one run has one of each.")
    return config, [note, early_note]


def absent(settings) -> list[str]:
    """What is missing, for the plan."""
    files = filter(None, (settings.weights, settings.early_weights))
    return [f"no file {name}" for name in files if not Path(name).is_file()]


def _load(path: Path, pinned: str, config, like: dict, class_names) -> tuple[Weights, str]:
    """What a file gives and a sentence on class order. A recorded accuracy is of all its classes, not of a choice.

    Raises CorruptArtifact where its SHA-256 is not `pinned` ('' = any), and what `read` and `assign` raise.
    """
    weights.refuse_others(path)
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if pinned not in ("", sha256):
        raise CorruptArtifact(f"{path}: SHA-256 is {sha256}, not the pinned {pinned}; fetch the file again.")
    model, numbers = config.teacher.model, np.array([config.data.mean, config.data.std])
    brought, _ = _brought(path, model)
    names = brought.get("label_names", ())
    variables, n_classes, note = weights.assign(weights.read(path), model, like, class_names, names, where=str(path))
    identity = store.tree_hash({model: variables, "mean and std": numbers})
    top1 = brought.get("top1", 0.0) if n_classes == len(class_names) else 0.0
    return Weights(variables, path.name, sha256, identity, top1), note


def of_teacher(config, like: dict, class_names) -> tuple[dict[str, Weights], list[str]]:
    """The early and the converged weights of an adopted config, in the structure of `like`, and lines to print."""
    settings, notes = config.teacher, []

    def of(key):
        pinned = getattr(settings, f"{key}_sha256")
        found, note = _load(Path(getattr(settings, key)), pinned, config, like, class_names)
        if key == "weights" and settings.weights_top1:
            found = found._replace(top1=settings.weights_top1)
        notes.append(f"teacher weights: {found.file}: {note}")
        if not pinned:
            notes.append(f"teacher weights: pin {found.file} with --config.teacher.{key}_sha256={found.sha256}")
        if not found.top1:
            unknown = f"no accuracy on these {len(class_names)} classes is recorded"
            fault = f"{unknown}: refused only if near chance or in another order"
            notes.append(f"teacher weights: {found.file}: {fault}")
        return found

    converged = of("weights")
    if not (settings.early_weights or settings.early_learning_rate):
        fault = f"{converged.file} is the early teacher too"
        notes.append(f"teacher weights: {fault}; teacher.early_weights or teacher.early_learning_rate give it another")
    return {"early": of("early_weights") if settings.early_weights else converged, "converged": converged}, notes
