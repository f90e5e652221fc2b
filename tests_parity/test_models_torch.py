"""The same weights in hand-written PyTorch layer stacks give the same logits, gradients and running statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_models import draw_images, pair, torch_state

CASES = [("convnet3", 32), ("convnet4", 64), ("convnet5", 64), ("convnet6", 128), ("resnet18", 64), ("resnet18", 224)]
CASES += [("resnet50", 64), ("resnet101", 32), ("resnet18_cifar", 32), ("resnet50_cifar", 32), ("resnet101_cifar", 32)]


@pytest.mark.parametrize(("name", "image_size"), CASES)
def test_logits_in_eval_mode(name, image_size):
    model, variables, twin = pair(name, image_size)
    images, torch_images = draw_images(2, image_size)
    with torch.no_grad():
        expected = twin.eval()(torch_images).numpy()
    logits = jax.jit(partial(model.apply, train=False))(variables, images)
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()  # the images tell apart
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


def count_normalised(twin):
    """A dict that the next forward fills: BatchNorm path -> n = B * H * W values per channel."""
    counts = {}
    for path, module in twin.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda _, args, path=path: counts.update({path: args[0][:, 0].numel()}),
            )
    return counts


@pytest.mark.parametrize(("name", "settings"), [("convnet3", {"width": 16}), ("resnet18_cifar", {})])
def test_one_training_forward(name, settings):
    """Equal logits and running means; PyTorch's running variance takes the unbiased batch variance, Flax's the biased.

    The two differ by the factor n / (n - 1) of each layer's n = B * H * W, 1.0005 and less in a batch of CIFAR images.
    """
    model, variables, twin = pair(name, 16, **settings)
    images, torch_images = draw_images(4, 16)
    counts = count_normalised(twin)
    expected = twin.train()(torch_images).detach().numpy()
    logits, moved = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))

    before, after, theirs = torch_state({"s": variables["batch_stats"]}), torch_state(moved), twin.state_dict()
    for path, n in counts.items():
        mean, var = f"{path}.running_mean", f"{path}.running_var"
        np.testing.assert_allclose(after[mean], theirs[mean], rtol=1e-4, atol=1e-4)
        batch_var = (theirs[var] - 0.9 * before[var]) / 0.1 * (n - 1) / n
        np.testing.assert_allclose(after[var], 0.9 * before[var] + 0.1 * batch_var, rtol=1e-3, atol=1e-4)
    assert len(counts) == len(after) // 2


def test_training_gradients_of_convnet3():
    model, variables, twin = pair("convnet3", 32, width=32)
    images, torch_images = draw_images(20, 32)
    labels = np.arange(20) % 10

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 10), axis=-1))

    F.cross_entropy(twin.train()(torch_images), torch.from_numpy(labels)).backward()
    gradients = torch_state({"params": jax.jit(jax.grad(loss))(variables["params"])}, channels=32)
    largest = max(float(parameter.grad.abs().max()) for parameter in twin.parameters())
    for name, parameter in twin.named_parameters():
        scale = float(parameter.grad.abs().max())
        if name.startswith("conv") and name.endswith("bias"):  # BatchNorm takes it out: exactly 0 but for rounding
            scale = largest
        np.testing.assert_allclose(gradients[name], parameter.grad, rtol=0, atol=1e-4 * scale, err_msg=name)
