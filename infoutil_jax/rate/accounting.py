"""What a distilled set costs in bits per class (bpc): every byte on disk in one part, and what others would count.

bpc = 8 * bytes / K. Letters: N images, H W image, k patches, K classes. docs/rate_utility.md says what is counted.
"""

import collections
import functools
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from infoutil_jax import records, tfrecord
from infoutil_jax.errors import DataError
from infoutil_jax.progress import say
from infoutil_jax.report import to_text
from infoutil_jax.stages import teacher as teacher_stage

PART_OF = {"image": "images", "label": "hard labels", "patch_logits": "soft labels"}  # the rest: where patches are from
PROVENANCE, PROTOBUF, TFRECORD = "provenance", "protobuf framing", "TFRecord framing"
METADATA, MANIFEST, OTHER = "metadata", "manifest", "other files"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif")  # of images in a folder that is no set of ours
LABEL_SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".safetensors")  # of what such folders have for soft labels
HEADER_BYTES = 24  # of the smallest container: magic and version, then N, K, H, k as uint32
_LENGTH_DELIMITED = 2  # protobuf's wire type


def pixels(n_values: int, n_classes: int) -> dict[str, float]:
    """Lines beside a set: its pixels as plain numbers, in bits per class. The literature counts float32, files start
    from uint8."""
    return {
        f"pixels as {np.dtype(t)}": network_bits(n_values, n_classes, 8 * t().itemsize) for t in (np.float32, np.uint8)
    }


def label_bits(labels_per_class: float, n_classes: int, bits_per_logit: int = 16) -> float:
    """Bits per class of soft labels of K logits each: one a patch where they are static, one a view where stored."""
    return labels_per_class * n_classes * bits_per_logit


def network_bits(n_values: int, n_classes: int, bits_per_value: int = 16) -> float:
    """Bits per class of a network that all classes share, as a shipped teacher is."""
    return n_values * bits_per_value / n_classes


def per_class(n_bytes: int, n_classes: int) -> float:
    return 8 * n_bytes / n_classes


def _varint(data, at: int) -> tuple[int, int]:
    """A protobuf integer and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(message):
    """(number, content) of the fields of a protobuf message that has length-delimited ones only."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 != _LENGTH_DELIMITED:
            raise ValueError(f"wire type {tag & 7}")
        size, at = _varint(message, at)
        yield tag >> 3, message[at : at + size]
        at += size


def record_parts(payload: bytes) -> dict[str, int]:
    """Bytes of a serialised `tf.train.Example` by part, summing to its length.

    A feature's bytes are its values as they lie there: a PNG, 4 a float, 1 to 10 an integer. Names, tags and lengths
    are protobuf framing.
    """
    parts = collections.Counter()
    for _, features in _fields(memoryview(payload)):  # Example.features
        for _, entry in _fields(features):  # Features.feature, a map
            content = dict(_fields(entry))  # 1 the name, 2 the Feature
            part = PART_OF.get(bytes(content[1]).decode(), PROVENANCE)
            for _, values in _fields(content[2]):  # its BytesList, FloatList or Int64List
                parts[part] += sum(len(value) for _, value in _fields(values))
    return parts + collections.Counter({PROTOBUF: len(payload) - parts.total()})


def shard_parts(directory: Path, shards: list[dict]) -> dict[str, int]:
    """Bytes of TFRecord files by part, given a manifest's lines of them. Raises CorruptArtifact naming files that are
    missing, file and byte of a record that is not whole, and a file that lost records."""
    parts = collections.Counter()
    tfrecord.check_names(directory, [shard["file"] for shard in shards])
    for shard in shards:
        path, payloads, number = directory / shard["file"], 0, -1
        for record in tfrecord.read_records(path):
            try:
                parts += record_parts(record.payload)
            except (ValueError, IndexError, KeyError) as error:
                raise tfrecord.corrupt_record(path, record.number, record.offset, f"no Example: {error}") from error
            payloads, number = payloads + len(record.payload), record.number
        tfrecord.check_count(path, number + 1, shard["records"])
        parts[TFRECORD] += path.stat().st_size - payloads
    return dict(parts)


def of_shards(directory: Path, layout: records.Layout, shards: list[dict]) -> dict:
    """The entry `rate` of a manifest, given its lines of shards: their bytes by part, and bits per class. A manifest
    cannot count itself: it and the metadata are in `report` alone."""
    parts = shard_parts(directory, shards)
    n_values, n_classes = sum(shard["records"] for shard in shards) * layout.image_size**2 * 3, layout.n_classes
    bits = {part: per_class(size, n_classes) for part, size in parts.items()}
    total = {"total": per_class(sum(parts.values()), n_classes)}
    return {"shard_bytes": parts, "bits_per_class": total | bits | pixels(n_values, n_classes)}


