"""A whole distilled set in one file, `.iuc`: latents and their networks, hard labels, and perhaps soft ones.

The bytes are `HEADER | widths uint16 | counts uint32, where classes differ | networks | soft labels | latents`, little
endian; docs/rate_utility.md has all of it. A CRC-32 is in the header, and nothing is decoded before it holds.
Letters: U units, n samples of each, L latents, N = U n images, S their side, K classes, k patches.
"""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infoutil_jax import store
from infoutil_jax.errors import CorruptArtifact, DataError
from infoutil_jax.progress import say
from infoutil_jax.rate import accounting, codec, entropy, integer, labels

SUFFIX = ".iuc"
MAGIC = b"IUC1"  # its digit is the version of the format
# magic | CRC-32 | run | side | scope | context | depth of the ARM | widths | gain | K | images of each class, or 0 |
# bytes of the networks | bytes of the soft labels
HEADER = struct.Struct("<4sI8sHBBBBfIIII")
MODULES = ("arm", "synthesis")
UNREAD = ("name", "recipe", "methods", "evaluate")  # keys of a config that no set's bytes depend on
START = np.array([-5, -10, 64, 64])  # what stands for the steps and scales of the unit before the first
TOLD_SCALE = 64  # 2 ** (64 / 8) / 64 = 4


class Decoded(NamedTuple):
    images_u8: np.ndarray  # (N, S, S, 3) uint8
    labels: np.ndarray  # (N,) int32, ascending
    patch_logits: np.ndarray | None  # (N, k, K) float32 where there are soft labels, as `labels.decode` gives them
    settings: codec.Settings
    run: bytes  # `run_hash` of the set's manifest
    sizes: dict[str, int]  # bytes of latents, networks, soft labels, header and hard labels


class _Parts(NamedTuple):
    settings: codec.Settings
    run: bytes
    counts_K: np.ndarray
    sizes: dict[str, int]
    networks: bytes
    soft: bytes
    latents: bytes


def encode(
    units: Sequence[integer.Quantised], latents_UnL, labels_N, n_classes: int, soft_labels: bytes = b"", manifest=None
) -> bytes:
    """The bytes of a set: what `quantize.quantise` gave, its images' classes, the bytes of `labels.encode`, and its
    manifest, whose run `decoded.with_container` asks for. Raises DataError for labels that are not in class order or do
    not fit the units, CorruptArtifact for soft labels of other images."""
    settings, counts_K = units[0].settings, _counts(labels_N, n_classes, units, latents_UnL)
    if soft_labels:
        labels.open_stream(soft_labels, labels_N)
    networks, latents = entropy.Encoder(), entropy.Encoder()
    _write_networks(units, networks)
    for unit, latents_nL in zip(units, latents_UnL, strict=True):
        integer.write(unit, latents_nL, latents)
    networks, even = networks.finish(), len(set(counts_K.tolist())) == 1
    scope = codec.SCOPES.index(settings.scope)
    fixed = settings.side, scope, settings.context, settings.arm_depth, len(settings.widths)
    sizes = settings.gain, n_classes, counts_K[0] if even else 0, len(networks), len(soft_labels)
    header = HEADER.pack(MAGIC, 0, run_hash(manifest), *fixed, *sizes)
    tables = np.array(settings.widths, "<u2").tobytes() + (b"" if even else counts_K.astype("<u4").tobytes())
    return _sealed(b"".join([header, tables, networks, soft_labels, latents.finish()]))


def decode(data: bytes) -> Decoded:
    """The set again, the same on every machine. Raises CorruptArtifact for anything but the bytes of `encode`."""
    parts = _open(data)
    settings, labels_N = parts.settings, np.repeat(np.arange(len(parts.counts_K), dtype=np.int32), parts.counts_K)
    n_units = codec.n_units(settings, len(parts.counts_K))
    decoder, n_samples = entropy.Decoder(parts.latents), len(labels_N) // n_units
    units = _read_networks(settings, n_units, entropy.Decoder(parts.networks))
    images_u8 = np.concatenate([integer.images(unit, integer.read(unit, n_samples, decoder)) for unit in units])
    soft = labels.decode(parts.soft, labels_N, entropy) if parts.soft else None
    return Decoded(images_u8, labels_N, soft, settings, parts.run, parts.sizes)


def estimate_bits(units, latents_UnL) -> dict[str, float]:
    """Bits of `networks` and `latents` by their laws alone; each stream ends within 64 bits of its own."""
    latents = sum(integer.bits(unit, latents_nL) for unit, latents_nL in zip(units, latents_UnL, strict=True))
    counter = _Counter()
    _write_networks(units, counter)
    return {"networks": counter.bits, "latents": latents}


def run_hash(manifest) -> bytes:
    """8 bytes that stand for the run that a manifest is of: its config, but for where its data lie, its name and its
    students, and the content of its data."""
    manifest = manifest or {}
    known = {key: value for key, value in manifest.get("config", {}).items() if key not in UNREAD}
    known["data"] = {key: value for key, value in known.get("data", {}).items() if key != "path"}
    return bytes.fromhex(store.fingerprint(known, manifest.get("data", {}).get("content_id")))


