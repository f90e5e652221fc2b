"""What a check of files finds, and how it is printed."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from infoutil_jax import durable, guard, store
from infoutil_jax.errors import CorruptArtifact


@dataclasses.dataclass
class Group:
    """Files that belong together, and what was found in them."""

    name: str
    checks: str
    n_files: int = 0
    n_records: int = 0
    n_bytes: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)
    unfinished: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def count(self, path: Path) -> None:
        """`path` was read."""
        self.n_files += 1
        self.n_bytes += path.stat().st_size

    def read(self, path: Path, reader=store.read_json):
        """What a file holds; None where it is missing or damaged, which is a fault."""
        try:
            self.count(path)
            return reader(path)
        except (CorruptArtifact, OSError) as error:
            self.faults.append(unreadable(path, error))
        return None

    @property
    def size(self) -> str:
        """How much was read."""
        n_records = [plural(self.n_records, "record")] * bool(self.n_records)
        return ", ".join([plural(self.n_files, "file"), *n_records, plural(self.n_bytes, "byte")])

    def lines(self) -> list[str]:
        """What is printed: a line for the group, one for each finding."""
        verdict = "unfinished" if self.unfinished else "as written"
        verdict = plural(len(self.faults), "fault") if self.faults else verdict
        found = [("FAULT", self.faults), ("unfinished", self.unfinished), ("note", self.notes)]
        size = f"{self.size} ({self.checks})" if self.n_files else "no files"
        return [f"{self.name}: {size}: {verdict}", *(f"  {kind}: {text}" for kind, texts in found for text in texts)]


def unreadable(path: Path, error: CorruptArtifact | OSError) -> str:
    """A fault's text."""
    return str(error) if isinstance(error, CorruptArtifact) else f"{path}: cannot be read ({error.strerror})"


def entries(folder: Path, group: Group) -> Iterator[Path]:
    """What lies in a folder, without locks and what interrupted or damaged writes left, which is noted."""
    for entry in sorted(folder.iterdir()):
        if re.search(r"\.damaged(-\d+)?$", entry.name):
            group.notes.append(f"{entry}: set aside as damaged, nothing reads it")
        elif entry.name.startswith(durable.TEMPORARY) or ".orbax-checkpoint-tmp" in entry.name:
            group.notes.append(f"{entry}: left by an interrupted write, nothing reads it")
        elif not entry.name.startswith(guard.LOCK):
            yield entry


# Text


def plural(n: int, noun: str) -> str:
    """'1 file', '1,000 files'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def printable(text: str) -> str:
    """Names of files and what they hold are written by others: nothing in them may move a terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
