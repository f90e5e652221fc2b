"""A folder of images: path/train/<class>/*, path/val/<class>/*, sub-folders allowed, format decided by content."""

import collections
import os
import zlib
from typing import NamedTuple

import numpy as np

from infoutil_jax.data.decode import FORMATS, LONGEST, check_body, decode, fit, look, map_in_threads
from infoutil_jax.data.integrity import copies, ends_whole, read_sums, sha256_of, warn_of, warn_of_copies
from infoutil_jax.data.settings import Dataset, Settings, Split, content_id, fits_memory
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
SMALL = "images smaller than data.image_size, enlarged"
LONG = f"images longer than {LONGEST} times their width, only the middle is used"
DEEP = "images of 16 bits, their high byte is used"
MISSING = "files of SHA256SUMS are not there"
FAULTS = (LINK, UNREADABLE, FRAMES, LONG, DEEP, MISSING)  # warned of; the others are worth a note


class File(NamedTuple):
    name: str  # path below the root of the dataset
    size: int  # bytes
    label: int
    mtime: int  # ns; no part of a content id


class Seen(NamedTuple):
    """What was found when a file was looked at."""

    remarks: list[tuple[str, str]]  # (remark, detail)
    end: int  # checksum of its last bytes


def open_folder(settings: Settings) -> Dataset:
    """The dataset under `settings.path`; classes are the training sub-folders, sorted by their bytes.

    Every file's header and end are read once (some thousand a second); what does not end as its format does, and
    every file of a split that fits the cache, is decoded. Unreadable files are left out with a warning, or with
    `strict` are an error. A file SHA256SUMS in the folder is held against what is there. Copies are warned of.
    The content id covers names, sizes and labels, not the pixels: hashing a million files takes too long.
    Raises DataError for differing or empty classes and, in `Split.images`, for a file that fails to decode.
    """
    if os.path.isfile(settings.path):
        unpack = "python -m tarfile --filter data -e FILE FOLDER, or python -m zipfile -e FILE FOLDER"
        raise DataError(f"data.path={settings.path!r} is a file, not a folder; unpack an archive first: {unpack}.")
    notes, sums = collections.defaultdict(list), read_sums(settings.path)
    class_names = _class_names(settings, settings.train_split, notes)
    _check_same(settings, class_names, _class_names(settings, settings.val_split, notes))
    splits, ends = [], []
    for split in (settings.train_split, settings.val_split):
        files, ends_of = _readable(_list_files(settings, split, class_names, notes), settings, sums, notes)
        _check_no_empty(files, class_names, os.path.join(settings.path, split), notes)
        splits.append(files)
        ends += ends_of
    notes[MISSING] = [name for name in sums if not os.path.lexists(os.path.join(settings.path, name))]
    for remark in FAULTS:
        warn_of(remark, notes.pop(remark, []))
    _warn_of_copies(splits, ends, settings)
    return Dataset(
        name=os.path.basename(os.path.abspath(settings.path)),
        class_names=tuple(_text(name) for name in class_names),
        train=_split(splits[0], settings),
        val=_split(splits[1], settings),
        content_id=content_id(class_names, *([tuple(f[:3]) for f in files] for files in splits), *settings.resize_id),
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
        File(os.path.relpath(entry.path, settings.path), entry.stat().st_size, label, entry.stat().st_mtime_ns)
        for label, class_name in enumerate(class_names)
        for entry in _walk(os.path.join(root, class_name), os.path.realpath(root) + os.sep, notes)
    ]


