"""The plan's numbers against counts made by hand, and what it says of data that is not there."""

import pytest
from configs import base, digits_ipc1, imagenet_ipc10

from infoutil_jax import config, plan
from infoutil_jax.errors import ConfigError, DataError
from infoutil_jax.settings import for_method
from infoutil_jax.stages.teacher import build_network

RESNET18 = [(112, 7, 2, 3, 64), *[(56, 3, 1, 64, 64)] * 4]  # (output side, kernel, stride, channels in, channels out)
for side, width in ((28, 128), (14, 256), (7, 512)):
    RESNET18 += [(side, 3, 2, width // 2, width), (side, 1, 2, width // 2, width), *[(side, 3, 1, width, width)] * 3]


def taps_inside(side, kernel, stride):
    """(kernel position, output position) pairs along one axis that meet a pixel, not the padding."""
    size, pad = side * stride, kernel // 2
    return sum(0 <= out * stride + k - pad < size for out in range(side) for k in range(kernel))


def resolved(module=base, **sections):
    c = module.get_config()
    for section, fields in sections.items():
        c[section].update(fields)
    return config.resolve(c)


def test_flops_and_parameters_of_resnet18():
    settings = resolved(imagenet_ipc10)
    network = build_network("resnet18", 0, 1000, settings.data.mean, settings.data.std)
    flops, n_parameters = plan.forward_cost(network, 224)
    published = sum(2 * (side * k) ** 2 * i * o for side, k, _, i, o in RESNET18) + 2 * 512 * 1000
    inside = sum(2 * taps_inside(side, k, stride) ** 2 * i * o for side, k, stride, i, o in RESNET18) + 2 * 512 * 1000
    assert published == pytest.approx(2 * 1.814e9, rel=1e-3)  # He et al. count 1.8 G multiply-adds, padding included
    assert inside < flops < 1.02 * inside  # and normalisation, pooling, ReLU
    assert flops == pytest.approx(published, rel=0.08)
    assert n_parameters == 11_689_512  # torchvision's


def test_work_is_counted_per_method():
    settings = resolved(digits_ipc1, attribute={"grid": 2, "budget": 128}, crop={"window": 2, "per_image": 3})
    lines = {line.split()[0]: line for line in plan.describe(settings).splitlines()}
    # 10 classes x 300 candidates are more than there are images, 2**4 coalitions are all
    assert "1,437 candidates, 22,992 coalition evaluations, 4,311 crops scored, 40 kept" in lines["infoutil"]
    assert "1,437 candidates, 0 coalition evaluations, 0 crops scored, 10 kept: 0 FLOP" in lines["random_images"]
    assert "0 coalition evaluations, 7,185 crops scored, 40 kept" in lines["rded"]
    # 4 methods x (3 + 3) students, 10 images in one batch of 10, 1000 epochs
    assert "24 x 1,000 steps of 10" in lines["students"] and "(online labels)" in lines["students"]
    assert lines["missing"].split() == ["missing", "nothing"]


def test_cost_of_a_method_is_passes_times_flops():
    settings = resolved(digits_ipc1)
    source = plan.Source(10, 1437, 360, "")
    line = plan._distil_line(settings, "infoutil", source, flops=1e6)
    assert line.endswith(": 190 GFLOP")  # 1437 x (128 evaluations + 4 passes for its one crop) x 1 MFLOP = 189.7 G
    student = plan._student_line(settings, source, flops=1e6, teacher_flops=1e6)
    assert ": 40 GFLOP each" in student  # 1000 steps x 10 rows x (3 for the gradient + 1 for the teacher) x 1 MFLOP
    assert ": 50 GFLOP each" in plan._student_line(settings, source, flops=1e6, teacher_flops=2e6)


def test_grad_cam_costs_a_gradient_an_image_and_forgetting_no_pass_at_all():
    source = plan.Source(10, 1437, 360, "")
    cam = resolved(digits_ipc1, attribute={"estimator": "grad_cam"}, select={"rule": "random"})
    line = plan._distil_line(cam, "infoutil", source, flops=1e6)
    assert "0 coalition evaluations, 0 crops scored" in line and line.endswith(": 5.75 GFLOP")  # 1437 x 4 passes
    line = plan._distil_line(for_method(cam, "forgetting"), "forgetting", source, flops=1e6)
    assert "0 crops scored" in line and line.endswith(": 0 FLOP")


def test_students_with_hard_labels_only_are_counted_once():
    settings = resolved(digits_ipc1, evaluate={"labels": "hard", "seeds": 2})
    assert "students        8 x" in plan._student_line(settings, plan.Source(10, 1437, 360, ""), 1e6, 1e6)


def test_a_batch_is_no_larger_than_the_set():
    settings = resolved(digits_ipc1, evaluate={"batch_size": 25, "epochs": 300})
    assert plan.students(settings, plan.Source(10, 1437, 360, ""))[1:] == (300, 10)


def test_output_and_memory_by_hand():
    settings = resolved(imagenet_ipc10)
    png, labels = plan.output_bytes(settings, 1000)
    assert png == pytest.approx(10_000 * 150_528 * 0.8) and labels == 10_000 * 4 * 1000 * 4
    host, device = plan._memory(settings, 11_689_512, micro_batch=64)
    assert host == 300 * (150_528 + 5 * 150_528 / 4)
    assert device == 8 * 11_689_512 + 64 * 150_528 * 4
    reference = resolved(imagenet_ipc10, score={"norms": "vmap", "batch_size": 16})
    assert plan._memory(reference, 11_689_512, micro_batch=64)[1] == device + 16 * 11_689_512 * 4


@pytest.mark.parametrize(
    "value, base_, text",
    [(0, 1000, "0 X"), (999, 1000, "999 X"), (1000, 1000, "1 kX"), (2.5e9, 1000, "2.5 GX"), (2**20, 1024, "1 MX"),
     (3e18, 1000, "3 EX")],
)  # fmt: skip
def test_units(value, base_, text):
    assert plan._unit(value, "X", base_) == text


def folder(tmp_path, **files):
    for path, n in files.items():
        split, name = path.split("__")
        (tmp_path / split / name / "deeper").mkdir(parents=True)
        for i in range(n):
            (tmp_path / split / name / ("deeper" if i else "") / f"{i}.png").write_bytes(b"")
    return {"source": "folder", "path": str(tmp_path), "train_split": "train", "val_split": "val"}


def test_a_folder_is_counted_not_read(tmp_path):
    data = folder(tmp_path, train__cat=3, train__dog=2, val__cat=1, val__dog=1)
    source = plan.source_of(resolved(base, data=data))
    assert source == plan.Source(2, 5, 2, "")


def test_a_folder_that_is_not_there_is_missing(tmp_path):
    data = folder(tmp_path, train__cat=1) | {"val_split": "test"}
    assert f"{tmp_path}/test" in plan.source_of(resolved(base, data=data)).missing


def prepared(tmp_path, target="label"):
    """The metadata of a TFDS dataset with 100 and 20 images of 3 classes; its records are never looked at."""
    import tensorflow_datasets as tfds

    for name in ("train", "test"):
        (tmp_path / f"made-{name}.array_record-00000-of-00001").write_bytes(b"")
    files = tfds.core.ShardedFileTemplate(tmp_path, dataset_name="made", filetype_suffix="array_record")
    features = {"image": tfds.features.Image(), target: tfds.features.ClassLabel(num_classes=3)}
    splits = [
        tfds.core.SplitInfo(name=name, shard_lengths=[n], num_bytes=n, filename_template=files.replace(split=name))
        for name, n in (("train", 100), ("test", 20))
    ]
    features = tfds.features.FeaturesDict(features)
    tfds.folder_dataset.write_metadata(
        data_dir=tmp_path, features=features, split_infos=splits, version="1.0.0", check_data=False
    )
    return {"source": "tfds", "path": str(tmp_path)}


def test_a_prepared_dataset_is_counted_by_split(tmp_path):
    data = prepared(tmp_path)
    assert plan.source_of(resolved(base, data=data)) == plan.Source(3, 100, 20, "")
    data["train_split"] = "train[:50%]"
    assert plan.source_of(resolved(base, data=data)) == plan.Source(3, 50, 20, "")


@pytest.mark.parametrize("split", ["trian", "train[:x]"])
def test_an_unknown_split_is_an_error(split, tmp_path):
    with pytest.raises(ConfigError, match="split"):
        plan.source_of(resolved(base, data=prepared(tmp_path) | {"train_split": split}))


@pytest.mark.parametrize(
    "data, message",
    [
        ({"name": "cifar1O"}, "'cifar1O' is no dataset that TFDS knows, did you mean 'cifar10'?"),
        ({"name": "cifar10:9.9.9"}, "cannot be loaded at version 9.9.9"),
        ({"name": "a b"}, "Parsing builder name string a b failed"),
        ({"path": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
)
def test_an_unknown_dataset_is_an_error(data, message):
    with pytest.raises(ConfigError) as error:
        plan.source_of(resolved(base, data={"source": "tfds"} | data))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_dataset_without_labels_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no feature 'label'"):
        plan.source_of(resolved(base, data=prepared(tmp_path, target="species")))


def test_a_dataset_that_is_not_prepared_is_missing(tmp_path):
    source = plan.source_of(resolved(base, data={"source": "tfds", "name": "cifar10", "path": str(tmp_path)}))
    assert source[:3] == (10, 50_000, 10_000)
    assert f"cifar10 is not prepared in {tmp_path}" in source.missing and "array_record" in source.missing