def _all_files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def report(directory, artifacts=None) -> dict:
    """What the files of a directory cost: `parts` (bytes, summing to `bytes`, all that is on disk there), `beside`
    (bits per class of what is not there or would be counted otherwise), `name`, `classes`, `images`.

    A directory without a manifest is taken for an imported set, CLASS/IMAGE files. `artifacts` is where the run's
    teachers lie, by default beside the set. Raises DataError for neither, CorruptArtifact for a damaged set.
    """
    directory = Path(directory)
    return _set_report(directory, artifacts) if (directory / records.MANIFEST).exists() else _folder_report(directory)


def find_sets(directory) -> list[Path]:
    """The sets of a run's working directory, or the directory itself."""
    directory = Path(directory)
    below = [directory / "distilled", *sorted(directory.glob("controls/*"))]
    return [path for path in below if (path / records.MANIFEST).exists()] or [directory]


def _set_report(directory: Path, artifacts) -> dict:
    manifest = records.read_manifest(directory)
    layout, shards = manifest["layout"], [shard["file"] for shard in manifest["shards"]]
    n_images, n_classes = sum(shard["records"] for shard in manifest["shards"]), layout["n_classes"]
    parts = collections.Counter(shard_parts(directory, manifest["shards"]))
    kinds = {records.MANIFEST: MANIFEST} | dict.fromkeys(records.METADATA, METADATA)
    for path in _all_files(directory):
        name = str(path.relative_to(directory))
        if name not in shards:
            parts[kinds.get(name, OTHER)] += path.stat().st_size
    beside = pixels(n_images * layout["image_size"] ** 2 * 3, n_classes)
    beside |= _minimal(parts["images"], n_images, layout["n_patches"], n_classes)
    beside |= _views(manifest, n_images, n_classes)
    beside |= _teacher(directory, manifest, artifacts)
    beside |= _container(manifest.get("container", {}), n_classes)
    return of_parts(manifest.get("method", layout["name"]), parts, n_images, n_classes, beside)


def _folder_report(directory: Path) -> dict:
    """An imported set: hard labels are the folders' names and cost nothing, arrays and tensors are its soft labels."""
    files = _all_files(directory)
    of_classes = [p for p in files if p.parent.parent == directory and not p.parent.name.startswith(".")]
    images = [p for p in of_classes if p.suffix.lower() in SUFFIXES]
    if not images:
        raise DataError(f"{directory}: neither a distilled set nor CLASS/IMAGE files; give the directory of either")
    size = lambda paths: sum(path.stat().st_size for path in paths)
    parts = {"images": size(images), "soft labels": size(p for p in files if p.suffix.lower() in LABEL_SUFFIXES)}
    parts[OTHER] = size(files) - sum(parts.values())
    n_classes = len({path.parent for path in images})
    return of_parts(directory.name, parts, len(images), n_classes, pixels(sum(map(_n_values, images)), n_classes))


