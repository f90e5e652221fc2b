"""experiments/scaling: the synthetic source is the same every time, a stage's memory is booked to that stage, the
kernel's peak is that of the child alone, and the plan's seconds are those of a count made by hand."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from experiments.scaling import plan, run, source
from PIL import Image

from infoutil_jax import plan as counted
from infoutil_jax.settings import for_method

SCALING = Path(run.__file__).parent
MIB = 2**20
PROGRAM = """
import threading, time
import numpy as np
from infoutil_jax.clock import CLOCK
watch = next(thread for thread in threading.enumerate() if type(thread).__name__ == "Watch")
def until_sampled(name):
    before = len(watch.samples.get(name, ()))
    while len(watch.samples.get(name, ())) < before + 2:
        time.sleep(0.01)
CLOCK.restart()
until_sampled("start")
with CLOCK.stage("distil"), CLOCK.stage("write"):
    held = np.ones(300 * 2**20, np.uint8)
    until_sampled("distil")
    del held
with CLOCK.stage("evaluate"):
    until_sampled("evaluate")
"""
RATES = plan.Rates(
    tflops=1, images=10, threads=2, labels=1000, megabytes=1, image_bytes=100, written=5, read_back=30, gflops=1
)
SMALL = counted.Source(n_classes=100, n_train=60_000, n_val=1_000, missing="")


def contents(folder):
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.png")}


def test_the_source_is_the_same_every_time_and_its_images_differ(tmp_path):
    source.make(tmp_path / "a", 3)
    source.make(tmp_path / "b", 2)
    files = contents(tmp_path / "a")
    assert len(files) == len(set(files.values())) == 3 * sum(source.SPLITS.values())
    assert contents(tmp_path / "b").items() < files.items()
    with Image.open(tmp_path / "a" / "train" / "class00000" / "0.png") as image:
        assert image.size == (source.SIDE, source.SIDE) and np.array(image).std() > 10


def test_memory_is_booked_to_the_stage_that_held_it(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    begin = f"import sys; sys.path.insert(0, {str(SCALING)!r}); import watch; watch.main(*sys.argv[1:])"
    usage = run.spent([sys.executable, "-c", begin, str(tmp_path / "out.json"), str(tmp_path / "program.py")])
    watched = json.loads((tmp_path / "out.json").read_text())
    peaks = {stage["stage"]: stage["peak_bytes"] for stage in watched["stages"]}
    assert set(peaks) >= {"start", "distil", "evaluate"} and watched["live_arrays"] == watched["programs"] == 0
    assert peaks["distil"] > peaks["start"] + 290 * MIB and peaks["evaluate"] < peaks["distil"] - 250 * MIB
    assert usage["peak_bytes"] > peaks["distil"] - MIB and usage["cpu_seconds"] > 0


def test_a_run_that_fails_is_shown():
    with pytest.raises(SystemExit, match="(?s)no memory left.*ended with 3"):
        run.spent([sys.executable, "-c", "import sys; print('no memory left'); sys.exit(3)"])


def test_the_ratio_is_to_the_fewest_classes_and_earlier_runs_are_kept_of_the_same_code_only(tmp_path):
    runs = [
        {"classes": 100, "peak_bytes": 90, "cache_gib": 0.0},
        {"classes": 10, "peak_bytes": 100, "cache_gib": 0.0},
        {"classes": 1000, "peak_bytes": 120, "cache_gib": 0.0},
        {"classes": 1000, "peak_bytes": 150, "cache_gib": 4.0},
    ]
    assert run.ratio(runs) == pytest.approx(1.2)
    path = tmp_path / "results.json"
    assert run.earlier(path, {"commit": "a"}) == []
    path.write_text(json.dumps({"commit": "a", "runs": runs}))
    assert run.earlier(path, {"commit": "a"}) == runs and run.earlier(path, {"commit": "b"}) == []


def test_the_smoke_run_measures_every_stage_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(sys, "argv", ["run.py", "--smoke", f"--out={tmp_path / 'results.json'}"])
    with pytest.raises(SystemExit) as left:
        run.main()
    printed = capsys.readouterr().out
    assert left.value.code == 0 and "2 classes, cache 0 GiB: " in printed and not list(tmp_path.iterdir())
    assert {"teacher", "distil", "evaluate"} < {cell.strip() for cell in printed.split("\n")[2].split("|")}


@pytest.fixture(scope="module")
def small():
    return plan.case(SMALL, plan.LEAN)._replace(flops=1e9, epochs=2)


def test_a_stage_takes_as_long_as_its_slowest_part_and_what_the_host_does(small):
    stages = {stage.name: stage for stage in plan.stages(small, 1, RATES)}
    assert stages["open the data"][1:] == pytest.approx((0, 0, 6.1, 61))  # 61,000 x 100 B at 1 MB/s, 1,000 labels a s
    assert stages["open the data"].seconds == pytest.approx(67.1)
    # 2 epochs x 60,000 images: 3 GFLOP each at 1 TFLOP/s; 20 decoded a second
    assert stages["teacher"][1:] == pytest.approx((360, 6000, 12, 0)) and stages["teacher"].bound == "decoding"
    # 100 x 300 candidates x (128 evaluations + 5 crops x 4 passes) + 4,000 labels; 1,000 records at 5 a second
    assert stages["distil"][1:] == pytest.approx((4444, 1500, 3, 200))
    assert stages["distil"].seconds == pytest.approx(4644) and stages["distil"].bound == "accelerators"
    # 3 students: 300 epochs x 1,000 images x (3 + 1) passes and 6 tests of 1,000
    assert stages["students"][1:] == pytest.approx((3618, 50, 0.1, 100))
    assert stages["1-nearest neighbour"].host == pytest.approx(10 * 2 * 1000 * 1000 * 224 * 224 * 3 / 1e9)


def test_more_accelerators_divide_the_classes_and_nothing_else(small):
    one, eight, many = ({stage.name: stage for stage in plan.stages(small, n, RATES)} for n in (1, 8, 256))
    assert eight["distil"].accelerators == pytest.approx(one["distil"].accelerators / 8)
    assert eight["distil"].decoding == one["distil"].decoding  # still one process
    # 32 processes: of 100 classes one has 4
    assert many["distil"][1:] == pytest.approx(np.array(eight["distil"][1:]) * 0.04)
    assert many["teacher"] == eight["teacher"] and many["students"] == one["students"]
    assert many["open the data"] == one["open the data"]


def test_the_work_is_what_a_dry_run_prints():
    of = plan.case(plan.SETS["ImageNet-1K"], plan.AS_IT_IS)
    printed, shown = counted.describe(of.config), plan.counts(of, 1e5)
    for row in ("coalition evaluations", "crops scored for InfoUtil", "teacher's parameters", "a forward pass"):
        assert shown[row] in printed, row
    assert "90 epochs: " + shown["teacher's training"] in printed
    assert shown["by distilling"] == "30 GB"
    assert shown["students"].replace(" of ", " x ", 1) in printed
    infoutil = counted.work(for_method(of.config, "infoutil"), of.source)
    assert plan.distil_passes(of) == infoutil.passes + 1_500_000 + 4 * 40_000 + 10_000  # RDED's losses, all labels


def numbers_apart(text):
    """(the text without its numbers, the numbers)."""
    number = r"\d[\d,.]*"
    return re.sub(number, "#", text), [float(n.replace(",", "").rstrip(".")) for n in re.findall(number, text)]


def test_the_tables_of_the_docs_are_the_scripts_output():
    text = (SCALING.parents[1] / "docs" / "scaling.md").read_text()
    tables = plan.tables(plan.assumed())
    first, last = tables.splitlines()[0], tables.splitlines()[-1].split("|")[1]
    committed = text[text.index(first) : text.index("\n\n", text.rindex(f"|{last}|"))]
    (words, values), (shown, figures) = numbers_apart(tables), numbers_apart(committed)
    assert words == shown
    np.testing.assert_allclose(values, figures, rtol=0.03)  # compilers count FLOPs a little differently
