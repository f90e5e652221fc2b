"""Experiments: every cell's settings are allowed, every list runs on the digits, is continued and not repeated, and its
table shows what is published beside what was measured, and nothing else."""

import contextlib
import io
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from experiments import cells
from safetensors.numpy import save_file

from infoutil_jax import pipeline, results
from infoutil_jax.errors import EnvironmentFault, InfoUtilError, Preempted
from infoutil_jax.settings import METHODS

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "main_table", "cross_architecture", "large_ipc", "components", "noise", "attribution_methods", "coresets",
    "teacher_control", "teacher_stage", "sensitivity", "transfer", "recommended",
)  # fmt: skip
FULL, SMOKE = (
    SimpleNamespace(smoke=smoke, data_dir="", seeds=0, hard_seeds=None, weights=None) for smoke in (False, True)
)
CELL = cells.Cell("one", "configs/digits_ipc1.py", {"crop.alpha": 1.0}, ("infoutil", "rded"), {"infoutil": "28.5±1.4"})


def experiment(name):
    return runpy.run_path(str(ROOT / "experiments" / name / "run.py"))


def run(here, chosen, *arguments):
    """What is printed, and results.md."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        cells.main(here, chosen, "Note.", list(arguments))
    return printed.getvalue(), Path(printed.getvalue().splitlines()[-1]).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_cells_settings_are_allowed_and_no_two_are_equal(name):
    listed = experiment(name)["CELLS"]
    assert len({cell.name for cell in listed}) == len(listed)
    keys = [cells._key(cells.settings_of(cell, FULL)) for cell in listed]
    assert len(set(keys)) == len(keys)
    assert not [cell for cell in listed if "'" in cell.name]  # names stand in quotes on command lines


def test_figures_of_the_paper_stand_at_their_cells():
    main_table = {cell.name: cell.published for cell in experiment("main_table")["CELLS"] if cell.published}
    assert len(main_table) == 63
    assert main_table["cifar100 convnet3 ipc 10"]["rded"] == "48.1±0.3"
    assert main_table["cifar10 convnet3 ipc 1"]["infoutil"] == "28.5±1.4"
    assert main_table["tiny_imagenet resnet101_cifar ipc 50"] == {
        "sre2l": "42.5±0.2",
        "rded": "41.2±0.4",
        "infoutil": "54.7±0.3",
    }
    assert main_table["imagenet convnet4 ipc 10"] == {"tesla": "17.8±1.3", "rded": "20.4±0.1", "infoutil": "21.5±0.3"}
    large = {cell.name: cell for cell in experiment("large_ipc")["CELLS"]}
    assert large["imagenet resnet18 ipc 10"].published["d3s"] == "37.2±0.3"
    assert large["imagenet resnet18 ipc 50"].published["infoutil"] == "58.0±0.3 / 57.6±0.3"
    crossed = {cell.name: cell.published for cell in experiment("cross_architecture")["CELLS"]}
    assert crossed["vgg11 to swin_v2_t"] == {"rded": "7.8±0.1", "infoutil": "17.8±0.4"}
    coresets = {cell.name: cell.published for cell in experiment("coresets")["CELLS"]}
    assert coresets["cifar10 convnet3 ipc 50"]["forgetting"] == "23.3±1.1"
    assert coresets["imagenet resnet18 ipc 10"]["k_means"] == "5.5±0.1"


def test_controls_that_nobody_has_run_are_there():
    by_name = {cell.name: cell for cell in experiment("teacher_control")["CELLS"]}
    early = cells.settings_of(by_name["resnet18 ipc 50, early teacher"], FULL)
    assert early.label.teacher == "early" and "rded" in early.methods
    parts = {cell.name: cells.settings_of(cell, FULL) for cell in experiment("components")["CELLS"]}
    losses = parts["imagewoof ipc 10: attribution crops, loss"]
    assert (losses.crop.rule, losses.select.rule) == ("shapley", "lowest_loss")


def test_a_toy_cell_keeps_what_the_experiment_is_about():
    by_name = {cell.name: cell for cell in experiment("attribution_methods")["CELLS"]}
    toys = [cells.settings_of(by_name[f"imagenette ipc 50: {name}"], SMOKE) for name in experiment(
        "attribution_methods")["ESTIMATORS"]]  # fmt: skip
    assert [toy.attribute.estimator for toy in toys] == ["odd_gp", "kernel_shap", "grad_cam"]
    for toy in toys:
        assert toy.data.source == "digits" and toy.teacher.model == toy.evaluate.model == "convnet3"
        assert toy.label.teacher == "converged" and toy.compose.factor == 2 and toy.ipc == toy.evaluate.seeds == 1


def test_one_folder_holds_all_data():
    flags = SimpleNamespace(smoke=False, data_dir="/data", seeds=2, hard_seeds=None, weights=None)
    by_name = {cell.name: cell for cell in experiment("main_table")["CELLS"]}
    of_tfds = cells.settings_of(by_name["cifar10 convnet3 ipc 1"], flags)
    of_folder = cells.settings_of(by_name["imagenet100 resnet18 ipc 1"], flags)
    assert of_tfds.data.path == "/data" and of_folder.data.path == "/data/imagenet100"
    assert of_tfds.evaluate.seeds == 2
    assert cells._key(of_tfds) == cells._key(cells.settings_of(by_name["cifar10 convnet3 ipc 1"], FULL))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("experiments")


@pytest.mark.parametrize("name", NAMES)
def test_the_smoke_run_of_the_first_and_the_last_cell(name, runs, monkeypatch):
    monkeypatch.setattr(pipeline.selfcheck, "run", lambda: 0.0)  # has its own tests
    module = experiment(name)
    first, last = module["CELLS"][0], module["CELLS"][-1]
    _, table = run(module["HERE"], [first, last], "--smoke", f"--runs={runs}")
    records = json.loads((runs / name / "results.json").read_text())
    different = {cells._key(cells.settings_of(cell, SMOKE)): cell for cell in (last, first)}.values()
    assert set(records) == {cell.name for cell in different}
    for cell in different:
        record = records[cell.name]
        assert set(record["methods"]) == set(cell.methods)
        assert record["seconds"] > 0 and record["cpu_cores"] and "cpu" in record["environment"]["devices"]
        assert f"--only='^{cell.name}$' --seeds=1 --smoke" in record["command"] and "curves" not in record
        for method in cell.methods:
            mean = 100 * record["methods"][method]["online"]["top1"]["mean"]
            assert f"| {cell.name} | {results.TITLES[method]} | {mean:.1f} (1 seed) |" in table


@pytest.fixture
def counted(monkeypatch):
    """A pipeline that writes a result and counts."""
    seen = []

    def fake(settings, *, workdir, artifacts):
        seen.append(settings)
        workdir = Path(workdir)
        workdir.mkdir(parents=True)
        values = {"mean": 0.123, "std": 0.01, "seeds": [0.1] * settings.evaluate.seeds}
        by = {settings.evaluate.labels: {"top1": values, "best_epoch_top1": values}, "hard": {"top1": values}}
        record = {
            "methods": {m: by for m in settings.methods}, "curves": {}, "config": results.plain(settings),
            "environment": {"devices": "1 x cpu", "git": "0123456789abc"},
            "teacher": {"early": {"top1": 0.5}, "converged": {"top1": 0.9}},
        }  # fmt: skip
        (workdir / "results.json").write_text(json.dumps(record))

    monkeypatch.setattr(pipeline, "run", fake)
    return seen


OTHER = CELL._replace(name="another", changes={"crop.alpha": 2.5}, published={"sre2l": "16.6±0.9"})


def test_a_finished_cell_is_not_run_again_and_a_changed_one_is(counted, tmp_path):
    for _ in range(2):
        run(tmp_path / "x", [CELL, OTHER], f"--runs={tmp_path}")
        assert [settings.crop.alpha for settings in counted] == [1.0, 2.5]
    run(tmp_path / "x", [CELL, OTHER], f"--runs={tmp_path}", "--seeds=1")  # three are more than one
    assert len(counted) == 2
    run(tmp_path / "x", [CELL, OTHER], f"--runs={tmp_path}", "--seeds=5", "--only=^one$")
    assert [settings.evaluate.seeds for settings in counted] == [3, 3, 5]
    run(tmp_path / "x", [CELL], f"--runs={tmp_path}", "--hard_seeds=0", "--recipe=modern")
    run(
        tmp_path / "x", [CELL], f"--runs={tmp_path}", "--recipe=modern"
    )  # the config's students on hard labels can wait
    assert [settings.evaluate.hard_seeds for settings in counted] == [3, 3, 3, 0]
    run(tmp_path / "x", [CELL], f"--runs={tmp_path}", "--hard_seeds=2", "--recipe=modern")
    assert [settings.evaluate.hard_seeds for settings in counted] == [3, 3, 3, 0, 2]
    del counted[3:]
    changed = OTHER._replace(changes={"crop.alpha": 3.0})
    _, table = run(tmp_path / "x", [CELL, changed], "--list")
    assert len(counted) == 3 and "| another | InfoUtil | not run yet | - | - | - |" in table
    run(tmp_path / "x", [CELL, changed], f"--runs={tmp_path}")
    assert [settings.crop.alpha for settings in counted] == [1.0, 2.5, 1.0, 3.0]


def test_what_was_done_before_an_error_is_kept(counted, tmp_path):
    bad = CELL._replace(name="bad", changes={"crop.alpha": 7.0})
    fake = pipeline.run

    def fails(settings, **where):
        if settings.crop.alpha == 7:
            raise pipeline.ConfigError("no such luck")
        fake(settings, **where)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(pipeline, "run", fails)
        run(tmp_path, [CELL, bad], f"--runs={tmp_path / 'runs'}")
    assert stopped.value.code == 2
    assert set(json.loads((tmp_path / "results.json").read_text())) == {"one"}


def test_what_another_command_records_meanwhile_is_kept(counted, tmp_path, monkeypatch):
    path, fake = tmp_path / "results.json", pipeline.run

    def beside_another(settings, **where):
        fake(settings, **where)
        path.write_text(json.dumps({"made elsewhere": {}}))

    monkeypatch.setattr(pipeline, "run", beside_another)
    run(tmp_path, [CELL], f"--runs={tmp_path / 'runs'}")
    assert set(json.loads(path.read_text())) == {"one", "made elsewhere"}


def test_the_table_shows_published_figures_beside_ours_and_invents_none(counted, tmp_path):
    _, before = run(tmp_path, [CELL, OTHER], "--list")
    assert not counted and before.startswith("Note.\n") and "No cell was run yet." in before
    assert "| one | InfoUtil | not run yet | - | - | 28.5±1.4 |" in before
    _, table = run(tmp_path, [CELL, OTHER], f"--runs={tmp_path / 'runs'}", "--only=one")
    assert "| one | InfoUtil | 12.3 ± 1.0 | 12.3 ± 1.0 | 12.3 ± 1.0 | 28.5±1.4 |" in table
    assert "| one | RDED | 12.3 ± 1.0 | 12.3 ± 1.0 | 12.3 ± 1.0 | - |" in table
    assert "| another | RDED | not run yet | - | - | - |" in table
    assert "| another | sre2l | - | - | - | 16.6±0.9 |" in table
    assert "| one | 50.0 / 90.0 | 3 | 1 x cpu, " in table and "| another | 50.0" not in table
    _, turned = run(tmp_path, [OTHER, CELL], "--list")
    assert turned.index("| one | InfoUtil | 12.3") < turned.index("| another | InfoUtil | not run yet")


def test_every_cell_can_be_run_by_another_recipe(counted, tmp_path):
    _, table = run(tmp_path, [CELL, OTHER], f"--runs={tmp_path / 'runs'}", "--recipe=modern", "--only=one")
    assert [(settings.recipe, settings.evaluate.loss) for settings in counted] == [("modern", "mse")]
    assert "| one | InfoUtil | not run yet |" in table and "| one, modern recipe | InfoUtil | 12.3 ± 1.0 |" in table
    assert "another, modern" not in table
    command = json.loads((tmp_path / "results.json").read_text())["one, modern recipe"]["command"]
    assert command.endswith("--only='^one, modern recipe$' --seeds=3 --recipe=modern")
    run(tmp_path, [CELL, OTHER], f"--runs={tmp_path / 'runs'}", "--recipe=modern", "--only=one")
    assert len(counted) == 1


def test_a_cell_with_a_recipe_of_its_own_has_no_other(counted, tmp_path):
    own = OTHER._replace(changes={"recipe": "modern"})
    run(tmp_path / "x", [CELL, own], f"--runs={tmp_path}", "--recipe=infoutil")
    assert [settings.recipe for settings in counted] == ["infoutil"]
    _, table = run(tmp_path / "x", [CELL, own], "--list")
    assert "| one, infoutil recipe |" in table and "| another | InfoUtil | not run yet |" in table


def test_keys_that_are_younger_than_a_record_are_as_they_were(counted, tmp_path):
    run(tmp_path / "x", [CELL], f"--runs={tmp_path}")
    path = tmp_path / "x" / "results.json"
    records = json.loads(path.read_text())
    del records["one"]["config"]["teacher"]["early_learning_rate"]
    path.write_text(json.dumps(records))
    later = CELL._replace(changes={**CELL.changes, "teacher.early_learning_rate": 0.01})
    for cell, due in ((CELL, 1), (later, 2)):
        run(tmp_path / "x", [cell], f"--runs={tmp_path}")
        assert len(counted) == due


def test_teachers_from_elsewhere_come_by_their_models_name_with_their_own_numbers(counted, tmp_path):
    save_file({"w": np.zeros(1, np.float32)}, tmp_path / "convnet3.safetensors")
    (tmp_path / "convnet3.json").write_text(json.dumps({"mean": [0.1, 0.2, 0.3]}))
    for _ in range(2):  # found again under the numbers that the weights brought
        run(tmp_path / "x", [CELL], f"--runs={tmp_path / 'runs'}", f"--weights={tmp_path}")
        (settings,) = counted
    assert settings.data.mean == (0.1, 0.2, 0.3) and Path(settings.teacher.weights).parent == tmp_path
    record = json.loads((tmp_path / "x" / "results.json").read_text())["one"]
    assert record["config"]["teacher"]["weights"] == "convnet3.safetensors"
    assert str(tmp_path) not in json.dumps(record) and "--weights=WEIGHTS_DIR" in record["command"]


@pytest.mark.parametrize("fault", [Preempted("asked to stop"), EnvironmentFault("disk full")])
def test_what_no_cell_can_mend_stops_them_all(counted, tmp_path, monkeypatch, fault):
    started = []

    def stopped(settings, **where):
        started.append(settings)
        raise fault

    monkeypatch.setattr(pipeline, "run", stopped)
    with pytest.raises(SystemExit) as left:
        run(tmp_path / "x", [CELL, OTHER], f"--runs={tmp_path}")
    assert len(started) == 1 and left.value.code == fault.exit_code


def test_a_name_that_fits_no_cell_is_an_error(counted, tmp_path, capsys):
    with pytest.raises(SystemExit, match="--only='two' names no cell; there are: one, another"):
        run(tmp_path, [CELL, OTHER], "--only=two")
    assert not counted and not list(tmp_path.iterdir())


def test_smoke_never_writes_beside_the_experiment(counted, tmp_path):
    here = tmp_path / "one_experiment"
    here.mkdir()
    run(here, [CELL, CELL._replace(name="same")], "--smoke", f"--runs={tmp_path / 'runs'}")
    assert not list(here.iterdir()) and len(counted) == 1
    assert (tmp_path / "runs" / "one_experiment" / "results.md").exists()


def test_every_method_of_ours_is_known():
    for name in NAMES:
        for cell in experiment(name)["CELLS"]:
            assert set(cell.methods) <= set(METHODS), cell.name


def test_a_cell_that_fails_stops_no_other(runs, counted, monkeypatch):
    here, fake = runs / "failing", pipeline.run

    def some_fail(settings, **places):
        if settings.ipc == 1:
            raise InfoUtilError("no luck")
        fake(settings, **places)

    monkeypatch.setattr(pipeline, "run", some_fail)
    listed = [cells.Cell(f"ipc {ipc}", f"configs/cifar10_ipc{ipc}.py", {}, ("infoutil",), {}) for ipc in (1, 10)]
    with pytest.raises(SystemExit) as stopped:
        run(here, listed, f"--runs={runs}")
    assert stopped.value.code == InfoUtilError.exit_code
    assert set(json.loads((here / "results.json").read_text())) == {"ipc 10"}
    assert "| ipc 1 | InfoUtil | not run yet" in (here / "results.md").read_text()