def _n_values(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return image.width * image.height * 3
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: no readable image ({error}); mend or remove it") from error


def of_parts(name: str, parts: dict, n_images: int, n_classes: int, beside: dict) -> dict:
    """A report of sizes (bytes by part) and of lines beside them (bits per class by name)."""
    parts = {part: size for part, size in parts.items() if size}
    total = sum(parts.values())
    sizes = {"parts": parts, "bytes": total, "bits_per_class": per_class(total, n_classes)}
    return {"name": name, "classes": n_classes, "images": n_images, **sizes, "beside": beside}


def _minimal(image_bytes: int, n_images: int, n_patches: int, n_classes: int) -> dict[str, float]:
    """A container of what students read: header, images per class (which are the hard labels, images being in class
    order), a length per image, the same PNGs; with every patch's logits as float16, and without."""
    hard = per_class(HEADER_BYTES + 4 * n_classes + 4 * n_images + image_bytes, n_classes)
    soft = label_bits(n_images * n_patches / n_classes, n_classes)
    return {"least container, hard labels": hard, "soft labels as float16": soft, "least container, both": hard + soft}


def _views(manifest: dict, n_images: int, n_classes: int) -> dict[str, float]:
    epochs = manifest.get("config", {}).get("evaluate", {}).get("epochs")
    if not epochs:
        return {}
    return {f"stored views as float16, {epochs} epochs": label_bits(epochs * n_images / n_classes, n_classes)}


def _container(sizes: dict[str, int], n_classes: int) -> dict[str, float]:
    """The latent codec's file that a set was decoded from."""
    sizes = {f"{part} of its container": size for part, size in sizes.items() if size}
    named = sizes | ({"its container": sum(sizes.values())} if sizes else {})
    return {name: per_class(size, n_classes) for name, size in named.items()}


def _teacher(directory: Path, manifest: dict, artifacts) -> dict[str, float]:
    """The teacher that on-line labels ask for, were it shipped."""
    if "label_teacher" not in manifest:
        return {}
    which, settings = manifest["label_teacher"], manifest["config"]["teacher"]
    layout, seen = manifest["layout"], manifest["teacher"][manifest["label_teacher"]]
    n_classes = layout["n_classes"]
    count = n_network_values(settings["model"], settings["width"], n_classes, layout["image_size"])
    name = f"{which} teacher {settings['model']}"
    lines = {
        f"{name} as {kind}": network_bits(count, n_classes, bits) for kind, bits in (("float32", 32), ("bfloat16", 16))
    }
    weights = settings.get(f"{which}_weights") or settings.get("weights")
    stored = _stored_bytes(seen, weights, artifacts or _artifacts(directory))
    return lines | ({f"{name} as stored": per_class(stored, n_classes)} if stored else {})


@functools.lru_cache(maxsize=None)
def n_network_values(model: str, width: int, n_classes: int, side: int) -> int:
    """Numbers in a network's variables, statistics of its normalisation included."""
    network = teacher_stage.build_network(model, width, n_classes, (0.0,) * 3, (1.0,) * 3)
    return sum(leaf.size for leaf in jax.tree.leaves(teacher_stage.blank_variables(network, side)))


def _artifacts(directory: Path) -> Path:
    """Where a run keeps its teachers unless told otherwise: in its working directory, above the set."""
    above = directory.resolve().parents
    return next((path / "artifacts" for path in above[:2] if (path / "artifacts").exists()), above[0] / "artifacts")


def _stored_bytes(seen: dict, weights: str, artifacts) -> int:
    """Bytes of the file, or of the checkpoint, that holds a teacher; 0 where it is no more."""
    if weights:
        return Path(weights).stat().st_size if Path(weights).exists() else 0
    for measured in Path(artifacts).glob(f"teacher/*/epoch{seen['epoch']}.json"):
        if seen["sha256"] in measured.read_text():
            return sum(p.stat().st_size for p in _all_files(measured.parent / "snapshots" / str(seen["epoch"])))
    return 0


def describe(report: dict) -> str:
    """A report for the terminal: what is on disk, then what is not."""
    n_classes, total = report["classes"], report["bytes"]
    sizes = sorted(report["parts"].items(), key=lambda item: -item[1])
    body = [[p, f"{n:,}", f"{per_class(n, n_classes):,.1f}", f"{100 * n / total:.1f} %"] for p, n in sizes]
    body.append(["total on disk", f"{total:,}", f"{report['bits_per_class']:,.1f}", "100.0 %"])
    beside = [[name, f"{bits:,.1f}"] for name, bits in report["beside"].items()]
    on_disk = to_text(["part", "bytes", "bits per class", "share"], body)
    head = f"{report['name']}: {report['images']} images of {n_classes} classes"
    return f"{head}\n\n{on_disk}\n\n{to_text(['beside it', 'bits per class'], beside)}"


def rows(reports: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows for a page, in bits per class: a column per set."""
    columns = []
    for r in reports.values():
        bits = {part: per_class(size, r["classes"]) for part, size in r["parts"].items()}
        columns.append(bits | {"total on disk": r["bits_per_class"]} | r["beside"])
    kinds = [[*r["parts"]] for r in reports.values()] + [["total on disk"]] + [[*r["beside"]] for r in reports.values()]
    names = dict.fromkeys(name for kind in kinds for name in kind)  # each once, what is on disk first
    cells = [[f"{column[name]:,.0f}" if name in column else "" for column in columns] for name in names]
    return ["bits per class", *reports], [[name, *line] for name, line in zip(names, cells, strict=True)]


def show(path, artifacts=None) -> int:
    """Prints the report of a set, of all sets of a working directory, or of an imported set -> exit code 0."""
    say("\n\n".join(describe(report(directory, artifacts)) for directory in find_sets(path)))
    return 0
