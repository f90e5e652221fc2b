"""torchvision's and timm's networks on tokens, their weights read through our layouts: the same logits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracles import timm, timm_model, torchvision, torchvision_model
from torchvision.models import swin_transformer
from torchvision.models.convnext import CNBlockConfig

from infoutil_jax import models, weights

K = 10


def swin():
    blocks = dict(block=swin_transformer.SwinTransformerBlockV2, downsample_layer=swin_transformer.PatchMergingV2)
    sizes = dict(patch_size=[4, 4], embed_dim=96, depths=[2, 2], num_heads=[3, 6], window_size=[8, 8])
    return torchvision_model("SwinTransformer", **sizes, **blocks, num_classes=K)


def timm_swin():
    sizes = dict(img_size=128, window_size=4, depths=(2, 1, 1, 1), num_heads=(3, 6, 12, 24))
    return timm_model("SwinTransformerV2", **sizes, num_classes=K)


def convnext():
    stages = [CNBlockConfig(96, 192, 2), CNBlockConfig(192, None, 1)]
    return torchvision_model("ConvNeXt", block_setting=stages, num_classes=K)


SWIN, TIMM_SWIN = dict(depths=(2, 2), n_heads=(3, 6)), dict(depths=(2, 1, 1, 1), window=4)
CASES = {  # ours, its settings, the library, its network, height and width of the images
    "vit": ("vit_b_16", {}, "torchvision", partial(torchvision_model, "vit_b_16", num_classes=K), (224, 224)),
    "swin_v2_t": ("swin_v2_t", {}, "torchvision", partial(torchvision_model, "swin_v2_t", num_classes=K), (64, 64)),
    "swin, shifted and padded": ("swin_v2_t", SWIN, "torchvision", swin, (100, 76)),
    "swin, shifted along one axis": ("swin_v2_t", SWIN, "torchvision", swin, (32, 100)),
    "timm's swin": ("swin_v2_t", TIMM_SWIN, "timm", timm_swin, (128, 128)),
    "convnext_t": (
        "convnext_t",
        {},
        "torchvision",
        partial(torchvision_model, "convnext_tiny", num_classes=K),
        (64, 64),
    ),
    "convnext": ("convnext_t", dict(depths=(2, 1), widths=(96, 192)), "torchvision", convnext, (47, 62)),
    "mixer": ("mixer_b16", {}, "timm", partial(timm_model, "mixer_b16_224", num_classes=K), (224, 224)),
}
PUBLISHED = {  # ours: the library, its function, the side of its images
    "vit_b_16": ("torchvision", torchvision.models.vit_b_16, 224),
    "swin_v2_t": ("torchvision", torchvision.models.swin_v2_t, 256),
    "swin_v2_t by timm": ("timm", timm.models.swinv2_tiny_window8_256, 256),
    "convnext_t": ("torchvision", torchvision.models.convnext_tiny, 224),
    "mixer_b16": ("timm", timm.models.mixer_b16_224, 224),
}


def shapes_of(model, size):
    return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, *size, 3)))


@pytest.mark.parametrize("case", CASES)
def test_logits_in_eval_mode(case):
    name, settings, library, build, size = CASES[case]
    model, net = models.build(name, K, **settings), build()
    images = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()  # the images tell apart

    tensors = {key: tensor.numpy() for key, tensor in net.state_dict().items()}
    variables = weights.assign(tensors, name, shapes_of(model, size), range(K), where=library)[0]
    logits = jax.jit(partial(model.apply, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("case", PUBLISHED)
def test_every_tensor_of_a_published_network_has_its_place(case):
    name = case.split()[0]
    library, build, side = PUBLISHED[case]
    with torch.device("meta"):
        net = build()
    tensors = {key: np.broadcast_to(np.float32(0), tensor.shape) for key, tensor in net.state_dict().items()}
    weights.assign(tensors, name, shapes_of(models.build(name, 1000), (side, side)), range(1000), where=library)
