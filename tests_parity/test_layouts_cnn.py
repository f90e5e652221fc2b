"""torchvision's and timm's convolutional networks, their weights read through our layouts: the same logits."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util
from oracles import timm_model, torchvision_model
from torch import nn

from infoutil_jax import models, weights

K, SIZE = 10, (64, 96)
THEIRS = {"torchvision": torchvision_model, "timm": timm_model}
CASES = [("torchvision", name, name) for name in ("resnet18", "resnet50", "vgg11")]
CASES += [("torchvision", "mobilenet_v2", "mobilenet_v2"), ("torchvision", "efficientnet_b0", "efficientnet_b0")]
CASES += [("timm", "resnet18", "resnet18"), ("timm", "resnet50", "resnet50")]
CASES += [("timm", "mobilenetv2_100", "mobilenet_v2"), ("timm", "efficientnet_b0", "efficientnet_b0")]


def draw(batch, seed=0):
    """Images for us and for PyTorch."""
    images = np.random.default_rng(seed).normal(0.2, 1, size=(batch, *SIZE, 3)).astype(np.float32)
    return images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def with_statistics(net):
    """`net` in eval mode, its running statistics those of a batch; drawn at random they would drown the images."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(draw(6, seed=1)[1])
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


def imported(net, name, model):
    """The tensors of `net` as the variables of our network called `name`."""
    tensors = {key: tensor.numpy().copy() for key, tensor in net.state_dict().items()}
    like = jax.eval_shape(partial(models.initialize, model, image_size=32), jax.random.key(0))
    return weights.assign(tensors, name, like, [str(k) for k in range(K)], where="the network")[0]


@cache
def logits_fn(name):
    """Compiled once for both libraries."""
    return jax.jit(partial(models.build(name, K).apply, train=False))


def assert_same(logits, expected):
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()  # the images tell apart
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(("library", "theirs", "name"), CASES)
def test_logits_in_eval_mode(library, theirs, name):
    net = with_statistics(THEIRS[library](theirs, num_classes=K))
    variables = imported(net, name, models.build(name, K))
    images, torch_images = draw(2)
    with torch.no_grad():
        expected = net(torch_images).numpy()
    logits = logits_fn(name)(variables, images)
    assert_same(logits, expected)


def test_the_deepest_resnet_is_named_throughout():
    imported(torchvision_model("resnet101", num_classes=K), "resnet101", models.build("resnet101", K))


def test_a_cifar_resnet_has_the_names_of_its_parent():
    """RDED's `resnet18_modified`: torchvision's network with another first convolution and without the max pool."""
    net = torchvision_model("resnet18", num_classes=K)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    net = with_statistics(net)
    model = models.build("resnet18_cifar", K)
    images, torch_images = draw(2)
    with torch.no_grad():
        expected = net(torch_images[..., :32, :32]).numpy()
    variables = imported(net, "resnet18_cifar", model)
    assert_same(jax.jit(partial(model.apply, train=False))(variables, images[:, :32, :32]), expected)


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [("mobilenet_v2", {}, {}), ("efficientnet_b0", {"stochastic_depth_prob": 0.0}, {"stochastic_depth": 0.0})],
)
def test_one_training_forward_without_dropout(name, theirs, ours):
    net = with_statistics(torchvision_model(name, num_classes=K, dropout=0.0, **theirs))
    model = models.build(name, K, dropout=0.0, **ours)
    variables, (images, torch_images) = imported(net, name, model), draw(6)
    with torch.no_grad():
        expected = net.train()(torch_images).numpy()
    logits, moved = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))(variables, jnp.asarray(images))
    assert_same(logits, expected)
    after = traverse_util.flatten_dict(moved["batch_stats"], sep=".")
    means = traverse_util.flatten_dict(imported(net, name, model)["batch_stats"], sep=".")
    for path in (path for path in after if path.endswith(".mean")):
        np.testing.assert_allclose(after[path], means[path], rtol=1e-4, atol=1e-4, err_msg=path)
