"""A run's teacher from files: whose numbers hold, what is refused, and a run that trains none."""

import contextlib
import hashlib
import io
import json
import re

import jax
import numpy as np
import pytest
from configs import base, digits
from safetensors.numpy import save_file

from infoutil_jax import config, data, pipeline, plan, pretrained, teachers, weights
from infoutil_jax.errors import ConfigError, CorruptArtifact, DataError, NumericError
from infoutil_jax.stages import teacher as teacher_stage

DIGITS = tuple(map(str, range(10)))
CFG = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 48, 48], "crop_pct": 0.96}
CFG |= {"interpolation": "bicubic", "crop_mode": "center"}


def asked(path="", module=base, **changes):
    c = module.get_config()
    c.update_from_flattened_dict({"teacher.weights": str(path), "teacher.model": "resnet18", **changes})
    return config.resolve(c)


def some_file(folder, name="model.safetensors", header=None):
    path = folder / name
    save_file({"a": np.ones(1, np.float32)}, path, metadata=header)
    return path


def adopted(path, **changes):
    return pretrained.adopt(asked(path, **changes))


# The weights' own config


def test_without_weights_nothing_changes():
    settings = asked()
    assert pretrained.adopt(settings) == (settings, []) and pretrained.absent(settings.teacher) == []


def test_timms_config_beside_the_file_replaces_the_numbers(tmp_path):
    path, timm = some_file(tmp_path), {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": CFG}
    (tmp_path / "config.json").write_text(json.dumps(timm))
    settings, notes = adopted(path)
    got = settings.data
    assert (got.mean, got.std, got.image_size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 48)
    assert (got.crop_share, got.interpolation) == (0.96, "bicubic")
    assert notes == [
        "teacher weights: crop_share=0.96, image_size=48, interpolation=bicubic, mean=(0.1, 0.2, 0.3), "
        f"std=(0.4, 0.5, 0.6), as {tmp_path / 'config.json'} has it"
    ]
    assert settings.teacher == asked(path).teacher and settings.evaluate == asked(path).evaluate
    assert adopted(path)[0] == settings == pretrained.adopt(settings)[0]


def test_the_header_goes_before_the_files_own_json_and_that_before_config_json(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"mean": [0.3, 0.3, 0.3]}))  # older files of timm are flat
    path = some_file(tmp_path)
    assert adopted(path)[0].data.mean == (0.3, 0.3, 0.3)
    (tmp_path / "model.json").write_text(json.dumps({"mean": [0.2, 0.2, 0.2]}))
    assert adopted(path)[0].data.mean == (0.2, 0.2, 0.2)
    some_file(tmp_path, header={"format": "pt", "pretrained_cfg": json.dumps({"mean": [0.1, 0.1, 0.1]})})
    settings, _ = adopted(path)
    assert settings.data.mean == (0.1, 0.1, 0.1) and settings.data.std == asked().data.std


def test_label_names_are_a_list_or_timms_dictionary_by_number(tmp_path):
    path = some_file(tmp_path)
    for names in (["a", "b", 3], {"10": 3, "2": "b", "1": "a"}):
        (tmp_path / "config.json").write_text(json.dumps({"label_names": names}))
        assert pretrained._brought(path, "resnet18")[0] == {"label_names": ("a", "b", "3")}


def test_weights_that_bring_nothing_leave_the_config_and_say_so(tmp_path):
    path = some_file(tmp_path, header={"format": "pt"})
    settings, notes = adopted(path)
    assert settings == asked(path)
    assert notes == [f"teacher weights: {path} brings no mean, std or resize rule, those of the config hold"]


