"""Artifacts on disk. Whatever lies under its final name is complete, and is checked when it is read again."""

import hashlib
import io
import json
import os
import time
from pathlib import Path

import jax
import numpy as np

from infoutil_jax.errors import CorruptArtifact, EnvironmentFault


def fingerprint(*parts) -> str:
    """16 hex digits of the canonical JSON of `parts`: equal parts, equal name. TypeError for what JSON cannot hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def write_bytes(path: Path, data: bytes) -> None:
    """Writes under a temporary name, syncs and renames: the file is whole or absent."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if path.parent.is_dir():
            partial.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> EnvironmentFault:
    reason = error.strerror or error
    return EnvironmentFault(f"{path}: cannot be written ({reason}); free the space or choose another --workdir.")


def write_json(path: Path, value) -> None:
    write_bytes(path, json.dumps(value, indent=1, sort_keys=True).encode())


def read_json(path: Path):
    """Raises CorruptArtifact when the file does not parse."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise CorruptArtifact(f"{path}: not valid JSON ({error}); delete it to have it made again.") from error


def save_arrays(path: Path, arrays: dict) -> None:
    """An .npz of arrays followed by its SHA-256 (32 bytes)."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    data = buffer.getvalue()
    write_bytes(path, data + hashlib.sha256(data).digest())


def load_arrays(path: Path) -> dict | None:
    """The arrays, None when there is no such file; raises CorruptArtifact when its SHA-256 does not fit."""
    path = Path(path)
    if not path.exists():
        return None
    content = path.read_bytes()
    data, digest = content[:-32], content[-32:]
    if hashlib.sha256(data).digest() != digest:
        raise CorruptArtifact(f"{path}: SHA-256 does not match what was written; delete it to have it made again.")
    with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)


def cached(path: Path, record, compute):
    """`record` (a NamedTuple type) of the arrays at `path`; without such a file compute() gives it and it is saved."""
    arrays = load_arrays(path)
    if arrays is None:
        arrays = compute()._asdict()
        save_arrays(path, arrays)
    return record(**arrays)


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
            raise _cannot_write(path, error) from error
    raise EnvironmentFault(f"{root}: a thousand runs named {stem}; choose a --workdir.")


def tree_hash(tree) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of a pytree's leaves: the fingerprint of weights."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


class Checkpoints:
    """Orbax checkpoints of one pytree by step, each with our own SHA-256 beside it (orbax misses flipped bits)."""

    def __init__(self, directory: Path, keep: int | None = None):
        import orbax.checkpoint as ocp

        self._ocp, self._directory = ocp, Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def _hash_file(self, step: int) -> Path:
        return self._directory / f"{step}.sha256"

    def save(self, step: int, tree) -> None:
        """Saves `tree`, the hash last: what an interrupted save left is replaced, a complete step is kept."""
        if step in self.steps():
            return
        tree = jax.tree.map(np.asarray, tree)
        try:
            if step in self._manager.all_steps():
                self._manager.delete(step)
            # without force, a step below the latest is left out in silence
            self._manager.save(step, args=self._ocp.args.StandardSave(tree), force=True)
        except OSError as error:
            raise _cannot_write(self._directory / str(step), error) from error
        write_bytes(self._hash_file(step), tree_hash(tree).encode())

    def steps(self) -> list[int]:
        """Steps whose save was completed, oldest first."""
        return sorted(s for s in self._manager.all_steps() if self._hash_file(s).exists())

    def restore(self, step: int, like):
        """The tree saved at `step`, in the structure of `like`; raises CorruptArtifact when its bytes changed."""
        like = jax.tree.map(np.asarray, like)
        try:
            tree = self._manager.restore(step, args=self._ocp.args.StandardRestore(like))
        except (ValueError, OSError, KeyError) as error:
            raise self._corrupt(step, f"cannot be restored ({error})") from error
        tree = jax.tree.map(np.asarray, tree)
        if tree_hash(tree) != self._hash_file(step).read_text():
            raise self._corrupt(step, "the weights' SHA-256 changed on disk")
        return tree

    def _corrupt(self, step: int, fault: str) -> CorruptArtifact:
        return CorruptArtifact(f"{self._directory}/{step}: {fault}; delete that folder to train again.")

    def close(self) -> None:
        self._manager.close()
