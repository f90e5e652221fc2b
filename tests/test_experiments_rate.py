"""experiments/rate_utility: its points, its comparisons by hand-made curves, and that it runs on two digits."""

import contextlib
import io
import json
import math
import sys
from types import SimpleNamespace

import experiments.rate_utility
import jax
import numpy as np
import pytest
from experiments.rate_utility import compare, latents, measure, run, toy
from experiments.rate_utility.points import COMMON_LABELS, UTILITIES, WIDTHS, Latents, Point, all_points

from infoutil_jax import records, sets
from infoutil_jax.errors import ConfigError
from infoutil_jax.rate import codec, entropy, image_codecs, labels, objectives

SMOKE = ["--smoke", "--methods=random_images"]
ONLY = "--only=png sheets|webp sheets|jpeg sheets|jpeg one sheet|avif sheets|codec, mse"
FULL = SimpleNamespace(set="cifar10", smoke=False, data_dir="", seeds=3, runs=None)


# Points


def test_every_point_has_a_name_of_its_own_and_settings_that_are_allowed():
    points = all_points(("infoutil", "random_images"), (1, 10, 50), n_classes=10)
    names = [point.name for point in points]
    assert len(set(names)) == len(names) and not [name for name in names if "'" in name]  # they are quoted in commands
    streams = {"float16", "step 0.35", "step 1", "step 1, top 3", "step 1, top 1", "online"}
    assert {point.labels for point in points} == streams
    settings = {(p.method, p.ipc): run.settings_of(p, FULL) for p in points}
    assert len({measure.identity(settings[p.method, p.ipc], p) for p in points}) == len(points)
    assert {p.images.width for p in points if "distribution" in p.coder} == {32, 128}  # this machine's and DD-RUO's
    by_utility = {p.images.utility: 0 for p in points if isinstance(p.images, Latents)}
    assert set(by_utility) == set(UTILITIES)
    assert not [p for p in all_points(("infoutil",), (1,), n_classes=2) if "top" in p.labels]  # no rest to leave out


def test_larger_images_get_as_many_bits_a_pixel():
    small, large = (all_points(("infoutil",), (10,), 10, side) for side in (32, 128))
    bits = [[p.images.bits for p in points if isinstance(p.images, Latents)] for points in (small, large)]
    assert bits[0] and [16 * of for of in bits[0]] == bits[1]
    settings = run.settings_of(large[0], SimpleNamespace(**{**vars(FULL), "set": "imagenette"}))
    assert (settings.data.image_size, settings.evaluate.model) == (128, "convnet5")


def test_a_record_is_of_its_settings_and_not_of_the_number_of_students():
    point = all_points(("infoutil",), (10,), 10)[0]
    of = lambda **changes: run.settings_of(point, SimpleNamespace(**{**vars(FULL), **changes}))
    name = measure.identity(of(), point)
    assert measure.identity(of(seeds=5, data_dir="/elsewhere"), point) == name
    record = {"made_from": name, "top1": {"seeds": [0.1] * 3}}
    assert run._holds(record, of(seeds=3), point) and not run._holds(record, of(seeds=4), point)
    assert not run._holds({**record, "made_from": "another"}, of(), point) and not run._holds(None, of(), point)
    assert point.labels != COMMON_LABELS and measure.identity(of(), all_points(("infoutil",), (10,), 10)[1]) != name


# Comparisons


def record(coder, bits, seeds, ipc=10, stream=COMMON_LABELS, label_bits=0, psnr=30.0, method="infoutil"):
    mean, std = float(np.mean(seeds)), float(np.std(seeds, ddof=1)) if len(seeds) > 1 else 0.0
    return {
        "point": {"method": method, "ipc": ipc, "coder": coder, "labels": stream},
        "total": bits + label_bits, "without_labels": bits, "float32_pixels": 98_304 * ipc, "psnr": psnr,
        "top1": {"mean": mean, "std": std, "seeds": list(seeds)},
    }  # fmt: skip


def test_a_curve_is_linear_in_the_logarithm_of_the_bits():
    bits, means = [1_000.0, 4_000.0, 9_000.0], [0.2, 0.5, 0.4]
    curve = [compare.At(b, m, e, "a") for b, m, e in zip(bits, means, [0.01, 0.03, 0.05], strict=True)]
    for asked in (1_000.0, 2_000.0, 4_000.0, 7_000.0, 9_000.0):
        expected = np.interp(np.log(asked), np.log(bits), means)
        assert compare.at(curve, asked).mean == pytest.approx(expected)
    assert compare.at(curve, 2_000).error == pytest.approx(math.hypot(0.5 * 0.01, 0.5 * 0.03))  # half way
    assert compare.at(curve, 999) is None
    assert compare.at(curve, 1e6) == compare.At(1e6, 0.4, 0.05, "a")  # what costs less is there at more bits too


