"""A folder of images: path/train/<class>/*, path/val/<class>/*, sub-folders allowed, format decided by content."""

import collections
import os
from typing import NamedTuple

import numpy as np

from infoutil_jax.data.decode import FORMATS, decode, fit, look, map_in_threads
from infoutil_jax.data.settings import Dataset, Settings, Split, content_id
from infoutil_jax.errors import DataError
from infoutil_jax.progress import track

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
JUNK = ("thumbs.db", "desktop.ini", "__macosx")  # and every name that starts with a dot
LISTED = 5  # names in an error message
FILES_PER_TASK = 64

HIDDEN = "hidden or system entries ignored"
LINK = "symbolic links refused (dangling, to a folder or leaving the split's folder)"
NO_IMAGE = "entries ignored that are no images by their names"
UNREADABLE = "unreadable images left out"
FRAMES = "images with several frames, the first is used"
ROTATED = "images with an EXIF rotation"


class File(NamedTuple):
    name: str  # path below the root of the dataset
    size: int  # bytes
    label: int


def open_folder(settings: Settings) -> Dataset:
    """The dataset under `settings.path`; classes are the training sub-folders, sorted by their bytes.

    Every header is read once (some thousand a second). Unreadable files are left out and counted, or with `strict`
    an error. The content id covers names, sizes and labels, not the pixels: hashing a million files takes too long.
    Raises DataError for differing or empty classes and, in `Split.images`, for a file that fails to decode.
    """
    notes = collections.defaultdict(list)
    class_names = _class_names(settings, settings.train_split, notes)
    _check_same(settings, class_names, _class_names(settings, settings.val_split, notes))
    splits = []
    for split in (settings.train_split, settings.val_split):
        files = _readable(_list_files(settings, split, class_names, notes), settings, notes)
        _check_no_empty(files, class_names, os.path.join(settings.path, split), notes)
        splits.append(files)
    return Dataset(
        name=os.path.basename(os.path.abspath(settings.path)),
        class_names=tuple(_text(name) for name in class_names),
        train=_split(splits[0], settings),
        val=_split(splits[1], settings),
        content_id=content_id(class_names, *([tuple(f) for f in files] for files in splits), *settings.resize_id),
        notes=tuple(_sentences(notes)),
    )


