"""Settings are checked field by field; a Split decodes once, in threads; a Dataset refuses unusable labels and ids."""

import threading

import numpy as np
import pytest

from infoutil_jax.data import Dataset, Settings, Split
from infoutil_jax.data.settings import content_id
from infoutil_jax.errors import ConfigError, DataError

DEFAULTS = dict(
    source="digits", name="", path="", train_split="train", val_split="val", image_size=32, crop_share=0.0,
    interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), flip=False, exif=False,
    max_megapixels=64.0, strict=False, cache_gib=1.0,
)  # fmt: skip


def make_settings(**changes) -> Settings:
    return Settings(**{**DEFAULTS, **changes})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"source": "tdfs"}, "data.source='tdfs'.*did you mean 'tfds'.*digits_in_photos"),
        ({"image_size": 0}, "data.image_size=0 .*between 8 and 2048"),
        ({"mean": (0.5, 0.5)}, "data.mean=.* 2 values"),
        ({"mean": (0.5, 0.5, 127.0)}, "data.mean=127.0 .*between 0.0 and 1.0"),
        ({"std": (0.5, 0.0, 0.5)}, "data.std=0.0 "),
        ({"std": (0.5, float("nan"), 0.5)}, "data.std=nan "),
        ({"max_megapixels": 500.0}, "data.max_megapixels=500.0"),
        ({"crop_share": 1.01}, "data.crop_share=1.01 .*between 0.1 and 1"),
        ({"crop_share": 1e-9}, "data.crop_share=1e-09 "),
        ({"interpolation": "lanczos"}, "data.interpolation='lanczos'.* bilinear, bicubic"),
        ({"cache_gib": -1.0}, "data.cache_gib=-1.0"),
        ({"source": "folder"}, "data.path=''"),
        ({"source": "tfds"}, "data.name='' and data.path=''"),
        ({"source": "tfds", "name": "cifar10", "val_split": "train"}, "data.train_split='train' and data.val_split"),
        ({"source": "folder", "path": "x", "val_split": ""}, "data.val_split=''"),
    ],
)
def test_settings_name_the_field(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_settings(**changes)


def test_only_another_resize_rule_is_part_of_an_id():
    rules = ({}, {"crop_share": 0.9}, {"interpolation": "bicubic"})
    ids = [make_settings(**rule).resize_id for rule in rules]
    assert ids == [(), (0.9, "bilinear"), (0.0, "bicubic")]


def counting_split(n: int, *, cache_gib: float):
    """A split whose image of row i is filled with i, and the list of rows that it decoded."""
    decoded, lock = [], threading.Lock()

    def read(rows):
        with lock:
            decoded.extend(int(row) for row in rows)
        return [np.full((8, 8, 3), row, np.uint8) for row in rows]

    return Split(np.zeros(n), [f"id{i}" for i in range(n)], read, image_size=8, cache_gib=cache_gib), decoded


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 200])
def test_images_follow_the_index(n, cache_gib):
    split, _ = counting_split(n, cache_gib=cache_gib)
    rows = np.random.default_rng(n).integers(0, n, 3 * n)
    for index in (rows, rows.tolist(), slice(None, None, -1), np.arange(n) % 2 == 0):
        images_u8 = split.images(index)
        expected = np.arange(n)[index]
        assert images_u8.shape == (len(expected), 8, 8, 3) and images_u8.dtype == np.uint8
        np.testing.assert_array_equal(images_u8, np.broadcast_to(expected[:, None, None, None], images_u8.shape))


def test_a_second_epoch_decodes_nothing_while_the_split_fits():
    kept, decoded = counting_split(150, cache_gib=1.0)
    kept.images([3, 3, 140])
    assert sorted(decoded) == [3, 140]
    kept.images(slice(None))
    kept.images(slice(None))
    assert sorted(decoded) == list(range(150))

    large, decoded = counting_split(150, cache_gib=149 * 8 * 8 * 3 / 2**30)
    large.images([3])
    large.images([3])
    assert decoded == [3, 3]


def test_a_returned_image_is_not_the_cached_one():
    split, _ = counting_split(4, cache_gib=1.0)
    split.images([2])[:] = 99
    assert (split.images([2]) == 2).all()


def test_an_image_that_fails_is_tried_again():
    answers = iter([DataError("broken"), [np.ones((8, 8, 3), np.uint8)]])

    def read(rows):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    split = Split(np.zeros(1), ["a"], read, image_size=8, cache_gib=1.0)
    with pytest.raises(DataError, match="broken"):
        split.images([0])
    assert (split.images([0]) == 1).all()


def make_dataset(train_labels, val_labels, *, ids=None, n_classes=2):
    def split(labels, name):
        names = ids or [f"{name}{i}" for i in range(len(labels))]
        return Split(np.array(labels), names, lambda rows: [], image_size=8, cache_gib=0.0)

    names = tuple("abc"[:n_classes])
    return Dataset("toy", names, split(train_labels, "t"), split(val_labels, "v"), content_id="", notes=())


def test_a_dataset_refuses_what_cannot_be_trained_on():
    assert make_dataset([0, 1], [1]).val.labels.dtype == np.int32
    for arguments, message in [
        ({"train_labels": [0, 1], "val_labels": [1, -1]}, "1 records have a label outside 0..1, first 'v1' with -1"),
        ({"train_labels": [2, 1], "val_labels": [1]}, "first 't0' with 2"),
        ({"train_labels": [0, 0], "val_labels": [1]}, "class 'b' has no training image"),
        ({"train_labels": [0, 1], "val_labels": []}, "no validation image; choose another data.val_split"),
        ({"train_labels": [0], "val_labels": [0], "n_classes": 1}, "at least 2"),
        ({"train_labels": [0, 1], "val_labels": [0, 1], "ids": ["x", "y"]}, "2 ids occur twice"),
    ]:
        with pytest.raises(DataError, match=message):
            make_dataset(**arguments)


@pytest.mark.parametrize("label", [1.5, np.nan, 2**32, -(2**40)])
def test_labels_are_whole_numbers_of_32_bits(label):
    with pytest.raises(DataError, match=r"1 labels are no whole numbers of 32 bits: 't1' with "):
        make_dataset([0, label, 1], [1])


def test_five_bad_labels_are_listed():
    with pytest.raises(DataError, match="6 records have .*first 't1' with 7, .*'t5' with 7;"):
        make_dataset([1, 7, 7, 7, 7, 7, 7], [1])


@pytest.mark.parametrize("name", ["", " a", "a\n", "\x1b[31mred", "\u202eb", "\udcff"])
def test_class_names_are_visible_text_in_one_line(name):
    split = lambda ids: Split(np.array([0, 1]), ids, lambda rows: [], image_size=8, cache_gib=0.0)
    with pytest.raises(DataError, match="1 class names are not one line of visible text") as error:
        Dataset("toy", ("good", name), split("ab"), split("cd"), content_id="", notes=())
    assert str(error.value).isprintable()
    with pytest.raises(DataError, match="two classes have the same name"):
        Dataset("toy", ("good", "good"), split("ab"), split("cd"), content_id="", notes=())


def test_content_id_separates_its_parts():
    assert content_id("a", "b") == content_id("a", "b") != content_id("ab")
    assert content_id("a", ("b",)) != content_id("a", "b")
    assert content_id(np.array([1, 2])) != content_id(np.array([2, 1]))
    assert content_id(np.array([1, 2])) != content_id(np.array([1]), np.array([2]))
    assert len(content_id("\udcff")) == 64