def _walk(folder: str, root: str, notes: dict):
    """Yields the entries of the image files under `folder`; counts what is passed over in `notes`."""
    pending = _entries(folder)[::-1]  # a stack, since folders may nest deeper than functions
    while pending:
        entry = pending.pop()
        if _is_junk(entry):
            notes[HIDDEN].append(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            pending += _entries(entry.path)[::-1]
        elif entry.is_symlink() and not _leads_to_file_in(root, entry.path):
            notes[LINK].append(entry.path)
        elif os.path.isfile(entry.path) and entry.name.lower().endswith(EXTENSIONS):
            yield entry
        else:
            notes[NO_IMAGE].append(entry.path)


def _leads_to_file_in(root: str, link: str) -> bool:
    return os.path.isfile(link) and os.path.realpath(link).startswith(root)


def _readable(files: list[File], settings: Settings, sums: dict, notes: dict) -> tuple[list[File], list[int]]:
    """`files` without those that cannot be read, and the checksums of their ends."""
    decodes = fits_memory(len(files), settings.image_size, settings.cache_gib)

    def see(some: list[File]) -> list[Seen]:
        return [_see(file, settings, sums.get(file.name), decodes=decodes) for file in some]

    pieces = [files[start : start + FILES_PER_TASK] for start in range(0, len(files), FILES_PER_TASK)]
    looks = (seen for some in map_in_threads(see, pieces) for seen in some)
    kept, ends = [], []
    for file, seen in zip(files, track(looks, "image files", total=len(files), unit="files"), strict=True):
        for remark, detail in seen.remarks:
            notes[remark].append(detail)
        if UNREADABLE not in dict(seen.remarks):
            kept.append(file)
            ends.append(seen.end)
    return kept, ends


def _see(file: File, settings: Settings, sha256: str | None, *, decodes: bool) -> Seen:
    """Raises DataError on an unreadable file if `strict`, and on one that is gone."""
    path, limit = os.path.join(settings.path, file.name), {"max_megapixels": settings.max_megapixels}
    try:
        if sha256 and sha256_of(path) != sha256:
            raise DataError(f"{path!r}: its SHA-256 is not that of SHA256SUMS; fetch it again.")
        with open(path, "rb") as opened:
            head = opened.read(12)
            opened.seek(max(0, file.size - 64))
            tail = opened.read(64)
            header = look(opened, path, **limit)
            if decodes or not ends_whole(head, tail, file.size):
                check_body(opened, path, **limit)
    except (DataError, PermissionError) as error:
        if settings.strict:
            raise DataError(f"{error} (data.strict=False leaves such files out and counts them)") from error
        return Seen([(UNREADABLE, str(error))], 0)
    except OSError as error:  # a disk's or a server's fault: a run that goes on without the file would be another run
        raise _gone(path, error) from error
    short, long = sorted(header.size)
    turned = ROTATED + (", applied" if settings.exif else ", not applied (data.exif=False)")
    remarks = {
        FRAMES: header.has_frames, turned: header.is_turned, DEEP: header.is_deep,
        SMALL: short < settings.image_size, LONG: long > LONGEST * short,
    }  # fmt: skip
    return Seen([(remark, path) for remark, holds in remarks.items() if holds], zlib.crc32(tail))


def _gone(path: str, error: OSError) -> DataError:
    return DataError(f"{path!r}: gone or unreadable since it was listed ({error.strerror}); start again.")


def _warn_of_copies(splits: list[list[File]], ends: list[int], settings: Settings) -> None:
    files = [*splits[0], *splits[1]]
    keys = [(file.size, end) for file, end in zip(files, ends, strict=True)]
    paths = lambda rows: [os.path.join(settings.path, files[row].name) for row in rows]
    groups = copies(keys, lambda rows: map_in_threads(sha256_of, paths(rows)))
    warn_of_copies(groups, [file.label for file in files], [_text(file.name) for file in files], len(splits[0]))


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
            data, mtime = opened.read(file.size + 1), os.fstat(opened.fileno()).st_mtime_ns
    except OSError as error:
        raise _gone(path, error) from error
    if (len(data), mtime) != (file.size, file.mtime):
        raise DataError(f"{path!r}: changed since it was listed (then {file.size} bytes); start again.")
    rgb_u8 = decode(data, path, exif=settings.exif, max_megapixels=settings.max_megapixels)
    return fit(rgb_u8, settings.image_size, settings.crop_share, settings.interpolation)
