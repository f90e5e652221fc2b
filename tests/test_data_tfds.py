"""A tiny dataset prepared by TFDS itself as array_record, read by name and by directory, never with TensorFlow."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_data_settings import make_settings

from infoutil_jax.data import open_dataset, tfds_source
from infoutil_jax.errors import ConfigError, DataError, EnvironmentFault

SIDE = 28
ROOT = pathlib.Path(__file__).resolve().parents[1]
PREPARE = """
import sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["night", "day"])
        image = tfds.features.Image(shape=(28, 28, 1))
        return self._describe(image=image, label=label, place=tfds.features.Scalar(np.int64))

    def _describe(self, **features):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        make = self._generate_examples
        return {"train": make(600), "test": make(5), "unlabelled": make(2, label=-1)}

    def _generate_examples(self, n, label=None):
        for i in range(n):
            image = Image.fromarray(np.full((28, 28), i % 256, np.uint8))
            yield i, {"image": image, "label": i % 2 if label is None else label, "place": i}

class Unlike(Tiny):
    def _info(self):
        return self._describe(image=tfds.features.Image(shape=(28, 28, 1)), place=tfds.features.Scalar(np.int64))

    def _generate_examples(self, n, label=None):
        for i, example in super()._generate_examples(n):
            yield i, {"image": example["image"], "place": i}

