"""A folder of images as users have them: odd names, junk, links, broken files. What is left out is counted."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from test_data_decode import png_header
from test_data_settings import make_settings

from infoutil_jax.data import open_dataset
from infoutil_jax.errors import DataError

SIZE = 32


def picture(colour) -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE), colour)


@pytest.fixture
def root(tmp_path):
    """Two classes; the red level of a file is 10 * class + its number (+ 100 in val)."""
    for split, base in (("train", 0), ("val", 100)):
        for label, name in enumerate(("ant", "Bee")):
            folder = tmp_path / "bugs" / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                picture((base + 10 * label + i, 0, 0)).save(folder / f"{i}.png")
    return tmp_path / "bugs"


def open_root(root, **changes):
    return open_dataset(make_settings(source="folder", path=str(root), **changes))


def reds(split):
    return split.images(slice(None))[:, 0, 0, 0].tolist()


def test_classes_labels_ids_and_pixels(root):
    data = open_root(root)
    assert data.name == "bugs" and data.class_names == ("Bee", "ant") and data.notes == ()  # by bytes: B before a
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.ids == tuple(f"train/{c}/{i}.png" for c in ("Bee", "ant") for i in range(3))
    assert reds(data.train) == [10, 11, 12, 0, 1, 2] and reds(data.val) == [110, 111, 112, 100, 101, 102]


def test_order_does_not_depend_on_creation_and_the_id_follows_the_content(root, tmp_path):
    first = open_root(root)
    copy = tmp_path / "elsewhere" / "bugs"
    for path in sorted(root.rglob("*.png"), reverse=True):
        target = copy / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    second = open_root(copy)
    assert second.train.ids == first.train.ids and second.content_id == first.content_id
    (copy / "train/ant/1.png").rename(copy / "train/ant/9.png")
    renamed = open_root(copy)
    assert renamed.content_id != first.content_id
    with open(copy / "val/ant/0.png", "ab") as file:
        file.write(b"\0")
    assert open_root(copy).content_id != renamed.content_id


def test_unicode_and_odd_names(root):
    names = ["猫 1.png", "new\nline.png", "e\u0301.png", "\u00e9.png", "<script>.png", "UPPER.PNG", "a" * 251 + ".png"]
    for i, name in enumerate(names):
        picture((200 + i, 0, 0)).save(root / "train" / "ant" / name, "PNG")
    raw = os.fsencode(root / "train" / "ant") + b"/\xff.png"
    with open(raw, "wb") as file:
        picture((250, 0, 0)).save(file, "PNG")
    data = open_root(root)
    red_of = dict(zip(data.train.ids, reds(data.train), strict=True))
    assert [red_of[f"train/ant/{name}"] for name in names] == list(range(200, 200 + len(names)))
    assert red_of["train/ant/\\xff.png"] == 250
    assert list(data.train.ids[3:-1]) == sorted(data.train.ids[3:-1], key=str.encode)  # the raw byte sorts last
    assert "\n".join(data.train.ids).encode("utf-8")


def test_format_is_decided_by_content_and_folders_may_nest(root):
    nested = root / "train" / "ant" / "images" / "deep"
    nested.mkdir(parents=True)
    picture((77, 0, 0)).save(nested / "really_png.JPEG", "PNG")
    data = open_root(root)
    assert data.train.ids[-1] == "train/ant/images/deep/really_png.JPEG" and reds(data.train)[-1] == 77


def test_junk_is_ignored_and_counted(root):
    ant = root / "train" / "ant"
    for name in (".DS_Store", "Thumbs.db", "readme.txt", "._0.png"):
        (ant / name).write_bytes(b"x")
    (ant / ".ipynb_checkpoints").mkdir()
    picture((9, 9, 9)).save(ant / ".ipynb_checkpoints" / "0.png")
    (root / "train" / ".hidden_class").mkdir()
    (root / "val" / "list.csv").write_bytes(b"x")
    picture((9, 9, 9)).save(ant / "0.tiff")
    os.mkfifo(ant / "pipe.png")
    data = open_root(root)
    assert len(data.train) == 6
    assert len(data.notes) == 2
    assert data.notes[0].startswith("4 entries ignored that are no images by their names")
    assert data.notes[1].startswith("5 hidden or system entries ignored")


def test_links_stay_inside_the_split(root, tmp_path, capsys):
    ant, outside = root / "train" / "ant", tmp_path / "secret.png"
    picture((66, 0, 0)).save(outside)
    (ant / "inside.png").symlink_to(ant / "1.png")
    (ant / "escaping.png").symlink_to(outside)
    (ant / "dangling.png").symlink_to(ant / "gone.png")
    (ant / "loop.png").symlink_to(ant / "loop.png")
    (ant / "parent").symlink_to(root / "train")
    (root / "train" / "class_link").symlink_to(tmp_path)
    data = open_root(root)
    assert data.train.ids[-1] == "train/ant/inside.png" and reds(data.train)[-1] == 1 and len(data.train) == 7
    link, copy = capsys.readouterr().err.splitlines()
    assert link.startswith("warning: 5 symbolic links refused") and not data.notes
    assert copy.endswith("copies of another of their split and class: 'train/ant/inside.png = train/ant/1.png'")


@pytest.fixture
def broken(root):
    ant = root / "train" / "ant"
    (ant / "zero.jpg").write_bytes(b"")
    (ant / "page.jpg").write_bytes(b"<!DOCTYPE html><title>404</title>")
    (ant / "bomb.png").write_bytes(png_header(9000, 9000))
    picture((1, 2, 3)).save(ant / "renamed_tiff.png", "TIFF")
    return root


def test_unreadable_headers_are_left_out_and_counted(broken, capsys):
    data = open_root(broken)
    assert len(data.train) == 6 and not data.notes
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 4 unreadable images left out: ") and line.endswith(", ...")
    assert [name in line for name in ("bomb.png", "page.jpg", "renamed_tiff.png", "zero.jpg")] == [True] * 3 + [False]


def test_unreadable_headers_stop_a_strict_run(broken):
    with pytest.raises(DataError, match=r"bomb.png.*81 megapixels.*data.strict=False"):
        open_root(broken, strict=True)


def test_files_that_change_after_the_listing_are_named(root):
    data = open_root(root, cache_gib=0.0)
    data.train.images([0, 3])
    with open(root / "train/Bee/0.png", "ab") as file:
        file.write(b"more")
    os.remove(root / "train/ant/0.png")
    with pytest.raises(DataError, match="Bee/0.png': changed since it was listed"):
        data.train.images([0])
    with pytest.raises(DataError, match="ant/0.png': gone"):
        data.train.images([3])
    path = root / "train/Bee/1.png"
    path.write_bytes(bytes(path.stat().st_size))  # as long as before
    with pytest.raises(DataError, match="Bee/1.png': changed since it was listed"):
        data.train.images([1])


@pytest.mark.parametrize("exif", [False, True])
def test_animations_and_rotations_are_counted(root, exif, capsys):
    ant = root / "train" / "ant"
    picture((5, 5, 5)).save(ant / "still.gif")
    picture((255, 0, 0)).save(ant / "moving.gif", save_all=True, append_images=[picture((0, 0, 255))])
    upper = np.zeros((SIZE, SIZE, 3), np.uint8)
    upper[: SIZE // 2] = 200
    for orientation in (1, 3):
        tag = Image.Exif()
        tag[0x0112] = orientation
        Image.fromarray(upper).save(ant / f"turn{orientation}.png", exif=tag)
    data = open_root(root, exif=exif)
    images_u8 = dict(zip(data.train.ids, data.train.images(slice(None)), strict=True))
    assert images_u8["train/ant/moving.gif"][0, 0].tolist() == [255, 0, 0]
    assert images_u8["train/ant/turn3.png"][0, 0, 0] == (0 if exif else 200)
    (note,) = data.notes
    assert note.startswith("1 images with an EXIF rotation, " + ("applied" if exif else "not applied"))
    assert capsys.readouterr().err.startswith("warning: 1 images with several frames")


def test_an_empty_class_is_named(root):
    shutil.rmtree(root / "train" / "ant")
    (root / "train" / "ant").mkdir()
    with pytest.raises(DataError, match="train': 1 classes without a readable image .'ant'."):
        open_root(root)


def test_a_class_emptied_by_unreadable_files_is_named_with_the_reason(root):
    for path in (root / "val" / "Bee").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="val': 1 classes .*'Bee'.*3 unreadable images left out"):
        open_root(root)


def test_splits_must_have_the_same_classes(root):
    (root / "val" / "Bee").rename(root / "val" / "Wasp")
    with pytest.raises(DataError, match="1 only in 'train' .'Bee'.; 1 only in 'val' .'Wasp'."):
        open_root(root)


def test_a_missing_folder_is_named(root):
    with pytest.raises(DataError, match="test': No such file or directory; data.path must hold"):
        open_root(root, val_split="test")


def test_images_are_fitted_and_their_size_is_not_part_of_the_id(root):
    small, large = open_root(root, image_size=16), open_root(root, image_size=64)
    assert small.train.images([0]).shape == (1, 16, 16, 3) and large.val.images([0, 5]).shape == (2, 64, 64, 3)
    assert small.content_id == large.content_id


def test_the_resize_rule_reaches_the_images_and_the_id(root):
    path = root / "train" / "Bee" / "0.png"
    image_u8 = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(image_u8).save(path)
    usual, other = open_root(root), open_root(root, crop_share=0.8, interpolation="bicubic")
    resized = Image.fromarray(image_u8).resize((50, 40), Image.Resampling.BICUBIC)  # 32 / 0.8 = 40, the sides it has
    np.testing.assert_array_equal(other.train.images([0])[0], np.asarray(resized)[4:36, 9:41])
    assert np.abs(usual.train.images([0])[0].astype(int) - other.train.images([0])[0]).max() > 10
    ids = {open_root(root, **c).content_id for c in ({}, {"crop_share": 0.8}, {"interpolation": "bicubic"})}
    assert len(ids | {other.content_id}) == 4 and usual.content_id in ids
