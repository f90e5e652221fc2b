"""What a distilled set is worth per bit: CIFAR-10, ConvNet-3, in standard image formats, label streams and the codec.

    python experiments/rate_utility/run.py --data_dir=DIR [--ipcs=1,10,50] [--methods=infoutil,easy_images]
        [--only=REGEX] [--seeds=5] [--again] [--set=cifar10|imagenette] [--runs=DIR] [--artifacts=DIR]
    python experiments/rate_utility/run.py --list     # runs nothing: the points, and results.md and curves.svg anew
    python experiments/rate_utility/run.py --smoke    # two classes of digits at 16 px; its figures mean nothing

DIR is TFDS's data_dir with the set prepared. A point is a set through an image coder and a label coder, and students on
what the bytes decode to. results.json is written after every point, by teacher; one that is there for any teacher with
as many seeds is not run again, unless --again asks for it with the teacher of --artifacts. Teachers, sets, coded sets
and students are found again in --artifacts and --runs.
"""

import argparse
import itertools
import json
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from absl import logging  # noqa: E402

from experiments.rate_utility import measure, table, toy  # noqa: E402
from experiments.rate_utility.points import Latents, all_points, at_toy_size  # noqa: E402
from infoutil_jax import compilation, config, provenance, results, store  # noqa: E402
from infoutil_jax.errors import InfoUtilError  # noqa: E402

CLASSES = 10  # of either set
SETS = {"cifar10": ("", 32), "imagenette": (",convnet5", 128)}  # what names the network in the config, side of an image
SECONDS = {"stored": 0.0033, "online": 0.0044}  # of a student, an image and epoch: one of two processes on two cores


def main(argv: list[str] | None = None) -> None:
    """Measures the points that the command line names and that are missing."""
    flags = _parse(argv)
    logging.set_verbosity(logging.WARNING)
    n_classes = toy.CLASSES if flags.smoke else CLASSES
    everything = all_points(flags.methods, flags.ipcs, n_classes, SETS[flags.set][1])
    everything = at_toy_size(everything) if flags.smoke else everything
    wanted = [point for point in everything if re.search(flags.only, point.name)]
    if not wanted:
        sys.exit(f"error: --only={flags.only!r} names no point; --list shows all {len(everything)}.")
    out = flags.runs / "rate_utility" if flags.smoke else HERE / flags.set.replace("cifar10", "")
    try:
        settings = {(p.method, p.ipc): settings_of(p, flags) for p in wanted}
        if flags.list:
            print(_plan(wanted, settings))
        else:
            _run_missing(out, wanted, settings, flags)
        publish(out, goals=flags.set == "cifar10")
    except InfoUtilError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="", help="TFDS's data_dir; by default TFDS's own")
    parser.add_argument("--again", action="store_true", help="also points that another teacher has")
    parser.add_argument("--set", default="cifar10", choices=SETS, help="imagenette: ConvNet-5 at 128 px, wants a GPU")
    parser.add_argument("--ipcs", help="images per class; by default 1,10,50, with --smoke 2")
    parser.add_argument("--methods", default="infoutil,easy_images", help="of the sets")
    parser.add_argument("--only", default="", metavar="REGEX", help="points whose name this is found in")
    parser.add_argument("--seeds", type=int, help="students a point; by default 5, with --smoke 2")
    parser.add_argument("--runs", type=Path, help="where sets go; by default runs/, or runs/smoke/")
    parser.add_argument("--artifacts", type=Path, help="teachers and students; by default artifacts/ below --runs")
    parser.add_argument("--smoke", action="store_true", help="two classes of digits, one point of every curve")
    parser.add_argument("--list", action="store_true", help="run nothing, write results.md and the plot")
    flags = parser.parse_args(argv)
    flags.ipcs = [int(ipc) for ipc in (flags.ipcs or ("2" if flags.smoke else "1,10,50")).split(",")]
    flags.methods, flags.seeds = flags.methods.split(","), flags.seeds or (2 if flags.smoke else 5)
    flags.runs = flags.runs or ROOT / "runs" / ("smoke" if flags.smoke else "")
    flags.artifacts = flags.artifacts or flags.runs / "artifacts"
    return flags


