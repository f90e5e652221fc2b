"""The distilled sets of a run: a shard for every class and method and, when all are there, a manifest for each set."""

import functools
import re
import shlex
import sys
from pathlib import Path

from infoutil_jax import distil, processes, provenance, records, results, store, tfrecord
from infoutil_jax.clock import CLOCK
from infoutil_jax.data.batches import load_ahead
from infoutil_jax.errors import CorruptArtifact, DataError
from infoutil_jax.processes import WHOLE, Part
from infoutil_jax.progress import say, track
from infoutil_jax.rate import accounting
from infoutil_jax.settings import Config, for_method
from infoutil_jax.stages import attribute

NAMED = 10  # classes of a part that a message names


def directories(config: Config, workdir: Path) -> dict[str, Path]:
    """Where each method's set lies: WORKDIR/distilled for the first, WORKDIR/controls/METHOD for the others."""
    return {name: workdir / (f"controls/{name}" if i else "distilled") for i, name in enumerate(config.methods)}


def finished(config: Config, workdir: Path) -> bool:
    """Whether every set has its manifest."""
    return all((directory / records.MANIFEST).exists() for directory in directories(config, workdir).values())


def write_sets(
    config: Config, dataset, teacher, workdir: Path, artifacts: Path, shard: Part = WHOLE, *, join: bool = False
) -> dict[str, Path]:  # fmt: skip
    """Writes the distilled set of every method -> `directories`.

    Of several processes each writes the shards of its classes, and the first, when all have said what they wrote and
    that is what lies there, the manifests; the others return {}, and so does a part of a run (`shard`). With `join`
    all shards must be there: DataError otherwise. Raises CorruptArtifact where a shard is no longer what was written.
    """
    methods, outputs = _methods(config, dataset, teacher, workdir, artifacts)
    classes, part = range(len(dataset.class_names)), processes.here() if shard.whole else shard
    lines = _lines(outputs, part.of(classes))
    missing = [label for label, of_class in lines.items() if None in of_class.values()]
    if join and missing:
        raise _unfinished(workdir, dataset.class_names, missing)
    _write(config, dataset.train, methods, outputs, lines, missing, "distil" if part.whole else f"distil, part {part}")
    if not shard.whole:
        say(f"part {shard}: its {len(lines)} classes are finished; when all parts are, run: {_command('join')}")
        return {}
    written = processes.to_first("shards", store.fingerprint(lines))
    if part.index == 0:
        _finish(config, dataset, teacher, workdir, outputs, _checked(outputs, classes, part.count, written))
    processes.from_first("manifests", None)
    return {} if part.index else directories(config, workdir)


def _methods(config: Config, dataset, teacher, workdir: Path, artifacts: Path) -> tuple[dict, dict]:
    """method -> distil.Method, method -> distil.Output."""
    origin, coalitions = distil.origin(config, dataset), attribute.design(config.attribute, config.seed)
    methods, outputs = {}, {}
    for name, directory in directories(config, workdir).items():
        methods[name] = distil.Method(for_method(config, name), teacher, coalitions, artifacts, origin)
        lines = workdir / "shards" / name / methods[name].identity
        outputs[name] = distil.Output(directory, lines, _layout(methods[name].config, dataset))
    return methods, outputs


def _layout(config: Config, dataset) -> records.Layout:
    n_classes = len(dataset.class_names)
    name = re.sub("[^a-z0-9]+", "_", f"distilled {dataset.name}".lower()).strip("_")
    n_patches = config.compose.factor**2
    return records.Layout(name, dataset.class_names, n_classes, config.data.image_size, n_patches, n_classes)


def _lines(outputs: dict, classes) -> dict[int, dict]:
    """label -> method -> the manifest's line of its shard, None where that is not finished."""
    return {label: {name: distil.finished_line(output, label) for name, output in outputs.items()} for label in classes}


