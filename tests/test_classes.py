"""The lists of classes against TensorFlow Datasets' own, against numbers typed by hand, and against folders."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from configs import imagewoof
from PIL import Image

from infoutil_jax import config
from infoutil_jax.data import classes, folder
from infoutil_jax.errors import ConfigError

COUNTS = {"imagenet1k": 1000, "imagenet100": 100, "imagenette": 10, "imagewoof": 10, "tiny_imagenet": 200}
DD_RANKING = {  # its numbers of ImageNet-1K's classes, in its order
    "imagenette": [0, 217, 482, 491, 497, 566, 569, 571, 574, 701],
    "imagewoof": [193, 182, 258, 162, 155, 167, 159, 273, 207, 229],
}
SOURCES = {  # SHA-256 of the sorted ids, a line each, of CMC's imagenet100.txt and RDED's prepare/tinyimagenet.md
    "imagenet100": "5ee5db69d488bb799a286d8e181801c3d02798776c1ce9203e5450f64e086e07",
    "tiny_imagenet": "342d6acf18911d62da4c981221f833718a3ef8299e55512239e09c64e49a344c",
}
TFDS = Path(importlib.util.find_spec("tensorflow_datasets").submodule_search_locations[0])
TFDS_FILES = {
    "imagenet1k": "datasets/imagenet2012/labels.txt",
    "imagenette": "image_classification/imagenette_labels.txt",
}


def ids(name):
    return [wordnet_id for wordnet_id, _ in classes.load(name)]


@pytest.mark.parametrize("name", classes.NAMES)
def test_classes_are_many_enough_different_and_sorted(name):
    found = classes.load(name)
    assert len(found) == COUNTS[name] == len({label for _, label in found})
    assert all(a < b for a, b in zip(ids(name), ids(name)[1:]))
    assert all(len(i) == 9 and i[0] == "n" and i[1:].isdigit() and label == label.strip() != "" for i, label in found)


@pytest.mark.parametrize("name", classes.NAMES)
def test_a_subset_has_the_names_of_imagenet(name):
    assert set(classes.load(name)) <= set(classes.load("imagenet1k"))


@pytest.mark.parametrize("name", DD_RANKING)
def test_subsets_are_those_of_dd_ranking(name):
    everything = ids("imagenet1k")
    assert [everything.index(i) for i in ids(name)] == sorted(DD_RANKING[name])


def test_the_known_classes_are_where_they_are_known_to_be():
    names = {name: [label for _, label in classes.load(name)] for name in classes.NAMES}
    assert [names["imagenet1k"][i] for i in (0, 7, 99, 282, 999)] == [
        "tench", "cock", "goose", "tiger cat", "toilet tissue"
    ]  # fmt: skip
    assert names["imagenette"] == [
        "tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck",
        "gas pump", "golf ball", "parachute",
    ]  # fmt: skip
    assert [names["imagewoof"][i] for i in (0, 9)] == ["Shih-Tzu", "dingo"]
    assert [names["tiny_imagenet"][i] for i in (0, 11, 199)] == ["goldfish", "goose", "acorn"]


@pytest.mark.parametrize("name", SOURCES)
def test_no_id_differs_from_the_source(name):
    listed = "".join(f"{i}\n" for i in ids(name))
    assert hashlib.sha256(listed.encode()).hexdigest() == SOURCES[name]


@pytest.mark.parametrize("name", TFDS_FILES)
def test_tfds_numbers_the_classes_alike(name):
    assert (TFDS / TFDS_FILES[name]).read_text().split() == ids(name)


def test_folders_number_the_classes_alike(tmp_path):
    for wordnet_id in reversed(ids("imagewoof")):
        for split in ("train", "val"):
            (tmp_path / split / wordnet_id).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / split / wordnet_id / "0.png")
    c = imagewoof.get_config()
    c.data.path = str(tmp_path)
    assert list(folder.open_folder(config.resolve(c).data).class_names) == ids("imagewoof")


def test_every_file_says_where_it_comes_from_and_is_listed():
    files = list((Path(classes.__file__).parent / "class_orders").iterdir())
    assert {file.name for file in files} == {f"{name}.txt" for name in classes.NAMES}
    for file in files:
        heading = [line for line in file.read_text().splitlines() if line.startswith("#")]
        assert any(line.startswith(("# Source:", "# Sources:")) for line in heading), file


def test_an_unknown_list_is_refused():
    with pytest.raises(ConfigError, match="class order='imagewoofs' is not known, did you mean 'imagewoof'"):
        classes.load("imagewoofs")