def report(path) -> dict:
    """What a file costs, as `accounting.report` says it of a set. Raises CorruptArtifact naming the file."""
    path = Path(path)
    try:
        data = path.read_bytes()
        parts = _open(data)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); give a file that container.encode wrote") from error
    except CorruptArtifact as error:
        raise CorruptArtifact(f"{path}: {error}") from error
    n_images, n_classes = int(parts.counts_K.sum()), len(parts.counts_K)
    beside = accounting.pixels(n_images * parts.settings.side**2 * 3, n_classes)
    return accounting.of_parts(path.name, parts.sizes, n_images, n_classes, beside)


def show(path) -> int:
    """Prints the report of a file -> exit code 0."""
    say(accounting.describe(report(path)))
    return 0


class _Counter:
    """An encoder that counts only."""

    bits = 0.0

    def encode(self, symbols, means_64, scales):
        self.bits += entropy.bits(symbols, means_64, scales)


def _counts(labels_N, n_classes, units, latents_UnL) -> np.ndarray:
    labels_N, n_units = np.asarray(labels_N), codec.n_units(units[0].settings, n_classes)
    if not len(labels_N) or (np.diff(labels_N) < 0).any() or labels_N[0] < 0 or labels_N[-1] >= n_classes:
        raise DataError(f"container: labels are not in the order of {n_classes} classes; sort the set by class")
    counts_K = np.bincount(labels_N, minlength=n_classes)
    if np.shape(latents_UnL)[:2] != (n_units, len(labels_N) / n_units) or len(units) != n_units:
        due = f"{n_units} units and {len(labels_N)} images"
        raise DataError(f"container: latents {np.shape(latents_UnL)} are not those of {due}; give the fitted set's")
    if n_units > 1 and (counts_K != counts_K[0]).any():
        raise DataError(f"container: classes have {counts_K.min()} to {counts_K.max()} images; give scope dataset")
    return counts_K


def _write_networks(units, encoder) -> None:
    """Per unit and module its steps and scales, by those of the last unit, then kernels and biases by their scales."""
    told = dict.fromkeys(MODULES, START)
    for unit in units:
        for name in MODULES:
            module = getattr(unit, name)
            tensors = integer.flat(module)
            last, scales = told[name], [integer.parameter_scale(tensor) for tensor in tensors]
            told[name] = np.array([module.kernel_step, module.bias_step, *scales])
            encoder.encode(told[name], *_near(last))
            for tensor, scale in zip(tensors, scales, strict=True):
                encoder.encode(tensor, *_about_zero(len(tensor), scale))


def _read_networks(settings, n_units, decoder) -> list[integer.Quantised]:
    told, units = dict.fromkeys(MODULES, START), []
    for _ in range(n_units):
        modules = {}
        for name in MODULES:
            layers = codec.shapes(settings)[name]
            told[name] = decoder.decode(*_near(told[name]))
            (*steps, kernel_scale, bias_scale) = told[name].tolist()
            kernels = decoder.decode(*_about_zero(sum(out * n_in for out, n_in in layers), kernel_scale))
            biases = decoder.decode(*_about_zero(sum(out for out, _ in layers), bias_scale))
            modules[name] = integer.unflat(layers, kernels, biases, *steps)
        units.append(integer.Quantised(settings, **modules))
    return units


def _near(last):
    """The laws of steps and scales: four about those of the last unit."""
    return entropy.ONE * last, np.full(len(last), TOLD_SCALE)


def _about_zero(n: int, scale: int):
    return np.zeros(n, np.int64), np.full(n, scale)


def _sealed(data: bytes) -> bytes:
    """With the CRC-32 of all bytes but its own four."""
    return data[:4] + struct.pack("<I", zlib.crc32(data[8:], zlib.crc32(data[:4]))) + data[8:]


def _open(data: bytes) -> _Parts:
    if len(data) < HEADER.size or data[:3] != MAGIC[:3]:
        raise CorruptArtifact("container: does not begin as one; give the bytes that container.encode made")
    if data[: len(MAGIC)] != MAGIC:
        raise CorruptArtifact(f"container: version {data[3:4]!r}, {MAGIC[3:]!r} is known; read it with its own release")
    if _sealed(data) != data:
        raise CorruptArtifact("container: CRC-32 differs, so bytes were changed or lost; restore it from a copy")
    fields = HEADER.unpack_from(data)
    run, side, scope, context, depth, n_widths, gain, n_classes, per_class, n_networks, n_soft = fields[2:]
    head = HEADER.size + 2 * n_widths
    widths = tuple(np.frombuffer(data, "<u2", n_widths, HEADER.size).tolist())
    start = head + (0 if per_class else 4 * n_classes)
    counts_K = np.full(n_classes, per_class) if per_class else np.frombuffer(data, "<u4", n_classes, head).astype(int)
    ends = start + n_networks, start + n_networks + n_soft
    settings = codec.Settings(side, codec.SCOPES[scope], context, depth, widths, gain)
    networks, soft, latents = data[start : ends[0]], data[ends[0] : ends[1]], data[ends[1] :]
    sizes = {"latents": len(latents), "networks": len(networks), "soft labels": len(soft)}
    sizes |= {"header": head, "hard labels": start - head}
    return _Parts(settings, run, counts_K, sizes, networks, soft, latents)
