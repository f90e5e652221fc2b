"""Shapley values of images: our stage and the peers, each over the bare forward pass of its own library."""

import dataclasses

import ceiling
import networks
import numpy as np
import ours
import shapiq
import sizes
import timing
import torch
from captum.attr import KernelShap, ShapleyValueSampling

from infoutil_jax.attribution import games
from infoutil_jax.stages import attribute

BARE = {"JAX": "bare forward, JAX", "PyTorch": "bare forward, PyTorch"}
OURS = "ours"
TOLERANCE = 0.2  # TensorFloat-32 is well inside; other weights, masks or labels are far outside


def run(all_sizes: sizes.Sizes, ceilings: dict) -> list[dict]:
    with torch.no_grad():
        return [measure(case, all_sizes, ceilings) for case in all_sizes.attribution]


def measure(case: sizes.Attribution, all_sizes: sizes.Sizes, ceilings: dict) -> dict:
    twins = networks.build(case.network)
    evaluations, side = case.images * case.budget, case.network.side
    bare = {b: networks.jax_forward(twins, side, case.precision, b, evaluations) for b in case.batch_sizes}
    jax_batch = timing.fastest(bare)
    torch_bare = {
        (b, layout): networks.torch_forward(counted, side, b, evaluations)
        for layout in networks.LAYOUTS
        for counted in [networks.Counted(twins.module, layout, case.precision)]
        for b in case.batch_sizes
    }
    torch_batch, layout = timing.fastest(torch_bare)
    counted = networks.Counted(twins.module, layout, case.precision)
    images_u8, labels = ours.draw(case.images, case.network)
    settings = dataclasses.replace(ours.CONFIG.attribute, budget=case.budget, precision=case.precision)
    coalitions = attribute.design(settings, seed=0)

    def our_stage():
        attribute.run(settings, twins.network, twins.variables, coalitions, images_u8, labels)
        return case.images * len(coalitions.masks_SP)

    _, images = networks.normalised(twins, images_u8)
    gflop = ours.gflop(twins.network, twins.variables, side)
    variants = {
        timing.CEILING: ceiling.variant(ceilings, case.precision, all_sizes.ceiling, gflop),
        BARE["JAX"]: bare[jax_batch],
        OURS: our_stage,
        BARE["PyTorch"]: torch_bare[torch_batch, layout],
        **peers(counted, images, labels, settings, torch_batch),
    }
    distance = difference(twins, counted, settings, coalitions, images_u8, labels, torch_batch)
    if case.precision == "float32" and not distance < TOLERANCE:
        raise ValueError(f"{case.network.model}: Shapley values of JAX and PyTorch differ by {distance:.1%}")
    timings = timing.interleave(variants, all_sizes.repeats)
    return {
        "network": case.network._asdict(),
        "precision": case.precision,
        "images": case.images,
        "budget": case.budget,
        "gflop_per_evaluation": gflop,
        "best_batch": {"JAX": jax_batch, "PyTorch": torch_batch, "PyTorch layout": layout},
        "micro_batch": attribute.micro_batch(settings, twins.network, side),
        "difference_from_torch": distance,
        "variants": timing.summarise(timings, {name: baseline(name) for name in timings}, "evaluation"),
    }


def baseline(name: str) -> str:
    if name == timing.CEILING:
        return name
    return BARE["JAX"] if name in (OURS, BARE["JAX"]) else BARE["PyTorch"]


def difference(twins, counted, settings, coalitions, images_u8, labels, batch: int) -> float:
    """Largest distance of our Shapley values from those of PyTorch on the same coalitions, over their spread."""
    phi_MGG = attribute.run(settings, twins.network, twins.variables, coalitions, images_u8, labels).phi
    _, images = networks.normalised(twins, images_u8)
    values = [game(counted, image, label, settings.grid, batch) for image, label in zip(images, labels)]
    theirs_PM = coalitions.solve(np.stack([v(coalitions.masks_SP) for v in values], axis=1))
    return float(np.abs(phi_MGG.reshape(len(phi_MGG), -1).T - theirs_PM).max() / theirs_PM.std())


def game(counted, image, label, grid: int, batch: int):
    """Boolean masks (S, P) -> logits of `label` (S,) float64 in numpy, absent patches 0: what shapiq calls."""
    cells = torch.from_numpy(players(image.shape[-1], grid)).to(image.device)

    def values(masks_SP):
        parts = torch.from_numpy(np.asarray(masks_SP, bool)).to(image.device).split(batch)
        masked = (torch.where(part[:, cells][:, None], image, 0.0) for part in parts)
        return torch.cat([counted(images)[:, label] for images in masked]).double().cpu().numpy()

    return values


def players(side: int, grid: int) -> np.ndarray:
    """The patch that each pixel belongs to, (side, side) int64, row-major over the grid."""
    at = np.asarray(games.cell_of_pixel(side, grid), np.int64)
    return at[:, None] * grid + at[None, :]


def peers(counted, images, labels, settings, batch: int) -> dict:
    """Each library as its documentation shows it, image by image: none of them takes several at once."""
    n_players, budget = settings.grid**2, settings.budget
    mask = torch.from_numpy(players(images.shape[-1], settings.grid)).to(images.device)[None, None]
    permutations = max(1, budget // n_players)

    def captum(method, n_samples, per_eval):
        def variant():
            for image, label in zip(images, labels):
                options = dict(target=int(label), feature_mask=mask, perturbations_per_eval=per_eval)
                method(counted).attribute(image[None], n_samples=n_samples, **options)
            return counted.take()

        return variant

    def with_shapiq(**options):
        def variant():
            for image, label in zip(images, labels):
                approximator = shapiq.KernelSHAP(n_players, random_state=0, **options)
                approximator.approximate(budget, game(counted, image, int(label), settings.grid, batch))
            return counted.take()

        return variant

    equal_sizes = dict(pairing_trick=True, sampling_weights=np.ones(n_players + 1))
    return {
        "captum KernelShap": captum(KernelShap, budget, 1),
        "captum KernelShap, batched": captum(KernelShap, budget, batch),
        "captum ShapleyValueSampling": captum(ShapleyValueSampling, permutations, 1),
        "captum ShapleyValueSampling, batched": captum(ShapleyValueSampling, permutations, batch),
        "shapiq KernelSHAP": with_shapiq(),
        "shapiq KernelSHAP, Leverage SHAP's design": with_shapiq(**equal_sizes),
    }
