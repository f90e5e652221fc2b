"""What headers and names cannot tell of files: whether they are whole, unchanged, and in the data only once."""

import collections
import hashlib
import os
import re
from collections.abc import Callable, Hashable, Iterable, Sequence

from infoutil_jax.errors import DataError
from infoutil_jax.progress import warn

SUMS = "SHA256SUMS"
SUM = re.compile(rb"(\\?)([0-9a-f]{64}) [ *](.+)")
ESCAPED = {b"n": b"\n", b"r": b"\r"}  # in names of lines that begin with a backslash
NAMED = 3  # names in a warning
ENDS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND\xaeB`\x82"), (b"GIF8", b"\0;"))  # JPEG, PNG, GIF


def ends_whole(head: bytes, tail: bytes, size: int) -> bool:
    """Whether a file of `size` bytes ends where its format says (of a cut one: once in 65,536); else only decoding it
    can tell, as of a BMP and of a JPEG with something behind its end. `head`: 12 bytes, `tail`: 12 or more."""
    if head.startswith(b"RIFF"):  # WEBP says how long it is
        return int.from_bytes(head[4:8], "little") + 8 <= size
    return any(head.startswith(start) and tail.endswith(end) for start, end in ENDS)


def read_sums(folder: str) -> dict[str, str]:
    """SHA-256 by file name below `folder`, out of its file SHA256SUMS as sha256sum writes it; {} where there is none.

    Raises DataError for a line of another form.
    """
    path, sums = os.path.join(folder, SUMS), {}
    if not os.path.isfile(path):
        return sums
    with open(path, "rb") as file:
        for number, line in enumerate(file.read().split(b"\n"), start=1):
            found = SUM.fullmatch(line)
            if line and not found:
                raise DataError(f"{path!r}, line {number}: not a SHA-256, two spaces and a name; mend or remove it.")
            if found:
                mark, sha256, name = found.groups()
                name = re.sub(rb"\\(.)", lambda c: ESCAPED.get(c[1], c[1]), name) if mark else name
                sums[os.path.normpath(os.fsdecode(name))] = sha256.decode()
    return sums


def sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copies(keys: Sequence[Hashable], digests: Callable[[list[int]], Iterable[str]]) -> list[list[int]]:
    """Groups of rows with the same content: of equal `keys`, which are cheap, and then of equal `digests`, which are
    asked of these rows alone."""
    suspects = sorted(row for rows in _groups(range(len(keys)), keys) for row in rows)
    return _groups(suspects, dict(zip(suspects, digests(suspects), strict=True)))


def _groups(rows: Iterable[int], key_of) -> list[list[int]]:
    groups = collections.defaultdict(list)
    for row in rows:
        groups[key_of[row]].append(row)
    return [group for group in groups.values() if len(group) > 1]


def warn_of_copies(groups: list[list[int]], labels: Sequence[int], ids: Sequence[str], n_train: int) -> None:
    """Warns of rows with the same content: rows from `n_train` on are of the validation split."""
    leaks, unsure, extra = [], [], []
    for first, *others in groups:
        other_label = [row for row in others if labels[row] != labels[first]]
        unsure += [(row, first) for row in other_label]
        leaks += [(row, first) for row in others if first < n_train <= row]
        extra += [(row, first) for row in others if row not in other_label and (row < n_train) == (first < n_train)]
    for pairs, remark in (
        (leaks, "validation images are training images, too: accuracies are too high"),
        (unsure, "images are copies of one with another label"),
        (extra, "images are copies of another of their split and class"),
    ):
        warn_of(remark, [f"{ids[row]} = {ids[first]}" for row, first in pairs])


def warn_of(remark: str, names: Sequence[str]) -> None:
    """One warning for all `names`: how many, and the first three; none where there are none."""
    if names:
        more = ", ..." if len(names) > NAMED else ""
        warn(f"{len(names)} {remark}: {', '.join(map(repr, names[:NAMED]))}{more}")
