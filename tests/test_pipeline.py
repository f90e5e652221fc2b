"""A whole run, small: what it writes is true, it is continued and not repeated, and bad input stops it early."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import main
import numpy as np
import pytest
from configs import digits
from PIL import Image

from infoutil_jax import (
    clock,
    config,
    data,
    distil,
    models,
    pipeline,
    provenance,
    records,
    results,
    store,
    teachers,
    tfrecord,
    utility,
)
from infoutil_jax.attribution import exact
from infoutil_jax.data import augment
from infoutil_jax.errors import ConfigError, DataError, Preempted
from infoutil_jax.rate import accounting
from infoutil_jax.settings import METHODS, for_method
from infoutil_jax.stages import attribute, compose, crop, evaluate, score
from infoutil_jax.stages import teacher as teacher_stage

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).parent / "golden" / "tiny_selection.json"
GRID = 2
RESOLVE = config.resolve  # before a test replaces it


def tiny(**changes):
    """A run of every method in seconds: 12 candidates a class, 2 x 2 players and all 16 coalitions."""
    c = digits.get_config(ipc=1)
    c.update_from_flattened_dict({
        "name": "tiny", "candidates": 12, "methods": tuple(METHODS), "teacher.width": 8, "teacher.epochs": 3,
        "teacher.early_epoch": 2, "teacher.checkpoint_epochs": 1, "teacher.min_times_chance": 1.5,
        "attribute.grid": GRID, "attribute.budget": 16, "attribute.micro_batch": 16, "crop.window": 1,
        "crop.per_image": 2, "select.rule": "largest_gradient_norm", "evaluate.epochs": 5, "evaluate.test_every": 2,
        "evaluate.seeds": 1, "evaluate.hard_seeds": 0,
        **{path.replace("__", "."): value for path, value in changes.items()},
    })  # fmt: skip
    return RESOLVE(c)


def run(settings, workdir, artifacts=""):
    """What a run prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        pipeline.run(settings, workdir=str(workdir), artifacts=str(artifacts))
    return printed.getvalue()


