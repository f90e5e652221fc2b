"""Utilities: what decoded images are for, as losses that a codec's training lowers along with the bits.

Each is built once and called with images as students get them:
`utility(name, ...)(images_BHWC, indices_B, key)` -> scalar >= 0, differentiable by the images.
    images_BHWC  float32 in [0, 1], decoded
    indices_B    int32, their rows in the set, in class order, the same number of each class
    key          draws views, networks and real images anew for each step

Letters: N images of the set, B of a step, M real images, K classes, n a class, F mosaic side, D features.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from infoutil_jax import losses, models
from infoutil_jax.checks import in_range, one_of
from infoutil_jax.data import augment
from infoutil_jax.stages import evaluate
from infoutil_jax.stages.score import last_layer_input
from infoutil_jax.utility import square_sum


class Utility(NamedTuple):
    """A compiled step takes `data` as an argument and closes over `loss(data, images_BHWC, indices_B, key)`."""

    data: object  # pytree of arrays
    loss: Callable

    def __call__(self, images_BHWC, indices_B, key):
        return self.loss(self.data, images_BHWC, indices_B, key)


def utility(name: str, **arguments) -> Utility:
    """One of UTILITIES by name, with the arguments of its function. ConfigError for an unknown name."""
    one_of("utility", name, UTILITIES)
    return UTILITIES[name](**arguments)


def weighted_sum(*terms: tuple[float, Utility]) -> Utility:
    """sum_i weight_i * utility_i, for instance teacher_kl with a little mse."""
    parts = [part for _, part in terms]

    def loss(data, images_BHWC, indices_B, key):
        keys = jax.random.split(key, len(terms))
        values = (p.loss(d, images_BHWC, indices_B, k) for p, d, k in zip(parts, data, keys, strict=True))
        return sum(weight * value for (weight, _), value in zip(terms, values, strict=True))

    return Utility([part.data for part in parts], loss)


def mse(images_u8) -> Utility:
    """Mean squared error over pixels and channels, against the set's own images (N, H, W, 3)."""

    def loss(data, images_BHWC, indices_B, key):
        return jnp.mean(jnp.square(images_BHWC - _floats(data[indices_B])))

    return Utility(jnp.asarray(images_u8), loss)


def teacher_kl(images_u8, teacher, variables, students: evaluate.Settings, factor: int, flip: bool) -> Utility:
    """Mean over images of KL(p(view of the original) || p(same view of the decoded image)), in nats.

    p: softmax of the teacher's logits at the students' temperature. teacher: train.Network, its variables, in eval
    mode. Views: those of `students` (Config.students, which knows their least scale) on F x F mosaics, see `_view`.
    """
    temperature = students.temperature

    def divergence(logits_BK, originals_BK):
        target_BK = jax.nn.softmax(originals_BK / temperature)
        return losses.distillation(logits_BK, target_BK, temperature).mean()

    return _by_teacher(divergence, teacher.logits, images_u8, variables, _view(students, factor, flip))


def teacher_features(images_u8, teacher, variables, students: evaluate.Settings, factor: int, flip: bool) -> Utility:
    """Mean absolute difference of what the teacher's classifier is given, on the views of `teacher_kl`."""

    def distance(features_BD, originals_BD):
        return jnp.mean(jnp.abs(features_BD - originals_BD))

    def features(variables, images_BHWC):
        return _features(teacher, variables, images_BHWC, train=False)

    return _by_teacher(distance, features, images_u8, variables, _view(students, factor, flip))


def _by_teacher(distance, outputs, images_u8, variables, view) -> Utility:
    """distance(outputs on views of decoded images, outputs on the same views of the originals)."""

    def loss(data, images_BHWC, indices_B, key):
        originals_u8, variables = data
        keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, indices_B)
        originals = outputs(variables, view(keys_B, _floats(originals_u8[indices_B])))
        return distance(outputs(variables, view(keys_B, images_BHWC)), originals)

    return Utility((jnp.asarray(images_u8), jax.device_put(variables)), loss)


