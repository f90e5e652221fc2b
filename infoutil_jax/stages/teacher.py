"""The teacher: one training run with two snapshots, an early one (labels at small IPC) and the converged one
(attribution, scores, labels at large IPC). InfoUtil App. B.2; the paper leaves optimiser, batch and schedule open."""

import dataclasses
import functools
import re
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import losses, models, optim, parallel, train
from infoutil_jax.checks import in_range, one_of
from infoutil_jax.data import augment
from infoutil_jax.data.batches import epoch_batches, load_ahead
from infoutil_jax.errors import ConfigError, NumericError
from infoutil_jax.keys import generator, key_for

VERSION = 1
AUGMENTATIONS = ("none", "pad_crop", "random_resized_crop")


NEEDS = {  # a key -> the key without which it says nothing
    "early_weights": "weights", "weights_sha256": "weights", "weights_top1": "weights",
    "early_weights_sha256": "early_weights",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    model: str  # a name in infoutil_jax.models.MODELS
    width: int  # channels of a ConvNet; 0 = the model's own
    epochs: int
    early_epoch: int  # the early teacher is the network after this many epochs
    early_learning_rate: float  # 0 = of this training; else of one of its own, early_epoch long, with this peak
    batch_size: int
    optimizer: str  # sgd (Nesterov 0.9) | adamw
    learning_rate: float  # peak, after a linear warm-up; cosine to 0
    warmup_epochs: float
    weight_decay: float  # on kernels only
    augment: str  # none | pad_crop (4 px) | random_resized_crop (area 0.08-1); mirrored too where data.flip
    data_parallel: bool  # spread batches over all devices; bits then depend on their number
    checkpoint_epochs: int  # a training is saved after every multiple of this, and every two minutes
    min_times_chance: float  # refuse a teacher below this multiple of chance accuracy
    weights: str  # .safetensors file to read instead of training; '' = train
    weights_sha256: str  # 64 hex digits, '' = any
    weights_top1: float  # accuracy recorded for the weights, in [0, 1]; 0 = unknown
    weights_tolerance: float  # largest distance from it, in [0, 1]
    early_weights: str  # file of the early teacher, '' = the same weights
    early_weights_sha256: str

    def __post_init__(self):
        one_of("teacher.model", self.model, models.MODELS)
        one_of("teacher.optimizer", self.optimizer, optim.OPTIMIZERS)
        one_of("teacher.augment", self.augment, AUGMENTATIONS)
        for name in ("epochs", "batch_size", "checkpoint_epochs"):
            in_range(f"teacher.{name}", getattr(self, name), 1)
        in_range("teacher.early_epoch", self.early_epoch, 1, self.epochs)
        in_range("teacher.learning_rate", self.learning_rate, 1e-8, 100)
        in_range("teacher.warmup_epochs", self.warmup_epochs, 0, self.epochs)
        in_range("teacher.early_learning_rate", self.early_learning_rate, 0, 100)
        for name in ("width", "weight_decay", "min_times_chance"):
            in_range(f"teacher.{name}", getattr(self, name), 0)
        for name in ("weights_top1", "weights_tolerance"):
            in_range(f"teacher.{name}", getattr(self, name), 0, 1)
        for name in ("weights_sha256", "early_weights_sha256"):
            if not re.fullmatch("([0-9a-f]{64})?", getattr(self, name)):
                raise ConfigError(f"teacher.{name}={getattr(self, name)!r} is no SHA-256: it has 64 digits 0-9, a-f.")
        for name, file in NEEDS.items():
            if getattr(self, name) and not getattr(self, file):
                raise ConfigError(f"teacher.{name} is set but teacher.{file} is not; name the file, or empty {name}.")
        if self.early_weights and self.early_learning_rate:
            raise ConfigError("teacher.early_weights and teacher.early_learning_rate are both set; empty one of them.")

    @property
    def training(self) -> dict:
        """The settings that a training depends on; when snapshots are taken changes nothing in it."""
        fields = dataclasses.asdict(self).items()
        unread = {name for name, _ in fields if name.removeprefix("early_").startswith("weights")}
        unread |= {"early_epoch", "early_learning_rate", "checkpoint_epochs", "min_times_chance"}
        return {name: value for name, value in fields if name not in unread}


class Teacher(NamedTuple):
    """A network and its two sets of weights, with what is known about each (hash, epoch, validation accuracy)."""

    network: train.Network
    early: dict
    converged: dict
    record: dict
    forgotten: dict | None = None  # training image's id -> how often it was forgotten; where a rule asks for it

    def variables(self, which: str) -> dict:
        return {"early": self.early, "converged": self.converged}[which]


def build_network(model: str, width: int, n_classes: int, mean, std, **settings) -> train.Network:
    """The untrained network of a stage's settings. Raises ConfigError for a width of a model that has none."""
    if width and model in models.MODELS and "width" not in models.fields(model):
        raise ConfigError(f"width={width}: {model} has no width; set teacher.width or evaluate.width to 0")
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
    def step(state, key, k_dropout, indices, images_u8, labels):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        images = jax.vmap(view)(keys, images_u8.astype(jnp.float32) / 255)
        loss_of_logits = lambda logits: losses.cross_entropy(logits, labels).mean()
        k_step = jax.random.fold_in(k_dropout, state.step)
        state, loss, logits = train.update(network, optimizer, state, k_step, images, loss_of_logits)
        return state, loss, logits.argmax(axis=-1) == labels

    return step


def _optimizer(settings: Settings, steps_per_epoch: int):
    warmup, total = round(settings.warmup_epochs * steps_per_epoch), settings.epochs * steps_per_epoch
    schedule = optim.warmup_cosine(settings.learning_rate, warmup, total)
    return optim.OPTIMIZERS[settings.optimizer](schedule, settings.weight_decay)


def run(
    settings: Settings, network: train.Network, dataset, seed: int, *, side: int, flip: bool, snapshots, saves=None,
    keep=lambda epoch, correct_N: None,
) -> None:  # fmt: skip
    """Trains on `dataset.train` and leaves variables in `snapshots` at steps `early_epoch` and `epochs`.

    `snapshots` (checkpoints.Checkpoints) holds trees by epoch; training ends with the last that is missing there. With
    `saves` it goes on where it was interrupted, see train.fit. `keep(epoch, correct_N)` is called after every epoch:
    which of the training images (N,) bool the network was right about when it learned from them.
    """
    split, key, k_dropout = dataset.train, key_for(seed, "teacher", "views"), key_for(seed, "teacher", "dropout")
    steps_per_epoch = -(-len(split) // settings.batch_size)
    optimizer = _optimizer(settings, steps_per_epoch)
    variables = models.initialize(network.model, key_for(seed, "teacher", "init"), side)
    state = train.create_state(variables, optimizer)
    missing = {settings.early_epoch, settings.epochs} - set(snapshots.steps())
    last_epoch, correct_N = max(missing), np.zeros(len(split), bool)
    place, copy = (parallel.shard_rows, parallel.replicate) if settings.data_parallel else (jax.device_put,) * 2

    def load(indices):
        return indices, *place((indices.astype(np.int32), split.images(indices), split.labels[indices]))

    def batches(first):
        for epoch in range(first // steps_per_epoch, last_epoch):
            key_e = jax.random.fold_in(key, epoch)
            order = epoch_batches(generator(seed, "teacher", "order", epoch), len(split), settings.batch_size)
            for batch in load_ahead(load, order[max(first - epoch * steps_per_epoch, 0) :]):
                yield key_e, *batch

    step = _make_step(settings, network, optimizer, flip)

    def advance(state, key_e, indices, *batch):
        state, loss, correct_B = step(state, key_e, k_dropout, *batch)
        correct_N[indices] = correct_B
        return state, loss

    def after_epoch(epochs_done, state):
        keep(epochs_done, correct_N)
        if epochs_done in missing:
            snapshots.save(epochs_done, state.variables)

    saving = dict(saves=saves, save_epochs=settings.checkpoint_epochs, up_to=min(missing) * steps_per_epoch)
    length = dict(epochs=last_epoch, steps_per_epoch=steps_per_epoch, label="teacher")
    train.fit(advance, copy(state), batches, host=correct_N, after_epoch=after_epoch, **length, **saving)


def examine(settings: Settings, network: train.Network, variables, dataset, which: str) -> dict:
    """Top-1 and top-5 on the validation split; raises NumericError near chance."""
    accuracy = train.test(network, variables, dataset.val)
    require_above_chance(settings, accuracy.top1, len(dataset.class_names), which)
    return accuracy._asdict()


def require_above_chance(settings: Settings, top1: float, n_classes: int, which: str) -> None:
    """Raises NumericError where `top1` is below `settings.min_times_chance` times chance."""
    chance = 1 / n_classes
    if top1 < settings.min_times_chance * chance:
        raise NumericError(
            f"teacher ({which}): validation accuracy {top1:.1%} is near chance ({chance:.1%}); train longer "
            "(teacher.epochs), lower teacher.learning_rate, or check the labels and data.mean/std."
        )


def examine_imported(network: train.Network, variables, dataset) -> dict:
    """Top-1 and top-5 of imported weights on the validation split, and what `order_hint` says of them."""
    counts_KK = _confusion(network, variables, dataset.val, len(dataset.class_names))
    return train.test(network, variables, dataset.val)._asdict() | {"order": order_hint(counts_KK, dataset.class_names)}


def self_test(settings: Settings, n_classes: int, which: str, file: str, measured: dict, recorded: float) -> None:
    """Raises NumericError where the imported weights of `file`, `measured` by `examine_imported`, are near chance or
    further from their `recorded` top-1 (in [0, 1], 0 = unknown) than `settings.weights_tolerance`, or where none is
    recorded and their classes seem to be in another order; says what the commonest causes are."""
    top1, chance, faults = measured["top1"], 1 / n_classes, []
    if recorded and abs(top1 - recorded) > settings.weights_tolerance:
        faults.append(f"not the recorded {recorded:.1%} (teacher.weights_tolerance={settings.weights_tolerance:g})")
    if top1 < settings.min_times_chance * chance:
        faults.append(f"near chance ({chance:.1%}, teacher.min_times_chance={settings.min_times_chance:g})")
    if not recorded and measured["order"]:
        faults.append("with no accuracy recorded to compare with")
    if faults:
        raise NumericError(
            f"teacher ({which}): the weights of {file} reach {top1:.1%} on the validation split, "
            f"{' and '.join(faults)}.{measured['order']} Likely causes, the commonest first: the order of the classes "
            "(name the file's in its label_names, docs/teachers.md); mean and std, or the resize (image_size, "
            "crop_share, interpolation), of the file's own config, where it has one, or else of data.*; another "
            "validation split."
        )


@functools.lru_cache(maxsize=None)
def _predict_fn(network: train.Network):
    return lambda variables, images_u8: network.logits(variables, images_u8.astype(jnp.float32) / 255).argmax(axis=-1)


def _confusion(network: train.Network, variables, split, n_classes: int, *, chunk: int = 2000) -> np.ndarray:
    """counts_KK[i, j]: how many images of class i are taken for class j."""
    counts_KK = np.zeros((n_classes, n_classes), int)
    for start in range(0, len(split), chunk):
        rows = np.arange(start, min(start + chunk, len(split)))
        predicted = parallel.map_batches(_predict_fn(network), 125, variables, split.images(rows))
        np.add.at(counts_KK, (split.labels[rows], predicted), 1)
    return counts_KK


def order_hint(counts_KK: np.ndarray, class_names) -> str:
    """A sentence where renaming the predicted classes one to one would make 15 points more of the images right, and
    there are 10 images a class or more: of fewer, chance finds such names."""
    from scipy.optimize import linear_sum_assignment

    classes, taken_for = linear_sum_assignment(-counts_KK)
    hits = counts_KK[classes, taken_for]
    if hits.sum() - np.trace(counts_KK) <= 0.15 * counts_KK.sum() or counts_KK.sum() < 10 * len(counts_KK):
        return ""
    clearest = np.argmax(np.where(taken_for != classes, hits, -1))
    return (
        f" The file's classes seem to be in another order: true class {class_names[clearest]!r} (index {clearest}) is "
        f"predicted as index {taken_for[clearest]}; in another order {hits.sum() / counts_KK.sum():.1%} would be right."
    )


def blank_variables(network: train.Network, side: int) -> dict:
    """Zeros in the shapes of the network's variables: what a checkpoint is restored into."""
    shapes = jax.eval_shape(lambda: models.initialize(network.model, jax.random.key(0), side))
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
