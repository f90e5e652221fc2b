"""Weights' files: what fits is loaded whole, whatever does not is named and nothing of it is loaded."""

import json
import struct
import subprocess
import sys
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
from configs import digits
from safetensors.numpy import save, save_file

from infoutil_jax import config, weights
from infoutil_jax.data import classes
from infoutil_jax.errors import ConfigError, CorruptArtifact, DataError, NumericError
from infoutil_jax.stages.teacher import blank_variables, build_network

NAMES = tuple("abcdefghij")
IMAGENET = tuple(wnid for wnid, _ in classes.load("imagenet1k"))


def blank(model="resnet18_cifar", n_classes=10, width=4, side=32):
    return blank_variables(build_network(model, width, n_classes, (0.5,) * 3, (0.25,) * 3), side)


def torchvision_name(names):
    """Where torchvision keeps ('params', 'stage2_block1', 'conv1', 'kernel'), written down from its source."""
    last = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    tops = {"conv_stem": "conv1", "norm_stem": "bn1", "classifier": "fc"}
    parts = {"conv_shortcut": "downsample.0", "norm_shortcut": "downsample.1"}
    *modules, kind = names[1:]
    if modules[0] in tops:
        return f"{tops[modules[0]]}.{last[kind]}"
    stage, block = (int(digits[-1]) for digits in modules[0].split("_"))
    part = parts.get(modules[1], modules[1].replace("norm", "bn"))
    return f"layer{stage}.{block - 1}.{part}.{last[kind]}"