def hashes(folder):
    """SHA-256 of every file below, by its path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", autouse=True)
def one_commit():
    """The checkout may change under a long test; a run's record of it must not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "_git_commit", lambda: "tested")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(settings, workdir, what was printed) of a whole run."""
    workdir = tmp_path_factory.mktemp("run") / "tiny"
    return tiny(), workdir, run(tiny(), workdir)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be harmed."""
    shutil.copytree(finished[1], tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture(scope="module")
def dataset(finished):
    return data.open_dataset(finished[0].data)


@pytest.fixture(scope="module")
def teacher(finished, dataset):
    with contextlib.redirect_stdout(io.StringIO()):
        return teachers.obtain(finished[0], dataset, finished[1] / "artifacts")


def directory_of(workdir, method):
    return workdir / ("distilled" if method == "infoutil" else f"controls/{method}")


def test_students_of_all_methods_see_the_same_views(finished, dataset, teacher, monkeypatch):
    settings, workdir, _ = finished
    seen = {}

    def student(views, distilled, *_, **__):
        seen[distilled.manifest["method"]] = views
        return [(1, 0.5, 0.5)]

    monkeypatch.setattr(evaluate, "run", student)
    directories = {method: directory_of(workdir, method) for method in settings.methods}
    with contextlib.redirect_stdout(io.StringIO()):
        pipeline.evaluate_sets(settings, dataset, teacher, directories, workdir.parent / "unused")
    assert set(seen) == set(METHODS) and len(set(seen.values())) == 1
    assert seen["random_images"].min_scale == 0.5


# What is written is true


@pytest.mark.parametrize("method", METHODS)
def test_a_set_is_whole_and_says_how_it_was_made(finished, method):
    settings, workdir, _ = finished
    records.verify(directory_of(workdir, method))
    loaded = records.load(directory_of(workdir, method))
    assert loaded.labels.tolist() == list(range(10)) and loaded.images_u8.shape == (10, 16, 16, 3)
    assert loaded.manifest["method"] == method
    assert loaded.manifest["config"] == results.plain(for_method(settings, method))
    assert loaded.manifest["teacher"]["converged"]["epoch"] == 3 and loaded.manifest["environment"]["git"] == "tested"


@pytest.mark.parametrize("method", METHODS)
def test_a_set_says_what_it_costs(finished, method):
    directory = directory_of(finished[1], method)
    report, manifest = accounting.report(directory), records.read_manifest(directory)
    assert report["bytes"] == sum(path.stat().st_size for path in directory.iterdir())
    assert sum(manifest["rate"]["shard_bytes"].values()) == sum(shard["bytes"] for shard in manifest["shards"])
    teacher = {name: bits for name, bits in report["beside"].items() if "teacher convnet3 as" in name}
    assert len(teacher) == 3 and all(bits > 0 for bits in teacher.values())  # the stored one was found
    page = (finished[1] / "report.html").read_text()
    assert all(name in page for name in report["parts"]) and all(name in page for name in teacher)
    assert f"{report['bits_per_class']:,.0f}" in page


def tiles_and_sources(settings, workdir, method, dataset):
    """(set, tiles (N, k, h, h, 3), source images (N, k, H, W, 3)), sources found by their ids."""
    loaded = records.load(directory_of(workdir, method))
    row = {name: i for i, name in enumerate(dataset.train.ids)}
    rows = np.array([[row[name] for name in names] for names in loaded.patch_ids])
    assert (dataset.train.labels[rows] == loaded.labels[:, None]).all()
    sources = dataset.train.images(rows.reshape(-1)).reshape(*rows.shape, 16, 16, 3)
    return loaded, compose.unstitch(loaded.images_u8, for_method(settings, method).compose.factor), sources


@pytest.mark.parametrize("method", METHODS)
def test_every_tile_is_cut_from_where_its_record_says(finished, dataset, method):
    settings, workdir, _ = finished
    loaded, tiles, sources = tiles_and_sources(settings, workdir, method, dataset)
    n_copied, n_crops = 0, 5 if method == "rded" else 1  # as many at once as in the run: same program, same bits
    for i, k in np.ndindex(tiles.shape[:2]):
        y, x, h, w = loaded.patch_boxes[i, k]
        assert 0 <= y <= 16 - h and 0 <= x <= 16 - w
        if h == tiles.shape[2]:
            np.testing.assert_array_equal(tiles[i, k], sources[i, k, y : y + h, x : x + w])
            n_copied += 1
        else:
            boxes = np.tile(loaded.patch_boxes[i, k], (1, n_crops, 1))
            np.testing.assert_array_equal(tiles[i, k], crop.cut(sources[i, k][None], boxes, tiles.shape[2])[0, 0])
    assert n_copied >= {"random_mosaics": 0, "easy_images": 0, "rded": 0}.get(method, tiles.shape[0] * tiles.shape[1])


def inputs_of(network, tiles, fit):
    """Normalised network inputs, row by row."""
    for tile in tiles.reshape(-1, *tiles.shape[2:]):
        if fit == "resize":
            yield network.normalize(augment.resize(jnp.asarray(tile, jnp.float32) / 255, side=16))
        else:
            margin = ((16 - tile.shape[0]) // 2,) * 2
            yield jnp.pad(network.normalize(jnp.asarray(tile, jnp.float32) / 255), (margin, margin, (0, 0)))


@pytest.mark.parametrize("method", METHODS)
def test_logits_and_gradient_norms_are_the_teachers(finished, dataset, teacher, method):
    settings, workdir, _ = finished
    loaded, tiles, _ = tiles_and_sources(settings, workdir, method, dataset)
    logits_fn = lambda variables, images_norm: teacher.network.model.apply(variables, images_norm, train=False)
    resized = jnp.stack(list(inputs_of(teacher.network, tiles, "resize")))
    logits = logits_fn(teacher.converged, resized).reshape(loaded.patch_logits.shape)  # digits.py: label.teacher
    np.testing.assert_allclose(loaded.patch_logits, logits, rtol=1e-4, atol=1e-4)
    rows = slice(0, 3 * tiles.shape[1])  # the loop is slow: three images
    inputs = jnp.stack(list(inputs_of(teacher.network, tiles, for_method(settings, method).score.fit)))[rows]
    labels = jnp.asarray(np.repeat(loaded.labels, tiles.shape[1])[rows])
    norms = utility.gradient_norms_one_by_one(logits_fn, teacher.converged, inputs, labels)
    np.testing.assert_allclose(loaded.patch_gradient_norm.reshape(-1)[rows], norms, rtol=1e-3)


def test_pooled_values_are_exact_shapley_values_of_the_box(finished, dataset, teacher):
    settings, workdir, _ = finished
    loaded, _, sources = tiles_and_sources(settings, workdir, "infoutil", dataset)
    cells = (np.arange(16) * GRID) // 16
    masks = exact.all_masks(GRID**2)
    pixels = masks.reshape(-1, GRID, GRID)[:, cells][:, :, cells][..., None]
    for i, k in np.ndindex(3, 4):
        image = np.asarray(teacher.network.normalize(jnp.asarray(sources[i, k], jnp.float32) / 255))
        logits = teacher.network.model.apply(teacher.converged, jnp.asarray(np.where(pixels, image, 0)), train=False)
        phi = exact.shapley_values(np.asarray(logits)[:, loaded.labels[i]]).reshape(GRID, GRID)
        y, x, h, _ = loaded.patch_boxes[i, k] // (16 // GRID)
        assert h == 1  # a window of one cell
        assert loaded.patch_shapley[i, k] == pytest.approx(phi[y, x], abs=1e-3)
    for method in set(METHODS) - {"infoutil"}:
        assert np.isnan(records.load(directory_of(workdir, method)).patch_shapley).all()


def test_infoutil_keeps_the_largest_norms_and_controls_differ(finished):
    _, workdir, _ = finished
    sets = {method: records.load(directory_of(workdir, method)) for method in METHODS}
    norms = sets["infoutil"].patch_gradient_norm
    assert (np.diff(norms, axis=1) <= 0).all()
    assert norms.mean() > sets["random_crops"].patch_gradient_norm.mean()
    assert len({s.images_u8.tobytes() for s in sets.values()}) == len(METHODS)


# What is printed and reported


def test_the_table_has_every_method_and_the_files_are_there(finished):
    settings, workdir, printed = finished
    teachers = ["teacher, early (epoch 2)", "teacher, converged (epoch 3)"]
    for title in [*results.TITLES.values(), "1-nearest neighbour", *teachers]:
        assert any(line.startswith(title) for line in printed.splitlines()), title
    assert str(workdir / "distilled") in printed and str(workdir / "report.html") in printed
    page = (workdir / "report.html").read_text()
    assert all(title in page for title in results.TITLES.values())
    written = json.loads((workdir / "results.json").read_text())
    assert set(written["methods"]) == set(written["curves"]) == set(METHODS)
    assert written["config"] == results.plain(settings)
    for method, by in written["curves"].items():
        (curve,) = by["online"]
        assert [point[0] for point in curve] == [5]  # the last fifth of 5 epochs
        assert written["methods"][method]["online"]["top1"]["mean"] == curve[-1][1]


def test_mean_and_standard_deviation_over_seeds(finished, teacher):
    curves = {"infoutil": {"online": [[[4, 0.9, 1.0], [5, 0.5, 0.75]], [[4, 0.1, 1.0], [5, 0.7, 0.85]]], "hard": []}}
    table = results.Table(curves, "online", [0.25, 0.75])
    summary = results.summarise(table)["infoutil"]
    top1 = {"mean": pytest.approx(0.6), "std": pytest.approx(0.02**0.5), "seeds": [0.5, 0.7]}
    assert summary["online"]["top1"] == top1
    assert summary["online"]["top5"]["mean"] == pytest.approx(0.8)
    assert summary["online"]["best_epoch_top1"]["seeds"] == [0.9, 0.7]
    assert summary["online"]["best_epoch_top5"]["seeds"] == [1.0, 0.85]  # of the epochs that are best by top-1
    assert "hard" not in summary
    del curves["infoutil"]["hard"]
    columns, body = results.rows(finished[0], teacher, table)
    assert columns == ["method", "patches", "top-1", "top-5", "best epoch"]
    assert body[0] == ["InfoUtil", "4", "60.0 ± 14.1", "80.0 ± 7.1", "80.0 ± 14.1"]
    assert body[1] == ["1-nearest neighbour on random real images", "", "50.0 ± 35.4", "", ""]
    assert body[3][3] == f"{100 * teacher.record['converged']['top5']:.1f}"
    curves["infoutil"]["hard"] = [[[5, 0.3, 0.5]]]
    columns, body = results.rows(finished[0], teacher, table)
    assert columns[-1] == "hard labels" and body[0][-1] == "30.0" and {len(row) for row in body} == {6}


def test_the_label_robust_score_needs_random_images_hard_labels_and_a_teacher_like_the_student(finished):
    curve = lambda top1: [[4, 0.0, 1.0], [5, top1, 1.0]]
    curves = {
        "infoutil": {"online": [curve(0.7), curve(0.6)], "hard": [curve(0.5)]},
        "random_images": {"online": [curve(0.45), curve(0.4)], "hard": [curve(0.3)]},
    }
    teacher = SimpleNamespace(record=dict.fromkeys(("early", "converged"), {"epoch": 3, "top1": 0.9, "top5": 1.0}))
    table = results.Table(curves, "online", [0.5])
    found = results.label_robust_scores(finished[0], teacher, table)
    # alpha = (0.7 - 0.45) / 2 - (0.9 - 0.5) / 2 = -0.075 and 0 - (0.9 - 0.3) / 2 = -0.3, of the one seed that has both
    assert found == {
        "infoutil": [pytest.approx(0.238199, abs=1e-6)],
        "random_images": [pytest.approx(0.158670, abs=1e-6)],
    }
    columns, body = results.rows(finished[0], teacher, table)
    assert columns[-1] == "LRS" and [row[-1] for row in body] == ["23.8", "15.9", "", "", ""]
    assert results.label_robust_scores(tiny(evaluate__width=4), teacher, table) == {}
    imported = tiny(teacher__weights="w.safetensors", methods=("infoutil", "random_images"))
    assert results.label_robust_scores(imported, teacher, table) == {}  # it was trained on other images
    for lost in ({"infoutil": curves["infoutil"]}, {name: {"online": by["online"]} for name, by in curves.items()}):
        assert results.label_robust_scores(finished[0], teacher, table._replace(curves=lost)) == {}
    assert results.label_robust_scores(finished[0], teacher, table._replace(labels="hard")) == {}


def test_a_student_that_cannot_see_these_images_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    forbid(monkeypatch, (teacher_stage, "run"))
    code, err = code_of(monkeypatch, capsys, tiny(evaluate__model="convnext_t", evaluate__width=0), tmp_path / "run")
    assert code == 2 and "ConvNeXt needs images of 32 pixels or more, got 16x16" in err


def test_one_nearest_neighbour_takes_what_a_small_class_has(finished, dataset, tmp_path):
    labels = np.arange(20, dtype=np.int32) % 10
    images_u8 = np.zeros((20, 8, 8, 3), np.uint8) + (labels * 20).astype(np.uint8)[:, None, None, None]

    class Split(SimpleNamespace):
        def __len__(self):
            return len(self.labels)

    split = Split(labels=labels, images=lambda rows: images_u8[rows], ids=dataset.train.ids[:20])
    small = SimpleNamespace(class_names=dataset.class_names, train=split, val=split, content_id="")
    table = pipeline.evaluate_sets(tiny(ipc=3), small, None, {}, tmp_path)
    assert table.neighbour == [1.0] * 10


# Continued, never repeated, never overwritten


def forbid(monkeypatch, *names):
    def called(*_, **__):
        raise AssertionError("work was done again")

    for module, name in names:
        monkeypatch.setattr(module, name, called)


EXPENSIVE = (
    (teacher_stage, "run"), (teacher_stage, "examine"), (attribute, "run"), (score, "run"), (distil, "distil_class"),
    (evaluate, "run"), (evaluate, "nearest_neighbour"), (distil, "candidates"),
)  # fmt: skip


def test_the_same_command_again_does_nothing_and_changes_no_byte(finished, monkeypatch):
    settings, workdir, printed = finished
    before = hashes(workdir)
    forbid(monkeypatch, *EXPENSIVE)
    assert run(settings, workdir) == printed
    assert hashes(workdir) == before


def test_a_later_commit_leaves_a_finished_set_alone(finished, copied, monkeypatch):
    before = hashes(copied / "distilled")
    (copied / "timing.json").unlink()
    monkeypatch.setattr(provenance, "_git_commit", lambda: "later")
    forbid(monkeypatch, *EXPENSIVE)
    assert "waiting for input" not in run(finished[0], copied)
    assert hashes(copied / "distilled") == before and not (copied / "timing.json").exists()
    assert json.loads((copied / "results.json").read_text())["environment"]["git"] == "later"


@pytest.mark.parametrize("method, line_is_lost", [("infoutil", True), ("rded", False)])
def test_a_lost_shard_is_made_again_the_same(finished, copied, method, line_is_lost):
    (shard,) = directory_of(copied, method).glob("*.tfrecord-00003-*")
    (line,) = (copied / "shards" / method).glob("*/3.json")
    before = hashes(copied)
    shard.unlink()
    if line_is_lost:
        line.unlink()
    run(finished[0], copied)
    after = hashes(copied)
    changed = {"report.html", "timing.json"}  # one names the files where they lie now, the other has more seconds
    assert {k: v for k, v in after.items() if k not in changed} == {k: v for k, v in before.items() if k not in changed}


def test_an_interrupted_run_goes_on_with_the_next_class(finished, tmp_path, monkeypatch):
    settings, done, _ = finished
    distil_class, made = distil.distil_class, []

    def interrupted(method, candidates, where):
        if candidates.label == 4:
            raise KeyboardInterrupt
        made.append(candidates.label)
        return distil_class(method, candidates, where)

    monkeypatch.setattr(distil, "distil_class", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "tiny", done / "artifacts")
    assert not (tmp_path / "tiny" / "distilled" / "manifest.json").exists()
    assert sorted(set(made)) == [0, 1, 2, 3]
    timing = store.read_json(tmp_path / "tiny" / "timing.json")
    assert "evaluate" not in {r["stage"] for r in timing}
    store.write_json(tmp_path / "tiny" / "timing.json", [r | {"working": 1000.0} for r in timing])
    made.clear()
    monkeypatch.setattr(distil, "distil_class", lambda m, c, where: made.append(c.label) or distil_class(m, c, where))
    run(settings, tmp_path / "tiny", done / "artifacts")
    assert sorted(set(made)) == [4, 5, 6, 7, 8, 9]
    for part in ("distilled", "controls"):
        assert hashes(tmp_path / "tiny" / part) == hashes(done / part)
    added = store.read_json(tmp_path / "tiny" / "timing.json")
    assert all(r["working"] >= 1000 for r in added[: len(timing)])


def test_the_next_unfinished_class_is_loaded_meanwhile_and_no_other(finished, copied, dataset, teacher, monkeypatch):
    for label in (2, 5, 6, 9):
        for shard in copied.rglob(f"*.tfrecord-0000{label}-*"):
            shard.unlink()
    loaded, alive, seen, pools = {n: threading.Event() for n in range(10)}, [], [], []
    candidates, distil_class = distil.candidates, distil.distil_class

    def load(config, split, label):
        pool = candidates(config, split, label)
        pools.append(weakref.ref(pool.images_u8))
        loaded[label].set()
        return pool

    def work(method, pool, where):
        following = {2: 5, 5: 6, 6: 9, 9: 9}[pool.label]
        assert loaded[following].wait(30)
        seen.append((pool.label, [n for n in loaded if loaded[n].is_set()]))
        alive.append(sum(ref() is not None for ref in pools))
        return distil_class(method, pool, where)

    monkeypatch.setattr(distil, "candidates", load)
    monkeypatch.setattr(distil, "distil_class", work)
    with contextlib.redirect_stderr(io.StringIO()):
        pipeline.write_sets(finished[0], dataset, teacher, copied, copied / "artifacts")
    expected = [(2, [2, 5]), (5, [2, 5, 6]), (6, [2, 5, 6, 9]), (9, [2, 5, 6, 9])]
    assert seen == [entry for entry in expected for _ in METHODS]
    assert len(pools) == 4 and max(alive) == 2
    for part in ("distilled", "controls"):
        assert hashes(copied / part) == hashes(finished[1] / part)


def test_every_stage_says_how_long_it_took(finished):
    settings, workdir, printed = finished
    stages = [r["stage"] for r in store.read_json(workdir / "timing.json")]
    parts = ["attribute", "crop", "score", "select", "label", "compose", "write"]
    assert stages == ["other", "teacher", "distil", *(f"distil/{part}" for part in parts), "evaluate"]
    table = printed[printed.index("stage  ") :].splitlines()[2:14]
    assert [line.split()[0] for line in table] == ["teacher", "distil", *parts, "evaluate", "other", "total"]
    page = (workdir / "report.html").read_text()
    assert "waiting for input" in printed and "waiting for input" in page
    assert "timing" not in (workdir / "results.json").read_text()


def test_times_of_inner_stages_are_in_the_outer_ones_and_shares_are_of_time_without_compiling():
    record = lambda stage, *seconds: dict(zip(["stage", *clock.ACTIVITIES], [stage, *seconds]))
    timing = [record("other", 1, 0, 0), record("distil", 1, 3, 0), record("distil/score", 12, 0, 5)]
    columns, body = results.timing_rows(timing + [record("distillery", 0, 0, 1)])
    assert columns == ["stage", "seconds", "waiting for input", "compiling"]
    assert body == [
        ["distil", "16.0", "18.8 %", "5.0"], ["  score", "12.0", "0.0 %", "5.0"],
        ["distillery", "0.0", "0.0 %", "1.0"], ["other", "1.0", "0.0 %", "0.0"], ["total", "17.0", "17.6 %", "6.0"],
    ]  # fmt: skip


def test_pictures_of_attributions_read_one_image_a_class(finished, copied, dataset, teacher):
    settings, read = finished[0], []
    split = SimpleNamespace(
        labels=dataset.train.labels, ids=dataset.train.ids,
        images=lambda rows: read.append(len(rows)) or dataset.train.images(rows),
    )  # fmt: skip
    watched = SimpleNamespace(
        train=split, class_names=dataset.class_names, content_id=dataset.content_id, name=dataset.name
    )
    sets = {"infoutil": records.load(copied / "distilled")}
    picture = lambda artifacts: results._heatmaps(settings, watched, teacher, sets, artifacts)
    assert picture(copied / "artifacts") is not None and read == [1] * results.N_HEATMAPS
    (lost,) = (copied / "artifacts" / "attribute").glob("*/3.npz")
    lost.unlink()
    assert picture(copied / "artifacts") is not None and len(read) == 2 * results.N_HEATMAPS - 1
    assert picture(copied / "nothing") is None


def test_shards_of_another_code_or_other_data_are_not_trusted(finished, copied, monkeypatch):
    class Called(Exception):
        pass

    def called(*_, **__):
        raise Called

    monkeypatch.setattr(distil, "distil_class", called)
    for name, value in (("VERSIONS", [99]), ("data_identity", lambda *_: ["other images"])):
        with monkeypatch.context() as patch, pytest.raises(Called):
            patch.setattr(teachers, "obtain", lambda *_: distilled_teacher(finished))
            patch.setattr(distil, name, value)
            run(finished[0], copied)


def distilled_teacher(finished):
    manifest = records.read_manifest(finished[1] / "distilled")
    return teacher_stage.Teacher(None, None, None, manifest["teacher"])


def test_another_config_in_the_same_workdir_is_refused_with_what_differs(finished):
    before = hashes(finished[1])
    with pytest.raises(ConfigError, match=r"other settings: crop.alpha: 2.0 -> 3.0; ipc: 1 -> 2\. Use another"):
        run(tiny(ipc=2, crop__alpha=3.0), finished[1])
    assert hashes(finished[1]) == before


def test_other_data_in_the_same_workdir_are_refused_with_what_differs(finished, dataset, monkeypatch):
    before = hashes(finished[1])
    names = (*dataset.class_names[:-1], "ten")
    fewer = SimpleNamespace(labels=np.delete(dataset.train.labels, np.flatnonzero(dataset.train.labels == 3)[0]))
    other = dataclasses.replace(dataset, content_id="c0ffee", class_names=names)
    object.__setattr__(other, "train", fewer)
    monkeypatch.setattr(pipeline, "open_data", lambda config: other)
    forbid(monkeypatch, (teacher_stage, "run"), (teachers, "obtain"))
    n, last = int((dataset.train.labels == 3).sum()), dataset.class_names[3]
    with pytest.raises(ConfigError) as error:
        run(*finished[:2])
    assert f"{finished[1]} holds a run on other data: classes.{last}.train: {n} -> {n - 1}; " in str(error.value)
    assert f"content_id: {dataset.content_id} -> c0ffee; restore the data, or use" in str(error.value)
    assert "classes.ten: None -> {'label': 9" in str(error.value) and hashes(finished[1]) == before


def test_of_many_differences_in_the_data_some_are_named(tmp_path, dataset):
    pipeline._require_same_data(dataset, tmp_path / "data.json")
    pipeline._require_same_data(dataset, tmp_path / "data.json")
    other = dataclasses.replace(dataset, class_names=tuple(f"class {i}" for i in range(10)))
    with pytest.raises(ConfigError, match=r"-> None; and 10 more; restore"):
        pipeline._require_same_data(other, tmp_path / "data.json")


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        run(tiny(), tmp_path)
    assert hashes(tmp_path) == {"thesis.tex": hashlib.sha256(b"precious").hexdigest()}


def test_runs_that_share_artifacts_share_their_work(finished, tmp_path, monkeypatch):
    forbid(monkeypatch, (teacher_stage, "run"), (attribute, "run"), (score, "run"), (evaluate, "run"))
    settings, done, _ = finished
    run(tiny(name="other", methods=("infoutil",)), tmp_path / "other", done / "artifacts")
    shards = {p: h for p, h in hashes(done / "distilled").items() if "tfrecord" in p}
    assert {p: h for p, h in hashes(tmp_path / "other" / "distilled").items() if "tfrecord" in p} == shards


def test_a_record_of_differences_reads_well():
    before = results.plain(tiny())
    assert results.differences(before, json.loads(json.dumps(results.plain(tiny())))) == []
    now = results.plain(tiny(data__mean=(0.1, 0.2, 0.3), methods=("rded",)))
    lines = results.differences(before, now)
    assert "data.mean: [0.305, 0.305, 0.305] -> [0.1, 0.2, 0.3]" in lines and len(lines) == 2
    assert results.differences({"a": 1}, {"b": {"c": 2}}) == ["a: 1 -> None", "b: None -> {'c': 2}"]


# Devices


DEVICE_SCRIPT = """
import pathlib, sys, jax
from tests import test_pipeline as t
assert len(jax.local_devices()) == int(sys.argv[2])
t.write_sets_only(pathlib.Path(sys.argv[1]))
"""


def write_sets_only(workdir):
    """Teacher, attribution, selection and shards: all that must not depend on the devices."""
    # 32 channels: below that, weight gradients depend on the number of CPU threads in their last bits
    settings = tiny(methods=("infoutil", "rded"), teacher__width=32, teacher__epochs=1, teacher__early_epoch=1)
    dataset = pipeline.open_data(settings)
    teacher = teachers.obtain(settings, dataset, workdir / "artifacts")
    pipeline.write_sets(settings, dataset, teacher, workdir, workdir / "artifacts")


def start_on(n_devices, workdir):
    flags = f"--xla_force_host_platform_device_count={n_devices}"
    return subprocess.Popen(
        [sys.executable, "-c", DEVICE_SCRIPT, str(workdir), str(n_devices)], cwd=ROOT, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip


def test_one_two_four_and_eight_devices_write_the_same_bytes(tmp_path):
    for pair in ((1, 2), (4, 8)):
        started = [start_on(n, tmp_path / str(n)) for n in pair]
        for process in started:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err[-2000:]
    written = [hashes(tmp_path / str(n)) for n in (1, 2, 4, 8)]
    same = [{p: h for p, h in files.items() if p.endswith(".npz") or ".tfrecord-" in p} for files in written]
    # two methods' shards, attributions, two methods' scores, what the teacher was right about in its only epoch
    assert len(same[0]) == 2 * 10 + 10 + 2 * 10 + 1
    assert same[0] == same[1] == same[2] == same[3]


# Golden: what is chosen stays what it was


def untrained_teacher(settings, dataset):
    """Initial weights: the same bits on every processor, where training would amplify each one's rounding."""
    shape = (len(dataset.class_names), settings.data.mean, settings.data.std)
    network = teacher_stage.build_network(settings.teacher.model, settings.teacher.width, *shape)
    variables = models.initialize(network.model, jax.random.key(0), settings.data.image_size)
    record = {which: {"sha256": store.tree_hash(variables)} for which in ("early", "converged")}
    return teacher_stage.Teacher(network, variables, variables, record)