def distribution_matching(
    real, network, students: evaluate.Settings, factor: int, flip: bool, per_class: int = 256
) -> Utility:
    """DM (Zhao and Bilen 2023): sum over classes of |mean features of real images - of decoded ones|^2.

    real: K arrays (n, H, W, 3) uint8, of which `per_class` are drawn (with replacement) a step. Features: what the
    classifier of a fresh random `network` is given. A class's real and decoded images share one view, drawn anew in
    every step. Mosaics count as F * F images, as in IDC.
    """
    view = _view(students, 1, flip)

    def loss(data, images_BHWC, indices_B, key):
        k_network, k_real, k_view = jax.random.split(key, 3)
        patches = _patches(images_BHWC, factor)
        variables = models.initialize(network.model, k_network, patches.shape[1])
        keys_K = jax.random.split(k_view, len(real))

        def means_KD(images):
            seen = view(jnp.repeat(keys_K, len(images) // len(real)), images)
            features = _features(network, variables, seen, train=True)
            return features.reshape(len(real), -1, features.shape[-1]).mean(1)

        return square_sum(means_KD(_draw(data, k_real, per_class)) - means_KD(patches))

    return Utility(_pool(real), loss)


def gradient_matching(
    real, network, factor: int, per_class: int = 256, steps: int = 1, learning_rate: float = 0.01
) -> Utility:
    """DC (Zhao et al. 2021): sum over classes and layers of the distance between the gradients of real and decoded
    images, at `steps` points of the training of a fresh random `network` on the decoded images by plain SGD.

    real, per_class, mosaics: as for distribution_matching. No augmentation. Classes are unrolled: compilation grows
    with K * steps.
    """

    def loss(data, images_BHWC, indices_B, key):
        k_network, k_real = jax.random.split(key)
        patches = _patches(images_BHWC, factor)
        params = models.initialize(network.model, k_network, patches.shape[1])["params"]
        gradient = jax.grad(lambda params, images, labels: _cross_entropy(network, params, images, labels))
        total = 0.0
        for step in range(steps):
            real_images = _draw(data, jax.random.fold_in(k_real, step), per_class)
            batches = (images.reshape(len(real), -1, *images.shape[1:]) for images in (real_images, patches))
            for label, (theirs, ours) in enumerate(zip(*batches, strict=True)):
                grads = (gradient(params, images, jnp.full(len(images), label)) for images in (theirs, ours))
                total += layer_distance(*grads)
            if step + 1 < steps:
                grads = gradient(params, jax.lax.stop_gradient(patches), _class_labels(patches, len(real)))
                params = jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)
        return total

    return Utility(_pool(real), loss)


def layer_distance(gradients, others):
    """Sum over kernels and their output channels of 1 - cosine; vectors (biases, scales of norms) do not count, as in
    DC's code, whose 1e-6 keeps the cosine of a zero gradient 0."""

    def distance(a, b):
        if a.ndim < 2:
            return 0.0
        a, b = (g.reshape(-1, g.shape[-1]) for g in (a, b))
        return jnp.sum(1 - (a * b).sum(0) / (_norms(a) * _norms(b) + 1e-6))

    return sum(jax.tree.leaves(jax.tree.map(distance, gradients, others)))


def _norms(a):
    """L2 norms of columns, with a gradient of 0 at 0."""
    squares = jnp.square(a).sum(0)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def trajectory_matching(
    experts, network, n_classes: int, students: evaluate.Settings, factor: int, flip: bool,
    steps: int, ahead: int, learning_rate: float, batch_size: int = 0, last_start: int | None = None,
) -> Utility:  # fmt: skip
    """MTT (Cazenavette et al. 2022): |theta_steps - theta*|^2 / |theta_0 - theta*|^2.

    experts: trajectories, each a list of parameter pytrees of `network`, a checkpoint an epoch, all equally long.
    theta_0: a checkpoint drawn from the first `last_start` + 1 (None: from all that have a target); theta*: the one
    `ahead` later; theta_steps: after `steps` SGD steps from theta_0 on views of `batch_size` decoded images (0: all) at
    a fixed rate (MTT learns it). Steps are unrolled: memory holds one step, compilation all.
    """
    n_experts, most = len(experts), len(experts[0]) - 1
    in_range("trajectory_matching.ahead", ahead, 1, most)
    last = most - ahead if last_start is None else last_start
    in_range("trajectory_matching.last_start", last, 0, most - ahead)
    stack = lambda trees: jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    data = jax.device_put(stack([stack(trajectory) for trajectory in experts]))
    view = _view(students, 1, flip)

    @jax.checkpoint
    def advance(params, images, labels):
        grads = jax.grad(lambda params: _cross_entropy(network, params, images, labels))(params)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)

    def loss(data, images_BHWC, indices_B, key):
        k_expert, k_start, key = jax.random.split(key, 3)
        expert = jax.random.randint(k_expert, (), 0, n_experts)
        start = jax.random.randint(k_start, (), 0, last + 1)
        begin, end = (jax.tree.map(lambda leaf: leaf[expert, at], data) for at in (start, start + ahead))
        patches = _patches(images_BHWC, factor)
        labels, params = _class_labels(patches, n_classes), begin
        for k_step in jax.random.split(key, steps):
            k_rows, k_view = jax.random.split(k_step)
            rows = jax.random.permutation(k_rows, len(patches))[: batch_size or len(patches)]
            params = advance(params, view(jax.random.split(k_view, len(rows)), patches[rows]), labels[rows])
        gap = lambda params: square_sum(jax.tree.map(jnp.subtract, params, end))
        return gap(params) / gap(begin)

    return Utility(data, loss)


