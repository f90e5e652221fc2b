"""A step of a student's training in evaluate.run, against the time that its arithmetic takes at the ceiling."""

import dataclasses

import ceiling
import numpy as np
import ours
import sizes
import timing

from infoutil_jax import data
from infoutil_jax.stages import evaluate
from infoutil_jax.types import DistilledSet

LONGER = 4


def run(all_sizes: sizes.Sizes, ceilings: dict) -> list[dict]:
    return [measure(case, all_sizes, ceilings) for case in all_sizes.student]


def measure(case: sizes.Student, all_sizes: sizes.Sizes, ceilings: dict) -> dict:
    """The difference between a long and a short training: start-up, the final test and compilation drop out."""
    (network, variables), n = ours.build(case.network), case.ipc * case.network.n_classes
    batch = evaluate.default_batch_size(case.ipc, case.network.n_classes)
    distilled, val = random_set(n, case.network), random_split(10, case.network)
    student = network._replace(model=network.model.clone(bn_momentum=ours.CONFIG.evaluate.bn_momentum))

    def training(epochs):
        settings = dataclasses.replace(ours.CONFIG.students, epochs=epochs, test_every=epochs, batch_size=batch)

        def variant():
            options = dict(flip=True, label="student")
            evaluate.run(settings, distilled, student, network, variables, val, 0, **options)
            return 1

        return variant

    steps = (LONGER - 1) * case.epochs * -(-n // batch)
    gflop = batch * 4 * ours.gflop(network, variables, case.network.side)  # teacher, student, its gradient's two
    arithmetic = ceiling.variant(ceilings, "float32", all_sizes.ceiling, gflop)
    variants = {"short": training(case.epochs), "long": training(LONGER * case.epochs), timing.CEILING: arithmetic}
    timings = timing.interleave(variants, all_sizes.repeats)
    seconds = (timings["long"].seconds - timings["short"].seconds) / steps
    return {
        "network": case.network._asdict(),
        "ipc": case.ipc,
        "batch": batch,
        "timed_steps": steps,
        "gflop_per_step": gflop,
        "seconds_per_step": timing.median(seconds),
        "over_its_arithmetic": timing.median(seconds / timings[timing.CEILING].seconds),
    }


def random_set(n: int, size: sizes.Network) -> DistilledSet:
    images_u8, _ = ours.draw(n, size)
    k = ours.CONFIG.compose.factor**2
    labels = np.arange(n, dtype=np.int32) % size.n_classes
    logits = np.random.default_rng(0).normal(size=(n, k, size.n_classes)).astype(np.float32)
    boxes, none = np.zeros((n, k, 4), np.int32), np.zeros((n, k), np.float32)
    return DistilledSet(images_u8, labels, logits, (("",) * k,) * n, boxes, none, none, {})


def random_split(n: int, size: sizes.Network) -> data.Split:
    images_u8, labels = ours.draw(n, size)
    return data.Split(labels, ["x"] * n, lambda rows: [images_u8[i] for i in rows], image_size=size.side, cache_gib=1.0)
