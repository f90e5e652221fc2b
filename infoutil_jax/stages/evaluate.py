"""What a distilled set is worth: a student trained from scratch on the written files, tested on real validation images.

Every ingredient of the recipe is a setting; `recipe` in configs/base.py names three sets of them (docs/recipes.md).
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import losses, models, optim, train
from infoutil_jax.checks import in_range, one_of
from infoutil_jax.data import augment
from infoutil_jax.data.autoaugment import AUGMENTATIONS
from infoutil_jax.data.batches import epoch_batches, load_ahead
from infoutil_jax.errors import DataError
from infoutil_jax.keys import generator, key_for
from infoutil_jax.types import DistilledSet

VERSION = 2
LABELS = ("online", "stored", "hard")
LOSSES = ("kl", "mse")
CHUNK_STEPS = 64  # most steps of a dispatch: 16 take 1-2 % longer (ConvNet-3, width 32, two cores), 256 as long
CHUNK_BYTES = 2**28  # most bytes of images and labels of a dispatch; two such are on the device at a time


@dataclass(frozen=True)
class Settings:
    model: str  # the student, a name in infoutil_jax.models.MODELS
    width: int  # channels of a ConvNet; 0 = the model's own
    epochs: int
    batch_size: int  # 0 = RDED's: 10 at IPC 1, 50 at IPC 10, 100 at IPC 50, twice that from 100 classes on
    learning_rate: float
    schedule: (
        str  # half_cosine (RDED: to a half of the rate) | cosine (to 0) | ssrs (EDC: half_cosine, then a line to 0)
    )
    weight_decay: float  # on kernels only
    ema: float  # decay of the averaged weights that are tested, 0 = the last weights
    loss: str  # kl: of softened probabilities | mse: of logits
    temperature: float  # of kl
    class_weight: float  # of an added cross-entropy with the classes (EDC: 0.025)
    labels: str  # online: teacher on the mixed batch | stored: the set's own patch logits | hard: classes
    cutmix: bool
    min_scale: float  # least area share of the random resized crop; 0 in a config: see settings.Config.students
    zoom: float  # share of views that are one cell of a zoom_grid x zoom_grid partition at full size, for all methods
    zoom_grid: int
    shuffle: bool  # RDED's ShufflePatches on mosaics
    augment: str  # of each view: none | autoaugment_cifar10 | autoaugment_imagenet | randaugment
    bn_momentum: float  # 0.81 = two updates of 0.9 a step, as RDED's second forward pass makes
    test_every: int  # epochs between tests in the last fifth of training; the best of them is the second column
    seeds: int  # students per method
    hard_seeds: int  # students of the hard-label column, 0 = no such column

    def __post_init__(self):
        one_of("evaluate.model", self.model, models.MODELS)
        one_of("evaluate.labels", self.labels, LABELS)
        one_of("evaluate.schedule", self.schedule, optim.SCHEDULES)
        one_of("evaluate.loss", self.loss, LOSSES)
        one_of("evaluate.augment", self.augment, AUGMENTATIONS)
        for name in ("epochs", "test_every", "seeds", "zoom_grid"):
            in_range(f"evaluate.{name}", getattr(self, name), 1)
        for name in ("width", "batch_size", "weight_decay", "class_weight", "hard_seeds"):
            in_range(f"evaluate.{name}", getattr(self, name), 0)
        in_range("evaluate.learning_rate", self.learning_rate, 1e-8, 100)
        in_range("evaluate.temperature", self.temperature, 1e-3)
        for name in ("min_scale", "zoom", "bn_momentum"):
            in_range(f"evaluate.{name}", getattr(self, name), 0, 1)
        in_range("evaluate.ema", self.ema, 0, 0.99999)


def default_batch_size(ipc: int, n_classes: int) -> int:
    """RDED's batch size: by IPC, doubled from 100 classes on, never more than the set."""
    size = 10 if ipc < 10 else 50 if ipc < 50 else 100
    return min(size * (2 if n_classes >= 100 else 1), ipc * n_classes)