UTILITIES = {
    "mse": mse,
    "teacher_kl": teacher_kl,
    "teacher_features": teacher_features,
    "distribution_matching": distribution_matching,
    "gradient_matching": gradient_matching,
    "trajectory_matching": trajectory_matching,
}


def _floats(images_u8):
    return images_u8.astype(jnp.float32) / 255


def _view(students: evaluate.Settings, factor: int, flip: bool):
    """(keys (B,), images (B, H, W, 3)) -> the views that students are shown, before CutMix. Colour augmentations are
    left out: they round to 256 levels, which has no gradient."""
    settings = dataclasses.replace(students, augment="none")

    def one(key, image):
        return evaluate.view(settings, factor, flip, key, image, jnp.zeros((factor, factor, 0)))[0]

    return jax.vmap(one)


def _patches(images_BHWC, factor: int):
    """Every patch of the mosaics at full size (B * F * F, H, W, 3); whole images as they are."""
    if factor == 1:
        return images_BHWC
    n, side = images_BHWC.shape[:2]
    h = side // factor
    grid = images_BHWC.reshape(n, factor, h, factor, h, 3).swapaxes(2, 3).reshape(-1, h, h, 3)
    return jax.vmap(lambda tile: augment.resize(tile, side))(grid)


def _pool(real):
    """Real images by class on the device: all of them (M, H, W, 3) uint8, and where each class starts and ends."""
    counts_K = np.array([len(images) for images in real], np.int32)
    ends_K = np.cumsum(counts_K, dtype=np.int32)
    return jax.device_put((np.concatenate(real), ends_K - counts_K, ends_K))


def _draw(pool, key, per_class: int):
    """Random real images (K * per_class, H, W, 3) float32 in [0, 1], in class order."""
    images_u8, starts_K, ends_K = pool
    rows_Kn = jax.random.randint(key, (len(starts_K), per_class), starts_K[:, None], ends_K[:, None])
    return _floats(images_u8[rows_Kn.reshape(-1)])


def _class_labels(images, n_classes: int):
    return jnp.repeat(jnp.arange(n_classes), len(images) // n_classes)


def _features(network, variables, images_BHWC, *, train: bool):
    return last_layer_input(lambda: _apply(network, variables, images_BHWC, train=train))


def _apply(network, variables, images_BHWC, *, train: bool):
    """Logits (B, K); with `train`, BatchNorm by the batch's own statistics, which are then forgotten."""
    mutable = ["batch_stats"] if train else False
    out = network.model.apply(variables, network.normalize(images_BHWC), train=train, mutable=mutable)
    return out[0] if train else out


def _cross_entropy(network, params, images_BHWC, labels_B):
    logits_BK = _apply(network, {"params": params}, images_BHWC, train=True)
    return losses.cross_entropy(logits_BK, labels_B).mean()