def torch_file(like, seed=0):
    """Random tensors as torchvision's file of the same network would hold them: OIHW, (out, in), counters."""
    rng, tensors = np.random.default_rng(seed), {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(like):
        names = [part.key for part in path]
        shape = {4: lambda h, w, i, o: (o, i, h, w), 2: lambda i, o: (o, i), 1: lambda n: (n,)}[leaf.ndim](*leaf.shape)
        tensors[torchvision_name(names)] = rng.normal(size=shape).astype(np.float32)
    tensors["bn1.num_batches_tracked"] = np.array(7)
    return tensors


LIKE = blank()
FILE = torch_file(LIKE)


def assign(tensors, model="resnet18_cifar", like=LIKE, class_names=NAMES, label_names=()):
    return weights.assign(tensors, model, like, class_names, label_names, where="FILE")[0]


def fault(tensors, **options):
    with pytest.raises(DataError) as error:
        assign(tensors, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# The keys


def test_every_leaf_comes_from_its_key_in_our_layout():
    loaded = assign(FILE)
    assert jax.tree.structure(loaded) == jax.tree.structure(LIKE)
    flat = {tuple(p.key for p in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(loaded)}
    assert len(flat) == len(FILE) - 1
    for names, leaf in flat.items():
        theirs = FILE[torchvision_name(names)]
        if leaf.ndim == 4:
            o, i, h, w = (size - 1 for size in theirs.shape)
            assert leaf[0, w, i, 0] == theirs[0, i, 0, w] and leaf[h, 0, 0, o] == theirs[o, 0, h, 0]
        else:
            np.testing.assert_array_equal(leaf, theirs.T)
        assert leaf.dtype == np.float32 and leaf.flags.c_contiguous


def test_every_kind_of_wrong_key_is_listed_and_the_tensors_stay():
    tensors = {
        **FILE,
        "fc2.weight": np.zeros(3, np.float32),
        "layer1.0.conv1.weight": np.zeros((4, 4, 5, 3), np.float32),
    }
    del tensors["layer2.0.downsample.1.running_var"], tensors["conv1.weight"]
    text = fault(tensors)
    assert text.startswith("FILE does not fit teacher.model='resnet18_cifar' (read in the names of torchvision): ")
    assert "2 missing: stage2_block1.norm_shortcut.running_var, conv_stem.weight;" in text
    assert "1 unexpected: fc2.weight;" in text
    assert "1 of another shape or type: layer1.0.conv1.weight (float32 [4, 4, 5, 3] for [4, 4, 3, 3])" in text
    assert text.endswith("nothing is loaded in part.") and "rows" not in text


def test_many_keys_are_counted_and_ten_are_named():
    text = fault({f"x{i:02d}": np.zeros(1, np.float32) for i in range(30)})
    assert "30 unexpected: x00, x01, x02, x03, x04, x05, x06, x07, x08, x09, ..." in text and "x10" not in text
    assert f"{len(FILE) - 1} missing: " in text


def test_a_head_of_another_number_of_classes_is_said():
    text = fault(torch_file(blank(n_classes=1000)))
    assert "fc.weight (float32 [1000, 32] for [10, 32])" in text and "fc.bias (float32 [1000] for [10])" in text
    assert "the file's classifier has 1000 rows, the data have 10 classes" in text


def test_integers_do_not_pass_for_weights():
    text = fault({**FILE, "fc.bias": np.arange(10)})
    assert "1 of another shape or type: fc.bias (int64 [10] for [10])" in text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(bad):
    tensor = FILE["layer3.0.bn2.running_var"].copy()
    tensor[3] = bad
    with pytest.raises(NumericError, match=r"FILE: layer3\.0\.bn2\.running_var holds NaN or infinity"):
        assign({**FILE, "layer3.0.bn2.running_var": tensor})


def test_two_keys_for_one_tensor_are_not_both_taken():
    renamed = {"conv_stem.weight": FILE["conv1.weight"] + 1, **FILE}  # our name, which no file of theirs holds
    assert "1 unexpected: conv1.weight" in fault(renamed)


# The order of the classes


def test_rows_follow_the_names_that_the_file_gives():
    order = tuple(reversed(NAMES[1:])) + NAMES[:1]
    loaded, n_classes, note = weights.assign(FILE, "resnet18_cifar", LIKE, NAMES, order, where="FILE")
    assert n_classes == 10
    for i, name in enumerate(NAMES):
        np.testing.assert_array_equal(
            loaded["params"]["classifier"]["kernel"][:, i], FILE["fc.weight"][order.index(name)]
        )
        assert loaded["params"]["classifier"]["bias"][i] == FILE["fc.bias"][order.index(name)]
    assert note == "classes found by name among 10, by the file's label_names"
    *_, note = weights.assign(FILE, "resnet18_cifar", LIKE, NAMES, where="FILE")
    assert note == "the file does not name its classes, they are taken in the data's order: a, b, c, ..."


def test_a_subset_of_imagenet_takes_its_rows_of_a_thousand():
    wnids = ("n02102040", "n01440764", "n03888257")  # English springer, tench, parachute: 217, 0 and 701
    tensors, like = torch_file(blank(n_classes=1000)), blank(n_classes=3)
    loaded, n_classes, note = weights.assign(tensors, "resnet18_cifar", like, wnids, where="FILE")
    np.testing.assert_array_equal(loaded["params"]["classifier"]["kernel"], tensors["fc.weight"][[217, 0, 701]].T)
    np.testing.assert_array_equal(loaded["params"]["classifier"]["bias"], tensors["fc.bias"][[217, 0, 701]])
    assert n_classes == 1000 and "ImageNet-1K's order" in note


@pytest.mark.parametrize(
    "n_rows, class_names, label_names",
    [(10, NAMES, NAMES[:9] + ("a",)), (9, NAMES[:9], NAMES), (10, NAMES, tuple("klmnopqrst")), (999, IMAGENET[:3], ())],
)
def test_names_that_do_not_settle_the_order_are_not_used(n_rows, class_names, label_names):
    assert weights.class_rows(n_rows, class_names, label_names)[0] is None


@pytest.mark.parametrize(
    "class_names, label_names, absent",
    [(NAMES, NAMES[:9] + ("z",), "1 of the data's are not among them: j"),
     (IMAGENET[:2], tuple(f"n{i:08}" for i in range(1000)), "2 of the data's are not among them: n")],
)  # fmt: skip
def test_names_that_contradict_the_data_are_refused(class_names, label_names, absent):
    with pytest.raises(DataError, match=f"{absent}.*choose weights of these classes, or mend label_names"):
        weights.class_rows(len(label_names), class_names, label_names)


# The file


def test_what_is_read_is_float32_and_has_its_own_names(tmp_path):
    path = tmp_path / "w.safetensors"
    halves = np.array([[1.5, -2.0]])
    bf16 = {"w": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}}
    path.write_bytes(raw(bf16, halves.astype(ml_dtypes.bfloat16).tobytes()))
    np.testing.assert_array_equal(weights.read(path)["w"], halves)
    assert weights.read(path)["w"].dtype == np.float32
    save_file({"module.a": halves.astype(np.float16), "module.b": halves, "module.c": np.arange(3)}, path)
    tensors = weights.read(path)
    assert {key: str(value.dtype) for key, value in tensors.items()} == {"a": "float32", "b": "float32", "c": "int64"}
    np.testing.assert_array_equal(tensors["a"], halves)
    save_file({"module.a": halves, "b": halves}, path)
    assert set(weights.read(path)) == {"module.a", "b"}


def raw(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(size, shape, dtype="F32", start=0):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, size]}


WHOLE = save({"a": np.ones((8, 3), np.float32)})
BROKEN = {
    "truncated": WHOLE[:-3],
    "header cut": WHOLE[:20],
    "too long": WHOLE + b"\0",
    "empty": b"",
    "garbage": b"no weights at all",
    "header of 10 GB": struct.pack("<Q", 10**10) + b"{}",
    "tensor of 10 GB": raw({"a": tensor(10**10, [2_500_000_000])}, b"1234"),
    "more elements than bytes": raw({"a": tensor(4, [1000, 1000])}, b"1234"),
    "product that wraps around": raw({"a": tensor(4, [2**33, 2**33])}, b"1234"),
    "overlap": raw({"a": tensor(4, [1]), "b": tensor(4, [1])}, b"1234"),
    "no JSON": raw(b"{nonsense}"),
    "unknown type": raw({"a": tensor(4, [1], "Q4")}, b"1234"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_with_its_fault(kind, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(BROKEN[kind])
    for look in (weights.read, weights.metadata):
        with pytest.raises(CorruptArtifact) as error:
            look(path)
        text = str(error.value)
        assert text.startswith(f"{path}: no whole safetensors file in its {len(BROKEN[kind]):,} bytes (")
        assert "\n" not in text


def test_a_type_without_numpy_is_named(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(raw({"w": tensor(2, [2], "F8_E4M3")}, b"12"))
    with pytest.raises(DataError, match="w.safetensors: w is of a type that NumPy lacks"):
        weights.read(path)


CLAIMS = """
import resource, sys
from pathlib import Path
from infoutil_jax import weights
from infoutil_jax.errors import CorruptArtifact
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**29, now + 2**29))
for path in sys.argv[1:]:
    try:
        weights.read(Path(path))
    except CorruptArtifact:
        print("refused")
"""


def test_what_a_header_claims_is_not_allocated(tmp_path):
    claims = ("header of 10 GB", "tensor of 10 GB", "product that wraps around")
    for kind in claims:
        (tmp_path / kind).write_bytes(BROKEN[kind])
    command = [sys.executable, "-c", CLAIMS, *(str(tmp_path / kind) for kind in claims)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["refused"] * 3, done.stderr[-1000:]


def test_pickled_weights_are_refused_unread_with_the_way_to_convert_them(tmp_path):
    with zipfile.ZipFile(tmp_path / "teacher.pth", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02cos\nsystem\n(S'touch canary'\ntR.")
    (tmp_path / "old.tar").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    (tmp_path / "odd name.bin").write_bytes(b"anything")
    for path in [tmp_path / "teacher.pth", tmp_path / "old.tar", tmp_path / "odd name.bin"]:
        with pytest.raises(ConfigError) as error:
            weights.read(path)
        text = str(error.value)
        assert text.startswith(f"{path}: pickled weights are not read") and "\n" not in text
        assert 'python -c "import argparse, sys, torch;' in text and "weights_only=True" in text
    assert text.endswith(f"'{path}' '{path.with_suffix('.safetensors')}'")  # quoted for the shell


def test_a_name_does_not_make_a_pickle(tmp_path):
    path = tmp_path / "really.bin"
    save_file({"a": np.ones(2, np.float32)}, path)
    assert set(weights.read(path)) == {"a"}


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.safetensors: no such file"):
        weights.read(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("model", ["convnet3", "convnet3_in", "resnet18"])
def test_our_own_teachers_come_back_from_our_own_file(model, tmp_path):
    like, rng = blank(model), np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), like)
    c = digits.get_config()
    c.teacher.model, c.data.crop_share = model, 0.9
    weights.write(tmp_path / "w.safetensors", variables, config.resolve(c), NAMES, 0.75)
    tensors = weights.read(tmp_path / "w.safetensors")
    assert "params.classifier.kernel" in tensors
    loaded = assign(tensors, model, like)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    swapped = assign(tensors, model, like, class_names=NAMES[::-1], label_names=NAMES)
    np.testing.assert_array_equal(
        swapped["params"]["classifier"]["kernel"], variables["params"]["classifier"]["kernel"][:, ::-1]
    )
    own = json.loads(weights.metadata(tmp_path / "w.safetensors")["pretrained_cfg"])
    assert own == {
        "architecture": model, "mean": [0.305] * 3, "std": [0.34] * 3, "input_size": [3, 16, 16], "crop_pct": 0.9,
        "interpolation": "bilinear", "label_names": list(NAMES), "top1": 0.75,
    }  # fmt: skip


def rded_file(like, n_classes=10):
    """RDED's ConvNet: a list of convolutions, one of norms, a classifier of the flat (C, H, W)."""
    tensors, rng = {}, np.random.default_rng(1)
    for d in range(3):
        shape = (4, 3 if d == 0 else 4, 3, 3)
        tensors[f"layers.conv.{d}.weight"] = rng.normal(size=shape).astype(np.float32)
        tensors[f"layers.conv.{d}.bias"] = rng.normal(size=4).astype(np.float32)
        for last in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"layers.norm.{d}.{last}"] = rng.uniform(0.5, 1, 4).astype(np.float32)
        tensors[f"layers.norm.{d}.num_batches_tracked"] = np.array(1)
    side = round((like["params"]["classifier"]["kernel"].shape[0] / 4) ** 0.5)
    tensors["classifier.weight"] = rng.normal(size=(n_classes, 4 * side * side)).astype(np.float32)
    return tensors | {"classifier.bias": rng.normal(size=n_classes).astype(np.float32)}


def test_rdeds_convnet():
    like = blank("convnet3", side=32)
    tensors = rded_file(like)
    loaded = assign(tensors, "convnet3", like)
    theirs = tensors["classifier.weight"].reshape(10, 4, 4, 4)  # (class, channel, row, column)
    ours = loaded["params"]["classifier"]["kernel"].reshape(4, 4, 4, 10)  # (row, column, channel, class)
    assert ours[1, 2, 3, 7] == theirs[7, 3, 1, 2] and ours[3, 0, 1, 0] == theirs[0, 1, 3, 0]
    np.testing.assert_array_equal(
        loaded["params"]["conv2"]["kernel"][2, 1], tensors["layers.conv.1.weight"][:, :, 2, 1].T
    )
    np.testing.assert_array_equal(loaded["batch_stats"]["norm3"]["var"], tensors["layers.norm.2.running_var"])
    del tensors["layers.norm.2.weight"]
    assert "1 missing: norm3.weight" in fault(tensors, model="convnet3", like=like)
    del tensors["classifier.weight"]  # without which its columns cannot be put in order
    assert "2 missing: classifier.weight, norm3.weight" in fault(tensors, model="convnet3", like=like)
    odd = {
        **tensors,
        "layers.norm.2.weight": np.ones(4, np.float32),
        "classifier.weight": np.ones((10, 63), np.float32),
    }
    assert "classifier.weight (float32 [10, 63] for [10, 64])" in fault(odd, model="convnet3", like=like)
