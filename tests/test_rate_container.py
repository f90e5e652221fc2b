"""The container: what comes back and in which process, what it weighs, and that no changed byte gets by."""

import hashlib
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from infoutil_jax import records
from infoutil_jax.errors import CorruptArtifact, DataError
from infoutil_jax.rate import accounting, codec, container, decoded, entropy, integer, labels
from infoutil_jax.types import DistilledImage

ROOT = Path(__file__).resolve().parents[1]
SMALL = codec.Settings(side=16, context=4, arm_depth=1, widths=(6, 5), gain=12.5)
CLASSES = np.repeat([0, 1, 2], 4)
MANIFEST = {"config": {"seed": 3}}


def make_unit(settings, seed, log2_scale=-2.0):
    """Networks of random integers whose laws are about as wide as asked for."""
    rng = np.random.default_rng(seed)

    def module(layers, size, last_bias):
        kernels = tuple(np.rint(rng.laplace(scale=size, size=shape)).astype(np.int64) for shape in layers)
        biases = [np.rint(rng.laplace(scale=size, size=out)).astype(np.int64) for out, _ in layers]
        biases[-1] = np.array(last_bias, np.int64)
        return integer.Module(kernels, tuple(biases), -6, -4)

    shapes = codec.shapes(settings)
    return integer.Quantised(
        settings, module(shapes["arm"], 2, [0, round(16 * log2_scale)]), module(shapes["synthesis"], 6, [8, 8, 8])
    )