def test_the_fewest_bits_are_where_the_curve_reaches_an_accuracy():
    curve = [compare.At(b, m, 0.0, "a") for b, m in ((1_000.0, 0.2), (4_000.0, 0.5), (9_000.0, 0.6))]
    for accuracy in (0.21, 0.35, 0.5, 0.59):
        assert compare.at(curve, compare.fewest_bits(curve, accuracy)).mean == pytest.approx(accuracy)
    assert compare.fewest_bits(curve, 0.1) == 1_000.0  # a bound
    assert compare.fewest_bits(curve, 0.7) is None


def test_the_codec_has_to_beat_the_best_format_of_any_ipc_by_two_standard_errors():
    six = lambda mean: [mean - 0.01, mean + 0.01] * 3
    formats = [
        record("webp sheets", 50_000, six(0.51)), record("webp sheets", 200_000, six(0.61)),
        record("jpeg sheets", 20_000, six(0.56), ipc=50), record("jpeg sheets", 60_000, six(0.67), ipc=50),
    ]  # fmt: skip
    error = 0.01 / 5**0.5
    of_itself = lambda records: compare.at_their_bits(records, "infoutil", "infoutil")
    both = lambda *seeds: of_itself([*formats, record("codec, mse", 100_000, seeds)])
    verdict = lambda *seeds: both(*seeds)[0]
    best, second = both(*six(0.71))
    assert (
        second.theirs.where == "webp sheets, IPC 10" and 0.51 < second.theirs.mean < 0.61 and second.ours == best.ours
    )
    assert best.theirs.where == "jpeg sheets, IPC 50" and best.theirs.mean == pytest.approx(0.67)  # beyond its last
    assert best.gain == pytest.approx(0.04) and best.two_errors == pytest.approx(2 * math.hypot(error, error))
    assert best.holds and not verdict(*six(0.68)).holds
    assert not verdict(*[0.9] * 4).holds and verdict(*[0.9] * 5).holds  # four students prove nothing
    too_dear = [*formats, record("codec, mse", 106_000, six(0.71), label_bits=501)]
    assert of_itself(too_dear) == [] and of_itself(formats) == []  # its labels count
    others = [*formats, record("codec, mse", 100_000, [0.5, 0.5], method="easy_images")]
    crossed = compare.at_their_bits(others, "easy_images", "infoutil")
    assert crossed[0].ours.mean == 0.5 and [v.theirs for v in crossed] == [best.theirs, second.theirs]
    assert of_itself(others) == []


def test_a_format_keeps_what_it_has_for_fewer_bits():
    falling = [compare.At(50_000, 0.6, 0.0, "a"), compare.At(120_000, 0.5, 0.0, "a")]
    assert compare.best_at([falling], 106_500) == falling[0] and compare.best_at([falling], 49_999) is None
    assert compare.best_at([falling[1:], falling[:1]], 1e6).mean == 0.6


def test_every_point_of_the_codec_is_compared_at_its_own_bits_with_and_without_labels():
    found = [
        record("avif sheets", 1_000, [0.1, 0.1], label_bits=1_000),
        record("avif sheets", 4_000, [0.3, 0.3], label_bits=4_000),
        record("avif sheets", 2_000, [0.9, 0.9], stream="step 1, top 1"),
        record("codec, mse", 2_000, [0.5, 0.5], label_bits=6_000),
    ]
    (counted,), (left_out,) = (compare.against_formats(found, "infoutil", counted) for counted in (True, False))
    assert counted.ours.bits == 8_000 and counted.theirs.mean == pytest.approx(0.3)
    assert left_out.ours.bits == 2_000 and left_out.theirs.mean == pytest.approx(0.2)  # half way from 1,000 to 4,000
    assert compare.against_formats(found, "random_images") == []


def test_savings_are_against_float32_pixels_at_the_accuracy_of_the_exact_set():
    found = [
        record("png sheets", 90_000, [0.40, 0.42], psnr=None),
        record("png sheets", 90_000, [0.5], stream="online", psnr=None),
        record("codec, mse", 2_000, [0.31]),
        record("codec, mse", 8_000, [0.51]),
        record("jpeg sheets", 4_000, [0.42]),
    ]
    savings = {(s.labels, s.where.split(",")[0]): s for s in compare.savings(found, "infoutil", "infoutil")}
    codec = savings[COMMON_LABELS, "codec"]
    assert codec.bits == pytest.approx(4_000) and codec.times == pytest.approx(983_040 / 4_000)  # 0.41: half way
    assert savings[COMMON_LABELS, "jpeg sheets"].bits == 4_000
    assert savings["online", "standard formats"].bits is None and savings["online", "standard formats"].times == 0
    assert savings["online", "codec"].accuracy == 0.5


