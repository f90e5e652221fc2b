"""Files as they should not be: cut, flipped, copied, disguised, named to do harm. What is promised stands in
docs/input.md."""

import errno
import hashlib
import inspect
import io
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from test_data_decode import decode_any, encode
from test_data_folder import open_root, picture, root  # noqa: F401  (a fixture)
from test_data_settings import make_settings

from infoutil_jax import progress
from infoutil_jax.data import decode, folder, integrity, open_dataset
from infoutil_jax.errors import ConfigError, DataError

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
FILES = {image_format: encode(NOISE, image_format) for image_format in decode.FORMATS}
FILES["grey JPEG"] = encode(NOISE.convert("L"), "JPEG", progressive=True)


def ends_whole(data: bytes) -> bool:
    return integrity.ends_whole(data[:12], data[-64:], len(data))


def check_body(data: bytes) -> None:
    decode.check_body(io.BytesIO(data), "some/file", max_megapixels=1)


@pytest.fixture
def ant(root):  # noqa: F811
    return root / "train" / "ant"


@pytest.fixture
def strict():
    progress.restart(strict=True)
    yield
    progress.restart()


def warnings(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("kind", FILES)
def test_cut_files_are_found_by_their_ends_or_by_decoding(kind):
    data = FILES[kind]
    assert ends_whole(data) == (kind != "BMP")
    check_body(data)
    assert not any(ends_whole(data[:-cut]) for cut in (1, 2, 11, 200, len(data) // 2, len(data) - 12))
    with pytest.raises(DataError, match="'some/file': unreadable"):
        check_body(data[: len(data) // 2])


def test_a_jpeg_with_something_behind_its_end_is_whole(ant, capsys):
    data = FILES["JPEG"] + bytes(10)
    assert not ends_whole(data)
    (ant / "more.jpg").write_bytes(data)
    assert len(open_root(ant.parents[1], cache_gib=0.0).train) == 7 and not warnings(capsys)


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_a_truncated_file_is_left_out_and_what_remains_is_the_same_data(ant, cache_gib, capsys):
    before = open_root(ant.parents[1], cache_gib=cache_gib)
    for kind in FILES:
        (ant / f"cut {kind}.jpg").write_bytes(FILES[kind][:-200])
    after = open_root(ant.parents[1], cache_gib=cache_gib)
    assert after.content_id == before.content_id and after.train.ids == before.train.ids
    (line,) = warnings(capsys)
    assert line.startswith("warning: 6 unreadable images left out: ") and "cut BMP.jpg" in line
    with pytest.raises(DataError, match="cut BMP.jpg.*data.strict=False leaves"):
        open_root(ant.parents[1], cache_gib=cache_gib, strict=True)


def test_a_flip_that_its_decoder_sees_is_found_where_the_split_is_kept(ant, capsys):
    data = bytearray(FILES["PNG"])
    data[len(data) // 2] ^= 1
    (ant / "flip.png").write_bytes(data)
    assert len(open_root(ant.parents[1]).train) == 6
    assert warnings(capsys)[0].startswith("warning: 1 unreadable images left out")
    with pytest.raises(DataError, match="flip.png': unreadable"):
        open_root(ant.parents[1], cache_gib=0.0).train.images([6])


def write_sums(folder, *names) -> None:
    escape = lambda name: name.replace("\\", "\\\\").replace("\n", "\\n")
    lines = []
    for name in names:
        sha256 = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        mark = "\\" * (escape(name) != name)
        lines.append(f"{mark}{sha256}  ./{escape(name)}\n".encode())
    (folder / "SHA256SUMS").write_bytes(b"".join(lines))


def test_a_flip_inside_a_jpeg_is_seen_by_its_sum_alone(ant, capsys):
    data = bytearray(FILES["JPEG"])
    names = ["train/ant/flip.jpg", "train/ant/new\nline \\.jpg", "train/Bee/0.png", "val/Bee/gone.png"]
    for name in names[:2] + names[3:]:
        (ant.parents[1] / name).write_bytes(data + b"\0" * len(name))
    write_sums(ant.parents[1], *names)
    assert len(open_root(ant.parents[1]).train) == 8 and not warnings(capsys)
    before = decode_any(bytes(data))
    data[len(data) // 2] ^= 16
    assert not np.array_equal(decode_any(bytes(data)), before)  # wrong pixels, and Pillow is content
    for name in names[:2]:
        (ant.parents[1] / name).write_bytes(data + b"\0" * len(name))
    (ant.parents[1] / names[3]).unlink()
    assert len(open_root(ant.parents[1]).train) == 6
    flip, gone = warnings(capsys)
    assert flip.startswith("warning: 2 unreadable") and flip.count("its SHA-256 is not that of SHA256SUMS") == 2
    assert gone == "warning: 1 files of SHA256SUMS are not there: 'val/Bee/gone.png'"
    with pytest.raises(DataError, match="flip.jpg': its SHA-256 is not that"):
        open_root(ant.parents[1], strict=True)
    (ant.parents[1] / "SHA256SUMS").write_text("MD5 (x) = 0\n")
    with pytest.raises(DataError, match="SHA256SUMS', line 1: not a SHA-256"):
        open_root(ant.parents[1])


def test_copies_leaks_and_doubtful_labels_are_counted_and_named(root, capsys, monkeypatch):  # noqa: F811
    for target in ("train/ant/copy.png", "train/Bee/other.png", "val/ant/leak.png"):
        (root / target).write_bytes((root / "train/ant/0.png").read_bytes())
    alike = bytearray(FILES["BMP"])
    (root / "train/ant/a.bmp").write_bytes(alike)
    alike[500] ^= 1  # as long, and its end is the same
    (root / "train/ant/b.bmp").write_bytes(alike)
    hashed, sha256_of = [], folder.sha256_of
    monkeypatch.setattr(folder, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    open_root(root)
    assert warnings(capsys) == [
        "warning: 1 validation images are training images, too: accuracies are too high: "
        "'val/ant/leak.png = train/Bee/other.png'",
        "warning: 3 images are copies of one with another label: 'train/ant/0.png = train/Bee/other.png', "
        "'train/ant/copy.png = train/Bee/other.png', 'val/ant/leak.png = train/Bee/other.png'",
    ]
    assert {path.rsplit("/")[-1] for path in hashed} == {"0.png", "copy.png", "other.png", "leak.png", "a.bmp", "b.bmp"}
    (root / "train/Bee/other.png").unlink()
    (root / "val/ant/leak.png").unlink()
    open_root(root)
    assert warnings(capsys) == [
        "warning: 1 images are copies of another of their split and class: 'train/ant/copy.png = train/ant/0.png'"
    ]


def test_strict_makes_an_error_of_each_warning(ant, strict):
    (ant / "copy.png").write_bytes((ant / "0.png").read_bytes())
    with pytest.raises(DataError, match="1 images are copies of .*copy.png"):
        open_root(ant.parents[1])
    (ant / "copy.png").write_bytes(FILES["JPEG"][:-2])
    with pytest.raises(DataError, match="1 unreadable images left out: .*copy.png"):
        open_root(ant.parents[1])


def test_odd_sizes_and_depths_are_counted(ant, capsys):
    for name, image in {
        "dot.png": Image.new("RGB", (1, 1)), "line.png": Image.new("RGB", (3000, 1)),
        "deep.png": Image.fromarray(np.full((40, 40), 40000, np.uint16)),
    }.items():  # fmt: skip
        image.save(ant / name)
    data = open_root(ant.parents[1])
    assert data.train.images(slice(None)).shape == (9, 32, 32, 3)
    assert data.notes[0].startswith("2 images smaller than data.image_size, enlarged")
    line, deep = warnings(capsys)
    assert line.startswith("warning: 1 images longer than 8 times their width") and "line.png" in line
    assert deep.startswith("warning: 1 images of 16 bits") and "deep.png" in deep


DISGUISED = {
    "FITS": b"SIMPLE  =                    T" + b" " * 2850, "PSD": b"8BPS\0\1" + bytes(100), "EPS": b"%!PS-Adobe-3.0 EPSF",
    "PDF": b"%PDF-1.7\n", "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "TIFF": b"II*\0" + bytes(100),
}  # fmt: skip


def test_other_formats_never_reach_their_plugin(monkeypatch):
    Image.init()
    reached = []

    def spy(name):
        return lambda *_: reached.append(name)

    others = {name: (spy(name), spy(name)) for name in Image.OPEN if name not in decode.FORMATS}
    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN, **others})
    for data in DISGUISED.values():
        with pytest.raises(DataError, match="not an image of JPEG"):
            decode_any(data)
        with pytest.raises(DataError, match="not an image of JPEG"):
            decode.look(io.BytesIO(data), "f", max_megapixels=1)
    assert not reached
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(DISGUISED["PSD"]))
    assert {"FITS", "PSD", "EPS", "TIFF"} <= set(reached)  # the spies are where they would be asked


def test_archives_are_refused_and_nothing_is_written(tmp_path):
    evil = tarfile.TarInfo("../evil")
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        archive.addfile(evil, io.BytesIO())
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("../evil", "")
    before = sorted(tmp_path.rglob("*")) + sorted(tmp_path.parent.iterdir())
    for name in ("data.tar", "data.zip"):
        with pytest.raises(DataError, match="is a file, not a folder; unpack .*--filter data"):
            open_root(tmp_path / name)
        with pytest.raises((ConfigError, DataError), match=name):
            open_dataset(make_settings(source="tfds", path=str(tmp_path / name)))
    assert sorted(tmp_path.rglob("*")) + sorted(tmp_path.parent.iterdir()) == before


def test_folders_may_nest_deeper_than_functions(ant):
    deep = ant.joinpath(*"d" * 150)
    deep.mkdir(parents=True)
    (deep / "e.png").write_bytes(b"")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    try:
        names = [entry.name for entry in folder._walk(str(ant), str(ant), {})]
    finally:
        sys.setrecursionlimit(limit)
    assert names == ["0.png", "1.png", "2.png", "e.png"]


def test_a_fault_of_the_disk_is_not_blamed_on_the_image(ant, monkeypatch):
    class Failing(io.BytesIO):
        def read(self, *_):
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        decode.look(Failing(), "f", max_megapixels=1)

    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(folder, "look", fail)
    with pytest.raises(DataError, match="0.png': gone or unreadable since it was listed .Input/output error."):
        open_root(ant.parents[1])


def test_names_that_act_on_a_terminal_are_shown_as_text(ant, capsys):
    for name in ("\x1b[2J.png", "two\nlines.png", "<script>.png", "=cmd().png", "\u202egnp.png"):
        (ant / name).write_bytes(b"")
    (ant / "\x1b[3J.png").symlink_to("nowhere")
    (ant / "\x1b[4J.txt").touch()
    data = open_root(ant.parents[1])
    link, line = warnings(capsys)
    assert link.isprintable() and line.isprintable() and "x1b[3J.png" in link and "x1b[2J.png" in line
    assert len(data.notes) == 1 and data.notes[0].isprintable()
    with pytest.raises(DataError) as error:
        open_root(ant.parents[1], strict=True)
    assert str(error.value).isprintable()