@pytest.mark.parametrize(
    "own, error, message",
    [
        ({"architecture": "resnet50"}, ConfigError, "architecture 'resnet50' is not teacher.model='resnet18'"),
        ({"mean": [0.1, "x", 0.3]}, DataError, "mean=.* cannot be used"),
        ({"mean": 0.5}, DataError, "mean=0.5 cannot be used"),
        ({"mean": [0.5, 0.5]}, ConfigError, r"data.mean=\(0.5, 0.5\) has 2 values"),
        ({"mean": [123.7, 116.3, 103.5]}, ConfigError, "data.mean=123.7 is out of range"),
        ({"input_size": [3, 224, 192]}, DataError, "input_size=.* square"),
        ({"input_size": [3, float("inf"), float("inf")]}, DataError, "input_size=.* cannot be used"),
        ({"interpolation": "lanczos"}, ConfigError, "data.interpolation='lanczos' is not known"),
        ({"crop_pct": 0.0001}, ConfigError, "data.crop_share=0.0001 is out of range"),
        ({"crop_mode": "squash"}, DataError, "crop_mode='squash' is not supported"),
        ({"top1": 69.758}, DataError, r"top1=69.758 cannot be used \(a share lies in \[0, 1\]\)"),
    ],
    ids=str,
)
def test_numbers_that_cannot_be_adopted_name_the_file(own, error, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(own))
    with pytest.raises(error, match=f"config.json: {message}"):
        adopted(some_file(tmp_path))


@pytest.mark.parametrize("text", ["{", "[1]", '{"pretrained_cfg": 3}', "\udcff"])
def test_a_config_that_is_no_json_object_is_named(text, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match="config.json: no JSON object"):
        adopted(some_file(tmp_path))


@pytest.mark.parametrize(
    "model, architecture, fits",
    [("resnet18_cifar", "resnet18", True), ("swin_v2_t", "swinv2_tiny_window8_256", True), ("resnet18", "resnet18", True),
     ("efficientnet_b0", "tf_efficientnet_b0", False), ("swin_v2_t", "swinv2_tiny_window16_256", False)],
)  # fmt: skip
def test_networks_that_only_share_their_keys_are_told_apart(model, architecture, fits, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}))
    with contextlib.nullcontext() if fits else pytest.raises(ConfigError, match=f"'{architecture}' is not"):
        adopted(some_file(tmp_path), **{"teacher.model": model})


def test_two_files_have_one_normalisation(tmp_path):
    early = some_file(tmp_path, "early.safetensors")
    path = some_file(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(CFG))
    assert len(adopted(path, **{"teacher.early_weights": str(early)})[1]) == 2  # one that brings nothing is fine
    (tmp_path / "early.json").write_text(json.dumps(CFG | {"mean": [0.1, 0.2, 0.4]}))
    with pytest.raises(ConfigError, match=r"early.json has it, but .*model.safetensors has other numbers"):
        adopted(path, **{"teacher.early_weights": str(early)})


# Settings


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"teacher.weights_top1": 69.8}, "teacher.weights_top1=69.8 is out of range: it must be between 0 and 1"),
        ({"teacher.weights_tolerance": -0.1}, "teacher.weights_tolerance=-0.1 is out of range"),
        ({"teacher.weights_sha256": "abc"}, "teacher.weights_sha256='abc' is no SHA-256"),
        ({"teacher.early_weights_sha256": "A" * 64}, "teacher.early_weights_sha256='A+' is no SHA-256"),
        ({"teacher.early_weights": "x.safetensors"}, "teacher.early_weights is set but teacher.weights is not"),
        ({"teacher.weights_sha256": "a" * 64}, "teacher.weights_sha256 is set but teacher.weights is not"),
        ({"teacher.weights_top1": 0.7}, "teacher.weights_top1 is set but teacher.weights is not"),
        ({"teacher.early_weights_sha256": "a" * 64}, "weights_sha256 is set but teacher.early_weights is not"),
        ({"teacher.early_learning_rate": -0.1}, "teacher.early_learning_rate=-0.1 is out of range"),
        (
            {"teacher.weights": "w", "teacher.early_weights": "e", "teacher.early_learning_rate": 0.1},
            "early_weights and teacher.early_learning_rate are both set",
        ),
    ],
)
def test_settings_of_weights_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        asked(**changes)