class Source:
    """A decoder of nothing: symbols drawn by the laws that it is asked with."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def decode(self, means_64, scales):
        return np.rint(means_64 / 64 + self.rng.laplace(scale=2 ** (scales / 8) / 64)).astype(np.int64)


def make(settings=SMALL, n_classes=3, n=4, log2_scale=-2.0):
    n_units = codec.n_units(settings, n_classes)
    units = [make_unit(settings, seed, log2_scale) for seed in range(n_units)]
    return units, np.stack(
        [integer.read(unit, n * n_classes // n_units, Source(seed)) for seed, unit in enumerate(units)]
    )


def soft_labels(classes, n_classes, k=2):
    logits = np.random.default_rng(0).normal(scale=3, size=(len(classes), k, n_classes)).astype(np.float32)
    return labels.encode(logits, classes, labels.Settings(0.5), entropy)


@pytest.fixture(scope="module")
def small():
    units, latents = make()
    soft = soft_labels(CLASSES, 3)
    data = container.encode(units, latents, CLASSES, 3, soft, MANIFEST)
    return SimpleNamespace(units=units, latents=latents, soft=soft, data=data)


# What comes back


def test_a_set_comes_back(small):
    found = container.decode(small.data)
    due = [integer.images(unit, latents) for unit, latents in zip(small.units, small.latents, strict=True)]
    assert found.images_u8.dtype == np.uint8 and np.array_equal(found.images_u8, np.concatenate(due))
    assert found.images_u8.std() > 5
    assert found.labels.dtype == np.int32 and np.array_equal(found.labels, CLASSES)
    assert np.array_equal(found.patch_logits, labels.decode(small.soft, CLASSES, entropy))
    assert found.settings == SMALL


@pytest.mark.parametrize("classes", [[0, 0, 0, 2, 2, 3], [0, 0, 1, 1, 2, 2]])
def test_a_dataset_that_shares_networks_comes_back_with_any_number_of_each_class(classes):
    settings = codec.Settings(side=8, scope="dataset", context=3, arm_depth=0)
    units, latents = make(settings, 3, 2)
    found = container.decode(container.encode(units, latents, classes, max(classes) + 2))
    assert np.array_equal(found.images_u8, integer.images(units[0], latents[0]))
    assert found.labels.tolist() == classes and found.patch_logits is None and found.settings == settings


def test_networks_come_back(small):
    parts = container._open(small.data)
    found = container._read_networks(SMALL, 3, entropy.Decoder(parts.networks))
    for unit, back in zip(small.units, found, strict=True):
        for ours, theirs in ((unit.arm, back.arm), (unit.synthesis, back.synthesis)):
            assert ours[2:] == theirs[2:]
            assert all(np.array_equal(a, b) for i in (0, 1) for a, b in zip(ours[i], theirs[i], strict=True))


FRESH = """
import hashlib, sys, pathlib
from infoutil_jax.rate import container
found = container.decode(pathlib.Path(sys.argv[1]).read_bytes())
arrays = found.images_u8, found.labels, found.patch_logits
print(*(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays), found.settings)
"""


def test_another_process_decodes_the_same(small, tmp_path):
    path = tmp_path / "set.iuc"
    path.write_bytes(small.data)
    done = subprocess.run([sys.executable, "-c", FRESH, path], cwd=ROOT, capture_output=True, text=True, check=True)
    due = [integer.images(unit, latents) for unit, latents in zip(small.units, small.latents, strict=True)]
    logits = labels.decode(small.soft, CLASSES, entropy)
    hashes = [hashlib.sha256(a.tobytes()).hexdigest() for a in (np.concatenate(due), CLASSES.astype(np.int32), logits)]
    assert done.stdout.split(maxsplit=3) == [*hashes, f"{SMALL}\n"]


# The bytes


def test_the_layout_is_as_documented(small):
    data = small.data
    due = ("<4sI8sHBBBBfIIII2H", b"IUC1", zlib.crc32(data[:4] + data[8:]), container.run_hash(MANIFEST), 16, 0, 4)
    fields = struct.unpack_from(due[0], data)
    assert fields[:9] == (*due[1:], 1, 2, 12.5)[:9] and fields[9:11] == (3, 4) and fields[13:] == (6, 5)
    n_networks, n_soft = fields[11:13]
    start = struct.calcsize(due[0])
    assert start == 42 + 2 * 2 and data[start + n_networks :][:n_soft] == small.soft
    decoder = entropy.Decoder(data[start + n_networks + n_soft :])
    assert [np.array_equal(integer.read(u, 4, decoder), x) for u, x in zip(small.units, small.latents)] == [True] * 3


def test_bytes_and_pixels_stay_what_they_were():
    settings = codec.Settings(side=8, scope="dataset", context=3, arm_depth=1, widths=(4,))

    def module(layers, kernel_step, bias_step):
        kernels = tuple((np.arange(out * n_in).reshape(out, n_in) * 7919 % 9) - 4 for out, n_in in layers)
        biases = tuple(np.arange(out) * 31 % 7 - 2 for out, _ in layers)
        return integer.Module(kernels, biases, kernel_step, bias_step)

    shapes = codec.shapes(settings)
    unit = integer.Quantised(settings, module(shapes["arm"], -5, -2), module(shapes["synthesis"], -4, -3))
    latents = (np.arange(3 * 85).reshape(1, 3, 85) * 7907 % 23 - 11) // 4
    data = container.encode([unit], latents, [0, 0, 1], 2)
    pixels = container.decode(data).images_u8
    assert len(np.unique(pixels)) > 50
    assert hashlib.sha256(data).hexdigest() == "e0517299e8beaf97b89607a13656e7c21868044d333ea305236f8498c17af96d"
    assert (
        hashlib.sha256(pixels.tobytes()).hexdigest()
        == "e29301a75511944fda29362d4b51220c4979e4f8d95cf352b9487c7a47d573de"
    )


@pytest.mark.parametrize("log2_scale, bpp, bound", [(-2.0, 1.0, 0.02), (-2.8, 0.3, 0.04)])
def test_the_file_weighs_what_the_float_model_says(log2_scale, bpp, bound):
    settings, classes = codec.Settings(side=32, context=8, arm_depth=1, widths=(12,)), np.repeat([0, 1], 16)
    units, latents = make(settings, 2, 16, log2_scale)
    params = {"arm": as_floats([unit.arm for unit in units])}
    by_float = float(codec.bits(settings, params, jnp.asarray(latents, jnp.float32)).sum())
    assert 0.8 * bpp < by_float / (32 * 1024) < 1.2 * bpp
    networks = sum(integer.parameter_bits(t) for unit in units for m in unit[1:] for t in integer.flat(m))
    written = 8 * len(container.encode(units, latents, classes, 2))
    assert written == pytest.approx(by_float + networks, rel=bound)
    estimate = container.estimate_bits(units, latents)
    assert 8 * 44 <= written - sum(estimate.values()) < 8 * 44 + 128


def as_floats(modules):
    """What the float model makes of the integers: a layer is {"kernel": (U, out, in), "bias": (U, out)}."""

    def stacked(i, field, step):
        return jnp.stack([jnp.float32(2.0 ** m[step]) * jnp.asarray(m[field][i], jnp.float32) for m in modules])

    return [{"kernel": stacked(i, 0, 2), "bias": stacked(i, 1, 3)} for i in range(len(modules[0].kernels))]


# What is refused


def test_every_changed_byte_and_every_cut_is_found(small):
    for i in range(len(small.data)):
        for harm in (1, 0x80, 0xFF):
            with pytest.raises(CorruptArtifact, match="container: "):
                container.decode(small.data[:i] + bytes([small.data[i] ^ harm]) + small.data[i + 1 :])
        with pytest.raises(CorruptArtifact, match="container: "):
            container.decode(small.data[:i])
    with pytest.raises(CorruptArtifact, match="CRC-32"):
        container.decode(small.data + b"\0")


def test_what_does_not_fit_is_not_encoded(small):
    cases = [
        (CLASSES[::-1], 3, small.latents, "sort the set"),
        (CLASSES + 1, 3, small.latents, "sort the set"),
        ([], 3, small.latents, "sort the set"),
        ([0] * 5 + [1] * 3 + [2] * 4, 3, small.latents, "3 to 5 images; give scope dataset"),
        (CLASSES, 4, small.latents, r"latents \(3, 4, 341\) are not those of 4 units and 12 images"),
        (CLASSES, 3, small.latents[:, :3], "are not those of 3 units and 12 images"),
    ]
    for classes, n_classes, latents, fault in cases:
        with pytest.raises(DataError, match=fault):
            container.encode(small.units, latents, classes, n_classes)
    with pytest.raises(DataError, match="are not those of 3 units and 12 images"):
        container.encode(small.units[:2], small.latents, CLASSES, 3)
    foreign = labels.encode(np.zeros((9, 2, 3)), CLASSES[:9], labels.Settings(0.5), entropy)
    for soft in (foreign, b"garbage"):
        with pytest.raises(CorruptArtifact, match="label stream: "):
            container.encode(small.units, small.latents, CLASSES, 3, soft)


def test_a_later_version_is_named(small):
    with pytest.raises(CorruptArtifact, match="version b'2', b'1' is known"):
        container.decode(b"IUC2" + small.data[4:])


# What it costs, and the set that it is


def test_the_report_counts_every_byte_once(small, tmp_path):
    path = tmp_path / "set.iuc"
    path.write_bytes(small.data)
    report = container.report(path)
    parts, networks, latents = report["parts"], *container.estimate_bits(small.units, small.latents).values()
    assert sum(parts.values()) == report["bytes"] == len(small.data)
    assert report["bits_per_class"] == 8 * len(small.data) / 3
    assert (report["name"], report["classes"], report["images"]) == ("set.iuc", 3, 12)
    assert 0 <= parts["networks"] - networks / 8 <= 8 and 0 <= parts["latents"] - latents / 8 <= 8
    assert parts["header"] == 46 and parts["soft labels"] == len(small.soft) and "hard labels" not in parts
    assert report["beside"]["pixels as uint8"] == 4 * 16 * 16 * 3 * 8


def test_unequal_classes_pay_for_their_numbers(tmp_path):
    path = tmp_path / "set.iuc"
    units, latents = make(codec.Settings(side=8, scope="dataset", context=3, arm_depth=0), 3, 2)
    path.write_bytes(container.encode(units, latents, [0, 0, 0, 1, 2, 2], 3))
    assert container.report(path)["parts"]["hard labels"] == 4 * 3


def test_the_command_shows_a_file(small, tmp_path):
    path = tmp_path / "set.iuc"
    path.write_bytes(small.data)
    done = subprocess.run([sys.executable, "main.py", "rate", path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("set.iuc: 12 images of 3 classes")
    assert all(part in done.stdout for part in ("latents", "networks", "soft labels", "header"))


def test_the_report_of_a_file_that_is_damaged_or_not_there_names_it(small, tmp_path):
    path = tmp_path / "set.iuc"
    with pytest.raises(DataError, match=f"{path}: cannot be read"):
        container.report(path)
    path.write_bytes(small.data[:-1])
    with pytest.raises(CorruptArtifact, match=f"{path}: container: CRC-32 differs"):
        container.report(path)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The finished set that the small container is of, other pixels and labels."""
    directory = tmp_path_factory.mktemp("original")
    rng = np.random.default_rng(1)
    layout = records.Layout("tiny", ("a", "b", "c"), 3, 16, 2, 3)
    examples = [
        DistilledImage(
            image_u8=rng.integers(0, 256, (16, 16, 3), np.uint8),
            label=c,
            patch_logits=rng.normal(size=(2, 3)).astype(np.float32),
            patch_ids=(f"{i}a", f"{i}b"),
            patch_boxes=np.array([[0, 0, 16, 8], [0, 8, 16, 8]], np.int32),
            patch_shapley=np.full(2, np.nan, np.float32),
            patch_gradient_norm=np.ones(2, np.float32),
        )
        for i, c in enumerate(CLASSES.tolist())
    ]
    shards = [records.write_shard(directory, c, examples[4 * c :][:4], layout) for c in range(3)]
    records.finish(directory, layout, shards, {"config": {"seed": 3}, "method": "infoutil"})
    return records.load(directory)