# It runs


def start(*arguments):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        run.main([*SMOKE, *arguments])
    return printed.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where a smoke run left everything, and what it printed."""
    runs = tmp_path_factory.mktemp("runs")
    return runs, start(f"--runs={runs}", ONLY)


def points_of(runs):
    (found,) = json.loads((runs / "rate_utility" / "results.json").read_text())["points"].values()  # of one teacher
    return {(r["point"]["coder"], r["point"]["labels"]): r for r in found.values()}


def test_bits_are_those_of_the_files_and_parts_sum_to_them(finished):
    runs, _ = finished
    found = points_of(runs)
    assert set(found) == {("png sheets", name) for name in ("float16", "step 0.35", "step 1", "online")} | {
        (coder, "step 1") for coder in ("webp sheets", "jpeg sheets", "jpeg one sheet", "avif sheets", "codec, mse")
    }
    (directory,) = (runs / "rate_utility").glob("*/distilled")
    own = records.load(directory)
    assert own.images_u8.shape == (4, 16, 16, 3)
    for (coder, name), r in found.items():
        assert r["total"] == sum(r["bits_per_class"].values()) == r["without_labels"] + r["bits_per_class"]["labels"]
        assert r["teacher"]["early"]["sha256"] != r["teacher"]["converged"]["sha256"]
        assert len(r["top1"]["seeds"]) == 2 and r["float32_pixels"] == 16 * 16 * 3 * 32 * 2
        if name == "step 1" and not compare.is_codec(coder):
            settings = image_codecs.Settings(**r["point"]["images"])
            data = image_codecs.encode(own.images_u8, own.labels, 2, settings)
            assert r["without_labels"] == 8 * len(data) / 2
    once = {coder: found[coder, "step 1"]["without_labels"] for coder in ("jpeg sheets", "jpeg one sheet")}
    assert once["jpeg one sheet"] < 0.7 * once["jpeg sheets"]  # headers and tables of two classes
    assert found["png sheets", "float16"]["bits_per_class"]["labels"] == own.patch_logits.size * 16 / 2
    of_codec = found["codec, mse", "step 1"]
    assert of_codec["estimated_latents"] == pytest.approx(
        of_codec["bits_per_class"]["images"], rel=0.1
    )  # before and after networks are rounded
    (container,) = (runs / "artifacts" / "rate_utility").glob("*.iuc")
    assert found["codec, mse", "step 1"]["total"] == 8 * container.stat().st_size / 2
    online = found["png sheets", "online"]["bits_per_class"]["labels"]
    assert online > 10 * found["png sheets", "step 1"]["bits_per_class"]["labels"]  # the teacher


def test_exact_formats_share_their_students_and_lossy_ones_do_not(finished):
    found = points_of(finished[0])
    seeds = {coder: found[coder, "step 1"]["top1"]["seeds"] for coder in ("png sheets", "webp sheets")}
    assert seeds["png sheets"] == seeds["webp sheets"] and found["webp sheets", "step 1"]["psnr"] is None
    assert 5 < found["jpeg sheets", "step 1"]["psnr"] < 60
    own = records.load(next((finished[0] / "rate_utility").glob("*/distilled")))
    coded = [labels.encode(own.patch_logits, own.labels, labels.Settings(step), entropy) for step in (0.35, 1.0)]
    streams = {labels.decode(data, own.labels, entropy).tobytes() for data in coded}
    seen = ["float16", "online", *streams, "jpeg", "avif", "codec"]  # images of 16 pixels share no block of JPEG's
    assert len(list((finished[0] / "artifacts" / "evaluate").glob("*.json"))) == 2 * len(seen)


@pytest.mark.parametrize("utility", [name for name in UTILITIES[1:] if " + " not in name])
def test_every_utility_is_about_as_steep_as_the_squared_error(finished, utility):
    runs, _ = finished
    width = 4 if utility in WIDTHS else 0
    flags = run._parse([*SMOKE, f"--runs={runs}"])
    point = Point("random_images", 2, Latents(utility, 9000, width), COMMON_LABELS)
    bench = measure.prepare(run.settings_of(point, flags), runs, runs / "artifacts", toy.TRAINING)
    mse = latents._gradient(bench, latents._utility(bench, Latents("mse", 9000)))
    own = latents._gradient(bench, latents._utility(bench, point.images))
    assert mse / 4 < own < 4 * mse  # of other random networks and views; some have as much squared error beside them


@pytest.mark.parametrize(("utility", "value"), [("gradient_matching", 2), ("gradient_matching + mse", 3)])
def test_squared_error_stands_beside_what_names_it(utility, value, monkeypatch):
    worth = {"mse": 1.0, "gradient_matching": 2.0}
    monkeypatch.setattr(objectives, "utility", lambda name, **_: objectives.Utility((), lambda *_: worth[name]))
    monkeypatch.setattr(latents, "_gradient", lambda *_: 1.0)
    monkeypatch.setattr(latents, "_arguments", lambda *_: {})
    bench = SimpleNamespace(distilled=SimpleNamespace(images_u8=None))
    assert latents._utility(bench, Latents(utility, 2050, 32))(None, None, jax.random.key(0)) == value


def test_networks_that_outweigh_the_rate_are_refused(finished):
    bench = SimpleNamespace(dataset=SimpleNamespace(class_names=["a", "b"]), training={})
    point = Point("random_images", 2, Latents("mse", 280), COMMON_LABELS)
    with pytest.raises(ConfigError, match="280 bits an image; labels step 1: networks take about .*; give more bits"):
        latents._training(bench, point, codec.Settings(16, "dataset"))


@pytest.mark.parametrize(("ipc", "batch", "times"), [(1, 1, 1), (10, 10, 1), (50, 10, 5)])
def test_an_image_is_in_as_many_steps_at_any_ipc(ipc, batch, times):
    bench = SimpleNamespace(dataset=SimpleNamespace(class_names=["a"] * 10), training={})
    point = Point("random_images", ipc, Latents("mse", 2050), COMMON_LABELS)
    training = latents._training(bench, point, codec.Settings(32, "dataset"))
    assert (training.batch, training.warmup_steps, training.steps) == (batch, 400 * times, (500 * times, 500 * times))


def test_what_is_finished_is_not_run_again_and_one_more_student_is(finished, monkeypatch):
    runs, printed = finished
    assert "results.md" in printed
    monkeypatch.setattr(measure, "measure", None)
    monkeypatch.setattr(sets, "write_sets", None)
    assert "labels" not in start(f"--runs={runs}", ONLY)
    monkeypatch.undo()
    before = points_of(runs)
    assert start(f"--runs={runs}", "--only=codec, mse", "--seeds=3").count("ipc 2") == 1
    after = points_of(runs)
    changed = after.pop(("codec, mse", "step 1")), before.pop(("codec, mse", "step 1"))
    assert after == before and changed[0]["top1"]["seeds"][:2] == changed[1]["top1"]["seeds"]
    assert len(changed[0]["top1"]["seeds"]) == 3
    assert len(list((runs / "rate_utility").glob("*/distilled"))) == 1  # of the same set
    assert len(list((runs / "artifacts" / "rate_utility").glob("*.iuc"))) == 1  # and the same container


def test_points_of_another_teacher_are_made_again_beside_them_and_never_compared_with_them(finished, tmp_path):
    runs, path = finished[0], tmp_path / "rate_utility" / "results.json"
    written = json.loads((runs / "rate_utility" / "results.json").read_text())
    ((name, own),) = written["points"].items()
    codec = next(key for key in own if "codec, mse" in key)
    path.parent.mkdir()
    path.write_text(json.dumps({**written, "points": {"another": own, name: {codec: own[codec]}}}))
    again = lambda *more: start(f"--runs={tmp_path}", f"--artifacts={runs / 'artifacts'}", *more)
    point = "--only=jpeg one sheet"
    assert "labels" not in again(point)
    assert again(point, "--again").count("; labels") == 1 and again(point, "--again").count("; labels") == 0
    points = json.loads(path.read_text())["points"]
    assert points["another"] == own and {key.split(":")[1].split(",")[0] for key in points[name]} == {
        " codec",
        " jpeg one sheet",
    }
    page = path.with_suffix(".md").read_text()
    said = dict(section.split("\n", 1) for section in page.split("## Teacher ")[1:])
    assert "(jpeg one sheet" in said[name] and "(webp sheets" in said["another"] and "(webp sheets" not in said[name]


def test_without_matplotlib_the_results_are_there_and_the_way_to_the_plot_is_said(finished, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "experiments.rate_utility.plot", raising=False)
    monkeypatch.delattr(experiments.rate_utility, "plot", raising=False)  # where matplotlib is there, and was imported
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    source = finished[0] / "rate_utility" / "results.json"
    (tmp_path / "results.json").write_bytes(source.read_bytes())
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run.publish(tmp_path, goals=True)
    assert "pip install -e .[bench]" in printed.getvalue() and not (tmp_path / "curves.svg").exists()
    page = (tmp_path / "results.md").read_text()
    assert "| random_images ipc 2: jpeg sheets, quality 5; labels step 1 |" in page and "**Within 106,500 bits" in page


def test_a_name_that_is_no_point_is_refused():
    with pytest.raises(SystemExit, match="names no point"):
        start("--only=nothing of the kind")
