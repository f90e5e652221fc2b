"""The networks as hand-written PyTorch layer stacks, and the same weights in both libraries."""

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from infoutil_jax import models

STAGES = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class TorchConvNet(nn.Module):
    """RDED's ConvNet: `depth` times conv, BatchNorm, ReLU, average pool; then a Linear of the flat (C, H, W)."""

    def __init__(self, depth, width, image_size, n_classes):
        super().__init__()
        side = image_size // 2**depth
        for i in range(1, depth + 1):
            self.add_module(f"conv{i}", nn.Conv2d(3 if i == 1 else width, width, 3, padding=1))
            self.add_module(f"norm{i}", nn.BatchNorm2d(width))
        self.depth = depth
        self.classifier = nn.Linear(width * side * side, n_classes)

    def forward(self, x):
        for i in range(1, self.depth + 1):
            x = F.avg_pool2d(F.relu(self.get_submodule(f"norm{i}")(self.get_submodule(f"conv{i}")(x))), 2)
        return self.classifier(x.flatten(1))


class TorchBlock(nn.Module):
    def __init__(self, n_in, width, stride, bottleneck):
        super().__init__()
        n_out = 4 * width if bottleneck else width
        sizes = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        channels = [n_in] + [width] * (len(sizes) - 1) + [n_out]
        for i, (size, step) in enumerate(sizes, start=1):
            conv = nn.Conv2d(channels[i - 1], channels[i], size, step, padding=size // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"norm{i}", nn.BatchNorm2d(channels[i]))
        self.n_convs = len(sizes)
        self.has_shortcut = stride != 1 or n_in != n_out
        if self.has_shortcut:
            self.conv_shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.norm_shortcut = nn.BatchNorm2d(n_out)

    def forward(self, x):
        y = x
        for i in range(1, self.n_convs + 1):
            y = self.get_submodule(f"norm{i}")(self.get_submodule(f"conv{i}")(F.relu(y) if i > 1 else y))
        return F.relu(y + (self.norm_shortcut(self.conv_shortcut(x)) if self.has_shortcut else x))


class TorchResNet(nn.Module):
    """torchvision's ResNet, with its `conv1` 3x3 stride 1 and no max pool where `cifar`."""

    def __init__(self, stage_sizes, bottleneck, cifar, n_classes):
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 64, 3 if cifar else 7, 1 if cifar else 2, padding=1 if cifar else 3, bias=False)
        self.norm_stem = nn.BatchNorm2d(64)
        self.pool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, padding=1)
        self.blocks, n_in = [], 64
        for stage, n_blocks in enumerate(stage_sizes):
            for i in range(n_blocks):
                block = TorchBlock(n_in, 64 * 2**stage, 2 if stage and not i else 1, bottleneck)
                n_in = 64 * 2**stage * (4 if bottleneck else 1)
                self.add_module(f"stage{stage + 1}_block{i + 1}", block)
                self.blocks.append(block)
        self.classifier = nn.Linear(n_in, n_classes)

    def forward(self, x):
        x = self.pool(F.relu(self.norm_stem(self.conv_stem(x))))
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean((2, 3)))


def torch_twin(name, image_size, n_classes, width=128):
    if name.startswith("convnet"):
        return TorchConvNet(int(name[-1]), width, image_size, n_classes)
    family = name.removesuffix("_cifar")
    return TorchResNet(STAGES[family], family != "resnet18", name.endswith("_cifar"), n_classes)


def random_variables(model, image_size):
    """Fresh variables with affine norms that are far from 1 and 0."""
    variables = jax.tree.map(np.array, models.initialize(model, jax.random.key(0), image_size))
    generator = np.random.default_rng(0)

    def shake(path, leaf):
        if path[-1].key == "scale":
            return generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return generator.normal(0, 0.2, leaf.shape).astype(np.float32) if path[-1].key == "bias" else leaf

    return {**variables, "params": jax.tree_util.tree_map_with_path(shake, variables["params"])}


def measured_statistics(twin, batch_stats, image_size):
    """Running statistics of a batch of random images, set in `twin` and returned as Flax's `batch_stats`.

    Statistics drawn at random would let the logits of a deep network explode, or no longer depend on the image.
    """
    norms = [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        twin.train()(1.1 * draw_images(4, image_size, seed=2)[1] + 0.2)
    for norm in norms:
        norm.momentum = 0.1
    state = twin.state_dict()

    def read(path, _):
        *modules, kind = [part.key for part in path]
        return state[".".join([*modules, NAMES[kind]])].numpy().copy()

    return jax.tree_util.tree_map_with_path(read, batch_stats)


def to_torch_array(name, value, channels):
    """A Flax leaf in PyTorch's layout; `channels` undoes the (H, W, C) flattening before a ConvNet's classifier."""
    if value.ndim == 4:
        return np.transpose(value, (3, 2, 0, 1))
    if name == "classifier" and value.ndim == 2 and channels:
        side = round((value.shape[0] / channels) ** 0.5)
        return value.reshape(side, side, channels, -1).transpose(3, 2, 0, 1).reshape(value.shape[1], -1)
    return value.T


def torch_state(variables, channels=None):
    """Flax variables as a PyTorch state dict, by name."""
    state = {}
    for collection in variables.values():
        for path, leaf in jax.tree_util.tree_leaves_with_path(collection):
            *modules, kind = [part.key for part in path]
            array = to_torch_array(modules[0], np.asarray(leaf), channels)
            state[".".join([*modules, NAMES[kind]])] = torch.from_numpy(np.array(array))
    return state


def load(twin, variables, channels):
    missing, unexpected = twin.load_state_dict(torch_state(variables, channels), strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    return twin


def pair(name, image_size, n_classes=10, **settings):
    model = models.build(name, n_classes, **settings)
    variables = random_variables(model, image_size)
    channels = settings.get("width", 128) if name.startswith("convnet") else None
    twin = load(torch_twin(name, image_size, n_classes, **settings), variables, channels)
    statistics = measured_statistics(twin, variables["batch_stats"], image_size)
    return model, {**variables, "batch_stats": statistics}, twin


def draw_images(batch, image_size, seed=1):
    images = np.random.default_rng(seed).normal(size=(batch, image_size, image_size, 3)).astype(np.float32)
    return images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