def test_a_decoded_set_has_the_containers_pixels_and_labels(small, original):
    found, back = container.decode(small.data), decoded.with_container(original, small.data)
    assert np.array_equal(back.images_u8, found.images_u8) and np.array_equal(back.patch_logits, found.patch_logits)
    assert back.patch_ids == original.patch_ids and back.manifest["shards"] != original.manifest["shards"]
    bare = container.encode(small.units, small.latents, CLASSES, 3, b"", MANIFEST)
    assert np.isnan(decoded.with_container(original, bare).patch_logits).all()  # those of the original are not in it


def test_the_container_of_another_set_is_refused(small, original):
    foreign = container.encode(small.units, small.latents, CLASSES, 3, b"", {"config": {"seed": 4}})
    others = original._replace(labels=original.labels[::-1])
    for distilled, data in ((original, foreign), (others, small.data)):
        with pytest.raises(DataError, match="give the set that it was made of"):
            decoded.with_container(distilled, data)


def test_logits_that_came_back_as_differences_are_not_for_a_loss_on_logits(small, original):
    own = {"config": {"seed": 3, "evaluate": {"loss": "mse"}}}
    with pytest.raises(DataError, match="evaluate.loss = mse sees logits; take kl"):
        decoded.with_container(original._replace(manifest=original.manifest | own), small.data)


