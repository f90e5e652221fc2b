"""The TFRecord container: framing and checksums, files that appear whole or not at all, and their checks.

A record is `uint64 length | masked CRC of the length | data | masked CRC of the data`, little endian, CRC being CRC-32C
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
"""

import functools
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c

from infoutil_jax.errors import CorruptArtifact, DataError

TEMPORARY = ".tmp-"  # prefix of a file that is still being written
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_N_LENGTH_BYTES = 8


class Record(NamedTuple):
    """One record as it lies in a file: its number from 0, the byte offset of its frame, its data."""

    number: int
    offset: int
    payload: bytes


def masked_crc(data: bytes) -> int:
    """CRC-32C of `data`, rotated right by 15 bits plus a constant: the form in which TFRecord files hold it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """`payload` as one TFRecord record, 16 bytes longer."""
    length = struct.pack("<Q", len(payload))
    return length + _FOOTER.pack(masked_crc(length)) + payload + _FOOTER.pack(masked_crc(payload))


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file in order, every checksum verified.

    Raises CorruptArtifact naming file, record, byte offset and the check that failed: `length CRC`, `data CRC` or
    `truncated`. A file cut exactly between two records looks whole here; only a record count tells.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        number = 0
        while (offset := file.tell()) < size:
            payload = _read_frame(file, size, functools.partial(corrupt_record, path, number, offset))
            yield Record(number, offset, payload)
            number += 1


def _read_frame(file, size, fault) -> bytes:
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise fault("truncated")
    length, length_crc = _HEADER.unpack(header)
    if masked_crc(header[:_N_LENGTH_BYTES]) != length_crc:
        raise fault("length CRC")
    if length + _FOOTER.size > size - file.tell():  # asked before reading: a false length must not ask for memory
        raise fault("truncated")
    payload = file.read(length)
    if masked_crc(payload) != _FOOTER.unpack(file.read(_FOOTER.size))[0]:
        raise fault("data CRC")
    return payload


def corrupt_record(path: Path, number: int, offset: int, check: str) -> CorruptArtifact:
    """The error for one record that failed `check`, to be raised by the caller."""
    return corrupt(path, f"record {number} at byte {offset}: {check}")


def corrupt(path: Path, fault: str) -> CorruptArtifact:
    """The error for a file of a set that is not what was written, to be raised by the caller."""
    return CorruptArtifact(f"{path}: {fault}; restore the set from a copy, or write it again in a new directory")


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_once(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes a file that never appears half done: temporary name, fsync, rename.

    A file that is already there is left alone when its content is the same; DataError is raised when it is not.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        with open(temporary, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        if not path.exists():
            os.replace(temporary, path)
            sync(path.parent)
        elif sha256(path) != sha256(temporary):
            raise DataError(f"{path}: exists with other content and is never overwritten; write in a new directory")
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Asks the disk to keep a file, or the names in a directory, through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_names(directory: Path, names: list[str]) -> None:
    """Raises CorruptArtifact listing the TFRecord files that are missing from a directory, or extra in it."""
    found = {path.name for path in directory.iterdir() if ".tfrecord" in path.name}
    found = {name for name in found if not name.startswith(TEMPORARY)}
    if missing := sorted(set(names) - found):
        raise corrupt(directory, f"missing shards: {', '.join(missing)}")
    if extra := sorted(found - set(names)):
        raise corrupt(directory, f"extra shards, not of this set: {', '.join(extra)}")


def check_count(path: Path, n_found: int, n_expected: int) -> None:
    """Raises CorruptArtifact unless a file that was read to its end gave the expected number of records."""
    if n_found != n_expected:
        cause = "cut at the end of a record, or foreign" if n_found < n_expected else "foreign, of another set"
        raise corrupt(path, f"record count: expected {n_expected}, found {n_found} ({cause})")


def check_hash(path: Path, expected: str, *, fault: str) -> None:
    """Raises CorruptArtifact, saying `fault`, unless a file has the SHA-256 that was noted when it was written."""
    if (found := sha256(path) if path.exists() else "no file") != expected:
        raise corrupt(path, f"SHA-256: expected {expected}, found {found} ({fault})")
