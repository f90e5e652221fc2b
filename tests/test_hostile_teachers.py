"""Weights that would do harm: refused before anything runs, named, and in text that does nothing to a terminal."""

import io
import json
import pathlib
import pickle

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_weights import FILE, LIKE, NAMES, fault, raw, tensor

from infoutil_jax import pretrained, teachers, weights
from infoutil_jax.errors import ConfigError, CorruptArtifact, DataError, NumericError

RED = "\x1b[31m"


class Payload:
    """Writes a canary when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return pathlib.Path.touch, (self.canary,)


def disguised(canary) -> dict[str, bytes]:
    bomb, arrays = pickle.dumps({"w": Payload(canary)}), io.BytesIO()
    np.savez(arrays, w=np.array([Payload(canary)], dtype=object))
    return {"plain.pth": bomb, "named.safetensors": bomb, "arrays.npz": arrays.getvalue(), "arrays.safetensors":
            arrays.getvalue(), "old.safetensors": pickle.dumps({"w": Payload(canary)}, protocol=0)}  # fmt: skip


def test_no_disguise_makes_a_pickle_run(tmp_path):
    canary = tmp_path / "canary"
    for name, data in disguised(canary).items():
        path = tmp_path / name
        path.write_bytes(data)
        for read in (weights.read, weights.metadata, pretrained.own_config):
            with pytest.raises((ConfigError, CorruptArtifact), match=name):
                read(path)
    assert not canary.exists()
    pickle.loads(disguised(canary)["plain.pth"])
    assert canary.exists()  # it would have


@pytest.mark.parametrize("shape", [(), (0, 3, 3, 3)])
def test_a_convolution_of_no_size_is_a_fault_of_the_file(shape):
    file = {"layers.conv.0.weight": np.zeros(shape, np.float32), "classifier.weight": np.zeros((3, 8), np.float32)}
    like = {"params": {"classifier": {"kernel": np.zeros((8, 3), np.float32)}}, "batch_stats": {}}
    with pytest.raises(DataError, match="nothing is loaded in part"):
        weights.assign(file, "convnet3", like, ("a", "b", "c"), where="FILE")


def test_keys_and_labels_of_a_file_are_shown_as_text(tmp_path):
    text = fault({**FILE, f"{RED}evil\n.weight": np.zeros(1, np.float32)})
    assert text.isprintable() and r"1 unexpected: '\x1b[31mevil\n.weight';" in text
    _, note = weights.class_rows(10, NAMES, [f"{RED}{i}" for i in range(10)])
    assert note.isprintable()
    path = tmp_path / "w.safetensors"
    path.write_bytes(raw({f"{RED}w": tensor(2, [2], "F8_E4M3")}, b"12"))
    with pytest.raises(DataError, match="is of a type that NumPy lacks") as error:
        weights.read(path)
    assert str(error.value).isprintable()


def test_transposed_tensors_are_listed():
    text = fault({**FILE, "fc.weight": FILE["fc.weight"].T.copy()})
    assert "1 of another shape or type: fc.weight (float32 [32, 10] for [10, 32]); " in text


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_json_that_nests_without_end_is_named(text, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": np.ones(1, np.float32)}, path, metadata={"pretrained_cfg": text})
    with pytest.raises(DataError, match="pretrained_cfg in its header: no JSON object"):
        pretrained.own_config(path)
    with pytest.raises(ValueError):
        json.loads(text[:100])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_teacher_of_our_own_that_is_not_finite_is_refused_before_it_is_measured(bad, tmp_path):
    variables = jax.tree.map(np.array, LIKE)
    for names in (("params", "stage2_block1", "conv1", "kernel"), ("params", "stage3_block1", "conv1", "kernel")):
        leaf = variables
        for name in names:
            leaf = leaf[name]
        leaf[..., 0] = bad
    path = tmp_path / "teacher" / "epoch3.json"
    with pytest.raises(
        NumericError, match=r"teacher .early. of .*: params.stage2_block1.conv1.kernel holds NaN or inf"
    ):
        teachers._measured(None, None, None, path, "early", variables)
    assert not path.parent.exists()