def choose(workdir):
    """The selection of InfoUtil and RDED with an untrained teacher."""
    settings = tiny(methods=("infoutil", "rded"))
    dataset = pipeline.open_data(settings)
    teacher = untrained_teacher(settings, dataset)
    directories = pipeline.write_sets(settings, dataset, teacher, workdir, workdir / "artifacts")
    return {method: selection(directory) for method, directory in directories.items()}


def test_the_selection_is_what_it_was(tmp_path):
    check_golden(choose(tmp_path))


def selection(directory):
    """What was chosen, rank by rank: [id, y, x, h, w] of every patch."""
    loaded = records.load(directory)
    patches = zip(loaded.patch_ids, loaded.patch_boxes.tolist(), strict=True)
    return [[[name, *box] for name, box in zip(names, boxes, strict=True)] for names, boxes in patches]


def check_golden(chosen):
    if os.environ.get("INFOUTIL_UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(chosen) + "\n")
    assert chosen == json.loads(GOLDEN.read_text()), (
        "the tiny run chooses other crops. If a change of attribution, cropping, scoring or selection was "
        "meant to do that, say so in the commit and run this once with INFOUTIL_UPDATE_GOLDEN=1; if not, it is a bug."
    )


# Bad input, through the exit codes of main.py


def code_of(monkeypatch, capsys, settings, workdir):
    """(exit code, stderr) of main.py with these settings, or with what raises when they are made."""
    main.flags.FLAGS.mark_as_parsed()  # the other flags have their defaults
    monkeypatch.setattr(main, "CONFIG", SimpleNamespace(value=None))
    monkeypatch.setattr(main, "WORKDIR", SimpleNamespace(value=str(workdir)))
    monkeypatch.setattr(main, "ARTIFACTS", SimpleNamespace(value=""))
    monkeypatch.setattr(main, "DRY_RUN", SimpleNamespace(value=False))
    monkeypatch.setattr(main.config, "resolve", lambda _: settings() if callable(settings) else settings)
    code = main.main([])
    err = "".join(line for line in capsys.readouterr().err.splitlines(keepends=True) if line.startswith("error:"))
    assert err.count("\n") == 1
    return code, err


def folder(root, **counts):
    """A folder data set of random images; counts like train__cat=3. Returns the settings of a run on it."""
    rng = np.random.default_rng(0)
    for path, n in counts.items():
        place = root.joinpath(*path.split("__"))
        place.mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(place / f"{i}.png")
    return {"data__source": "folder", "data__path": str(root), "data__train_split": "train", "data__val_split": "val"}


def test_too_few_images_stop_the_run_before_training(tmp_path, monkeypatch, capsys):
    forbid(monkeypatch, *EXPENSIVE)
    where = folder(tmp_path / "data", train__cat=9, train__dog=3, train__eel=2, val__cat=1, val__dog=1, val__eel=1)
    code, err = code_of(monkeypatch, capsys, tiny(ipc=1, **where), tmp_path / "run")
    assert code == 3 and "random_mosaics: needs 4 crops a class" in err and "dog (3), eel (2); lower ipc" in err
    assert "cat" not in err.split("for")[-1]
    assert not (tmp_path / "run").exists()


def test_enough_is_counted_per_method(tmp_path):
    labels, names = np.repeat([0, 1], [8, 4]), ("cat", "dog")
    for ipc, fine in ((1, True), (2, True), (3, False)):  # 4 images x 2 crops for 4 patches an image
        check = lambda ipc=ipc: distil.require_enough(tiny(ipc=ipc), "infoutil", labels, names)
        if fine:
            check()
        else:
            with pytest.raises(DataError, match=r"needs 12 crops .* for dog \(8\);"):
                check()
    one_candidate = tiny(candidates=1)
    with pytest.raises(DataError, match=r"for cat \(2\), dog \(2\);"):
        distil.require_enough(one_candidate, "infoutil", labels, names)
    distil.require_enough(for_method(one_candidate, "random_images"), "random_images", labels, names)
    with pytest.raises(DataError, match=r"needs 2 crops a class \(ipc=2 x 1 patches\).* cat \(1\), dog \(1\);"):
        distil.require_enough(for_method(tiny(candidates=1, ipc=2), "random_images"), "random_images", labels, names)


def test_an_empty_class_stops_the_run(tmp_path, monkeypatch, capsys):
    where = folder(tmp_path / "data", train__cat=9, train__dog=0, val__cat=1, val__dog=1)
    code, err = code_of(monkeypatch, capsys, tiny(**where), tmp_path / "run")
    assert code == 3 and "dog" in err and not (tmp_path / "run").exists()


def test_an_unreadable_image_stops_a_strict_run(tmp_path, monkeypatch, capsys):
    where = folder(tmp_path / "data", train__cat=9, train__dog=9, val__cat=1, val__dog=1)
    (tmp_path / "data/train/dog/3.png").write_bytes(b"not an image")
    code, err = code_of(monkeypatch, capsys, tiny(data__strict=True, **where), tmp_path / "run")
    assert code == 3 and "train/dog/3.png" in err and not (tmp_path / "run").exists()


def test_an_unknown_dataset_or_model_stops_the_run(tmp_path, monkeypatch, capsys):
    unknown = {"data__source": "tfds", "data__name": "cifar1O", "data__path": str(tmp_path / "data")}
    code, err = code_of(monkeypatch, capsys, tiny(**unknown), tmp_path / "run")
    assert code == 2 and "cifar10" in err and not (tmp_path / "run").exists()
    code, err = code_of(monkeypatch, capsys, lambda: tiny(teacher__model="convnet33"), tmp_path / "run")
    assert code == 2 and "teacher.model='convnet33' is not known, did you mean 'convnet3'?" in err


def test_a_first_attempt_that_failed_does_not_lock_the_workdir(tmp_path, monkeypatch, capsys):
    where = folder(tmp_path / "data", train__cat=1, train__dog=1, val__cat=1, val__dog=1)
    assert code_of(monkeypatch, capsys, tiny(**where), tmp_path / "run")[0] == 3
    forbid(monkeypatch, (teacher_stage, "run"))
    with pytest.raises(AssertionError, match="work was done"):  # it got as far as the teacher
        run(tiny(), tmp_path / "run")


def test_weights_that_are_nan_stop_the_run_and_are_not_measured(tmp_path, monkeypatch, capsys):
    def broken(settings, network, *_, side, snapshots, **__):
        for epoch in (settings.early_epoch, settings.epochs):
            blank = teacher_stage.blank_variables(network, side)
            snapshots.save(epoch, jax.tree.map(lambda a: a + np.float32(np.nan), blank))

    monkeypatch.setattr(teacher_stage, "run", broken)
    for _ in range(2):  # and a second attempt trusts nothing
        code, err = code_of(monkeypatch, capsys, tiny(), tmp_path / "run")
        assert code == 7 and "teacher (early) of" in err and "batch_stats.norm1.mean holds NaN or infinity" in err
    assert not list((tmp_path / "run" / "artifacts").rglob("epoch*.json"))


def test_a_damaged_snapshot_is_made_again(finished, copied, capsys):
    files = [p for p in (copied / "artifacts/teacher").rglob("snapshots/3/**/*") if p.is_file()]
    damaged = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    before = hashes(copied / "distilled")
    run(finished[0], copied)
    assert "snapshots/3: " in capsys.readouterr().err
    assert hashes(copied / "distilled") == before


def test_a_student_goes_on_from_its_saves_which_go_when_its_curve_is_stored(tmp_path, monkeypatch):
    steps = []

    def student(*_, saves, **__):
        steps.append(saves.steps())
        saves.save(3, {"state": np.arange(4)})
        if len(steps) == 1:
            raise Preempted("asked to stop")
        return [(5, 0.5, 1.0)]

    monkeypatch.setattr(evaluate, "run", student)
    distilled = SimpleNamespace(manifest={"label_teacher": "early", "shards": [{"sha256": "0"}]})
    teacher = SimpleNamespace(record={"early": {"sha256": "1"}}, network=None, variables=lambda which: None)
    digits = SimpleNamespace(content_id="0", val=None)
    train = lambda seed: pipeline.train_student(
        tiny(), digits, teacher, distilled, None, "hard", seed, tmp_path, "a student"
    )
    with pytest.raises(Preempted):
        train(0)
    assert train(0) == train(0) == [[5, 0.5, 1.0]] and train(1) == [[5, 0.5, 1.0]]
    assert steps == [[], [3], []]  # another seed's saves are its own
    assert {path.suffix for path in (tmp_path / "evaluate").iterdir()} == {".json"}


def test_weights_other_than_the_measured_ones_stop_the_run(finished, copied, monkeypatch, capsys):
    (path,) = (copied / "artifacts/teacher").glob("*/epoch2.json")
    store.write_json(path, store.read_json(path) | {"sha256": "0" * 64})
    code, err = code_of(monkeypatch, capsys, finished[0], copied)
    assert code == 5 and "the early teacher's weights are not those that were measured" in err


def test_a_damaged_shard_stops_the_run(finished, copied, monkeypatch, capsys):
    (shard,) = (copied / "distilled").glob("*.tfrecord-00002-*")
    content = bytearray(shard.read_bytes())
    content[200] ^= 1
    shard.write_bytes(content)
    code, err = code_of(monkeypatch, capsys, finished[0], copied)
    assert code == 5 and shard.name in err


def test_a_shard_of_whole_records_that_this_run_did_not_write_stops_it(finished, copied, monkeypatch, capsys):
    (shard,) = (copied / "distilled").glob("*.tfrecord-00002-*")
    norm = records.load(copied / "distilled").patch_gradient_norm[2, 0]
    (record,) = tfrecord.read_records(shard)
    shard.write_bytes(tfrecord.frame(record.payload.replace(norm.tobytes(), (norm + 1).tobytes())))
    code, err = code_of(monkeypatch, capsys, finished[0], copied)
    assert code == 5 and shard.name in err and "SHA-256" in err