def test_what_a_training_depends_on_does_not_include_files():
    plain, other = (
        asked().teacher,
        asked("w.safetensors", **{"teacher.early_weights": "e", "teacher.weights_top1": 0.5}),
    )
    assert plain.training == other.teacher.training and "epochs" in plain.training
    changed = asked(**{"teacher.epochs": 21}).teacher.training
    assert {key for key in changed if changed[key] != plain.training[key]} == {"epochs"}


def test_the_plan_trains_nothing_and_names_what_is_not_there(tmp_path):
    lines = plan.describe(asked(tmp_path / "no.safetensors", digits, **{"teacher.model": "convnet3"})).splitlines()
    assert f"teacher         from {tmp_path}/no.safetensors: 0 FLOP of training" in lines
    assert lines[-1] == f"missing         no file {tmp_path}/no.safetensors"
    short = {"teacher.model": "convnet3", "teacher.early_epoch": 2, "teacher.early_learning_rate": 0.01}
    trained = {**short, "teacher.epochs": 3, "teacher.early_epoch": 1}
    alone = {"teacher.model": "convnet3", "teacher.epochs": 2, "teacher.early_epoch": 2}
    line = lambda *of: re.search("teacher .*", plan.describe(asked(of[0], digits, **of[1])))[0]
    cost = lambda *of: float(line(*of).split(": ")[1].split()[0])
    assert "no.safetensors and 2 epochs of the early one: " in line(tmp_path / "no.safetensors", short)
    assert cost(tmp_path / "no.safetensors", short) == cost("", alone) == pytest.approx(cost("", trained) / 2, rel=0.01)
    path = some_file(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"input_size": [3, 24, 24]}))
    settings = asked(path, digits, **{"teacher.model": "convnet3", "teacher.early_weights": str(tmp_path / "e")})
    assert plan.describe(settings).splitlines()[-1] == f"missing         no file {tmp_path}/e"
    text = plan.describe(asked(path, digits, **{"teacher.model": "convnet3"}))
    assert "digits at 24 px" in text and "config.json has it" in text and text.endswith("missing         nothing")


# A run


def tiny(path="", **changes):
    """A teacher of seconds, or its file, and one method with one short student."""
    c = digits.get_config(ipc=1)
    c.update_from_flattened_dict({
        "name": "tiny", "candidates": 8, "methods": ("infoutil",), "teacher.width": 8, "teacher.epochs": 3,
        "teacher.early_epoch": 1, "teacher.min_times_chance": 1.5, "attribute.grid": 2, "attribute.budget": 16,
        "attribute.micro_batch": 16, "crop.window": 1, "evaluate.epochs": 2, "evaluate.seeds": 1,
        "evaluate.hard_seeds": 0, "teacher.weights": str(path), **changes,
    })  # fmt: skip
    return config.resolve(c)


def printed(action):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        result = action()
    return result, text.getvalue()


@pytest.fixture(scope="module")
def dataset():
    return data.open_dataset(tiny().data)


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    teacher, _ = printed(lambda: teachers.obtain(tiny(), dataset, tmp_path_factory.mktemp("artifacts")))
    return teacher


@pytest.fixture
def files(trained, tmp_path):
    """The trained teacher's two snapshots as files, with all that is known about them."""
    for which in ("early", "converged"):
        top1 = trained.record[which]["top1"]
        weights.write(tmp_path / f"{which}.safetensors", trained.variables(which), tiny(), DIGITS, top1)
    return tmp_path


def obtain(settings, dataset, artifacts):
    settings, _ = pretrained.adopt(settings)
    return printed(lambda: teachers.obtain(settings, dataset, artifacts))


def swapped(trained, path, order, class_names, top1):
    """The converged teacher with its classifier's rows in another order, class order[i] in row i."""
    variables = jax.tree.map(np.array, trained.converged)
    head = variables["params"]["classifier"]
    head["kernel"], head["bias"] = head["kernel"][:, order], head["bias"][order]
    weights.write(path, variables, tiny(), class_names, top1)
    return path