def _entries(folder: str) -> list[os.DirEntry]:
    """Sorted by bytes, so that neither the locale nor the disk decides the order."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise DataError(f"{folder!r}: {error.strerror}; data.path must hold train_split/<class>/<images>.") from error


def _is_junk(entry: os.DirEntry) -> bool:
    return entry.name.startswith(".") or entry.name.lower() in JUNK


def _class_names(settings: Settings, split: str, notes: dict) -> list[str]:
    names = []
    for entry in _entries(os.path.join(settings.path, split)):
        if _is_junk(entry):
            notes[HIDDEN].append(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            names.append(entry.name)
        else:
            notes[LINK if entry.is_symlink() else NO_IMAGE].append(entry.path)
    return names


def _check_same(settings: Settings, train: list[str], val: list[str]) -> None:
    differences = [
        # ascii() shows apart names that print alike, such as an accent in one or in two code points
        f"{len(extra)} only in {split!r} ({', '.join(map(ascii, sorted(extra)[:LISTED]))})"
        for split, extra in ((settings.train_split, set(train) - set(val)), (settings.val_split, set(val) - set(train)))
        if extra
    ]
    if differences:
        raise DataError(f"{settings.path!r}: the splits' classes differ: {'; '.join(differences)}; make them equal.")


def _list_files(settings: Settings, split: str, class_names: list[str], notes: dict) -> list[File]:
    root = os.path.join(settings.path, split)
    return [
        File(os.path.relpath(entry.path, settings.path), entry.stat().st_size, label)
        for label, class_name in enumerate(class_names)
        for entry in _walk(os.path.join(root, class_name), os.path.realpath(root) + os.sep, notes)
    ]


def _walk(folder: str, root: str, notes: dict):
    """Yields the entries of the image files under `folder`; counts what is passed over in `notes`."""
    for entry in _entries(folder):
        if _is_junk(entry):
            notes[HIDDEN].append(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, root, notes)
        elif entry.is_symlink() and not _leads_to_file_in(root, entry.path):
            notes[LINK].append(entry.path)
        elif os.path.isfile(entry.path) and entry.name.lower().endswith(EXTENSIONS):
            yield entry
        else:
            notes[NO_IMAGE].append(entry.path)


def _leads_to_file_in(root: str, link: str) -> bool:
    return os.path.isfile(link) and os.path.realpath(link).startswith(root)


def _readable(files: list[File], settings: Settings, notes: dict) -> list[File]:
    """`files` without those whose header cannot be read."""

    def remarks(some: list[File]) -> list[list[tuple[str, str]]]:
        return [_remarks(file, settings) for file in some]

    pieces = [files[start : start + FILES_PER_TASK] for start in range(0, len(files), FILES_PER_TASK)]
    looks = (seen for some in map_in_threads(remarks, pieces) for seen in some)
    kept = []
    for file, seen in zip(files, track(looks, "image headers", total=len(files), unit="files"), strict=True):
        for remark, detail in seen:
            notes[remark].append(detail)
        if UNREADABLE not in dict(seen):
            kept.append(file)
    return kept


def _remarks(file: File, settings: Settings) -> list[tuple[str, str]]:
    """(remark, detail) pairs on one file, from its header. Raises DataError on an unreadable one if `strict`."""
    path = os.path.join(settings.path, file.name)
    try:
        with open(path, "rb") as opened:
            has_frames, is_turned = look(opened, path, max_megapixels=settings.max_megapixels)
    except (DataError, OSError) as error:
        if settings.strict:
            raise DataError(f"{error} (data.strict=False leaves such files out and counts them)") from error
        return [(UNREADABLE, str(error))]
    turned = ROTATED + (", applied" if settings.exif else ", not applied (data.exif=False)")
    return [(remark, path) for remark, holds in ((FRAMES, has_frames), (turned, is_turned)) if holds]


def _check_no_empty(files: list[File], class_names: list[str], root: str, notes: dict) -> None:
    filled = {file.label for file in files}
    empty = [name for label, name in enumerate(class_names) if label not in filled]
    if empty:
        unusual = " ".join(_sentences(notes))
        raise DataError(
            f"{root!r}: {len(empty)} classes without a readable image ({', '.join(map(repr, empty[:LISTED]))}); "
            f"add images ({', '.join(FORMATS)}) or remove the folders. {unusual}"
        )


def _sentences(notes: dict) -> list[str]:
    return [f"{len(details)} {remark}, first: {details[0]!r}." for remark, details in sorted(notes.items())]


def _text(name: str) -> str:
    """A file name as valid text: bytes that are not UTF-8 become \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _split(files: list[File], settings: Settings) -> Split:
    return Split(
        np.array([file.label for file in files], np.int32),
        [_text(file.name) for file in files],
        lambda rows: [_image(files[row], settings) for row in rows],
        image_size=settings.image_size,
        cache_gib=settings.cache_gib,
    )


def _image(file: File, settings: Settings) -> np.ndarray:
    path = os.path.join(settings.path, file.name)
    try:
        with open(path, "rb") as opened:
            data = opened.read(file.size + 1)
    except OSError as error:
        raise DataError(f"{path!r}: gone or unreadable since it was listed ({error.strerror}); start again.") from error
    if len(data) != file.size:
        raise DataError(f"{path!r}: changed since it was listed (then {file.size} bytes); start again.")
    rgb_u8 = decode(data, path, exif=settings.exif, max_megapixels=settings.max_megapixels)
    return fit(rgb_u8, settings.image_size, settings.crop_share, settings.interpolation)
