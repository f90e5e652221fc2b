"""The stages that every class goes through, timed one by one, and what they come to for 1,000 classes."""

import dataclasses
import time

import ceiling
import numpy as np
import ours
import sizes
import timing

from configs import imagenet_ipc10
from infoutil_jax import config
from infoutil_jax.stages import attribute, compose, crop, label, score, select

IMAGENET_CLASSES = 1000


def run(all_sizes: sizes.Sizes, ceilings: dict) -> list[dict]:
    """Empty at a scale without it."""
    case = all_sizes.per_class
    return [measure(case, precision, all_sizes, ceilings) for precision in (case.precisions if case else ())]


def measure(case: sizes.PerClass, precision: str, all_sizes: sizes.Sizes, ceilings: dict) -> dict:
    """Settings of configs/imagenet_ipc10.py; the images are random pixels that lie decoded in memory."""
    settings = config.resolve(imagenet_ipc10.get_config())
    settings = dataclasses.replace(settings, attribute=dataclasses.replace(settings.attribute, precision=precision))
    network, variables = ours.build(case.network)
    one_class(case, settings, network, variables, 0)  # compiles
    rows = [one_class(case, settings, network, variables, i) for i in range(case.classes)]
    seconds = {stage: timing.median([row[stage] for row in rows]) for stage in rows[0]}
    whole = float(np.median([sum(row.values()) for row in rows]))
    forward = ours.gflop(network, variables, case.network.side)
    arithmetic = {p: ceiling.variant(ceilings, p, all_sizes.ceiling, forward) for p in (precision, "float32")}
    best = {p: np.median(t.seconds) for p, t in timing.interleave(arithmetic, all_sizes.repeats).items()}
    attributed = case.candidates * len(attribute.design(settings.attribute, 0).masks_SP)
    scored = case.candidates * settings.crop.per_image * 4  # a forward pass and a gradient; always in float32
    return {
        "network": case.network._asdict(),
        "precision": precision,
        "candidates": case.candidates,
        "classes": case.classes,
        "seconds_per_class": seconds,
        "hours_for_1000_classes": whole * IMAGENET_CLASSES / 3600,
        "utilisation_of_attribution": float(attributed * best[precision] / seconds["attribute"]["median"]),
        "utilisation_of_scores": float(scored * best["float32"] / seconds["score"]["median"]),
    }


def one_class(case: sizes.PerClass, settings, network, variables, number: int) -> dict:
    """{stage: seconds} of one class; every stage ends with numpy arrays on the host."""
    ids, side = [f"{number}/{i}" for i in range(case.candidates)], case.network.side
    images_u8, labels = ours.draw(case.candidates, case.network)
    n = min(settings.n_crops, case.candidates * settings.crop.per_image) // settings.compose.factor**2
    n_patches = settings.compose.factor**2
    coalitions = attribute.design(settings.attribute, settings.seed)
    clock = [time.perf_counter()]
    lap = lambda: clock.append(time.perf_counter())
    phi = attribute.run(settings.attribute, network, variables, coalitions, images_u8, labels).phi
    lap()
    crops = crop.run(settings.crop, settings.seed, ids, side, settings.attribute.grid, phi)
    crops_u8 = crop.cut(images_u8, crops.boxes, side // settings.compose.factor)
    lap()
    scores = score.run(settings.score, network, variables, crops_u8, 0, side, with_gradients=True)
    lap()
    best = select.run(settings.select, settings.seed, scores, crops.boxes, ids, n * n_patches, where=ids[0])
    rows = best[compose.arrange(n, n_patches, settings.compose.order)]
    tiles_u8 = crops_u8[rows[..., 0], rows[..., 1]]
    compose.stitch(tiles_u8)
    lap()
    label.run(network, variables, tiles_u8.reshape(-1, *tiles_u8.shape[2:]), side)
    lap()
    return dict(zip(("attribute", "crop", "score", "select and compose", "label"), np.diff(clock).tolist()))
