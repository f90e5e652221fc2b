"""Bits per class: every byte on disk is in one part, and the literature's ways of counting give its numbers."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import main
import numpy as np
import pytest
from PIL import Image

from infoutil_jax import examples, records, tfrecord
from infoutil_jax.errors import CorruptArtifact, DataError
from infoutil_jax.rate import accounting
from infoutil_jax.types import DistilledImage

K, PATCHES, SIDE, PER_CLASS = 3, 4, 8, 5
N = K * PER_CLASS
CONFIG = {
    "teacher": {"model": "convnet3", "width": 8},
    "evaluate": {"epochs": 300},
}
EARLY = {"epoch": 10, "sha256": "ab" * 32}


def example(seed, label):
    rng = np.random.default_rng(seed)
    return DistilledImage(
        image_u8=rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8),
        label=label,
        patch_logits=rng.normal(size=(PATCHES, K)).astype(np.float32),
        patch_ids=tuple(f"{seed}/猫{'x' * i}.png" for i in range(PATCHES)),
        patch_boxes=rng.integers(0, 500, (PATCHES, 4), np.int32),  # of one byte and of two
        patch_shapley=np.full(PATCHES, np.nan, np.float32),
        patch_gradient_norm=rng.uniform(size=PATCHES).astype(np.float32),
    )


EXAMPLES = [example(i, i // PER_CLASS) for i in range(N)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A finished set with the manifest of a run, below a working directory."""
    directory = tmp_path_factory.mktemp("run") / "distilled"
    layout = records.Layout("tiny", ("a", "b", "c"), K, SIDE, PATCHES, K)
    shards = [records.write_shard(directory, c, EXAMPLES[c * PER_CLASS :][:PER_CLASS], layout) for c in range(K)]
    manifest = {"method": "infoutil", "label_teacher": "early", "teacher": {"early": EARLY}, "config": CONFIG}
    manifest["rate"] = accounting.of_shards(directory, layout, shards)
    records.finish(directory, layout, shards, manifest)
    return directory


