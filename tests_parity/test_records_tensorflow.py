"""A distilled set as TensorFlow sees it: TFDS loads it, tf.data reads its frames, TFRecordWriter writes the same."""

from types import SimpleNamespace

import numpy as np
import pytest

from infoutil_jax import records, tfrecord
from infoutil_jax.types import DistilledImage

LAYOUT = records.Layout(
    name="photos_ipc2", class_names=("cat", "dog", "tree frog"), n_shards=3, image_size=16, n_patches=4, n_classes=3
)
LENGTHS = (2, 1, 3)  # records per shard


def make_example(seed):
    rng = np.random.default_rng(seed)
    return DistilledImage(
        image_u8=rng.integers(0, 256, (16, 16, 3), np.uint8),
        label=seed % 3,
        patch_logits=rng.normal(size=(4, 3)).astype(np.float32),
        patch_ids=tuple(f"{seed}/Ünï-{i}\udcff" for i in range(4)),
        patch_boxes=rng.integers(-5, 16, (4, 4), np.int32),
        patch_shapley=np.array([np.nan, 0.5, -1e-40, 3e38], np.float32),
        patch_gradient_norm=rng.uniform(size=4).astype(np.float32),
    )


@pytest.fixture(scope="module")
def tensorflow_set(tmp_path_factory):
    """A finished set, its examples, and the libraries; TensorFlow takes ten seconds to import."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    directory = tmp_path_factory.mktemp("set")
    examples = [make_example(seed) for seed in range(sum(LENGTHS))]
    starts = np.cumsum((0, *LENGTHS))
    batches = [examples[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    shards = [records.write_shard(directory, i, batch, LAYOUT) for i, batch in enumerate(batches)]
    records.finish(directory, LAYOUT, shards, {})
    builder = tfds.builder_from_directory(directory)
    return SimpleNamespace(tf=tf, directory=directory, examples=examples, builder=builder)


def in_order(one, **options):
    """The set through TFDS, in file order, as NumPy."""
    return list(one.builder.as_dataset(**{"split": "train", "shuffle_files": False} | options).as_numpy_iterator())


def test_tfds_describes_the_set(tensorflow_set):
    info = tensorflow_set.builder.info
    assert (info.name, str(info.version), info.supervised_keys) == ("photos_ipc2", "1.0.0", ("image", "label"))
    assert info.features["label"].names == list(LAYOUT.class_names)
    assert info.splits["train"].shard_lengths == list(LENGTHS)
    n_bytes = sum(path.stat().st_size for path in tensorflow_set.directory.glob("*.tfrecord-*"))
    assert info.splits["train"].num_bytes == n_bytes


def test_tfds_yields_what_was_written(tensorflow_set):
    for found, expected in zip(in_order(tensorflow_set), tensorflow_set.examples, strict=True):
        np.testing.assert_array_equal(found["image"], expected.image_u8, strict=True)
        assert found["label"] == expected.label
        ids = [id_.decode("utf-8", "surrogateescape") for id_ in found["patch_ids"]]
        assert tuple(ids) == expected.patch_ids
        for field in ("patch_logits", "patch_boxes", "patch_shapley", "patch_gradient_norm"):
            np.testing.assert_array_equal(found[field], getattr(expected, field), strict=True)


@pytest.mark.parametrize("split, rows", [("train[:50%]", [0, 1, 2]), ("train[2:4]", [2, 3]), ("train[-1:]", [5])])
def test_tfds_slices(tensorflow_set, split, rows):
    labels = [example["label"] for example in in_order(tensorflow_set, split=split)]
    assert labels == [tensorflow_set.examples[row].label for row in rows]


def test_tfds_gives_supervised_pairs(tensorflow_set):
    pairs = in_order(tensorflow_set, as_supervised=True)
    for (image, label), expected in zip(pairs, tensorflow_set.examples, strict=True):
        np.testing.assert_array_equal(image, expected.image_u8)
        assert label == expected.label


def test_tf_data_reads_the_frames(tensorflow_set):
    paths = [tensorflow_set.directory / name for name in LAYOUT.shard_names]
    dataset = tensorflow_set.tf.data.TFRecordDataset([str(path) for path in paths])
    ours = [record.payload for path in paths for record in tfrecord.read_records(path)]
    assert list(dataset.as_numpy_iterator()) == ours and len(ours) == 6


@pytest.mark.parametrize("payloads", [[b""], [b"a", b"", bytes(range(256)) * 1000]])
def test_frames_are_those_of_the_tensorflow_writer(tensorflow_set, tmp_path, payloads):
    with tensorflow_set.tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for payload in payloads:
            writer.write(payload)
    assert (tmp_path / "theirs").read_bytes() == b"".join(map(tfrecord.frame, payloads))


def test_a_shard_is_byte_equal_to_the_tensorflow_writer_s(tensorflow_set, tmp_path):
    with tensorflow_set.tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for example in tensorflow_set.examples[:2]:
            writer.write(records.encode_example(example))
    assert (tmp_path / "theirs").read_bytes() == (tensorflow_set.directory / LAYOUT.shard_names[0]).read_bytes()
