"""Checkpoints: Orbax writes them, our own SHA-256 tells whether they are still what was written."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import jax
import numpy as np

from infoutil_jax import durable, store
from infoutil_jax.errors import CorruptArtifact

SECONDS = 120.0  # between two saves of a training
SHARE = 0.01  # most of a training's time that its saves may take; where they are slow there are fewer


def _orbax():
    """Orbax, and its reader and writer of one folder; it waits for no other process."""
    import orbax.checkpoint as ocp

    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(this, active_processes={this}, barrier_sync_key_prefix=f"process{this}")
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp, ocp.Checkpointer(handler, multiprocessing_options=alone)


class Checkpoints:
    """Checkpoints of pytrees by step: DIRECTORY/STEP/default as Orbax writes it and, last, DIRECTORY/STEP.sha256.

    A step without both is a save that was interrupted; the next save removes it. One process saves at a time
    (guard.owned), any number may read. With `keep`, a save removes all but the last `keep` steps up to its own.
    """

    def __init__(self, directory: Path, keep: int | None = None):
        self.directory, self._keep = Path(directory).absolute(), keep

    def _folder(self, step: int) -> Path:
        return self.directory / str(step)

    def _hash_file(self, step: int) -> Path:
        return self.directory / f"{step}.sha256"

    def _place(self, step: int) -> bytes:
        """What a step is valid for: its number and the two folders above, one of which is a fingerprint."""
        return os.fsencode("/".join(self._folder(step).parts[-3:]))

    def steps(self) -> list[int]:
        """Steps whose save was completed, oldest first."""
        steps = (int(path.stem) for path in self.directory.glob("*.sha256") if path.stem.isdecimal())
        return sorted(step for step in steps if self._folder(step).is_dir())

    def save(self, step: int, tree) -> None:
        """Saves `tree`, the hashes last; a complete step is left as it is. Raises EnvironmentFault where it cannot."""
        if step in self.steps():
            return
        tree = jax.tree.map(np.asarray, tree)
        ocp, orbax = _orbax()
        try:
            self._remove_unfinished()
            durable.make_folder(self._folder(step))
            orbax.save(self._folder(step) / "default", args=ocp.args.StandardSave(tree))
            durable.sync_below(self._folder(step))
        except Exception as error:  # on a full disk a ValueError
            shutil.rmtree(self._folder(step), ignore_errors=True)
            reason = error if isinstance(error, OSError) else OSError(_one_line(error))
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
            raise durable.cannot_write(self._folder(step), reason, needed) from error
        lines = [store.tree_hash(tree), *(f"{digest}  {name}" for name, digest in _hashes(self._folder(step)).items())]
        store.write_bytes(self._hash_file(step), "\n".join([*lines, _sha256_of(lines, self._place(step))]).encode())
        if self._keep:
            for old in [other for other in self.steps() if other <= step][: -self._keep]:
                self._hash_file(old).unlink()
                shutil.rmtree(self._folder(old), ignore_errors=True)

    def _remove_unfinished(self) -> None:
        complete = {str(step) for step in self.steps()}
        for path in self.directory.glob("*"):
            if path.name.isdecimal() and path.name not in complete:
                shutil.rmtree(path, ignore_errors=True)

    def restore(self, step: int, like):
        """The tree saved at `step` as numpy, in the structure of `like`; raises CorruptArtifact unless it is what was
        saved, bit for bit."""
        like = jax.tree.map(np.asarray, like)
        ocp, orbax = _orbax()
        try:
            faults = self.faults(step)
            if faults:
                raise ValueError("; ".join(faults))
            tree = orbax.restore(self._folder(step) / "default", args=ocp.args.StandardRestore(like))
            tree = jax.tree.map(np.asarray, tree)
            if store.tree_hash(tree) != self._written(step)[0]:
                raise ValueError("the weights' SHA-256 changed")
        except Exception as error:  # Orbax meets damaged files with errors of all kinds
            fault = f"{self._folder(step)}: not the checkpoint that was written ({_one_line(error)})"
            raise CorruptArtifact(f"{fault}; delete that folder to train again.") from error
        return tree

    def faults(self, step: int) -> list[str]:
        """What is wrong with the files of a step. `restore` looks first: Orbax never opens a file that changed."""
        try:
            expected, found = self._written(step)[1], _hashes(self._folder(step))
        except (OSError, ValueError) as error:
            return [f"{self._hash_file(step).name}: {_one_line(error)}"]
        changed = [name for name, digest in expected.items() if found.get(name) != digest]
        return [f"{name}: {'its SHA-256 changed' if name in found else 'it is gone'}" for name in changed]

    def _written(self, step: int) -> tuple[str, dict[str, str]]:
        """SHA-256 of the tree and of the files, by name, of a step; checkpoints of older versions list no files."""
        *lines, last = self._hash_file(step).read_text().split("\n")
        if not lines:
            return last, {}
        if last not in (_sha256_of(lines, self._place(step)), _sha256_of(lines)):  # earlier versions: without place
            raise ValueError("not what was written here")
        return lines[0], {name: digest for digest, name in (line.split("  ", 1) for line in lines[1:])}

    def get(self, step: int, like):
        """As `restore`, but None for a step that is not there, and for a damaged one, which is set aside."""
        if step not in self.steps():
            return None
        try:
            return self.restore(step, like)
        except CorruptArtifact:
            store.set_aside(self._folder(step))
            self._hash_file(step).unlink()
            return None

    def latest(self, like, up_to: int | None = None):
        """(step, tree) of the last good save, of those at `up_to` or before; None where there is none. Damaged ones
        after it are set aside."""
        for step in reversed(self.steps()):
            if up_to is None or step <= up_to:
                tree = self.get(step, like)
                if tree is not None:
                    return step, tree
        return None


class Saves(Checkpoints):
    """The whole state of a training in progress, by step; the last two saves are kept."""

    def __init__(self, directory: Path):
        super().__init__(directory, keep=2)
        self._last, self._gap = time.monotonic(), SECONDS

    def due(self) -> bool:
        """Whether it is time for a save."""
        return time.monotonic() - self._last >= self._gap

    def save(self, step: int, tree) -> None:
        began = time.monotonic()
        super().save(step, tree)
        self._last = time.monotonic()
        self._gap = max(SECONDS, (self._last - began) / SHARE)

    def remove(self) -> None:
        """What was trained is stored; nothing goes on from here."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its name there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _sha256_of(lines: list[str], place: bytes = b"") -> str:
    return hashlib.sha256("\n".join(lines).encode() + place).hexdigest()


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