def _random_box(settings: Settings, key, side: int):
    """The part of an image that a view shows: a cell of the zoom grid, or a random resized crop."""
    k_zoom, k_cell, k_box = jax.random.split(key, 3)
    cell = side // settings.zoom_grid
    y, x = jax.random.randint(k_cell, (2,), 0, settings.zoom_grid) * cell
    zoomed = jnp.stack([y, x, jnp.full_like(y, cell), jnp.full_like(y, cell)])
    box = augment.random_resized_box(k_box, side, (settings.min_scale, 1.0))
    return jnp.where(jax.random.bernoulli(k_zoom, settings.zoom), zoomed, box)


def patch_shares(box, side: int, factor: int):
    """Share of the area of `box` (y, x, h, w) that each of F x F patches covers, (F, F), summing to 1."""
    edges = jnp.arange(factor, dtype=jnp.float32) * (side / factor)

    def along(start, length):
        low = jnp.maximum(edges, start)
        high = jnp.minimum(edges + side / factor, start + length)
        return jnp.maximum(high - low, 0.0) / length

    return along(box[0], box[2])[:, None] * along(box[1], box[3])[None, :]


def view(settings: Settings, factor: int, flip: bool, key, image, patch_target_FFK):
    """A random view of a mosaic (H, W, 3) in [0, 1] and its stored label (K,): the patches' targets by visible area."""
    side = image.shape[0]
    k_shuffle, k_box, k_flip, k_augment = jax.random.split(key, 4)
    if settings.shuffle and factor > 1:
        image = augment.shuffle_patches(k_shuffle, image, factor)
        patch_target_FFK = augment.shuffle_patches(k_shuffle, patch_target_FFK, factor)
    box = _random_box(settings, k_box, side)
    image = augment.crop_and_resize(image, box, side)
    if flip:
        image = augment.random_flip(k_flip, image)
    image = AUGMENTATIONS[settings.augment](k_augment, image)
    target = jnp.einsum("yx,yxk->k", patch_shares(box.astype(jnp.float32), side, factor), patch_target_FFK)
    return image, target


def mix(key, images, *targets):
    """CutMix with one box and one permutation a batch; targets (B, K) mix by the share of pixels."""
    side = images.shape[1]
    k_box, k_partner = jax.random.split(key)
    partner = jax.random.permutation(k_partner, len(images))
    inside = augment.inside_box(augment.cutmix_box(k_box, side), side)
    share = inside.mean()
    mixed = jnp.where(inside[None, :, :, None], images[partner], images)
    return mixed, *((1 - share) * target + share * target[partner] for target in targets)


def _test_epochs(settings: Settings) -> list[int]:
    """Every `test_every`-th epoch of the last fifth, counted back from the last."""
    last = settings.epochs
    return [epoch for epoch in range(1, last + 1) if epoch > 0.8 * last and (last - epoch) % settings.test_every == 0]


