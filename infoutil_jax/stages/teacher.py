"""The teacher: one training run with two snapshots, an early one (labels at small IPC) and the converged one
(attribution, scores, labels at large IPC). InfoUtil App. B.2; the paper leaves optimiser, batch and schedule open."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import losses, models, optim, parallel, train
from infoutil_jax.checks import in_range, one_of
from infoutil_jax.data import augment
from infoutil_jax.data.batches import epoch_batches, load_ahead
from infoutil_jax.errors import NumericError
from infoutil_jax.keys import generator, key_for

VERSION = 1
AUGMENTATIONS = ("none", "pad_crop", "random_resized_crop")


@dataclass(frozen=True)
class Settings:
    model: str  # a name in infoutil_jax.models.MODELS
    width: int  # channels of a ConvNet; 0 = the model's own
    epochs: int
    early_epoch: int  # the early teacher is the network after this many epochs
    batch_size: int
    optimizer: str  # sgd (Nesterov 0.9) | adamw
    learning_rate: float  # peak, after a linear warm-up; cosine to 0
    warmup_epochs: float
    weight_decay: float  # on kernels only
    augment: str  # none | pad_crop (4 px) | random_resized_crop (area 0.08-1); mirrored too where data.flip
    data_parallel: bool  # spread batches over all devices; bits then depend on their number
    checkpoint_epochs: int  # an interrupted training goes on from the last multiple of this
    min_times_chance: float  # refuse a teacher below this multiple of chance accuracy

    def __post_init__(self):
        one_of("teacher.model", self.model, models.MODELS)
        one_of("teacher.optimizer", self.optimizer, optim.OPTIMIZERS)
        one_of("teacher.augment", self.augment, AUGMENTATIONS)
        for name in ("epochs", "batch_size", "checkpoint_epochs"):
            in_range(f"teacher.{name}", getattr(self, name), 1)
        in_range("teacher.early_epoch", self.early_epoch, 1, self.epochs)
        in_range("teacher.learning_rate", self.learning_rate, 1e-8, 100)
        in_range("teacher.warmup_epochs", self.warmup_epochs, 0, self.epochs)
        for name in ("width", "weight_decay", "min_times_chance"):
            in_range(f"teacher.{name}", getattr(self, name), 0)


class Teacher(NamedTuple):
    """A network and its two sets of weights, with what is known about each (hash, epoch, validation accuracy)."""

    network: train.Network
    early: dict
    converged: dict
    record: dict

    def variables(self, which: str) -> dict:
        return {"early": self.early, "converged": self.converged}[which]


def build_network(model: str, width: int, n_classes: int, mean, std, **settings) -> train.Network:
    """The untrained network of a stage's settings."""
    size = {"width": width} if width else {}
    return train.Network(models.build(model, n_classes, **size, **settings), tuple(mean), tuple(std))


def _augment(name: str, flip: bool, key, image):
    k_flip, k_crop = jax.random.split(key)
    if flip:
        image = augment.random_flip(k_flip, image)
    if name == "pad_crop":
        image = augment.pad_crop(k_crop, image)
    if name == "random_resized_crop":
        box = augment.random_resized_box(k_crop, image.shape[0], (0.08, 1.0))
        image = augment.crop_and_resize(image, box, image.shape[0])
    return image


def _make_step(settings: Settings, network: train.Network, optimizer, flip: bool):
    view = functools.partial(_augment, settings.augment, flip)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, key, indices, images_u8, labels):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        images = jax.vmap(view)(keys, images_u8.astype(jnp.float32) / 255)
        loss_of_logits = lambda logits: losses.cross_entropy(logits, labels).mean()
        return train.update(network, optimizer, state, images, loss_of_logits)

    return step


def _optimizer(settings: Settings, steps_per_epoch: int):
    warmup, total = round(settings.warmup_epochs * steps_per_epoch), settings.epochs * steps_per_epoch
    schedule = optim.warmup_cosine(settings.learning_rate, warmup, total)
    return optim.OPTIMIZERS[settings.optimizer](schedule, settings.weight_decay)


def run(
    settings: Settings, network: train.Network, dataset, seed: int, *, side: int, flip: bool, progress, snapshots
) -> None:
    """Trains on `dataset.train` and leaves variables in `snapshots` at steps `early_epoch` and `epochs`.

    `progress` and `snapshots` save and restore trees by step (store.Checkpoints); a run that was interrupted goes on
    from the last step in `progress` that lies before every missing snapshot, with the same draws.
    """
    split, key = dataset.train, key_for(seed, "teacher", "views")
    steps_per_epoch = -(-len(split) // settings.batch_size)
    optimizer = _optimizer(settings, steps_per_epoch)
    variables = models.initialize(network.model, key_for(seed, "teacher", "init"), side)
    state = train.create_state(variables, optimizer)
    missing = {settings.early_epoch, settings.epochs} - set(snapshots.steps())
    first_epoch = max((epoch for epoch in progress.steps() if epoch < min(missing)), default=0)
    if first_epoch:
        state = train.TrainState(*progress.restore(first_epoch, state))
    place, copy = (parallel.shard_rows, parallel.replicate) if settings.data_parallel else (jax.device_put,) * 2

    def load(indices):
        return place((indices.astype(np.int32), split.images(indices), split.labels[indices]))

    def batches():
        for epoch in range(first_epoch, settings.epochs):
            key_e = jax.random.fold_in(key, epoch)
            order = epoch_batches(generator(seed, "teacher", "order", epoch), len(split), settings.batch_size)
            for batch in load_ahead(load, order):
                yield key_e, *batch

    def save(epochs_done, state):
        if epochs_done in (settings.early_epoch, settings.epochs) and epochs_done not in snapshots.steps():
            snapshots.save(epochs_done, state.variables)
        if epochs_done % settings.checkpoint_epochs == 0 and epochs_done < settings.epochs:
            progress.save(epochs_done, state)

    step = _make_step(settings, network, optimizer, flip)
    length = dict(epochs=settings.epochs, steps_per_epoch=steps_per_epoch, first_epoch=first_epoch)
    train.fit(step, copy(state), batches(), **length, label="teacher", after_epoch=save)


def examine(settings: Settings, network: train.Network, variables, dataset, which: str) -> dict:
    """Top-1 and top-5 on the validation split; raises NumericError near chance."""
    accuracy = train.test(network, variables, dataset.val)
    chance = 1 / len(dataset.class_names)
    if accuracy.top1 < settings.min_times_chance * chance:
        raise NumericError(
            f"teacher ({which}): validation accuracy {accuracy.top1:.1%} is near chance ({chance:.1%}); train longer "
            "(teacher.epochs), lower teacher.learning_rate, or check the labels and data.mean/std."
        )
    return accuracy._asdict()


def blank_variables(network: train.Network, side: int) -> dict:
    """Zeros in the shapes of the network's variables: what a checkpoint is restored into."""
    shapes = jax.eval_shape(lambda: models.initialize(network.model, jax.random.key(0), side))
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