def test_a_run_with_imported_weights_trains_no_teacher(files, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_stage, "run", lambda *_, **__: pytest.fail("a teacher was trained"))
    path, early = files / "converged.safetensors", files / "early.safetensors"
    settings = tiny(path, **{"teacher.early_weights": str(early), "data.mean": (0.9, 0.9, 0.9)})
    workdir, text = printed(lambda: pipeline.run(settings, workdir=str(tmp_path / "run")))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"pin converged.safetensors with --config.teacher.weights_sha256={sha256}" in text
    assert f"teacher (converged, converged.safetensors): {trained.record['converged']['top1']:.2%} on 360" in text
    assert "mean=(0.305, 0.305, 0.305)" in text and "pretrained_cfg in its header has it" in text
    results = json.loads((workdir / "results.json").read_text())
    assert results["config"]["data"]["mean"] == [0.305] * 3
    record = results["teacher"]
    assert record["converged"]["file_sha256"] == sha256 and record["early"]["file"] == "early.safetensors"
    for which in ("early", "converged"):
        assert record[which]["top1"] == record[which]["recorded_top1"] == trained.record[which]["top1"]
    assert record["early"]["sha256"] != record["converged"]["sha256"]

    monkeypatch.setattr(teachers.train, "test", lambda *_: pytest.fail("measured again"))
    printed(lambda: pipeline.run(settings, workdir=str(workdir)))  # continued: everything is found again


def test_variables_are_the_files_and_one_file_serves_both(files, trained, dataset, tmp_path):
    teacher, text = obtain(tiny(files / "converged.safetensors"), dataset, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, teacher.early, trained.converged)
    jax.tree.map(np.testing.assert_array_equal, teacher.converged, trained.converged)
    assert teacher.record["early"] == teacher.record["converged"]
    assert text.count("pin converged.safetensors with") == 1
    assert len(list((tmp_path / "teacher").glob("*/teacher.json"))) == 1
    assert "converged.safetensors is the early teacher too; teacher.early_weights or " in text


def test_beside_a_file_the_early_teacher_may_be_trained(files, dataset, tmp_path):
    own = {"teacher.early_learning_rate": 0.02, "teacher.min_times_chance": 0.0}
    both, text = obtain(tiny(files / "converged.safetensors", **own), dataset, tmp_path)
    alone, _ = obtain(tiny(**own), dataset, tmp_path)
    assert "is the early teacher too" not in text and "teacher (early, epoch 1): " in text
    jax.tree.map(np.testing.assert_array_equal, both.early, alone.early)
    assert both.record["early"] == alone.record["early"] and both.record["converged"]["file"] == "converged.safetensors"


def test_a_teachers_identity_is_its_weights_and_its_normalisation(files, trained, dataset, tmp_path):
    identity = lambda **changes: (
        pretrained.of_teacher(tiny(files / "converged.safetensors", **changes), trained.converged, DIGITS)[0][
            "converged"
        ].identity
    )
    first = identity()
    (files / "moved").mkdir()
    (files / "converged.safetensors").rename(files / "moved" / "other.safetensors")
    moved = tiny(files / "moved" / "other.safetensors", **{"teacher.epochs": 7})
    assert pretrained.of_teacher(moved, trained.converged, DIGITS)[0]["converged"].identity == first
    (files / "moved" / "other.safetensors").rename(files / "converged.safetensors")
    assert len({first, identity(**{"data.mean": (0.3, 0.3, 0.3)}), identity(**{"data.std": (0.3, 0.3, 0.3)})}) == 3


def test_another_sha256_is_refused_and_the_right_one_is_silent(files, dataset, tmp_path):
    path = files / "converged.safetensors"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    _, text = obtain(tiny(path, **{"teacher.weights_sha256": sha256}), dataset, tmp_path)
    assert "pin" not in text
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifact, match=f"converged.safetensors: SHA-256 is [0-9a-f]*, not the pinned {sha256}"):
        obtain(tiny(path, **{"teacher.weights_sha256": sha256}), dataset, tmp_path)