def on_disk(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def png_bytes(image_u8):
    file = io.BytesIO()
    Image.fromarray(image_u8).save(file, "PNG")
    return len(file.getvalue())


# The numbers of the literature


@pytest.mark.parametrize(
    "side, ipc, float32",
    [(32, 1, 98_304), (32, 10, 983_040), (32, 50, 4_915_200), (64, 1, 393_216), (64, 10, 3_932_160),
     (64, 50, 19_660_800), (128, 1, 1_572_864), (128, 10, 15_728_640), (128, 50, 78_643_200), (224, 1, 4_816_896),
     (224, 10, 48_168_960), (224, 50, 240_844_800)],
)  # fmt: skip
def test_pixels_as_the_literature_counts_them(side, ipc, float32):
    for n_classes in (10, 100):
        found = accounting.pixels(n_classes * ipc * side * side * 3, n_classes)
        assert found == {"pixels as float32": float32, "pixels as uint8": float32 / 4}


@pytest.mark.parametrize("patches, n_classes, bits", [(1, 10, 1_600), (4, 10, 6_400), (4, 1000, 640_000)])
def test_static_labels_at_ten_images_a_class(patches, n_classes, bits):
    assert accounting.label_bits(10 * patches, n_classes) == bits


@pytest.mark.parametrize("n_classes, bits", [(10, 480_000), (1000, 48_000_000)])
def test_views_of_300_epochs_at_ten_images_a_class(n_classes, bits):
    assert accounting.label_bits(10 * 300, n_classes) == bits


def test_a_shipped_resnet18_has_its_published_size():
    trained = 11_689_512  # torchvision's parameters; BatchNorm keeps 2 x 4,800 statistics besides
    values = accounting.n_network_values("resnet18", 0, 1000, 224)
    assert values == trained + 9_600
    assert accounting.network_bits(values, 1000) == pytest.approx(1.87e5, rel=2e-3)


# What is on disk


def test_parts_sum_to_the_bytes_on_disk(written):
    report = accounting.report(written)
    assert sum(report["parts"].values()) == report["bytes"] == on_disk(written)
    assert report["bits_per_class"] == 8 * on_disk(written) / K
    assert (report["name"], report["classes"], report["images"]) == ("infoutil", K, N)


def test_every_part_is_what_it_is_called(written):
    parts = accounting.report(written)["parts"]
    ids = sum(len(id_.encode()) for e in EXAMPLES for id_ in e.patch_ids)
    boxes = sum(1 if value < 128 else 2 for e in EXAMPLES for value in e.patch_boxes.ravel().tolist())
    assert parts["images"] == sum(png_bytes(e.image_u8) for e in EXAMPLES)
    assert parts["hard labels"] == N
    assert parts["soft labels"] == 4 * N * PATCHES * K
    assert parts["provenance"] == ids + boxes + 2 * 4 * N * PATCHES
    assert parts["TFRecord framing"] == 16 * N
    assert parts["metadata"] == sum((written / name).stat().st_size for name in records.METADATA)
    assert parts["manifest"] == (written / "manifest.json").stat().st_size
    assert set(parts) == {
        "images", "hard labels", "soft labels", "provenance", "protobuf framing", "TFRecord framing", "metadata",
        "manifest",
    }  # fmt: skip


def test_files_that_are_not_the_sets_own_are_counted_apart(written):
    note = written / "notes" / "a.txt"
    note.parent.mkdir()
    note.write_bytes(b"12345")
    try:
        report = accounting.report(written)
    finally:
        note.unlink()
        note.parent.rmdir()
    assert report["parts"]["other files"] == 5 and report["bytes"] == on_disk(written) + 5


def test_the_manifest_counts_its_shards(written):
    rate = json.loads((written / "manifest.json").read_text())["rate"]
    shards = sum(path.stat().st_size for path in written.glob("*.tfrecord-*"))
    assert sum(rate["shard_bytes"].values()) == shards
    in_report = accounting.report(written)["parts"]
    assert rate["shard_bytes"] == {part: in_report[part] for part in rate["shard_bytes"]}
    pixels = PER_CLASS * SIDE**2 * 3
    beside = {"total": 8 * shards / K, "pixels as float32": pixels * 32, "pixels as uint8": pixels * 8}
    assert rate["bits_per_class"] == {part: 8 * size / K for part, size in rate["shard_bytes"].items()} | beside


def test_no_example_is_named_with_its_place(tmp_path):
    path = tmp_path / "x.tfrecord"
    good = examples.encode_example(EXAMPLES[0])
    path.write_bytes(tfrecord.frame(good) + tfrecord.frame(b"\x08\x01"))
    with pytest.raises(CorruptArtifact, match=rf"x.tfrecord: record 1 at byte {len(good) + 16}: no Example"):
        accounting.shard_parts(tmp_path, [{"file": path.name, "records": 2}])


def test_a_set_that_lost_a_record_or_a_shard_is_refused(written, tmp_path):
    without_the_last = lambda shard: shard.write_bytes(b"".join(frames_of(shard)[:-1]))
    for name, harm, fault in [
        ("short", without_the_last, f"record count: expected {PER_CLASS}, found {PER_CLASS - 1}"),
        ("gone", Path.unlink, "missing shards: "),
    ]:
        shutil.copytree(written, tmp_path / name)
        harm(sorted((tmp_path / name).glob("*.tfrecord-*"))[1])
        with pytest.raises(CorruptArtifact, match=fault):
            accounting.report(tmp_path / name)


def frames_of(shard):
    return [tfrecord.frame(record.payload) for record in tfrecord.read_records(shard)]


# What is beside it


def test_equivalents_and_the_least_container(written):
    beside = accounting.report(written)["beside"]
    images = sum(png_bytes(e.image_u8) for e in EXAMPLES)
    hard = 24 + 4 * K + 4 * N + images
    assert beside["pixels as float32"] == 4 * beside["pixels as uint8"] == PER_CLASS * SIDE * SIDE * 3 * 32
    assert beside["least container, hard labels"] == 8 * hard / K
    assert beside["soft labels as float16"] == PER_CLASS * PATCHES * K * 16
    assert beside["least container, both"] == 8 * hard / K + PER_CLASS * PATCHES * K * 16
    assert beside["stored views as float16, 300 epochs"] == PER_CLASS * 300 * K * 16


def test_the_shipped_teacher_is_beside_and_never_in_the_sum(written, tmp_path):
    values = accounting.n_network_values("convnet3", 8, K, SIDE)
    known = sum(9 * c * 8 + 8 + 4 * 8 for c in (3, 8, 8)) + 8 * K + K  # convolutions with BatchNorm, a dense layer
    assert values == known
    training = tmp_path / "teacher" / "f00"
    (training / "snapshots" / "10" / "d").mkdir(parents=True)
    (training / "epoch10.json").write_text(json.dumps(EARLY))
    (training / "snapshots" / "10" / "d" / "weights").write_bytes(b"x" * 70)
    (training / "snapshots" / "10" / "meta").write_bytes(b"x" * 30)
    without, report = accounting.report(written), accounting.report(written, tmp_path)
    beside = report["beside"]
    assert beside["early teacher convnet3 as float32"] == values * 32 / K
    assert beside["early teacher convnet3 as bfloat16"] == values * 16 / K
    assert beside["early teacher convnet3 as stored"] == 100 * 8 / K
    assert report["parts"] == without["parts"] and "early teacher convnet3 as stored" not in without["beside"]


def test_weights_from_elsewhere_count_as_their_file(written, tmp_path):
    manifest = json.loads((written / "manifest.json").read_text())
    weights = tmp_path / "elsewhere" / "w.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"x" * 90)
    manifest["config"]["teacher"] |= {"weights": str(weights)}
    assert accounting._teacher(written, manifest, tmp_path)["early teacher convnet3 as stored"] == 90 * 8 / K
    manifest["config"]["teacher"] |= {"early_weights": str(tmp_path / "gone")}
    assert "early teacher convnet3 as stored" not in accounting._teacher(written, manifest, tmp_path)


# Imported sets, and what people read


def test_a_folder_of_images_has_a_report_too(tmp_path):
    for name, side in [("cat/1.png", 4), ("cat/2.PNG", 4), ("dog/3.jpg", 8)]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (side, side)).save(tmp_path / name)
    (tmp_path / "labels.npy").write_bytes(b"x" * 11)
    for name in ("cat/notes.txt", ".trash/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 4)
    report = accounting.report(tmp_path)
    assert report["parts"] == {"images": on_disk(tmp_path) - 19, "soft labels": 11, "other files": 8}
    assert (report["images"], report["classes"]) == (3, 2)
    assert report["beside"]["pixels as uint8"] == (4 * 4 + 4 * 4 + 8 * 8) * 3 * 8 / 2


def test_what_is_no_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="neither a distilled set nor"):
        accounting.report(tmp_path)


