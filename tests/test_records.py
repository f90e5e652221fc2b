"""The distilled set on disk: frames against a bitwise CRC, every kind of damage found and named, exact round trips."""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import struct
import subprocess
import sys

import numpy as np
import pytest

from infoutil_jax import records, tfrecord
from infoutil_jax.errors import ConfigError, CorruptArtifact, DataError, NumericError
from infoutil_jax.types import DistilledImage

LAYOUT = records.Layout(
    name="digits_ipc2", class_names=("zero", "one", "two"), n_shards=2, image_size=8, n_patches=4, n_classes=3
)
ODD_IDS = ("a.png", "Ünïcode/猫.jpg", os.fsdecode(b"bytes\xff\xfe.png"), "")
PER_SHARD = 5


def make_example(seed, *, layout=LAYOUT, label=None):
    rng = np.random.default_rng(seed)
    size, k = layout.image_size, layout.n_patches
    shapley = rng.normal(size=k).astype(np.float32)
    shapley[seed % k] = np.nan
    return DistilledImage(
        image_u8=rng.integers(0, 256, (size, size, 3), np.uint8),
        label=int(rng.integers(layout.n_classes)) if label is None else label,
        patch_logits=rng.normal(size=(k, layout.n_classes)).astype(np.float32),
        patch_ids=tuple(f"{seed}-{id_}" for id_ in ODD_IDS[:k]),
        patch_boxes=rng.integers(1, 1 + size // 2, (k, 4), np.int32),
        patch_shapley=shapley,
        patch_gradient_norm=rng.uniform(size=k).astype(np.float32),
    )


def write_set(directory, *, layout=LAYOUT, first_seed=0):
    starts = [first_seed + PER_SHARD * i for i in range(layout.n_shards)]
    batches = [[make_example(start + i, layout=layout) for i in range(PER_SHARD)] for start in starts]
    shards = [records.write_shard(directory, i, batch, layout) for i, batch in enumerate(batches)]
    records.finish(directory, layout, shards[::-1], {"seed": first_seed})
    return [example for batch in batches for example in batch]


def seal(content):
    """A manifest's bytes by hand."""
    text = lambda value: (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
    content = {key: value for key, value in content.items() if key != "sha256"}
    return text(content | {"sha256": hashlib.sha256(text(content)).hexdigest()})


def assert_same_example(found, expected):
    for name, a, b in zip(DistilledImage._fields, found, expected, strict=True):
        if isinstance(b, np.ndarray):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name
        else:
            assert a == b, name


def crc32c_bitwise(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def frame_by_hand(payload):
    def masked(data):
        bits = f"{crc32c_bitwise(data):032b}"
        return struct.pack("<I", (int(bits[-15:] + bits[:-15], 2) + 0xA282EAD8) % 2**32)

    length = len(payload).to_bytes(8, "little")
    return length + masked(length) + payload + masked(payload)


def frame_offsets(content):
    """Start of each frame of an intact file, and its end."""
    offsets = [0]
    while offsets[-1] < len(content):
        (length,) = struct.unpack_from("<Q", content, offsets[-1])
        offsets.append(offsets[-1] + length + 16)
    return offsets


@pytest.fixture
def directory(tmp_path):
    write_set(tmp_path / "set")
    return tmp_path / "set"


# Frames

def test_crc_oracle_knows_the_published_check_value():
    assert crc32c_bitwise(b"123456789") == 0xE3069283  # the catalogue's check value of CRC-32C


@pytest.mark.parametrize("payload", [b"", b"\0", b"123456789", bytes(range(256)) * 3])
def test_frame_equals_the_layout_by_hand(payload):
    assert tfrecord.frame(payload) == frame_by_hand(payload)


def test_read_records_gives_numbers_offsets_and_data(tmp_path):
    payloads = [b"first", b"", b"third" * 100]
    (tmp_path / "file").write_bytes(b"".join(map(frame_by_hand, payloads)))
    assert list(tfrecord.read_records(tmp_path / "file")) == [(0, 0, b"first"), (1, 21, b""), (2, 37, payloads[2])]


# Damage

def test_every_bit_flip_is_found_and_placed(directory):
    path = directory / LAYOUT.shard_names[1]
    content = path.read_bytes()
    offsets = frame_offsets(content)
    rng = random.Random(0)
    edges = [offset + byte for offset in offsets[:-1] for byte in (0, 7, 8, 11, 12)] + [end - 1 for end in offsets[1:]]
    for position in edges + [rng.randrange(len(content)) for _ in range(300)]:
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        record = max(i for i, offset in enumerate(offsets) if offset <= position)
        check = "length CRC" if position - offsets[record] < 12 else "data CRC"
        with pytest.raises(CorruptArtifact) as error:
            list(tfrecord.read_records(path))
        assert str(error.value).startswith(f"{path}: record {record} at byte {offsets[record]}: {check};")
    for check_set in (records.verify, records.load):  # the last flip, through the front doors
        with pytest.raises(CorruptArtifact, match=f"record {record} at byte {offsets[record]}: {check}"):
            check_set(directory)


@pytest.mark.parametrize("n_left", [1, 11, 12, 40, -1, -4, -5])
def test_a_record_cut_in_its_middle_is_named(directory, n_left):
    path = directory / LAYOUT.shard_names[0]
    offsets = frame_offsets(path.read_bytes())
    os.truncate(path, (offsets[3] if n_left > 0 else offsets[4]) + n_left)
    for check_set in (records.verify, records.load):
        with pytest.raises(CorruptArtifact, match=f"{path}: record 3 at byte {offsets[3]}: truncated"):
            check_set(directory)


@pytest.mark.parametrize("n_left", [0, 3])
def test_a_file_cut_between_records_is_found_by_its_count(directory, n_left):
    path = directory / LAYOUT.shard_names[0]
    os.truncate(path, frame_offsets(path.read_bytes())[n_left])
    for check_set in (records.verify, records.load):
        with pytest.raises(CorruptArtifact, match=f"{path}: record count: expected 5, found {n_left}"):
            check_set(directory)


def test_a_false_length_with_a_right_checksum_asks_for_no_memory(tmp_path):
    length = (2**62).to_bytes(8, "little")
    (tmp_path / "file").write_bytes(length + struct.pack("<I", tfrecord.masked_crc(length)) + b"data")
    with pytest.raises(CorruptArtifact, match="record 0 at byte 0: truncated"):
        list(tfrecord.read_records(tmp_path / "file"))


def test_missing_extra_and_foreign_shards_are_told_apart(directory, tmp_path):
    first, second = (directory / name for name in LAYOUT.shard_names)
    content = first.read_bytes()
    write_set(tmp_path / "other", first_seed=100)

    first.unlink()
    with pytest.raises(CorruptArtifact, match=f"missing shards: {first.name};"):
        records.load(directory)
    with pytest.raises(CorruptArtifact, match=f"{first}: missing shard;"):
        records.verify(directory)
    first.write_bytes((tmp_path / "other" / first.name).read_bytes())
    with pytest.raises(CorruptArtifact, match=f"{first}: SHA-256: .*foreign"):
        records.verify(directory)
    first.write_bytes(second.read_bytes())
    with pytest.raises(CorruptArtifact, match=f"{first}: swapped shard: this is the content of {second.name};"):
        records.verify(directory)
    first.write_bytes(content + content)
    with pytest.raises(CorruptArtifact, match="expected 5, found 10 .foreign"):
        records.verify(directory)
    first.write_bytes(content)
    records.verify(directory)
    extra = directory / "other-train.tfrecord-00000-of-00001"
    extra.write_bytes(content)
    with pytest.raises(CorruptArtifact, match=f"extra shards, not of this set: {extra.name}"):
        records.load(directory)
    with pytest.raises(CorruptArtifact, match=f"{extra}: extra shard, a copy of {first.name};"):
        records.verify(directory)
    extra.write_bytes((tmp_path / "other" / first.name).read_bytes())
    with pytest.raises(CorruptArtifact, match=f"{extra}: extra shard, not of this set;"):
        records.verify(directory)


@pytest.mark.parametrize("name", records.METADATA)
def test_changed_or_missing_metadata_is_found(directory, name):
    (directory / name).write_text((directory / name).read_text().replace("e", "E", 1))
    with pytest.raises(CorruptArtifact, match=f"{name}: SHA-256: .*changed"):
        records.verify(directory)
    (directory / name).unlink()
    with pytest.raises(CorruptArtifact, match=f"{name}: SHA-256: .*no file"):
        records.verify(directory)


def damage(example, **fields):
    return records.encode_example(example._replace(**fields))


def shorten_pixel_chunk(payload):
    start = payload.index(b"IDAT")
    return payload[: start - 4] + (20).to_bytes(4, "big") + payload[start:]


@pytest.mark.parametrize("make_payload, message", [
    (lambda e: b"no proto", "Error parsing message"),
    (lambda e: b"", "expected 1, got 0"),
    (lambda e: damage(e, label=3), "label 3 is outside 0..2"),
    (lambda e: damage(e, label=-1), "label -1 is outside"),
    (lambda e: damage(e, patch_logits=np.full((4, 3), np.inf, np.float32)), "patch_logits hold NaN or Inf"),
    (lambda e: damage(e, patch_logits=np.full((4, 3), -65_600, np.float32)), r"patch_logits reach 6.56e\+04, more than"),
    (lambda e: damage(e, patch_logits=np.zeros((4, 2), np.float32)), "cannot reshape"),
    (lambda e: damage(e, patch_boxes=np.full((4, 4), 2**40)), "out of bounds"),
    (lambda e: damage(e, patch_ids=("one",)), "patch_ids"),
    (lambda e: damage(e, image_u8=np.zeros((8, 9, 3), np.uint8)), r"image is RGB \(9, 8\), expected RGB"),
    (lambda e: damage(e, image_u8=np.zeros((8, 8), np.uint8)), r"image is L \(8, 8\)"),
    (lambda e: records.encode_example(e).replace(b"IDAT", b"XDAT"), "image: "),
    (lambda e: records.encode_example(e).replace(b"PNG", b"GNP"), "image: cannot identify"),
    (lambda e: shorten_pixel_chunk(records.encode_example(e)), "image: broken PNG file"),
])
def test_content_under_right_checksums_is_checked_too(directory, make_payload, message):
    path = directory / LAYOUT.shard_names[0]
    payloads = [record.payload for record in tfrecord.read_records(path)]
    payloads[2] = make_payload(make_example(2))
    path.write_bytes(b"".join(map(tfrecord.frame, payloads)))
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (directory / "manifest.json").write_bytes(seal(manifest))
    offset = frame_offsets(path.read_bytes())[2]
    for check_set in (records.verify, records.load):
        with pytest.raises(CorruptArtifact, match=f"record 2 at byte {offset}: does not decode: .*{message}"):
            check_set(directory)


# Manifest

def test_an_unfinished_set_says_so(tmp_path):
    records.write_shard(tmp_path, 0, [make_example(0)], LAYOUT)
    with pytest.raises(DataError, match="manifest.json: not found.*resume the run"):
        records.load(tmp_path)
    with pytest.raises(DataError, match="manifest.json: not found.*give the directory"):
        records.load(tmp_path / LAYOUT.shard_names[0])


def test_a_newer_format_asks_for_an_upgrade(directory):
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_bytes(seal(manifest | {"format": records.FORMAT + 1}))
    with pytest.raises(DataError, match="format 3 is newer than 2; upgrade"):
        records.read_manifest(directory)


@pytest.mark.parametrize("change", [
    lambda text: text[: len(text) // 2],
    lambda text: "\xff",
    lambda text: "[]",
    lambda text: "{}",
    lambda text: text.replace('"format": 2', '"format": "2"'),
    lambda text: text.replace("digits_ipc2-train", "../secret-train"),
    lambda text: text.replace('"n_shards": 2', '"n_shards": 1'),
    lambda text: text.replace('"n_shards"', '"n_shard"'),
    lambda text: text.replace('"records"', '"recrods"'),
    lambda text: text.replace('"features.json"', '"../features.json"'),
])
def test_an_unreadable_manifest_is_an_error_of_the_set(directory, change):
    text = (directory / "manifest.json").read_text()
    assert change(text) != text
    text = change(text)
    with contextlib.suppress(ValueError, AttributeError):  # what is no manifest cannot be sealed either
        text = seal(json.loads(text)).decode()
    (directory / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(CorruptArtifact, match="manifest.json: unreadable manifest.*restore the set"):
        records.read_manifest(directory)


def test_every_bit_of_the_manifest_is_protected(directory):
    path = directory / "manifest.json"
    content = path.read_bytes()
    assert content == seal(json.loads(content))
    for bit in random.Random(0).sample(range(8 * len(content)), 300):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CorruptArtifact, match="manifest.json: unreadable manifest"):
            records.read_manifest(directory)
    path.write_bytes(content.replace(b'"seed": 0', b'"seed":  0'))  # the same values in another text
    with pytest.raises(CorruptArtifact, match="its SHA-256 does not match its content"):
        records.read_manifest(directory)


def test_a_set_of_format_1_is_read_and_left_as_it_is(directory):
    """Its manifest has no hash of its own."""
    manifest = json.loads((directory / "manifest.json").read_bytes())
    del manifest["sha256"]
    text = json.dumps(manifest | {"format": 1}, indent=2, sort_keys=True) + "\n"
    (directory / "manifest.json").write_text(text)
    records.verify(directory)
    records.finish(directory, LAYOUT, records.read_manifest(directory)["shards"], {"seed": 0})
    assert (directory / "manifest.json").read_text() == text
    (directory / "manifest.json").write_bytes(seal(manifest | {"format": 1}))
    with pytest.raises(CorruptArtifact, match="its SHA-256 does not match"):  # no format 1 has one
        records.read_manifest(directory)


def test_the_manifest_describes_the_shards_and_keeps_the_run(directory):
    manifest = records.read_manifest(directory)
    assert manifest["seed"] == 0 and manifest["layout"]["class_names"] == ["zero", "one", "two"]
    for shard, name in zip(manifest["shards"], LAYOUT.shard_names, strict=True):
        content = (directory / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        kept = {"file": name, "records": PER_SHARD, "bytes": len(content), "sha256": digest}
        assert shard == kept | {"hits": shard["hits"]}


def test_the_names_of_the_shards_are_made_once():
    """Each class asks for its own: K^2 names otherwise."""
    layout = records.Layout("x", ("a", "b"), n_shards=2, image_size=8, n_patches=1, n_classes=2)
    assert layout.shard_names is layout.shard_names == [f"x-train.tfrecord-0000{i}-of-00002" for i in (0, 1)]


# Round trip and determinism

def test_round_trip_is_exact(directory):
    expected = [make_example(seed) for seed in range(2 * PER_SHARD)]
    for found, example in zip(records.read(directory), expected, strict=True):
        assert_same_example(found, example)
    records.verify(directory)


def test_load_stacks_the_rows_in_file_order(directory):
    whole = records.load(directory)
    assert whole.labels.dtype == np.int32 and len(whole.labels) == 2 * PER_SHARD
    for row in range(2 * PER_SHARD):
        fields = (column[row] for column in whole[:-1])
        assert_same_example(DistilledImage(*fields), make_example(row))
    assert whole.manifest == records.read_manifest(directory)


def test_a_set_without_its_logits_is_otherwise_the_same_and_holds_none(directory):
    whole, without = records.load(directory), records.load(directory, with_logits=False)
    for name, column in zip(whole._fields, without, strict=True):
        if name != "patch_logits":
            np.testing.assert_equal(column, getattr(whole, name))
    assert without.patch_logits.shape == whole.patch_logits.shape and np.isnan(without.patch_logits).all()
    assert without.patch_logits.strides == (0, 0, 0)  # one number in memory


def test_extreme_values_survive():
    single = records.Layout("x", ("only",), n_shards=1, image_size=1, n_patches=1, n_classes=1)
    tiny, huge = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float16).max
    for logit, shapley in ((tiny, -np.inf), (-huge, np.nan), (-0.0, 0.1)):
        example = DistilledImage(
            np.full((1, 1, 3), 255, np.uint8), np.int64(0), np.full((1, 1), logit, np.float32), ("\0nul\n",),
            np.full((1, 4), -(2**31), np.int32), np.full(1, shapley, np.float32), np.zeros(1, np.float32),
        )
        single.check(example, "example")
        assert_same_example(records.decode_example(records.encode_example(example), single), example)


def test_bytes_are_those_of_the_tfds_serializer():
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    example = make_example(3)
    payload = records.encode_example(example)
    _, _, image_bytes = payload.partition(b"\x89PNG")
    png = b"\x89PNG" + image_bytes[: image_bytes.index(b"IEND") + 8]
    ids = [os.fsencode(id_) for id_ in example.patch_ids]
    fields = example._asdict() | {"image": png, "patch_ids": ids}
    serializer = ExampleSerializer(LAYOUT.features().get_serialized_info())
    assert payload == serializer.get_tf_example(fields).SerializeToString(deterministic=True)


FRESH_PROCESS = """
import sys
sys.path[:0] = sys.argv[1:3]
import test_records, infoutil_jax.records
test_records.write_set(sys.argv[3])
infoutil_jax.records.load(sys.argv[3])
infoutil_jax.records.verify(sys.argv[3])
sys.exit("tensorflow" in sys.modules)
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_fresh_process_writes_the_same_bytes_without_tensorflow(directory, tmp_path, hash_seed):
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", FRESH_PROCESS, os.path.dirname(here), here, str(tmp_path / "again")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": hash_seed}, timeout=120)
    names = sorted(path.name for path in directory.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir()) and len(names) == 6
    for name in names:
        assert (directory / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


# Writing once

def test_a_shard_is_left_alone_or_refused_but_never_overwritten(tmp_path):
    summary = records.write_shard(tmp_path, 0, [make_example(0)], LAYOUT)
    path = tmp_path / summary["file"]
    before = path.read_bytes(), path.stat().st_ino
    assert records.write_shard(tmp_path, 0, [make_example(0)], LAYOUT) == summary
    with pytest.raises(DataError, match="other content"):
        records.write_shard(tmp_path, 0, [make_example(1)], LAYOUT)
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_interrupted_write_leaves_nothing_under_the_final_name(tmp_path):
    def chunks():
        yield b"half"
        assert not (tmp_path / "file").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tfrecord.write_once(tmp_path / "file", chunks())
    assert list(tmp_path.iterdir()) == []


def test_left_overs_of_a_killed_write_do_no_harm(tmp_path):
    retried = tmp_path / f".tmp-{LAYOUT.shard_names[0]}"
    given_up = tmp_path / ".tmp-old-train.tfrecord-00000-of-00001"
    for left_over in (retried, given_up):
        left_over.write_bytes(b"x" * 100_000)
    write_set(tmp_path)
    records.verify(tmp_path)
    assert not retried.exists()


def test_finish_twice_alike_or_not(directory):
    shards = records.read_manifest(directory)["shards"]
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    records.finish(directory, LAYOUT, shards, {"seed": 0})
    with pytest.raises(DataError, match="manifest.json: exists with other content"):
        records.finish(directory, LAYOUT, shards, {"seed": 1})
    renamed = dataclasses.replace(LAYOUT, class_names=("null", "eins", "zwei"))
    with pytest.raises(DataError, match="manifest.json: exists with other content"):
        records.finish(directory, renamed, shards, {"seed": 0})
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_finish_refuses_what_is_no_set(tmp_path):
    shards = [records.write_shard(tmp_path, i, [make_example(i)], LAYOUT) for i in range(2)]
    with pytest.raises(DataError, match="1 shards given, 2 due"):
        records.finish(tmp_path, LAYOUT, shards[:1], {})
    with pytest.raises(DataError, match="manifest keys .'shards'. are the format's own"):
        records.finish(tmp_path, LAYOUT, shards, {"shards": []})
    (tmp_path / LAYOUT.shard_names[1]).unlink()
    with pytest.raises(CorruptArtifact, match="missing shards"):
        records.finish(tmp_path, LAYOUT, shards, {})
    assert not (tmp_path / "manifest.json").exists()


# Checks of what is written

@pytest.mark.parametrize("field, value, message", [
    ("image_u8", np.zeros((8, 8, 3), np.float32), r"image_u8 is float32\(8, 8, 3\), expected uint8\(8, 8, 3\)"),
    ("image_u8", np.zeros((8, 7, 3), np.uint8), r"image_u8 is uint8\(8, 7, 3\)"),
    ("label", 3, "label 3 is outside 0..2"),
    ("label", -1, "label -1 is outside 0..2"),
    ("label", 1.0, "label is float"),
    ("label", True, "label is bool"),
    ("patch_logits", np.zeros((4, 3)), r"patch_logits is float64"),
    ("patch_ids", ("a",), "patch_ids"),
    ("patch_ids", ("a", "b", "c", 4), "patch_ids"),
    ("patch_ids", ("a", "b", "c", "\ud800"), "patch_ids"),
    ("patch_ids", ("a", "b", "c", "\udcc3\udca9"), "patch_ids"),
    ("patch_boxes", np.zeros((4, 4), np.int64), "patch_boxes is int64"),
    ("patch_shapley", np.zeros(3, np.float32), r"patch_shapley is float32\(3,\)"),
    ("patch_gradient_norm", np.zeros((4, 1), np.float32), "patch_gradient_norm"),
])
def test_an_unfit_example_is_refused_by_record_and_field(tmp_path, field, value, message):
    examples = [make_example(0), make_example(1)._replace(**{field: value})]
    with pytest.raises(DataError, match=f"00000-of-00002: record 1: {message}"):
        records.write_shard(tmp_path, 0, examples, LAYOUT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_must_be_finite(tmp_path, bad):
    example = make_example(0)
    example.patch_logits[2, 1] = bad
    with pytest.raises(NumericError, match="record 0: patch_logits"):
        records.write_shard(tmp_path, 0, [example], LAYOUT)


@pytest.mark.parametrize("index, n_examples", [(-1, 1), (2, 1), (0, 0)])
def test_an_impossible_shard_is_refused(tmp_path, index, n_examples):
    with pytest.raises(DataError, match=f"shard {index} of 2 with {n_examples} examples"):
        records.write_shard(tmp_path, index, [make_example(0)] * n_examples, LAYOUT)


@pytest.mark.parametrize("change", [
    {"name": "Digits"}, {"name": "a-b"}, {"name": "../x"}, {"name": ""}, {"n_shards": 0}, {"n_shards": 100_000},
    {"image_size": 0}, {"n_patches": 0}, {"n_classes": 2}, {"class_names": ("a", "a", "b")},
    {"class_names": ("a", "b", "")}, {"class_names": ("a", "b", " c")}, {"class_names": ("a", "b", "c\nd")},
    {"class_names": ("a", "b", "c\rd")}, {"class_names": ("a", "b", "\udcff")},
])
def test_an_impossible_layout_is_refused(change):
    with pytest.raises(ConfigError, match="layout"):
        dataclasses.replace(LAYOUT, **change)
