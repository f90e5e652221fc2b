"""Artifacts on disk. Whatever lies under its final name is complete, and is checked when it is read again."""

import contextlib
import hashlib
import io
import itertools
import json
import os
import time
from pathlib import Path

import jax
import numpy as np

from infoutil_jax import durable
from infoutil_jax.errors import CorruptArtifact, EnvironmentFault
from infoutil_jax.progress import warn

_CHANGED = "SHA-256 does not match what was written here"
_MEND = "restore it from a copy, or delete it to have it made again"


def fingerprint(*parts) -> str:
    """16 hex digits of the canonical JSON of `parts`: equal parts, equal name. TypeError for what JSON cannot hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def write_bytes(path: Path, data: bytes) -> None:
    """The file is whole or absent (`durable.write`, with its errors)."""
    durable.write(path, [data])


def write_plain_json(path: Path, value) -> None:
    """JSON for people and other programs; nothing of ours reads it back."""
    write_bytes(path, json.dumps(value, indent=1, sort_keys=True).encode())


def place(path: Path) -> bytes:
    """An artifact's folder and name, one of which is its fingerprint; those above may be moved."""
    return os.fsencode("/".join(Path(path).absolute().parts[-2:]))


def write_json(path: Path, value, *, artifact: bool = False) -> None:
    """JSON that a later stage or run reads, sealed: {"content": value, "sha256": of the canonical JSON of value}, and
    of its `place` where it is an `artifact`, which is valid nowhere else."""
    write_bytes(path, _sealed(json.loads(json.dumps(value)), place(path) if artifact else b""))


def _sealed(content, of: bytes = b"") -> bytes:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode() + of).hexdigest()
    return json.dumps({"content": content, "sha256": digest}, indent=1, sort_keys=True).encode()


def read_json(path: Path, *, mend: str = _MEND):
    """What `write_json` wrote. Raises CorruptArtifact, with `mend` as the way out, when any byte of it is another, or
    when it is an artifact of another place."""
    data = Path(path).read_bytes()
    try:
        content = json.loads(data)["content"]
        whole = data in (_sealed(content), _sealed(content, place(path)))
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise CorruptArtifact(f"{path}: {_CHANGED}; {mend}.")
    return content


def save_arrays(path: Path, arrays: dict) -> None:
    """An artifact: an .npz of arrays followed by the SHA-256 (32 bytes) of it and its `place`."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    data = buffer.getvalue()
    write_bytes(path, data + hashlib.sha256(data + place(path)).digest())


def load_arrays(path: Path) -> dict | None:
    """The arrays, None when there is no such file; raises CorruptArtifact when its SHA-256 does not fit. That of files
    of earlier versions is without the place."""
    path = Path(path)
    if not path.exists():
        return None
    content = path.read_bytes()
    data, digest = content[:-32], content[-32:]
    if digest not in (hashlib.sha256(data + of).digest() for of in (place(path), b"")):
        raise CorruptArtifact(f"{path}: {_CHANGED}; {_MEND}.")
    with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)


def set_aside(path: Path) -> None:
    """Renames a damaged file or folder to NAME.damaged[-n], with a warning: it is no artifact any more."""
    names = (f"{path.name}.damaged" + (f"-{n}" if n > 1 else "") for n in itertools.count(1))
    kept = next(name for name in names if not path.with_name(name).exists())
    with contextlib.suppress(FileNotFoundError):  # another run was quicker
        path.rename(path.with_name(kept))
    warn(f"{path}: {_CHANGED}; set aside as {kept}")


def undamaged(read, path: Path):
    """read(path) of an artifact that can be made again: None when it is absent, or damaged and now set aside."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except CorruptArtifact:
        set_aside(path)
        return None


def cached(path: Path, record, compute):
    """`record` (a NamedTuple type) of the arrays at `path`; without a whole file compute() gives it and it is saved."""
    arrays = undamaged(load_arrays, path)
    if arrays is None:
        arrays = compute()._asdict()
        save_arrays(path, arrays)
    return record(**arrays)


def cached_json(path: Path, compute):
    """The value sealed at `path`; without a whole file compute() gives it and it is saved."""
    if undamaged(read_json, path) is None:
        write_json(path, compute(), artifact=True)
    return read_json(path)


def new_workdir(root: Path, name: str) -> Path:
    """A fresh directory `root/name-YYYYmmdd-HHMMSS[-n]`."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    for suffix in ["", *(f"-{i}" for i in range(2, 1000))]:
        path = Path(root) / (stem + suffix)
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise durable.cannot_write(path, error) from error
    raise EnvironmentFault(f"{root}: a thousand runs named {stem}; choose a --workdir.")


def tree_hash(tree) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of a pytree's leaves: the fingerprint of weights."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