def test_a_run_has_its_sets_and_a_set_itself(written):
    assert accounting.find_sets(written.parent) == [written] == accounting.find_sets(written)


def test_the_text_shows_every_part_and_its_sum(written):
    report = accounting.report(written)
    text = accounting.describe(report)
    for part, size in report["parts"].items():
        assert any(line.startswith(part) and f" {size:,} " in line for line in text.splitlines()), part
    assert all(name in text for name in report["beside"])
    assert f"{report['bytes']:,}" in text and f"{report['bits_per_class']:,.1f}" in text


def test_a_page_has_a_column_for_each_set_and_a_row_for_each_part_of_any(written):
    report = accounting.report(written)
    poorer = {**report, "parts": {"images": 30, "other files": 3}, "bits_per_class": 88.0, "beside": {}}
    columns, rows = accounting.rows({"one": report, "two": poorer})
    assert columns == ["bits per class", "one", "two"]
    cells = {row[0]: row[1:] for row in rows}
    assert list(cells) == [*report["parts"], "other files", "total on disk", *report["beside"]]
    assert cells["images"] == [f"{report['parts']['images'] * 8 / K:,.0f}", "80"]
    assert cells["TFRecord framing"] == [f"{16 * N * 8 / K:,.0f}", ""]
    assert cells["other files"] == ["", "8"] and cells["total on disk"][1] == "88"


def test_the_command_prints_the_text_of_every_set(written, capsys, monkeypatch):
    for flag, value in {"STRICT": False, "ARTIFACTS": ""}.items():
        monkeypatch.setattr(main, flag, SimpleNamespace(value=value))
    assert main.act("rate", str(written.parent)) == 0
    assert capsys.readouterr().out.strip() == accounting.describe(accounting.report(written))
