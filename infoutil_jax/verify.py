"""`python main.py verify DIR`: reads again all that a run keeps and lists what is not what was written.

DIR is a distilled set, a workdir or a folder of artifacts. Nothing is changed. Something absent that the next run makes
by itself is no fault.
"""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

from infoutil_jax import records, results, store, tfrecord
from infoutil_jax.checkpoints import Checkpoints
from infoutil_jax.errors import CorruptArtifact, DataError
from infoutil_jax.findings import Group, entries, plural, printable, unreadable
from infoutil_jax.pipeline import DATA, RECORD
from infoutil_jax.progress import say
from infoutil_jax.provenance import HISTORY
from infoutil_jax.settings import METHODS

STAGES = ("teacher", "attribute", "score", "evaluate")  # folders of artifacts
FOR_PEOPLE = ("results.json", "report.html")
SET_CHECKS = "manifest, names, metadata, CRCs, counts, SHA-256, content, origin"


def run(path: Path) -> int:
    """Prints what was checked, group by group, with every fault -> 0, 5 for a fault, or 3 where a set is unfinished.

    Raises DataError where there is nothing to verify.
    """
    began, total = time.monotonic(), Group("all", "")
    for group in _groups(Path(path)):
        for line in group.lines():
            say(printable(line))
        for field in ("n_files", "n_records", "n_bytes", "faults", "unfinished"):
            setattr(total, field, getattr(total, field) + getattr(group, field))
    found = [plural(len(total.faults), "fault")] + [f"{len(total.unfinished)} unfinished"] * bool(total.unfinished)
    say(f"checked {total.size} in {time.monotonic() - began:.1f} s: {', '.join(found)}")
    return CorruptArtifact.exit_code if total.faults else DataError.exit_code if total.unfinished else 0


def _groups(path: Path) -> Iterator[Group]:
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if {records.MANIFEST, *records.METADATA} & names or any(".tfrecord" in name for name in names):
        yield _set(path, path.resolve().name, *_run_of(path))
    elif {RECORD, "distilled"} & names:
        yield from _workdir(path)
    elif set(STAGES) & names:
        yield from _artifacts(path)
    else:
        raise DataError(f"{path}: holds no distilled set, run or artifacts; give the folder of one of these.")


def _run_of(directory: Path) -> tuple[Path | None, str]:
    """The workdir that a set lies in and its method there; (None, '') elsewhere."""
    directory = directory.resolve()
    for workdir in directory.parents[:2]:
        if (workdir / RECORD).exists():
            return workdir, dict(_sets_of(workdir, _config(workdir, Group("", "")))).get(directory, "")
    return None, ""


# A workdir


def _workdir(path: Path) -> Iterator[Group]:
    own = Group(path.resolve().name, "SHA-256")
    config = _config(path, own)
    known = {RECORD, "distilled", "controls", "shards", "artifacts"}
    for entry in entries(path, own):
        if entry.match("timing*.json") or entry.name in (DATA, HISTORY):
            own.read(entry)
        elif entry.name in FOR_PEOPLE:
            own.notes.append(f"{entry}: for people, not checked")
        elif entry.name not in known:
            own.notes.append(f"{entry}: no file of a run")
    yield own
    for directory, method in _sets_of(path, config):
        yield _set(directory, f"{directory.relative_to(path)} ({method})", path, method)
    if (path / "artifacts").is_dir():
        yield from _artifacts(path / "artifacts")


def _config(workdir: Path, group: Group) -> dict | None:
    config = group.read(workdir / RECORD)
    if config is not None and "methods" not in config:
        group.faults.append(f"{workdir / RECORD}: no config of a run")
        return None
    return config


def _sets_of(path: Path, config: dict | None) -> list[tuple[Path, str]]:
    """Folder and method of every set that a run has or will have."""
    if config:
        first, *others = config["methods"]
        return [(path / "distilled", first), *((path / "controls" / method, method) for method in others)]
    controls = sorted((path / "controls").glob("*"))
    return [(path / "distilled", "method unknown"), *((directory, directory.name) for directory in controls)]


# A distilled set


def _set(directory: Path, name: str, workdir: Path | None, method: str = "") -> Group:
    """A set, with the lines of its shards where it lies in a workdir."""
    group = Group(name, SET_CHECKS)
    lines = _lines(workdir / "shards" / method, group) if workdir and method else {}
    try:
        if (directory / records.MANIFEST).exists():
            _finished(directory, group, workdir, method, lines)
        else:
            _unfinished(directory, group, lines)
    except (CorruptArtifact, OSError) as error:
        group.faults.append(unreadable(getattr(error, "filename", None) or directory, error))
    return group


def _lines(folder: Path, group: Group) -> dict[str, list[dict]]:
    """The lines of finished shards, by the shard's name; several where the set was begun more than once."""
    lines = {}
    for path in (path for begun in sorted(folder.glob("*/")) for path in entries(begun, group)):
        line = group.read(path)
        if line is None:
            continue
        if "file" in line and f"tfrecord-{path.stem:0>5}-of-" in line["file"]:
            lines.setdefault(line["file"], []).append(line)
        else:
            group.faults.append(f"{path}: not the line of shard {path.stem}")
    return lines


