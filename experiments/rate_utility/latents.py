"""A set through the latent codec: trained once for a point, kept as a container among the artifacts."""

import dataclasses
import hashlib
import math

import jax
import numpy as np

from infoutil_jax import store
from infoutil_jax.errors import ConfigError
from infoutil_jax.rate import codec, container, fit, objectives, quantize
from infoutil_jax.stages import teacher as teacher_stage

VERSION = 1  # of how a container is made
FIT = fit.Settings()  # lambdas are where steering begins, in units of mean squared error
IMAGES = 10  # of a class in a step
BITS_A_VALUE = 7  # of a network, measured: what is left of the rate is the latents'
BESIDE_MSE = ("teacher_kl", "teacher_features")  # as much mse again keeps images natural where the teacher is blind
REAL = 2  # real images a class for each channel of the random networks: DD-RUO has 256 for 128
NOISE = 0.05  # of pixels, where gradients are compared
FIXED = VERSION, dataclasses.asdict(FIT), IMAGES, BITS_A_VALUE, BESIDE_MSE, REAL, NOISE  # what containers depend on


def code(bench, point, soft_labels: bytes):
    """Bytes by part, what the container decodes to (container.Decoded), and the estimate of its latents' bits."""
    settings = codec.Settings(bench.settings.data.image_size, point.images.scope)
    training = _training(bench, point, settings)
    shards = [shard["sha256"] for shard in bench.distilled.manifest["shards"]]
    students = dataclasses.replace(bench.settings.students, seeds=1, hard_seeds=0)  # their number changes nothing
    made_from = [dataclasses.asdict(part) for part in (settings, training, students)]
    made_from += [bench.settings.seed, bench.settings.data.flip, hashlib.sha256(soft_labels).hexdigest()]
    labeller = bench.teacher.record[bench.settings.label.teacher]["sha256"]
    name = store.fingerprint("container", FIXED, point.plain, made_from, shards, labeller)
    path = bench.artifacts / "rate_utility" / f"{name}{container.SUFFIX}"
    estimate = path.with_suffix(".json")  # written last
    read = lambda path: (container.decode(path.read_bytes()), store.read_json(estimate)["latents"])
    if not (found := store.undamaged(read, path)):
        data, bits = _make(bench, point, settings, training, soft_labels)
        store.write_bytes(path, data)
        store.write_json(estimate, {"latents": bits})
        found = read(path)
    through, bits = found
    parts = through.sizes
    header = parts["header"] + parts["hard labels"]
    return {"images": parts["latents"], "networks": parts["networks"], "header": header}, through, bits


def _training(bench, point, settings: codec.Settings) -> fit.Settings:
    """Steered to the point's rate, less what the networks take. An image is in as many steps at any IPC."""
    n_classes = len(bench.dataset.class_names)
    values = codec.n_values(settings)
    networks = BITS_A_VALUE * (values["arm"] + values["synthesis"]) * codec.n_units(settings, n_classes) / n_classes
    target = point.ipc * point.images.bits - networks
    if target <= 0:
        raise ConfigError(f"{point.name}: networks take about {networks:.0f} bits per class, all of it; give more bits")
    batch = min(point.ipc, IMAGES)
    passes = math.ceil(point.ipc / batch)  # steps until all images were in one
    steps = {"warmup_steps": passes * FIT.warmup_steps, "steps": tuple(passes * n for n in FIT.steps)}
    return dataclasses.replace(FIT, **{"batch": batch, "target_bpc": target} | steps | bench.training)


def _make(bench, point, settings, training, soft_labels: bytes) -> tuple[bytes, float]:
    """The container, and the bits of its latents by the float model, whose networks were not rounded yet."""
    own = bench.distilled
    utility = _utility(bench, point.images)
    fitted = fit.fit(settings, training, own.images_u8, own.labels, utility, bench.settings.seed)
    units, latents_UnL, _ = quantize.quantise(settings, fitted.params)
    n_classes = len(bench.dataset.class_names)
    data = container.encode(units, latents_UnL, own.labels, n_classes, soft_labels, own.manifest)
    return data, fitted.history[-1].bits_per_class * n_classes


def _utility(bench, latents) -> objectives.Utility:
    """What the codec is trained for, in units of mean squared error: its gradient is as long."""
    name, *beside = latents.utility.split(" + ")
    mse = objectives.utility("mse", images_u8=bench.distilled.images_u8)
    if name == "mse":
        return mse
    own = objectives.utility(name, **_arguments(bench, latents))
    in_its_units = _gradient(bench, mse) / _gradient(bench, own), own
    return objectives.weighted_sum(in_its_units, *[(1.0, mse)] * (bool(beside) or name in BESIDE_MSE))


def _arguments(bench, latents) -> dict:
    settings, dataset = bench.settings, bench.dataset
    factor = round(bench.distilled.patch_logits.shape[1] ** 0.5)
    shared = dict(students=settings.students, factor=factor, flip=settings.data.flip)
    if latents.width:
        shape = (len(dataset.class_names), settings.data.mean, settings.data.std)
        rows = [np.flatnonzero(dataset.train.labels == label) for label in range(len(dataset.class_names))]
        width = min(latents.width, settings.evaluate.width or latents.width)
        network = teacher_stage.build_network(f"{settings.evaluate.model}_in", width, *shape)
        real = {"real": [dataset.train.images(r) for r in rows], "per_class": REAL * latents.width}
        views = shared if latents.utility == "distribution_matching" else {"factor": factor}
        return views | {"network": network} | real
    variables = bench.teacher.variables(settings.label.teacher)
    return shared | {"images_u8": bench.distilled.images_u8, "teacher": bench.teacher.network, "variables": variables}


def _gradient(bench, utility: objectives.Utility) -> float:
    """Length of the gradient by the pixels, at slightly noisy images."""
    n, n_classes = len(bench.distilled.labels), len(bench.dataset.class_names)
    first = np.arange(min(n // n_classes, IMAGES)) + n // n_classes * np.arange(n_classes)[:, None]
    indices_B = first.reshape(-1).astype(np.int32)
    noise = np.random.default_rng(0).normal(scale=NOISE, size=(len(indices_B), *bench.distilled.images_u8.shape[1:]))
    images = np.clip(bench.distilled.images_u8[indices_B] / 255 + noise, 0, 1).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda images: utility(images, indices_B, jax.random.key(0))))(images)
    return float(np.linalg.norm(np.asarray(gradient)))
