"""Weights that torchvision and timm made, through files, give the logits that they give there; so does our command."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from configs import base
from oracles import timm_model, torchvision, torchvision_model
from safetensors.torch import save_file

from infoutil_jax import config, pretrained, weights
from infoutil_jax.errors import ConfigError
from infoutil_jax.stages.teacher import blank_variables, build_network

NAMES, SIDE = tuple("abcdefghij"), 64


def settings_of(path, **changes):
    c = base.get_config()
    c.update_from_flattened_dict({
        "teacher.model": "resnet18", "teacher.weights": str(path), "data.image_size": SIDE, "methods": ("infoutil",),
        **changes,
    })  # fmt: skip
    return pretrained.adopt(config.resolve(c))[0]


def assert_same_logits(net, settings, mean, std):
    """Ours of images in [0, 1] and theirs of the same images, normalised here."""
    network = build_network(settings.teacher.model, 0, len(NAMES), settings.data.mean, settings.data.std)
    like = blank_variables(network, settings.data.image_size)
    loaded, _ = pretrained.of_teacher(settings, like, NAMES)
    side = settings.data.image_size
    images = np.random.default_rng(0).uniform(size=(2, side, side, 3)).astype(np.float32)
    normalised = torch.from_numpy(((images - np.float32(mean)) / np.float32(std)).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        expected = net.eval()(normalised).numpy()
    logits = jax.jit(network.logits)(loaded["converged"].variables, images)
    assert np.ptp(expected) > 0.1 and np.abs(expected[0] - expected[1]).max() > 1e-3
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.fixture(scope="module")
def net():
    return torchvision_model("resnet18", num_classes=len(NAMES))


def test_torchvisions_resnet18(net, tmp_path):
    path = tmp_path / "resnet18.safetensors"
    save_file(net.state_dict(), path)
    settings = settings_of(path)
    assert_same_logits(net, settings, settings.data.mean, settings.data.std)


def test_timms_resnet18_with_its_config(tmp_path):
    net = timm_model("resnet18", num_classes=len(NAMES))
    own = {"input_size": (3, 96, 96), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "crop_pct": 0.95}
    from timm.models._hub import save_config_for_hf

    save_file(net.state_dict(), tmp_path / "model.safetensors")
    save_config_for_hf(net, tmp_path / "config.json", model_config={"pretrained_cfg": own}, data_config=own)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architecture"] == "resnet18"  # timm's own form, not one that this test made up
    settings = settings_of(tmp_path / "model.safetensors")
    assert (settings.data.image_size, settings.data.crop_share, settings.data.mean) == (96, 0.95, own["mean"])
    assert_same_logits(net, settings, own["mean"], own["std"])


def test_the_lines_in_the_docs_bring_all_that_torchvision_knows(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "teachers.md").read_text()
    (lines,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "torchvision" in block)
    state = torchvision_model("resnet18").state_dict()
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: state)
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    settings = settings_of(tmp_path / "resnet18.safetensors", **{"data.mean": (0.1, 0.1, 0.1)})
    got = settings.data
    assert (got.mean, got.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (got.image_size, got.crop_share, got.interpolation) == (224, 0.875, "bilinear")
    assert pretrained.own_config(tmp_path / "resnet18.safetensors")[0]["top1"] == pytest.approx(0.69758)
    assert set(weights.read(tmp_path / "resnet18.safetensors")) == set(state)


def as_torchvisions_script(state):
    parameters = [torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9)
    of = {"optimizer": optimizer.state_dict(), "lr_scheduler": scheduler.state_dict()}
    return {"model": state, **of, "epoch": 3, "args": argparse.Namespace(lr=0.1, output_dir="out", amp=False)}


@pytest.mark.parametrize("wrap", [lambda s: s, as_torchvisions_script, lambda s: {"state_dict": s}])
def test_the_command_in_the_refusal_converts_the_file(net, wrap, tmp_path):
    path = tmp_path / "my teacher.pth"
    torch.save(wrap({f"module.{key}": value for key, value in net.state_dict().items()}), path)
    with pytest.raises(ConfigError) as error:
        settings_of(path)
    python, *arguments = shlex.split(str(error.value).split("convert them, once: ")[1])
    assert python == "python"
    subprocess.run([sys.executable, *arguments], check=True, timeout=300)
    converted = weights.read(tmp_path / "my teacher.safetensors")
    assert set(converted) == set(net.state_dict())
    np.testing.assert_array_equal(converted["fc.weight"], net.state_dict()["fc.weight"].numpy())
