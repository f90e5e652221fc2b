"""The TFRecord container: framing and checksums, files that appear whole or not at all, and their checks.

A record is `uint64 length | masked CRC of the length | data | masked CRC of the data`, little endian, CRC being CRC-32C
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c

from infoutil_jax import durable
from infoutil_jax.errors import CorruptArtifact, DataError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_N_LENGTH_BYTES = 8
LOST = ("length CRC", "truncated")  # failed checks that end the reading of a file


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


class Fault(NamedTuple):
    """Something in a set that is not what was written."""

    path: Path
    text: str


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file in order, every checksum verified.

    Raises CorruptArtifact naming file, record, byte offset and the check that failed (`scan`). A file cut exactly
    between two records looks whole here; only a record count tells.
    """
    for record, check in scan(path):
        if check:
            raise corrupt_record(path, record.number, record.offset, check)
        yield record


def scan(path: Path) -> Iterator[tuple[Record, str]]:
    """Each record of a file with the check that it failed: `length CRC`, `data CRC`, `truncated` or none ('').

    The data of a record that failed is empty. After a check in LOST nothing tells where the next record begins.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        number, check = 0, ""
        while (offset := file.tell()) < size and check not in LOST:
            payload, check = _read_frame(file, size)
            yield Record(number, offset, payload), check
            number += 1


def _read_frame(file, size) -> tuple[bytes, str]:
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return b"", "truncated"
    length, length_crc = _HEADER.unpack(header)
    if masked_crc(header[:_N_LENGTH_BYTES]) != length_crc:
        return b"", "length CRC"
    if length + _FOOTER.size > size - file.tell():  # asked before reading: a false length must not ask for memory
        return b"", "truncated"
    payload = file.read(length)
    if masked_crc(payload) != _FOOTER.unpack(file.read(_FOOTER.size))[0]:
        return b"", "data CRC"
    return payload, ""


def corrupt_record(path: Path, number: int, offset: int, check: str) -> CorruptArtifact:
    """The error for one record that failed `check`, to be raised by the caller."""
    return corrupt(path, at(number, offset, check))


def at(number: int, offset: int, check: str) -> str:
    """A failed check with its place in the file."""
    return f"record {number} at byte {offset}: {check}"


def corrupt(path: Path, fault: str) -> CorruptArtifact:
    """The error for a file of a set that is not what was written, to be raised by the caller."""
    return CorruptArtifact(f"{path}: {fault}; restore the set from a copy, or write it again in a new directory")


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_once(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes a file that never appears half done (`durable.write`).

    A file that is already there is left alone when its content is the same; DataError is raised when it is not.
    """
    content = b"".join(chunks)
    if not path.exists():
        durable.write(path, [content])
    elif path.read_bytes() != content:
        raise DataError(f"{path}: exists with other content and is never overwritten; write in a new directory")


def names_off(directory: Path, names: list[str]) -> tuple[list[str], list[str]]:
    """The TFRecord files that are missing from a directory, and those that are extra in it."""
    found = {path.name for path in directory.iterdir() if ".tfrecord" in path.name}
    found = {name for name in found if not name.startswith(durable.TEMPORARY) and ".damaged" not in name}
    return sorted(set(names) - found), sorted(found - set(names))


def check_names(directory: Path, names: list[str]) -> None:
    """Raises CorruptArtifact listing the TFRecord files that are missing from a directory, or extra in it."""
    missing, extra = names_off(directory, names)
    if missing:
        raise corrupt(directory, f"missing shards: {', '.join(missing)}")
    if extra:
        raise corrupt(directory, f"extra shards, not of this set: {', '.join(extra)}")


def check_count(path: Path, n_found: int, n_expected: int) -> None:
    """Raises CorruptArtifact unless a file that was read to its end gave the expected number of records."""
    if n_found != n_expected:
        raise corrupt(path, count_fault(n_found, n_expected))


def count_fault(n_found: int, n_expected: int) -> str:
    """What a wrong number of whole records means."""
    cause = "truncated at the end of a record" if n_found < n_expected else "foreign shard, of another set"
    return f"record count: expected {n_expected}, found {n_found} ({cause})"


def hash_fault(path: Path, expected: str, cause: str) -> str:
    """'' where a file has the SHA-256 that was noted when it was written; else both hashes and the cause."""
    found = sha256(path) if path.exists() else "no file"
    return "" if found == expected else f"SHA-256: expected {expected}, found {found} ({cause})"