def settings_of(point, flags):
    """The checked settings of a point's method and IPC. Raises ConfigError."""
    if flags.smoke:
        c = toy.get_config(point.ipc, flags.runs)
    else:
        c = config.load(f"{ROOT}/configs/{flags.set}.py:{point.ipc}{SETS[flags.set][0]}")
        c.data.path = flags.data_dir
    c.methods = (point.method,)
    c.update_from_flattened_dict({"evaluate.labels": "stored", "evaluate.seeds": flags.seeds, "evaluate.hard_seeds": 0})
    return config.resolve(c)


def _run_missing(out: Path, wanted, settings: dict, flags) -> None:
    compilation.keep_programs()
    of_teachers = [] if flags.again else _read(out)["points"].values()
    there = lambda p: any(_holds(records.get(p.name), settings[p.method, p.ipc], p) for records in of_teachers)
    missing = [p for p in wanted if not there(p)]
    for (method, ipc), points in itertools.groupby(missing, key=lambda p: (p.method, p.ipc)):
        bench = measure.prepare(settings[method, ipc], flags.runs, flags.artifacts, toy.TRAINING if flags.smoke else {})
        own = lambda: _read(out)["points"].get(measure.teacher_name(bench.teacher.record), {})
        for point in points:
            if _holds(own().get(point.name), settings[method, ipc], point):
                continue
            print(f"\n{point.name}", flush=True)
            record = measure.measure(bench, point) | {
                "command": _command(point, flags), "cpu_cores": os.cpu_count(), "environment": provenance.environment(),
            }  # fmt: skip
            _add(out, point, record, settings[method, ipc], flags)


def _holds(record: dict | None, settings, point) -> bool:
    """Whether a record is of this point and settings, and of as many students."""
    if record is None or record["made_from"] != measure.identity(settings, point):
        return False
    return len(record["top1"]["seeds"]) >= settings.evaluate.seeds


def _read(out: Path) -> dict:
    path = out / "results.json"
    return json.loads(path.read_text()) if path.exists() else {"points": {}, "sets": {}}


def _add(out: Path, point, record: dict, settings, flags) -> None:
    """Into what is there by now: two commands with another --only each may run at a time."""
    written, plain = _read(out), results.plain(settings)
    plain["data"]["path"] = "DATA_DIR" if flags.data_dir else settings.data.path
    written["points"].setdefault(measure.teacher_name(record["teacher"]), {})[point.name] = record
    written["sets"][f"{point.method} ipc {point.ipc}"] = plain
    out.mkdir(parents=True, exist_ok=True)
    store.write_plain_json(out / "results.json", written)


def _command(point, flags) -> str:
    given = [f"--only='^{point.name}$'", f"--ipcs={point.ipc}", f"--methods={point.method}", f"--seeds={flags.seeds}"]
    given += [f"--set={flags.set}"] * (flags.set != "cifar10") + ["--smoke"] * flags.smoke
    given += ["--data_dir=DATA_DIR"] * bool(flags.data_dir)
    return " ".join(["python experiments/rate_utility/run.py", *given])


def _plan(points, settings: dict) -> str:
    """A line a point, with about what a student takes, and the most that all take."""
    lines, total = [], 0.0
    for point in points:
        evaluate = settings[point.method, point.ipc].evaluate
        seconds = evaluate.epochs * point.ipc * CLASSES * SECONDS["online" if point.labels == "online" else "stored"]
        total += seconds * evaluate.seeds
        training = " + the codec's training" if isinstance(point.images, Latents) else ""
        lines.append(f"{seconds / 60:5.1f} min a student{training}  {point.name}")
    return "\n".join(
        [*lines, f"{len(points)} points, {total / 3600:.1f} h of students; equal pixels and labels share theirs"]
    )


def publish(out: Path, goals: bool) -> None:
    """results.md, and curves.svg where matplotlib is installed, from results.json; with CIFAR-10's goals."""
    records = _read(out)["points"]
    if not records:
        return
    store.write_bytes(out / "results.md", table.page(records, goals).encode())
    print(out / "results.md", flush=True)
    try:
        from experiments.rate_utility import plot
    except ModuleNotFoundError as error:
        print(f"no plot: {error}; pip install -e .[bench] and run this with --list", flush=True)
        return
    plot.draw(records, out / "curves.svg", plot.PUBLISHED if goals else {})
    print(out / "curves.svg", flush=True)


if __name__ == "__main__":
    main()
