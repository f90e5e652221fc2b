"""experiments/faults: what the driver counts; its campaigns are run by hand."""

import random
import re

import numpy as np
import pytest
from experiments.faults import damage, inputs, run

from infoutil_jax import store
from infoutil_jax.checkpoints import Checkpoints

# Bad input


def test_every_row_of_the_inputs_has_tests_that_exist():
    assert set(inputs.TESTS) == set(inputs.documented()) == {*range(25, 55), 60} and set(inputs.SHORT) < set(
        inputs.TESTS
    )
    for row, modules in inputs.TESTS.items():
        for module, tests in modules.items():
            text = (inputs.ROOT / f"tests/test_{module}.py").read_text()
            defined = re.findall(r"^def test_(\w+)", text, re.MULTILINE)
            assert tests and set(tests) <= set(defined), (row, module, set(tests) - set(defined))


SMALL = """
import pytest
def test_good(): pass
@pytest.mark.parametrize("n", [2, 1, 2])
def test_mixed(n): assert n == 2
@pytest.mark.skip
def test_skipped(): pass
@pytest.fixture
def broken(): raise ValueError
def test_broken(broken): pass
"""


def test_a_row_is_as_stated_when_every_case_of_its_tests_passed(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_small.py").write_text(SMALL)
    bad = ["mixed", "skipped", "broken"]
    rows = inputs.run({25: {"small": ["good"]}, 26: {"small": ["good", *bad]}}, tmp_path)
    counts = {row: (rows[row]["tried"], rows[row]["as_stated"], rows[row]["failed"]) for row in ("25", "26", "27")}
    assert counts == {"25": (1, 1, []), "26": (4, 1, [f"small::{name}" for name in bad]), "27": (0, 0, [])}
    lines = run.markdown({"inputs": rows, "commits": {"inputs": "c0ffee"}}).splitlines()
    assert "| 25 | truncated image | 1 | 1 | 0 |  |" in lines
    assert (
        f"| 26 | flipped bits | 4 | 1 | 3: small::mixed, small::skipped, small::broken | {inputs.SHORT[26]} |" in lines
    )
    assert [line for line in lines if line.startswith("| 27 ") and "| not tested |" in line]
    with pytest.raises(SystemExit, match="not found"):
        inputs.run({25: {"small": ["gone"]}}, tmp_path)


# Flips and swaps


@pytest.fixture
def workdir(tmp_path):
    """A run that has two classes' scores of one setting, two curves and a checkpoint of two steps."""
    path = tmp_path / "run"
    store.write_json(path / "config.json", {"methods": ["infoutil"]})
    for label in range(2):
        store.save_arrays(path / f"artifacts/score/{'a' * 16}/{label}.npz", {"loss": np.arange(3.0) + label})
        store.write_json(path / f"artifacts/evaluate/{str(label) * 16}.json", [label], artifact=True)
        Checkpoints(path / f"artifacts/teacher/{'b' * 16}/snapshots").save(label, {"w": np.ones(3) * label})
    return path


def test_what_verify_sees_and_names_is_detected_and_the_run_is_left_as_it_was(workdir):
    before = damage.hashes(workdir, [""])
    found = damage.swap(workdir, 5, random.Random(0))
    assert found == {
        t: dict.fromkeys(("tried", "detected", "right_file_named"), 2) for t in ("checkpoint", "scores", "curve")
    }
    assert list(damage.flip(workdir, 10, random.Random(0)).items()) == [
        (title, dict.fromkeys(("tried", "detected", "right_file_named"), 2))
        for title in ("checkpoint", "checkpoint's hashes", "config.json", "curve", "scores")
    ]
    assert damage.hashes(workdir, [""]) == before


def test_an_epochs_history_is_exchanged_for_that_of_another_teacher(workdir, monkeypatch):
    teacher = workdir / f"artifacts/teacher/{'b' * 16}"
    store.save_arrays(teacher / "correct1.npz", {"bits": np.uint8([1, 2])})
    before, seen = damage.hashes(workdir, [""]), []
    monkeypatch.setattr(damage.verify, "run", lambda path: seen.append((teacher / "correct1.npz").read_bytes()) or 0)
    found = damage.swap(workdir, 4, random.Random(0))
    assert found["forgetting history, of another teacher"] == {"tried": 1, "detected": 0, "right_file_named": 0}
    assert np.uint8([2, 1]).tobytes() in seen[-1] and damage.hashes(workdir, [""]) == before


def test_what_verify_does_not_see_is_silent(workdir):
    for label in range(2):  # as earlier versions wrote it, without its place
        store.write_json(workdir / f"artifacts/evaluate/{str(label) * 16}.json", [label])
    found = damage.swap(workdir, 9, random.Random(0))
    assert found["curve"] == {"tried": 3, "detected": 0, "right_file_named": 0} and found["scores"]["detected"] == 3
    assert "| exchanged: curve | 3 | 0 | 3 | right file named: 0 |" in run.markdown({"swap": found, "commits": {}})
    assert run.fell_short({"swap": found}) and not run.fell_short({"swap": {"scores": found["scores"]}})


def test_what_falls_short_is_the_exit_code():
    whole = {"SIGKILL": {"lost": 0}, "flips": {"shard": {"tried": 2, "detected": 2, "right_file_named": 2}}}
    row = {"failed": [], "tried": 0, "short": "no option"}
    assert not run.fell_short(whole | {"inputs": {"25": row}})
    for part in ({"SIGKILL": {"lost": 1}}, {"inputs": {"25": row | {"failed": ["small::bad"]}}},
                 {"flips": {"shard": whole["flips"]["shard"] | {"right_file_named": 1}}}):  # fmt: skip
        assert run.fell_short(whole | part)