def _write(config: Config, split, methods: dict, outputs: dict, lines: dict, missing: list[int], title: str) -> None:
    """Makes the missing shards and their lines, class by class. A class's candidates are loaded while the class before
    is worked on."""
    if not missing:
        return
    loaded = load_ahead(functools.partial(distil.candidates, config, split), missing)
    with CLOCK.stage("distil"):
        for candidates in track(loaded, title, total=len(missing), unit="classes"):
            of_class = lines[candidates.label]
            for name, method in methods.items():
                of_class[name] = of_class[name] or distil.write_class(method, outputs[name], candidates)


def _checked(outputs: dict, classes, n_parts: int, written: dict[int, str]) -> dict[int, dict]:
    """All lines, read anew: they are those that each process wrote, and each shard has its SHA-256."""
    lines = {}
    for index, expected in written.items():
        found = _lines(outputs, Part(index, n_parts).of(classes))
        if store.fingerprint(found) != expected:
            way_out = "do all processes see one workdir? Run the same command again"
            raise CorruptArtifact(f"process {index}: its lines of shards are not those it wrote; {way_out}.")
        lines |= found
    for of_class in lines.values():
        for name, line in of_class.items():
            _check_shard(outputs[name].directory / line["file"], line["sha256"])
    return lines


def _check_shard(path: Path, sha256: str) -> None:
    """Raises CorruptArtifact, naming record and byte offset where a record tells, unless the shard has this hash."""
    if fault := tfrecord.hash_fault(path, sha256, "changed since it was written"):
        places = (tfrecord.at(record.number, record.offset, check) for record, check in tfrecord.scan(path) if check)
        raise tfrecord.corrupt(path, next(places, fault))


def _finish(config: Config, dataset, teacher, workdir: Path, outputs: dict, lines: dict[int, dict]) -> None:
    """The manifests. A finished set keeps the environments that it was made in and what its shards cost."""
    for name, output in outputs.items():
        shards = [of_class[name] for of_class in lines.values()]
        if (output.directory / records.MANIFEST).exists():
            before = records.read_manifest(output.directory)
            kept = {key: before[key] for key in ("environment", "also_made_in", "rate") if key in before}
        else:
            rate = accounting.of_shards(output.directory, output.layout, shards)
            kept = provenance.of_set(workdir) | {"rate": rate}
        manifest = {
            "method": name,
            "config": results.plain(for_method(config, name)),
            "data": {"name": dataset.name, "content_id": dataset.content_id},
            "teacher": teacher.record,
            "label_teacher": config.label.teacher,
            **kept,
        }
        records.finish(output.directory, output.layout, shards, manifest)


# Parts


def require_begun(config: Config, class_names, workdir: Path) -> None:
    """Raises DataError when there are classes without any line of a shard: nothing to join, whatever the teacher."""
    missing = [
        label for label in range(len(class_names))
        if not all(any(workdir.glob(f"shards/{name}/*/{label}.json")) for name in config.methods)
    ]  # fmt: skip
    if missing:
        raise _unfinished(workdir, class_names, missing)


def _unfinished(workdir: Path, class_names, missing: list[int]) -> DataError:
    seen = [entry["part"] for entry in provenance.history(workdir)]
    n_parts = max((int(part.split("/")[1]) for part in seen), default=1)
    parts, lines = sorted({label % n_parts for label in missing}), []
    for index in parts:
        names = [class_names[label] for label in missing if label % n_parts == index]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        command = _command() if n_parts == 1 else _command(f"--shard={index}/{n_parts}")
        lines.append(f"of part {index}/{n_parts}: {', '.join(names[:NAMED])}{more} (run: {command})")
    return DataError(f"{workdir}: {len(missing)} classes are not finished; {'; '.join(lines)}")


def _command(*more: str) -> str:
    """This command without `join` and with another part."""
    kept = [word for word in sys.argv[1:] if word != "join" and not word.lstrip("-").startswith("shard=")]
    return shlex.join(["python", sys.argv[0], *more, *kept])