def test_a_file_that_is_not_there_stops_the_run_before_it_makes_anything(tmp_path):
    with pytest.raises(ConfigError, match="no.safetensors: no such file"):
        pipeline.run(tiny(tmp_path / "no.safetensors"), workdir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_classes_in_another_order_are_refused_with_a_hint(trained, dataset, tmp_path):
    order = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    top1 = trained.record["converged"]["top1"]
    path = swapped(trained, tmp_path / "w.safetensors", order, (), top1)  # a file that does not name its classes
    for _ in range(2):  # the second finds its accuracy measured
        with pytest.raises(NumericError) as error:
            obtain(tiny(path), dataset, tmp_path)
        text = str(error.value)
        assert f"not the recorded {top1:.1%} (teacher.weights_tolerance=0.02)" in text and "near chance" in text
        assert f"in another order {top1:.1%} would be right" in text
        sentences = [f"true class '{i}' (index {i}) is predicted as index {(i - 1) % 10};" for i in range(10)]
        assert sum(sentence in text for sentence in sentences) == 1
        causes = ("the order of the classes", "mean and std", "the resize", "another validation split")
        assert sorted(causes, key=text.rfind) == list(causes)


def test_classes_in_another_order_are_put_right_by_name(trained, dataset, tmp_path):
    order = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    top1 = trained.record["converged"]["top1"]
    path = swapped(trained, tmp_path / "w.safetensors", order, [DIGITS[i] for i in order], top1)
    teacher, text = obtain(tiny(path), dataset, tmp_path)
    assert teacher.record["converged"]["top1"] == top1 and "classes found by name among 10" in text
    jax.tree.map(np.testing.assert_array_equal, teacher.converged, trained.converged)


def test_the_users_record_goes_before_the_files_and_that_is_of_all_its_classes(files, trained, dataset, tmp_path):
    of = lambda like, names, **changes: (
        pretrained.of_teacher(tiny(files / "converged.safetensors", **changes), like, names)[0]["converged"].top1
    )
    assert of(trained.converged, DIGITS) == trained.record["converged"]["top1"]
    assert of(trained.converged, DIGITS, **{"teacher.weights_top1": 0.6}) == 0.6
    three = jax.tree.map(np.array, trained.converged)
    head = three["params"]["classifier"]
    head["kernel"], head["bias"] = head["kernel"][:, :3], head["bias"][:3]
    assert of(three, ("7", "0", "4")) == 0 and of(three, ("7", "0", "4"), **{"teacher.weights_top1": 0.9}) == 0.9


def test_weights_without_a_record_are_only_held_against_chance(trained, dataset, tmp_path):
    path = tmp_path / "w.safetensors"
    flat = {
        ".".join(p.key for p in names): leaf for names, leaf in jax.tree_util.tree_leaves_with_path(trained.converged)
    }
    save_file({name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}, path)
    _, text = obtain(tiny(path), dataset, tmp_path)
    assert (
        "w.safetensors: no accuracy on these 10 classes is recorded: refused only if near chance or in another order"
        in text
    )
    with pytest.raises(NumericError, match=r"near chance \(10.0%, teacher.min_times_chance=9.99\)"):
        obtain(tiny(path, **{"teacher.min_times_chance": 9.99}), dataset, tmp_path)
    with pytest.raises(NumericError, match="not the recorded 10.0%"):  # better than recorded is another data set, too
        obtain(tiny(path, **{"teacher.weights_top1": 0.1}), dataset, tmp_path)


def test_a_trained_teacher_is_found_again_whatever_the_keys_of_weights(dataset, tmp_path, monkeypatch):
    printed(lambda: teachers.obtain(tiny(), dataset, tmp_path))
    monkeypatch.setattr(teacher_stage, "run", lambda *_, **__: pytest.fail("a teacher was trained"))
    printed(lambda: teachers.obtain(tiny(**{"teacher.weights_tolerance": 0.5}), dataset, tmp_path))