def test_where_data_lie_and_who_is_trained_on_them_does_not_make_another_set():
    own = {"seed": 3, "data": {"path": "/here", "image_size": 32}, "evaluate": {"seeds": 3}, "name": "a"}
    moved = own | {"data": {"path": "/there", "image_size": 32}, "evaluate": {"seeds": 5}, "name": "b"}
    other = own | {"data": {"path": "/here", "image_size": 16}}
    of = lambda config, content="ab": container.run_hash({"config": config, "data": {"content_id": content}})
    assert of(own) == of(moved) and len({of(own), of(other), of(own, "cd")}) == 3


def test_a_decoded_set_can_be_written_and_read_as_any_other(small, original, tmp_path):
    back = decoded.with_container(original, small.data)
    decoded.write(back, tmp_path / "set")
    records.verify(tmp_path / "set")
    again = records.load(tmp_path / "set")
    for name in ("images_u8", "labels", "patch_logits", "patch_boxes", "patch_shapley", "patch_gradient_norm"):
        assert np.array_equal(getattr(again, name), getattr(back, name), equal_nan=name == "patch_shapley"), name
    assert again.patch_ids == back.patch_ids
    assert again.manifest["config"] == {"seed": 3} and again.manifest["decoded"] == back.manifest["shards"]
    report = accounting.report(tmp_path / "set")
    beside = report["beside"]
    assert beside["its container"] == 8 * len(small.data) / 3 and beside["soft labels of its container"] > 0
    parts = [bits for name, bits in beside.items() if name.endswith("of its container")]
    assert sum(parts) == pytest.approx(beside["its container"])
    shards = json.loads((tmp_path / "set" / "manifest.json").read_text())["rate"]["shard_bytes"]
    assert report["images"] == 12 and report["parts"]["images"] == shards["images"]
