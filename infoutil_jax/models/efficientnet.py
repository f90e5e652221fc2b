"""EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946), torchvision's and timm's `efficientnet_b0`: one network.

Both have explicit padding and BatchNorm's eps 1e-5. timm's `tf_efficientnet_b0`, with TensorFlow's padding and eps
1e-3, is another network, and its weights, though they fit, do not belong here. In training torchvision's stochastic
depth is ours; timm leaves both of its rates at 0.
"""

from functools import partial

import flax.linen as nn

from infoutil_jax.models.initializers import uniform_fan_out
from infoutil_jax.models.layout import Layout, rename_modules
from infoutil_jax.models.mobilenet import MobileNet, Stage, blocks, conv_norm, layers_of, timm_modules

STAGES = (
    Stage(expansion=1, width=16, n_blocks=1, stride=1, size=3),
    Stage(expansion=6, width=24, n_blocks=2, stride=2, size=3),
    Stage(expansion=6, width=40, n_blocks=2, stride=2, size=5),
    Stage(expansion=6, width=80, n_blocks=3, stride=2, size=3),
    Stage(expansion=6, width=112, n_blocks=3, stride=1, size=5),
    Stage(expansion=6, width=192, n_blocks=4, stride=2, size=5),
    Stage(expansion=6, width=320, n_blocks=1, stride=1, size=3),
)
_SETTINGS = dict(activation=nn.silu, classifier_init=uniform_fan_out, squeeze=True, stochastic_depth=0.2)
MODELS = {"efficientnet_b0": partial(MobileNet, stages=STAGES, **_SETTINGS)}


def _torchvision_modules():
    names = conv_norm("features.0.0", "features.0.1", "stem") | conv_norm("features.8.0", "features.8.1", "head")
    for (s, b), ours, stage in blocks(STAGES):
        *layers, last = layers_of(stage)
        theirs, n = f"features.{s + 1}.{b}.block", len(layers)
        for k, layer in (*enumerate(layers), (n + 1, last)):
            names |= conv_norm(f"{theirs}.{k}.0", f"{theirs}.{k}.1", f"{ours}.{layer}")
        names |= {f"{theirs}.{n}.fc1": f"{ours}.squeeze.reduce", f"{theirs}.{n}.fc2": f"{ours}.squeeze.expand"}
    return names | {"classifier.1": "classifier"}


def _timm_modules():
    names = timm_modules(STAGES)
    for (s, b), ours, _ in blocks(STAGES):
        names |= {f"blocks.{s}.{b}.se.conv_{layer}": f"{ours}.squeeze.{layer}" for layer in ("reduce", "expand")}
    return names


LAYOUTS = {
    "torchvision": Layout(partial(rename_modules, _torchvision_modules())),
    "timm": Layout(partial(rename_modules, _timm_modules())),
}