def _most_steps(batch_size: int, *arrays: np.ndarray) -> int:
    """Steps of a dispatch on batches of rows of `arrays`."""
    return min(max(CHUNK_BYTES // (batch_size * sum(array[0].nbytes for array in arrays)), 1), CHUNK_STEPS)


def _one_hot(labels, n_classes: int) -> np.ndarray:
    return (labels[..., None] == np.arange(n_classes)).astype(np.float32)


def _patch_targets(settings: Settings, distilled: DistilledSet, rows=slice(None)) -> np.ndarray:
    """Each patch's stored label (N, F, F, K) of `rows`, N any shape: its class for 'hard', what the loss wants of its
    logits for 'stored'; for 'online', which needs none, K is 0."""
    labels, (k, n_classes) = distilled.labels[rows], distilled.patch_logits.shape[1:]
    f = round(k**0.5)
    if settings.labels == "online":
        return np.zeros((*labels.shape, f, f, 0), np.float32)
    shape = (*labels.shape, f, f, n_classes)
    if settings.labels == "hard":
        return np.broadcast_to(_one_hot(labels, n_classes)[..., None, None, :], shape)
    return np.asarray(_as_target(settings, distilled.patch_logits[rows])).reshape(shape)


def _as_target(settings: Settings, logits):
    """What the loss wants of a teacher's logits."""
    return logits if settings.loss == "mse" else jax.nn.softmax(logits / np.float32(settings.temperature))


def _loss(settings: Settings, logits, target, classes):
    """Mean loss of a batch's logits (B, K): target (B, K) as `_as_target` gives it, classes (B, K) mixed one-hot."""
    if settings.labels == "hard":
        return losses.soft_cross_entropy(logits, target).mean()
    if settings.loss == "mse":
        loss = losses.squared_error(logits, target)
    else:
        loss = losses.distillation(logits, target, settings.temperature)
    if settings.class_weight:
        loss += settings.class_weight * losses.soft_cross_entropy(logits, classes)
    return loss.mean()


class Student(NamedTuple):
    state: train.TrainState
    average: dict  # decaying mean of the parameters; empty where settings.ema is 0

    @property
    def variables(self) -> dict:
        """What is tested: averaged parameters, where there are any, with the live BatchNorm statistics (as EDC)."""
        return {**self.state.variables, **({"params": self.average} if self.average else {})}


@functools.lru_cache(maxsize=None)
def _make_steps(settings: Settings, student, teacher, *, factor: int, flip: bool, steps_per_epoch: int):
    """(optimiser, training steps in one dispatch: a Student and `count` steps' rows of the set -> Student, losses).

    The rows have one leading axis more than a batch. `count` may be less than its length and is not compiled in, so
    that chunks of every length are one program.
    """
    one_view = functools.partial(view, settings, factor, flip)
    schedule = optim.SCHEDULES[settings.schedule](settings.learning_rate, steps_per_epoch, settings.epochs)
    optimizer = optim.adamw(schedule, settings.weight_decay)

    def step(learner, teacher_variables, key, indices, images_u8, patch_targets, classes):
        state, average = learner
        key_e = jax.random.fold_in(key, state.step // steps_per_epoch)
        k_views, k_mix, k_dropout = jax.random.split(jax.random.fold_in(key_e, state.step % steps_per_epoch), 3)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(k_views, indices)
        images, target = jax.vmap(one_view)(keys, images_u8.astype(jnp.float32) / 255, patch_targets)
        if settings.cutmix:
            images, target, classes = mix(k_mix, images, target, classes)
        if settings.labels == "online":
            target = _as_target(settings, teacher.logits(teacher_variables, images))
        loss_of = lambda logits: _loss(settings, logits, target, classes)
        state, loss, _ = train.update(student, optimizer, state, k_dropout, images, loss_of)
        if settings.ema:
            average = jax.tree.map(lambda a, p: settings.ema * a + (1 - settings.ema) * p, average, state.params)
        return Student(state, average), loss

    @functools.partial(jax.jit, donate_argnums=0)
    def steps(learner, teacher_variables, key, count, *rows):
        def body(i, carry):
            learner, losses_S = carry
            learner, loss = step(learner, teacher_variables, key, *(array[i] for array in rows))
            return learner, losses_S.at[i].set(loss)

        return jax.lax.fori_loop(0, count, body, (learner, jnp.zeros(len(rows[0]))))

    return optimizer, steps


def run(
    settings: Settings, distilled: DistilledSet, student: train.Network, teacher: train.Network, teacher_variables, val,
    seed: int, *, flip: bool, label: str, saves=None,
) -> list[tuple[int, float, float]]:  # fmt: skip
    """Trains one student on `distilled` and tests it on `val`: [(epoch, top-1, top-5)] in [0, 1], the final epoch last.

    `teacher_variables` are used only for on-line labels. The draws depend on the seed only, so that methods of one run
    share initial weights and, where their sets have equal sizes, views. With `saves` (checkpoints.Saves) an interrupted
    training goes on at the step that it had reached.
    """
    if settings.labels == "stored" and not np.isfinite(distilled.patch_logits).all():
        raise DataError(f"{label}: the set holds no soft labels for evaluate.labels=stored; take online or hard")
    n, side = len(distilled.labels), distilled.images_u8.shape[1]
    n_classes, factor = distilled.patch_logits.shape[2], round(distilled.patch_logits.shape[1] ** 0.5)
    batch_size = settings.batch_size or default_batch_size(n // n_classes, n_classes)
    steps_per_epoch = -(-n // batch_size)
    sizes = dict(factor=factor, flip=flip, steps_per_epoch=steps_per_epoch)
    optimizer, steps = _make_steps(settings, student, teacher, **sizes)
    variables = models.initialize(student.model, key_for(seed, "student", "init"), side)
    classes = lambda rows: _one_hot(distilled.labels[rows], n_classes)  # of all at once: N x K
    arrays = lambda rows: (distilled.images_u8[rows], _patch_targets(settings, distilled, rows), classes(rows))
    key = key_for(seed, "student", "views")
    teacher_variables = jax.device_put(teacher_variables if settings.labels == "online" else {})
    most = _most_steps(batch_size, *arrays(np.zeros(1, int)))
    tested = _test_epochs(settings)
    curve_E2 = np.full((len(tested), 2), np.nan)  # top-1 and top-5 at the tested epochs

    def batches(first):
        for epoch in range(first // steps_per_epoch, settings.epochs):
            order = epoch_batches(generator(seed, "student", "order", epoch), n, batch_size)
            yield from order[max(first - epoch * steps_per_epoch, 0) :]

    def chunks(first):
        ends = [epoch * steps_per_epoch for epoch in tested]
        return load_ahead(load, train.chunked(batches(first), ends, most, first))

    def load(indices_SB):
        padded = np.pad(indices_SB, ((0, most - len(indices_SB)), (0, 0)))
        return len(indices_SB), *jax.device_put((padded.astype(np.int32), *arrays(padded)))

    def advance(learner, count, *rows):
        learner, losses_S = steps(learner, teacher_variables, key, count, *rows)
        return learner, np.asarray(losses_S)[:count]

    def test(epoch, learner):
        if epoch in tested:
            accuracy = train.test(student, learner.variables, val)
            curve_E2[tested.index(epoch)] = accuracy.top1, accuracy.top5

    state = train.create_state(variables, optimizer)
    average = jax.tree.map(jnp.copy, state.params) if settings.ema else {}  # a copy: both are donated
    learner = jax.device_put(Student(state, average))
    length = dict(epochs=settings.epochs, steps_per_epoch=steps_per_epoch)
    train.fit(advance, learner, chunks, **length, label=label, host=curve_E2, after_epoch=test, saves=saves)
    return [(epoch, *accuracies) for epoch, accuracies in zip(tested, curve_E2.tolist())]


def nearest_neighbour(dataset, ipc: int, seed: int) -> float:
    """Validation accuracy of 1-nearest-neighbour on raw pixels with `ipc` random real images a class."""
    rng = generator(seed, "neighbour")
    classes = (np.flatnonzero(dataset.train.labels == c) for c in range(len(dataset.class_names)))
    chosen = np.concatenate([rng.choice(rows, ipc, replace=False) for rows in classes])
    references_u8 = dataset.train.images(chosen).reshape(len(chosen), -1)
    hits = 0
    for start in range(0, len(dataset.val), 1000):
        rows = np.arange(start, min(start + 1000, len(dataset.val)))
        images = dataset.val.images(rows).reshape(len(rows), -1).astype(np.float32)
        nearest, least = np.zeros(len(rows), int), np.full(len(rows), np.inf, np.float32)
        for first in range(0, len(chosen), 200):
            block = references_u8[first : first + 200].astype(np.float32)
            distance = np.square(block).sum(1)[None, :] - 2 * (images @ block.T)
            closer = distance.min(1) < least
            nearest[closer] = first + distance[closer].argmin(1)
            least = np.minimum(least, distance.min(1))
        hits += int((dataset.train.labels[chosen][nearest] == dataset.val.labels[rows]).sum())
    return hits / len(dataset.val)
