"""One set of weights in JAX and in PyTorch, what both are shown, and their bare forward passes."""

import copy
import sys
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import ours
import sizes
import torch

sys.path.append(str(ours.ROOT / "tests_parity"))

import torch_models  # noqa: E402  (found through the line above)

from infoutil_jax import train  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUTS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}


def wait():
    """Until PyTorch's device has done all it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Twins(NamedTuple):
    network: train.Network
    variables: dict
    module: torch.nn.Module  # BatchNorm in eval mode


def build(size: sizes.Network) -> Twins:
    width = {"width": size.width} if size.width else {}
    model, variables, module = torch_models.pair(size.model, size.side, size.n_classes, **width)
    network = train.Network(model, ours.CONFIG.data.mean, ours.CONFIG.data.std)
    return Twins(network, jax.device_put(variables), module.eval().to(DEVICE))


def normalised(twins: Twins, images_u8):
    """The network's input in both libraries: (n, H, W, 3) for JAX, (n, 3, H, W) for PyTorch."""
    images = twins.network.normalize(jnp.asarray(images_u8, jnp.float32) / 255)
    return images, torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy()).to(DEVICE)


def model_of(twins: Twins, precision: str):
    return twins.network.model.clone(dtype=precision)


def jax_forward(twins: Twins, side: int, precision: str, batch: int, evaluations: int):
    """A variant for `timing`: `evaluations` images or a few more, in batches that lie on the device."""
    forward = jax.jit(partial(model_of(twins, precision).apply, train=False))
    images = jax.random.normal(jax.random.key(0), (batch, side, side, 3))

    def run():
        for _ in range(-(-evaluations // batch)):
            logits = forward(twins.variables, images)
        jax.block_until_ready(logits)
        return -(-evaluations // batch) * batch

    return run


class Counted(torch.nn.Module):
    """A module that counts the images it sees and computes in a given layout and precision; float32 in and out."""

    def __init__(self, module, layout: str, precision: str):
        super().__init__()
        self.options = dict(memory_format=LAYOUTS[layout], dtype=getattr(torch, precision))
        self.module, self.seen = copy.deepcopy(module).to(**self.options), 0

    def forward(self, images):
        self.seen += len(images)
        return self.module(images.to(**self.options)).float()

    def take(self) -> int:
        """How many images it saw since the last call; waits until all are done."""
        wait()
        seen, self.seen = self.seen, 0
        return seen


def torch_forward(counted: Counted, side: int, batch: int, evaluations: int):
    """The same in PyTorch, its images already in the module's layout and precision."""
    images = torch.randn(batch, 3, side, side, device=DEVICE).to(**counted.options)

    def run():
        for _ in range(-(-evaluations // batch)):
            counted(images)
        return counted.take()

    return run
