"""Class-incremental learning on a distilled set: parts of the classes, networks that answer among some of them, and
students that learn part after part."""

import contextlib
import dataclasses
from unittest import mock

import flax.linen as nn
import jax
import numpy as np

from infoutil_jax import models, train
from infoutil_jax.keys import generator
from infoutil_jax.stages import evaluate
from infoutil_jax.types import DistilledSet


class AmongClasses(nn.Module):
    """`model` with the logits of `classes` alone, in their order; its variables are the model's own."""

    model: nn.Module
    classes: tuple[int, ...]

    def setup(self):
        nn.share_scope(self, self.model)

    def __call__(self, images_norm, *, train: bool):
        return self.model(images_norm, train=train)[:, np.array(self.classes)]


class OfClasses:
    """The images of `classes` in a split; labels count in their order."""

    def __init__(self, split, classes: tuple[int, ...]):
        self._split, self._rows = split, np.flatnonzero(np.isin(split.labels, classes))
        self.labels = _renumber(split.labels[self._rows], classes)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices) -> np.ndarray:
        return self._split.images(self._rows[indices])


def _renumber(labels, classes: tuple[int, ...]) -> np.ndarray:
    return np.array([classes.index(label) for label in labels], np.int32)


def restrict(distilled: DistilledSet, images_of: tuple[int, ...], among: tuple[int, ...]) -> DistilledSet:
    """The images of the classes `images_of`; labels and logits are among the classes `among`, in their order."""
    rows = np.flatnonzero(np.isin(distilled.labels, images_of))
    arrays = {name: value[rows] for name, value in distilled._asdict().items() if isinstance(value, np.ndarray)}
    arrays["patch_logits"] = arrays["patch_logits"][..., np.array(among)]
    arrays["labels"] = _renumber(arrays["labels"], among)
    return distilled._replace(patch_ids=tuple(distilled.patch_ids[row] for row in rows), **arrays)


def groups(n_classes: int, n_steps: int, order: int) -> list[tuple[int, ...]]:
    """The classes in a random order, cut into `n_steps` parts whose sizes differ by one at most."""
    shuffled = generator(order, "continual").permutation(n_classes)
    return [tuple(part.tolist()) for part in np.array_split(shuffled, n_steps)]


@contextlib.contextmanager
def _continued(variables):
    """Within, a student starts from `variables` (None: from scratch), and the weights tested last are in the dictionary
    that this yields. `evaluate.run` itself has neither an entrance nor an exit for weights."""
    tested, test, initialize = {}, train.test, models.initialize

    def keep(network, variables, val):
        tested.update(jax.tree.map(np.array, variables))
        return test(network, variables, val)

    start = lambda *args: initialize(*args) if variables is None else jax.tree.map(jax.numpy.array, variables)
    with mock.patch.object(train, "test", keep), mock.patch.object(models, "initialize", start):
        yield tested


def learn(config, distilled, student, teacher, val, parts, seed: int, *, protocol: str, label: str) -> list[float]:
    """Top-1 in [0, 1] after every step, on the validation images of the classes seen so far, among these classes.

    `joint`: a student from scratch on the images of all parts so far. `new_only`: the last step's student goes on with
    the images of the new part and nothing else, by the same recipe (learning rate from its peak, new optimiser state).
    """
    variables, accuracies = None, []
    for step, new in enumerate(parts):
        seen = sum(parts[: step + 1], ())
        trained_on = new if protocol == "new_only" else seen
        own = restrict(distilled, trained_on, seen)
        size = config.students.batch_size or evaluate.default_batch_size(config.ipc, len(trained_on))
        settings = dataclasses.replace(config.students, batch_size=size, seeds=1, hard_seeds=0)
        networks = [n._replace(model=AmongClasses(n.model, seen)) for n in (student, teacher.network)]
        labeller = teacher.variables(distilled.manifest["label_teacher"])
        with _continued(variables) as tested:
            curve = evaluate.run(
                settings, own, *networks, labeller, OfClasses(val, seen), seed,
                flip=config.data.flip, label=f"{label}, step {step + 1}",
            )  # fmt: skip
        accuracies.append(curve[-1][1])
        variables = tested if protocol == "new_only" else None
    return accuracies
