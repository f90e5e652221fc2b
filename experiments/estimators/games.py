"""Whole games of real images under real teachers: the value of every coalition, so that every estimator can be judged."""

import contextlib
import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infoutil_jax import config, data, teachers
from infoutil_jax.attribution import exact
from infoutil_jax.stages import attribute

SETS = {  # name -> config, teacher
    "photos_bn": ("digits_in_photos_ipc10", "convnet3"),
    "photos_in": ("digits_in_photos_ipc10", "convnet3_in"),
    "cifar10_bn": ("cifar10_ipc10", "convnet3"),
    "cifar10_in": ("cifar10_ipc10", "convnet3_in"),
}
CHEAP = {"teacher.width": 32, "teacher.epochs": 15, "teacher.learning_rate": 0.05}  # CIFAR-10's, for 2^16 coalitions


class Game(NamedTuple):
    """All values of some images' games."""

    values_SN: np.ndarray  # (2**P, N) float64, rows by bitmask
    phi_PN: np.ndarray  # exact Shapley values
    accuracy: float  # the teacher's


def _settings(name: str, data_dir: str):
    file, model = SETS[name]
    c = importlib.import_module(f"configs.{file}").get_config()
    c.update_from_flattened_dict({"teacher.model": model, **(CHEAP if file.startswith("cifar10") else {})})
    if c.data.source == "tfds":
        c.data.path = data_dir
    return config.resolve(c)


def _spread(labels, n: int) -> np.ndarray:
    """The first n images, the classes in turn."""
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        turn[labels == label] = np.arange((labels == label).sum())
    return np.sort(np.lexsort((labels, turn))[:n])


def load(name: str, grid: int, value: str, n_images: int, data_dir: str, runs: Path) -> Game:
    """The games of `n_images` validation images that the teacher gets right; teacher and values are kept in `runs`."""
    path = runs / f"{name}_{grid}x{grid}_{value}_{n_images}.npz"
    if not path.exists():
        settings = _settings(name, data_dir)
        dataset = data.open_dataset(settings.data)
        with contextlib.chdir(runs):
            teacher = teachers.obtain(settings, dataset, Path("artifacts"))
        logits = lambda rows: teacher.network.logits(
            teacher.converged, dataset.val.images(rows).astype(np.float32) / 255
        )
        first = np.arange(min(len(dataset.val), 10 * n_images))
        right = first[np.asarray(logits(first)).argmax(1) == dataset.val.labels[first]]
        rows = right[_spread(dataset.val.labels[right], n_images)]
        game = attribute.Settings(grid, "zero", value, "label", "exact", 2**grid**2, "float32", 0)
        masks, labels = exact.all_masks(grid**2), dataset.val.labels[rows]
        found = attribute.values(game, teacher.network, teacher.converged, masks, dataset.val.images(rows), labels)
        np.savez(path, values=found.T, accuracy=teacher.record["converged"]["top1"])
    with np.load(path) as saved:
        values_SN = saved["values"].astype(np.float64)
        phi_PN = np.stack([exact.shapley_values(values) for values in values_SN.T], axis=1)
        return Game(values_SN, phi_PN, float(saved["accuracy"]))
