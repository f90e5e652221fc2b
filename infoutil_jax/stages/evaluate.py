"""What a distilled set is worth: a student trained from scratch on the written files, tested on real validation images.

RDED's recipe (its code, commit 3f6453d): AdamW 1e-3, half-speed cosine, CutMix on every batch, KL at T = 20 to labels
that the teacher gives on line to the mixed batch, no hard-label term.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import losses, models, optim, train
from infoutil_jax.checks import in_range, one_of
from infoutil_jax.data import augment
from infoutil_jax.data.batches import epoch_batches, load_ahead
from infoutil_jax.keys import generator, key_for
from infoutil_jax.types import DistilledSet

VERSION = 1
LABELS = ("online", "stored", "hard")
CHUNK_STEPS = 64  # most steps of a dispatch: 16 take 1-2 % longer (ConvNet-3, width 32, two cores), 256 as long
CHUNK_BYTES = 2**28  # most bytes of images and labels of a dispatch; two such are on the device at a time


@dataclass(frozen=True)
class Settings:
    model: str  # the student, a name in infoutil_jax.models.MODELS
    width: int  # channels of a ConvNet; 0 = the model's own
    epochs: int
    batch_size: int  # 0 = RDED's: 10 at IPC 1, 50 at IPC 10, 100 at IPC 50, twice that from 100 classes on
    learning_rate: float
    weight_decay: float  # on kernels only
    temperature: float
    labels: str  # online: teacher on the mixed batch | stored: the set's own patch logits | hard: classes
    cutmix: bool
    min_scale: float  # least area share of the random resized crop; 0 in a config: see settings.Config.students
    zoom: float  # share of views that are one cell of a zoom_grid x zoom_grid partition at full size, for all methods
    zoom_grid: int
    shuffle: bool  # RDED's ShufflePatches on mosaics
    bn_momentum: float  # 0.81 = two updates of 0.9 a step, as RDED's second forward pass makes
    test_every: int  # epochs between tests in the last fifth of training; the best of them is the second column
    seeds: int  # students per method
    hard_seeds: int  # students of the hard-label column, 0 = no such column

    def __post_init__(self):
        one_of("evaluate.model", self.model, models.MODELS)
        one_of("evaluate.labels", self.labels, LABELS)
        for name in ("epochs", "test_every", "seeds", "zoom_grid"):
            in_range(f"evaluate.{name}", getattr(self, name), 1)
        for name in ("width", "batch_size", "weight_decay", "hard_seeds"):
            in_range(f"evaluate.{name}", getattr(self, name), 0)
        in_range("evaluate.learning_rate", self.learning_rate, 1e-8, 100)
        in_range("evaluate.temperature", self.temperature, 1e-3)
        for name in ("min_scale", "zoom", "bn_momentum"):
            in_range(f"evaluate.{name}", getattr(self, name), 0, 1)


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
    k_shuffle, k_box, k_flip = jax.random.split(key, 3)
    if settings.shuffle and factor > 1:
        image = augment.shuffle_patches(k_shuffle, image, factor)
        patch_target_FFK = augment.shuffle_patches(k_shuffle, patch_target_FFK, factor)
    box = _random_box(settings, k_box, side)
    image = augment.crop_and_resize(image, box, side)
    if flip:
        image = augment.random_flip(k_flip, image)
    target = jnp.einsum("yx,yxk->k", patch_shares(box.astype(jnp.float32), side, factor), patch_target_FFK)
    return image, target


def mix(key, images, targets):
    """CutMix with one box and one permutation a batch; targets mix by the share of pixels."""
    side = images.shape[1]
    k_box, k_partner = jax.random.split(key)
    partner = jax.random.permutation(k_partner, len(images))
    inside = augment.inside_box(augment.cutmix_box(k_box, side), side)
    share = inside.mean()
    mixed = jnp.where(inside[None, :, :, None], images[partner], images)
    return mixed, (1 - share) * targets + share * targets[partner]


def _test_epochs(settings: Settings) -> list[int]:
    """Every `test_every`-th epoch of the last fifth, counted back from the last."""
    last = settings.epochs
    return [epoch for epoch in range(1, last + 1) if epoch > 0.8 * last and (last - epoch) % settings.test_every == 0]


def _most_steps(batch_size: int, *arrays: np.ndarray) -> int:
    """Steps of a dispatch on batches of rows of `arrays`."""
    return min(max(CHUNK_BYTES // (batch_size * sum(array[0].nbytes for array in arrays)), 1), CHUNK_STEPS)


def _patch_targets(settings: Settings, distilled: DistilledSet) -> np.ndarray:
    """Each patch's stored label (N, F, F, K), rows summing to 1: its class for 'hard', its softened logits for
    'stored'; for 'online', which needs none, K is 0."""
    n, k, n_classes = distilled.patch_logits.shape
    f = round(k**0.5)
    if settings.labels == "online":
        return np.zeros((n, f, f, 0), np.float32)
    if settings.labels == "hard":
        one_hot = np.eye(n_classes, dtype=np.float32)[distilled.labels]
        return np.broadcast_to(one_hot[:, None, None, :], (n, f, f, n_classes))
    soft = jax.nn.softmax(distilled.patch_logits / np.float32(settings.temperature))
    return np.asarray(soft).reshape(n, f, f, n_classes)


@functools.lru_cache(maxsize=None)
def _make_steps(settings: Settings, student, teacher, *, factor: int, flip: bool, steps_per_epoch: int):
    """(optimiser, training steps in one dispatch: state and `count` steps' rows of the set -> state, losses).

    The rows have one leading axis more than a batch. `count` may be less than its length and is not compiled in, so
    that chunks of every length are one program.
    """
    one_view = functools.partial(view, settings, factor, flip)
    schedule = optim.half_speed_cosine(settings.learning_rate, steps_per_epoch, settings.epochs)
    optimizer = optim.adamw(schedule, settings.weight_decay)

    def loss_of(logits, target):
        if settings.labels == "hard":
            return losses.soft_cross_entropy(logits, target).mean()
        return losses.distillation(logits, target, settings.temperature).mean()

    def step(state, teacher_variables, key, indices, images_u8, patch_targets):
        key_e = jax.random.fold_in(key, state.step // steps_per_epoch)
        k_views, k_mix = jax.random.split(jax.random.fold_in(key_e, state.step % steps_per_epoch))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(k_views, indices)
        images, target = jax.vmap(one_view)(keys, images_u8.astype(jnp.float32) / 255, patch_targets)
        if settings.cutmix:
            images, target = mix(k_mix, images, target)
        if settings.labels == "online":
            target = jax.nn.softmax(teacher.logits(teacher_variables, images) / settings.temperature)
        return train.update(student, optimizer, state, images, lambda logits: loss_of(logits, target))

    @functools.partial(jax.jit, donate_argnums=0)
    def steps(state, teacher_variables, key, count, *rows):
        def body(i, carry):
            state, losses_S = carry
            state, loss = step(state, teacher_variables, key, *(array[i] for array in rows))
            return state, losses_S.at[i].set(loss)

        return jax.lax.fori_loop(0, count, body, (state, jnp.zeros(len(rows[0]))))

    return optimizer, steps


def run(
    settings: Settings, distilled: DistilledSet, student: train.Network, teacher: train.Network, teacher_variables, val,
    seed: int, *, flip: bool, label: str,
) -> list[tuple[int, float, float]]:  # fmt: skip
    """Trains one student on `distilled` and tests it on `val`: [(epoch, top-1, top-5)] in [0, 1], the final epoch last.

    `teacher_variables` are used only for on-line labels. The draws depend on the seed only, so that methods of one run
    share initial weights and, where their sets have equal sizes, views.
    """
    n, side = len(distilled.labels), distilled.images_u8.shape[1]
    n_classes, factor = distilled.patch_logits.shape[2], round(distilled.patch_logits.shape[1] ** 0.5)
    batch_size = settings.batch_size or default_batch_size(n // n_classes, n_classes)
    steps_per_epoch = -(-n // batch_size)
    sizes = dict(factor=factor, flip=flip, steps_per_epoch=steps_per_epoch)
    optimizer, steps = _make_steps(settings, student, teacher, **sizes)
    variables = models.initialize(student.model, key_for(seed, "student", "init"), side)
    key, arrays = key_for(seed, "student", "views"), (distilled.images_u8, _patch_targets(settings, distilled))
    teacher_variables = jax.device_put(teacher_variables if settings.labels == "online" else {})
    most = _most_steps(batch_size, *arrays)
    tested, curve = _test_epochs(settings), []

    def batches():
        for epoch in range(settings.epochs):
            yield from epoch_batches(generator(seed, "student", "order", epoch), n, batch_size)

    def load(indices_SB):
        padded = np.pad(indices_SB, ((0, most - len(indices_SB)), (0, 0)))
        return len(indices_SB), *jax.device_put((padded.astype(np.int32), *(array[padded] for array in arrays)))

    def advance(state, count, *rows):
        state, losses_S = steps(state, teacher_variables, key, count, *rows)
        return state, np.asarray(losses_S)[:count]

    def test(epoch, state):
        if epoch in tested:
            accuracy = train.test(student, state.variables, val)
            curve.append((epoch, accuracy.top1, accuracy.top5))

    state = jax.device_put(train.create_state(variables, optimizer))
    chunks = train.chunked(batches(), [epoch * steps_per_epoch for epoch in tested], most)
    length = dict(epochs=settings.epochs, steps_per_epoch=steps_per_epoch)
    train.fit(advance, state, load_ahead(load, chunks), **length, label=label, after_epoch=test)
    return curve


def nearest_neighbour(dataset, ipc: int, seed: int) -> float:
    """Validation accuracy of 1-nearest-neighbour on raw pixels with `ipc` random real images a class."""
    rng = generator(seed, "neighbour")
    classes = (np.flatnonzero(dataset.train.labels == c) for c in range(len(dataset.class_names)))
    chosen = np.concatenate([rng.choice(rows, ipc, replace=False) for rows in classes])
    references = dataset.train.images(chosen).reshape(len(chosen), -1).astype(np.float32)
    hits = 0
    for start in range(0, len(dataset.val), 1000):
        rows = np.arange(start, min(start + 1000, len(dataset.val)))
        images = dataset.val.images(rows).reshape(len(rows), -1).astype(np.float32)
        distance = np.square(references).sum(1)[None, :] - 2 * images @ references.T
        hits += int((dataset.train.labels[chosen][distance.argmin(1)] == dataset.val.labels[rows]).sum())
    return hits / len(dataset.val)