def _finished(directory: Path, group: Group, workdir: Path | None, method: str, lines: dict) -> None:
    path, seen, twins = directory / records.MANIFEST, {}, []
    for entry in entries(directory, group):
        if entry.name in (records.MANIFEST, *records.METADATA) or ".tfrecord" in entry.name:
            group.count(entry)
        else:
            group.notes.append(f"{entry}: no file of a set")
    manifest = records.read_manifest(directory)

    def look(shard, number, example):
        group.n_records += 1
        here, pixels = f"{shard.name} record {number}", hashlib.sha256(example.image_u8.tobytes()).digest()
        if (first := seen.setdefault(pixels, here)) != here:
            twins.append(f"{here} = {first}")

    group.faults += [f"{where}: {text}" for where, text in records.faults(directory, look)]
    if twins:
        group.notes.append(f"{plural(len(twins), 'image')} more than once: {', '.join(twins[:5])}")
    for line in manifest["shards"]:
        if line not in lines.get(line["file"], [line]):
            group.faults.append(f"{path}: {line['file']} is not the shard of that name that this run finished")
    if workdir:
        group.faults += [f"{path}: {text}" for text in _foreign_origin(manifest, workdir, method)]
    if manifest["format"] == 1:
        group.notes.append(f"{path}: format 1, which holds no SHA-256 of the manifest itself")


def _unfinished(directory: Path, group: Group, lines: dict) -> None:
    """Until there is a manifest, only the lines tell what was finished."""
    found = entries(directory, group) if directory.is_dir() else ()
    shards = {entry.name for entry in found if ".tfrecord" in entry.name}
    owners = {line["sha256"]: name for name, same in lines.items() for line in same}
    for name in sorted(lines):
        path, *_, last = directory / name, *lines[name]
        if name not in shards:
            group.faults.append(f"{path}: missing shard, it was finished")
            continue
        group.count(path)
        whole = any(tfrecord.sha256(path) == line["sha256"] for line in lines[name])
        faults = [] if whole else records.shard_faults(path, last, owners)
        group.faults += [f"{where}: {text}" for where, text in faults]
    done = f"{plural(len(shards), 'shard')}, {plural(len(lines), 'line')} of finished ones, no {records.MANIFEST}"
    group.unfinished.append(f"{directory}: {done}; run the same command again, it goes on from there")


def _foreign_origin(manifest: dict, workdir: Path, method: str) -> Iterator[str]:
    """In what a manifest tells of another run than the one whose workdir it lies in."""
    config = _config(workdir, Group("", ""))
    if config is None:
        return  # reported where the file is checked
    if manifest.get("method") not in ([method] if method else METHODS):
        yield f"a set of {manifest.get('method')}, not of {method or 'a method'}"
        return
    due = {section: config[section] | fields for section, fields in METHODS[manifest["method"]].items()}
    for difference in results.differences(config | due, manifest["config"]):
        yield f"of another run than {workdir / RECORD}: {difference}"
    data = Group("", "").read(workdir / DATA) if (workdir / DATA).exists() else None
    made_of = manifest.get("data", {}).get("content_id")
    if data and data["content_id"] != made_of:
        yield f"of other images than {workdir / DATA}: content {made_of}, not {data['content_id']}"
    for which, teacher in manifest["teacher"].items():
        if which in ("early", "converged") and "epoch" in teacher:  # others come from files outside
            paths = workdir.glob(f"artifacts/teacher/*/snapshots/{teacher['epoch']}.sha256")
            kept = {path: path.read_text()[:64] for path in paths if not _step_faults(path)}
            if kept and teacher["sha256"] not in kept.values():
                yield f"the {which} teacher (SHA-256 {teacher['sha256']}) is not {', '.join(map(str, kept))}"


# Artifacts


def _artifacts(folder: Path) -> Iterator[Group]:
    name = folder.resolve().name
    loose = Group(name, "SHA-256")
    for entry in entries(folder, loose):
        if entry.name in STAGES:
            group = Group(f"{name}/{entry.name}", "SHA-256")
            _below(entry, group)
            yield group
        else:
            loose.notes.append(f"{entry}: no artifact")
    if loose.notes:
        yield loose


def _below(folder: Path, group: Group) -> None:
    for entry in entries(folder, group):
        if entry.suffix == ".sha256":
            _checkpoint(entry, group)
        elif entry.is_dir() and not entry.is_symlink():
            if not entry.with_suffix(".sha256").exists():
                if (entry / "default").exists():
                    group.notes.append(f"{entry}: a save that was interrupted, nothing reads it")
                else:
                    _below(entry, group)
        elif entry.suffix == ".json":
            group.read(entry)
        elif entry.suffix == ".npz":
            group.read(entry, store.load_arrays)
        else:
            group.notes.append(f"{entry}: no artifact")


def _checkpoint(hash_file: Path, group: Group) -> None:
    """One step: DIRECTORY/STEP.sha256 and DIRECTORY/STEP."""
    folder = hash_file.with_suffix("")
    if not (folder.is_dir() and folder.name.isdecimal()):
        group.notes.append(f"{hash_file}: its checkpoint is gone, nothing reads it")
        return
    for path in [hash_file, *sorted(path for path in folder.rglob("*") if path.is_file())]:
        group.count(path)
    group.faults += _step_faults(hash_file)


def _step_faults(hash_file: Path) -> list[str]:
    folder = hash_file.with_suffix("")
    faults = Checkpoints(folder.parent).faults(int(folder.name))
    return [f"{folder.parent if fault.startswith(hash_file.name) else folder}/{fault}" for fault in faults]
