"""Norms of per-example gradients: ours and the peers, over one ordinary gradient of the batch in the same library."""

import copy
import warnings

import ceiling
import jax
import jax.numpy as jnp
import networks
import numpy as np
import ours
import sizes
import timing
import torch
from opacus.grad_sample import GradSampleModule

from infoutil_jax import layerwise, losses, utility

warnings.filterwarnings("ignore", "Full backward hook is firing")  # by Opacus, harmless

BATCH = {"JAX": "batch gradient, JAX", "PyTorch": "batch gradient, PyTorch"}
OURS, VMAP, LOOP = "ours, layerwise", "ours, vmap(grad)", "loop of jax.grad"
FUNC, FUNC_FROZEN = "torch.func vmap(grad)", "torch.func vmap(grad), BatchNorm frozen"
OPACUS = "opacus GradSampleModule"
TOLERANCE = 0.02  # wide enough for TensorFloat-32, and for a ReLU that rounding opens on one side only


def run(all_sizes: sizes.Sizes, ceilings: dict) -> list[dict]:
    return [measure(case, all_sizes, ceilings) for case in all_sizes.gradient_norms]


def measure(case: sizes.Gradients, all_sizes: sizes.Sizes, ceilings: dict) -> dict:
    twins = networks.build(case.network)
    images_u8, labels = ours.draw(case.batch, case.network)
    images, torch_images = networks.normalised(twins, images_u8)
    functions = jax_functions(twins, images, jnp.asarray(labels))
    torch_labels = torch.from_numpy(labels).long().to(networks.DEVICE)
    by_layout = {name: torch_functions(twins.module, torch_images, torch_labels, name) for name in networks.LAYOUTS}
    layouts = {name: fastest_layout(by_layout, name) for name in (BATCH["PyTorch"], FUNC, OPACUS)}
    functions |= {name: by_layout[layout][name] for name, layout in layouts.items()}
    checked = differences({FUNC_FROZEN: by_layout["channels_first"][FUNC_FROZEN], **functions})
    if not max(checked.values()) < TOLERANCE:
        raise ValueError(f"{case.network.model}: norms differ from those of single examples: {checked}")
    gflop = 3 * ours.gflop(twins.network, twins.variables, case.network.side)
    variants = {timing.CEILING: ceiling.variant(ceilings, "float32", all_sizes.ceiling, gflop)}
    variants |= {name: counting(f, case.batch) for name, f in functions.items()}
    timings = timing.interleave(variants, all_sizes.repeats)
    return {
        "network": case.network._asdict(),
        "batch": case.batch,
        "gflop_per_example": gflop,
        "layouts": layouts,
        "largest_relative_difference": checked,
        "variants": timing.summarise(timings, {name: baseline(name) for name in timings}, "example"),
    }


def counting(function, units: int):
    return lambda: (function(), units)[1]


def fastest_layout(by_layout: dict, name: str) -> str:
    if name == OPACUS:
        return "channels_first"  # the norms of Opacus 1.6.0 are wrong in the other one
    return timing.fastest({layout: counting(functions[name], 1) for layout, functions in by_layout.items()})


def baseline(name: str) -> str:
    if name == timing.CEILING:
        return name
    return BATCH["JAX"] if name in (BATCH["JAX"], OURS, VMAP, LOOP) else BATCH["PyTorch"]


def differences(functions: dict) -> dict:
    """{name: largest relative distance from the loop over single examples}.

    Opacus refuses to train BatchNorm, so its norms lack scale and bias; they are compared with norms that do too.
    """
    reference = {OURS: LOOP, VMAP: LOOP, FUNC: LOOP, OPACUS: FUNC_FROZEN}
    norms = {name: np.asarray(functions[name](), np.float64) for name in {*reference, *reference.values()}}
    return {name: float(np.abs(norms[name] / norms[other] - 1).max()) for name, other in reference.items()}


def jax_functions(twins, images, labels) -> dict:
    variables, model = twins.variables, twins.network.model
    logits_fn = lambda v, x: model.apply(v, x, train=False)

    def mean_loss(params, x, y):
        return losses.cross_entropy(logits_fn({**variables, "params": params}, x), y).mean()

    gradient = jax.jit(jax.grad(mean_loss))
    norm = jax.jit(lambda params, x, y: jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient(params, x, y)))))
    batched = {OURS: lambda *args: layerwise.gradient_norms(*args)[0], VMAP: utility.gradient_norms}
    norms = {name: jax.jit(lambda v, x, y, f=f: f(logits_fn, v, x, y)) for name, f in batched.items()}
    one_by_one = lambda: [norm(variables["params"], images[i : i + 1], labels[i : i + 1]) for i in range(len(images))]
    return {
        BATCH["JAX"]: lambda: jax.block_until_ready(gradient(variables["params"], images, labels)),
        **{name: lambda f=f: jax.block_until_ready(f(variables, images, labels)) for name, f in norms.items()},
        LOOP: lambda: jax.block_until_ready(one_by_one()),
    }


def torch_functions(module, images, labels, layout: str) -> dict:
    cross_entropy, layout = torch.nn.functional.cross_entropy, dict(memory_format=networks.LAYOUTS[layout])
    module, images = copy.deepcopy(module).to(**layout), images.to(**layout)
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    frozen = {id(p) for m in norms for p in m.parameters()}
    all_params = dict(module.named_parameters())
    without_norms = {name: p for name, p in all_params.items() if id(p) not in frozen}

    def batch_gradient():
        module.zero_grad()
        cross_entropy(module(images), labels).backward()
        networks.wait()

    def loss(params, image, label):
        return cross_entropy(torch.func.functional_call(module, params, (image[None],)), label[None])

    per_example = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def with_func(params):
        params = {name: p.detach() for name, p in params.items()}
        return lambda: as_numpy(norms_of(per_example(params, images, labels).values()))

    return {
        BATCH["PyTorch"]: batch_gradient,
        FUNC: with_func(all_params),
        FUNC_FROZEN: with_func(without_norms),
        OPACUS: with_opacus(module, images, labels),
    }


def with_opacus(module, images, labels):
    """Its hooks fire in training mode only; BatchNorm stays in eval mode, its parameters frozen."""
    module = copy.deepcopy(module).train()
    for norm in (m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.eval().requires_grad_(False)
    wrapped = GradSampleModule(module, loss_reduction="sum")

    def norms():
        wrapped.zero_grad()
        torch.nn.functional.cross_entropy(wrapped(images), labels, reduction="sum").backward()
        return as_numpy(norms_of(p.grad_sample for p in wrapped.parameters() if p.requires_grad))

    return norms


def norms_of(gradients):
    """Of gradients with a leading axis over examples."""
    return torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()


def as_numpy(norms):
    return norms.detach().cpu().numpy()