for kind in (Tiny, Unlike):
    kind(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """data_dir with `tiny` and `unlike`, made in another process so that TFDS's registry here knows neither."""
    data_dir = tmp_path_factory.mktemp("tfds")
    script = data_dir / "prepare.py"
    script.write_text(PREPARE)
    subprocess.run([sys.executable, str(script), str(data_dir)], check=True, stdout=subprocess.PIPE, timeout=300)
    return data_dir


@pytest.fixture
def copy(prepared, tmp_path):
    """A copy of data_dir to damage."""
    return shutil.copytree(prepared, tmp_path / "copy")


def run_python(code: str) -> str:
    """What `code` prints in a process of its own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout


def open_tiny(data_dir, **changes):
    options = {"source": "tfds", "name": "tiny", "path": str(data_dir), "val_split": "test", "image_size": SIDE}
    return open_dataset(make_settings(**{**options, **changes}))


def test_every_record_is_read_once_with_its_label(prepared):
    data = open_tiny(prepared)
    assert data.name == "tiny/1.2.0" and data.class_names == ("night", "day")
    assert (len(data.train), len(data.val)) == (600, 5)
    images_u8 = data.train.images(slice(None))
    assert images_u8.shape == (600, SIDE, SIDE, 3) and (images_u8 == images_u8[:, :1, :1, :1]).all()
    levels = images_u8[:, 0, 0, 0]
    np.testing.assert_array_equal(levels % 2, data.train.labels)  # level i % 256 and label i % 2 have the same parity
    np.testing.assert_array_equal(np.bincount(levels), np.bincount(np.arange(600) % 256))
    assert data.train.ids[0] == "train/0000000" and len(set(data.train.ids + data.val.ids)) == 605


def test_directory_version_and_slices_name_the_same_data(prepared):
    by_name = open_tiny(prepared)
    assert open_tiny(prepared, name="tiny:1.2.0").content_id == by_name.content_id
    by_directory = open_tiny(prepared / "tiny" / "1.2.0", name="")
    assert by_directory.content_id == by_name.content_id and by_directory.name == "tiny/1.2.0"
    part = open_tiny(prepared, train_split="train[:90]")
    assert part.content_id != by_name.content_id
    np.testing.assert_array_equal(part.train.images([7, 89]), by_name.train.images([7, 89]))


def test_images_are_fitted(prepared):
    images_u8 = open_tiny(prepared, image_size=32).val.images(slice(None))
    assert images_u8.shape == (5, 32, 32, 3) and sorted(images_u8[:, 9, 9, 0].tolist()) == [0, 1, 2, 3, 4]


def test_the_resize_rule_reaches_the_images_and_the_id(prepared, monkeypatch):
    seen = []
    monkeypatch.setattr(tfds_source, "fit", lambda image_u8, *rule: seen.append(rule) or image_u8)
    data = open_tiny(prepared, crop_share=0.9, interpolation="bicubic")
    data.val.images([0])
    assert seen == [(SIDE, 0.9, "bicubic")] and data.content_id != open_tiny(prepared).content_id


def test_reading_never_imports_tensorflow(prepared):
    settings = vars(make_settings(source="tfds", name="tiny", path=str(prepared), val_split="test"))
    code = f"""
import sys
from infoutil_jax.data import Settings, open_dataset
data = open_dataset(Settings(**{settings!r}))
assert data.train.images([0, 5]).shape == (2, 32, 32, 3)
assert "tensorflow" not in sys.modules and "tensorflow_datasets" in sys.modules
"""
    run_python(code)


def test_importing_the_package_reads_no_data_and_loads_no_reader():
    heavy = "{'tensorflow', 'tensorflow_datasets', 'sklearn', 'array_record'}"
    code = f"import sys, infoutil_jax.data; assert not {heavy} & set(sys.modules)"
    run_python(code)


def test_missing_features_are_listed(prepared):
    with pytest.raises(DataError, match="unlike/1.2.0: needs .* label: ClassLabel, has image: Image, place: Scalar"):
        open_tiny(prepared, name="unlike")


def test_unlabelled_split_is_refused(prepared):
    with pytest.raises(DataError, match="2 records have a label outside 0..1, first 'unlabelled/0000000' with -1"):
        open_tiny(prepared, val_split="unlabelled")


@pytest.mark.parametrize("split", ["tset", "test[:0]", "test[5"])
def test_a_wrong_split_is_named(prepared, split):
    with pytest.raises(ConfigError, match=f"split {re.escape(repr(split))} of tiny/1.2.0"):
        open_tiny(prepared, val_split=split)


def run_open(name, path) -> str:
    """The error of opening, from a process of its own: looking up known names imports every dataset's code."""
    settings = vars(make_settings(source="tfds", name=name, path=str(path), val_split="test"))
    code = f"""
import importlib.machinery as machinery
find = machinery.PathFinder.find_spec
def without_tensorflow(name, path=None, target=None):
    return None if name.split(".")[0] == "tensorflow" else find(name, path, target)
machinery.PathFinder.find_spec = without_tensorflow
from infoutil_jax.data import Settings, open_dataset
from infoutil_jax.errors import InfoUtilError
try:
    open_dataset(Settings(**{settings!r}))
except InfoUtilError as error:
    print(type(error).__name__, error)
"""
    return run_python(code)


def test_not_prepared_says_what_to_run(prepared):
    said = run_open("cifar10:3.0.2", prepared)
    assert said.startswith("EnvironmentFault 'cifar10:3.0.2' is not prepared in")
    assert "pip install tensorflow-cpu && tfds build cifar10:3.0.2" in said
    assert f"--data_dir={prepared} --file_format=array_record" in said


def test_an_unknown_name_gets_the_nearest(prepared):
    said = run_open("cifar1O", prepared)
    assert re.match("ConfigError data.name='cifar1O' is no dataset .*did you mean 'cifar10'", said)


def test_a_malformed_name_is_one_line(prepared):
    with pytest.raises(ConfigError, match="data.name='../x'") as caught:
        open_tiny(prepared, name="../x")
    assert "\n" not in str(caught.value)


def test_a_directory_without_a_dataset_is_named(prepared):
    with pytest.raises(ConfigError, match="no readable dataset_info.json.*data.name is ''"):
        open_tiny(prepared, name="")


def test_tfrecord_needs_another_format(copy):
    info = copy / "tiny" / "1.2.0" / "dataset_info.json"
    stored = json.loads(info.read_text())
    info.write_text(json.dumps({**stored, "fileFormat": "tfrecord"}))
    with pytest.raises(EnvironmentFault, match="stored as tfrecord, which needs TensorFlow.*=array_record"):
        open_tiny(copy)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_files_are_named(copy, damage):
    (shard,) = (copy / "tiny" / "1.2.0").glob("tiny-train*")
    data = bytearray(shard.read_bytes())
    if damage == "flip":
        data[300] ^= 1
    shard.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    if damage == "remove":
        shard.unlink()
    with pytest.raises(DataError, match="tiny/1.2.0 train: file missing or damaged .*; prepare the dataset again"):
        open_tiny(copy)


def test_copies_are_warned_of(prepared, capsys):
    open_tiny(prepared)
    leaks, extra = capsys.readouterr().err.splitlines()
    assert leaks.startswith("warning: 5 validation images are training images, too")
    assert extra.startswith("warning: 344 images are copies of another of their split and class: 'train/")  # 600 - 256


@pytest.mark.parametrize("name, text", [("dataset_info.json", "{"), ("features.json", "["), ("features.json", "{}")])
def test_damaged_metadata_is_named(copy, name, text):
    (copy / "tiny" / "1.2.0" / name).write_text(text)
    for options in ({}, {"name": "", "path": str(copy / "tiny" / "1.2.0")}):
        with pytest.raises((ConfigError, DataError), match="tiny") as caught:
            open_tiny(copy, **options)
        assert str(caught.value).isprintable()


def test_records_that_lack_a_key_are_named(copy):
    for name in ("features.json", "label.labels.txt"):
        shutil.copy(copy / "tiny" / "1.2.0" / name, copy / "unlike" / "1.2.0")
    with pytest.raises(
        DataError, match="unlike/1.2.0 train: 'train/0000000' has no image or no label, only 'image, pl"
    ):
        open_tiny(copy, name="unlike")


def test_a_truncated_image_is_left_out_before_anything_is_computed(prepared, monkeypatch, capsys):
    whole, read = open_tiny(prepared), tfds_source._read
    capsys.readouterr()

    def cut(records, rows, where):
        found = read(records, rows, where)
        if where.endswith("train") and 3 in rows:
            at = rows.index(3)
            found[at] = {**found[at], "image": found[at]["image"][:45]}
        return found

    monkeypatch.setattr(tfds_source, "_read", cut)
    data = open_tiny(prepared)
    assert data.train.ids == whole.train.ids[:3] + whole.train.ids[4:] and data.content_id != whole.content_id
    np.testing.assert_array_equal(data.train.images([2, 3]), whole.train.images([2, 4]))
    assert "warning: 1 unreadable images left out: \"'train/0000003': unreadable" in capsys.readouterr().err
    with pytest.raises(DataError, match="'train/0000003': unreadable"):
        open_tiny(prepared, strict=True)


def test_an_undecodable_record_is_named(prepared, monkeypatch):
    data = open_tiny(prepared)
    monkeypatch.setattr(Image, "open", lambda *a, **k: Image.new("F", (2, 2)))
    with pytest.raises(DataError, match="'train/0000003': unreadable .*floating-point"):
        data.train.images([3])
