"""Networks of torchvision and timm with random weights that make images differ."""

import numpy as np
import torch

for _op in ("nms", "qnms"):  # torchvision registers kernels for these, and a CPU build of torch lacks the names
    torch.library.define(f"torchvision::{_op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402


def torchvision_model(name, **settings):
    """torchvision.models' function or class `name`, randomised, in eval mode."""
    return _randomise(getattr(torchvision.models, name)(**settings))


def timm_model(name, **settings):
    """timm.models' function or class `name`, randomised, in eval mode."""
    return _randomise(getattr(timm.models, name)(**settings))


def _randomise(net):
    """Kernels of variance 1 / fan_in, scales of norms and layers around 1, all else far from 0; buffers as they are."""
    generator = np.random.default_rng(0)
    for name, parameter in net.named_parameters():
        shape, last = parameter.shape, name.rpartition(".")[2]
        if last == "logit_scale":
            values = generator.uniform(np.log(5), np.log(200), shape)  # clamped at 100
        elif last == "layer_scale" or (last == "weight" and len(shape) == 1):
            values = generator.uniform(0.5, 1.5, shape)
        elif last == "weight" or last == "in_proj_weight":
            values = generator.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        else:
            values = generator.normal(0, 0.3, shape)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.asarray(values, np.float32)))
    return net.eval()
