"""The harness of the experiments: a list of cells, each one run of the pipeline, and a table beside what is published.

    python experiments/NAME/run.py --data_dir=DIR [--only=REGEX] [--seeds=N] [--hard_seeds=N] [--recipe=NAME] [--weights=DIR]
    python experiments/NAME/run.py --list       # runs nothing, brings results.md up to date
    python experiments/NAME/run.py --smoke      # tiny cells on the embedded digits; their figures mean nothing

DIR is TFDS's data_dir; folders of images lie in it under the last name of their config's data.path. results.json,
written after every cell, holds what ran: command, settings, versions, hardware, seconds, every seed's accuracy. A cell
that is there with the same settings and as many seeds is not run again. All experiments share teachers, attributions
and scores.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from absl import logging
from configs import digits

from infoutil_jax import clock, compilation, config, pipeline, pretrained, results, store
from infoutil_jax.errors import EnvironmentFault, InfoUtilError, Preempted
from infoutil_jax.settings import RECIPES

ROOT = Path(__file__).resolve().parents[1]
YOUNG = {"teacher": {"early_learning_rate": 0.0}}  # keys of a config that older records lack, and what they had


class Cell(NamedTuple):
    """One run: a config, what differs from it, and what is published for it."""

    name: str  # unique in its experiment
    config: str  # as in --config, from the root of the repository
    changes: dict  # dotted key -> value
    methods: tuple[str, ...]
    published: dict[str, str]  # method, ours or another's -> top-1 in %


def main(here: Path, cells: list[Cell], note: str, argv: list[str] | None = None) -> None:
    """Runs `cells` as the command line says. results.json and results.md, with `note` above its table, go to `here`,
    those of --smoke below --runs. Exits with a message where a cell's name, setting or data is wrong."""
    flags = _parse(argv)
    by_recipe = {recipe: _in_recipe(cells, recipe) for recipe in RECIPES}
    wanted = [cell for cell in by_recipe[flags.recipe] if re.search(flags.only, cell.name)]
    if not wanted:
        sys.exit(f"error: --only={flags.only!r} names no cell; there are: {', '.join(cell.name for cell in cells)}.")
    logging.set_verbosity(logging.WARNING)
    try:
        _run_missing(here, cells, sum(by_recipe.values(), []), wanted, note, flags)
    except InfoUtilError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="", help="where all data sets are; by default where the configs say")
    parser.add_argument("--only", default="", metavar="REGEX", help="cells whose name this is found in")
    parser.add_argument("--seeds", type=int, default=0, help="students; by default as many as the config says")
    parser.add_argument(
        "--hard_seeds",
        type=int,
        help="students on hard labels; by default as many as the config says, and none for a cell that has run",
    )
    parser.add_argument("--recipe", default=RECIPES[0], choices=RECIPES, help="how students are trained")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="teachers from elsewhere: DIR/MODEL.safetensors")
    parser.add_argument("--runs", type=Path, help="folder of the runs; by default runs/, or runs/smoke/")
    parser.add_argument("--artifacts", type=Path, help="what cells share; by default artifacts/ below --runs")
    parser.add_argument("--smoke", action="store_true", help="tiny cells on the embedded digits")
    parser.add_argument("--list", action="store_true", help="run nothing, write results.md")
    flags = parser.parse_args(argv)
    flags.runs = flags.runs or ROOT / "runs" / ("smoke" if flags.smoke else "")
    flags.artifacts = flags.artifacts or flags.runs / "artifacts"
    return flags


def _in_recipe(cells: list[Cell], recipe: str) -> list[Cell]:
    """The cells by another recipe than their own; those whose own is given have no other."""
    if recipe == RECIPES[0]:
        return cells
    return [
        cell._replace(name=f"{cell.name}, {recipe} recipe", changes={"recipe": recipe, **cell.changes})
        for cell in cells
        if "recipe" not in cell.changes
    ]


def _run_missing(here: Path, listed, cells, wanted, note, flags) -> None:
    """Runs `wanted`, of `cells` by any recipe; the table shows those that were run, and all that are `listed`."""
    out = flags.runs / here.name if flags.smoke else here
    settings = {cell.name: settings_of(cell, flags) for cell in cells}
    if flags.smoke:  # of cells that are the same on the digits, the first
        listed = cells = wanted = list({_key(settings[cell.name]): cell for cell in reversed(wanted)}.values())[::-1]
    path = out / "results.json"
    records, counts = _read(path), ["seeds"] + ["hard_seeds"] * (flags.hard_seeds is not None)
    compilation.keep_programs()
    failed = 0
    for cell in wanted:
        if not flags.list and not _holds(records.get(cell.name), settings[cell.name], counts):
            print(f"\n{here.name}: {cell.name}", flush=True)
            try:
                record = _run(here.name, cell, settings[cell.name], flags)
            except (Preempted, EnvironmentFault):  # no other cell would fare better
                raise
            except InfoUtilError as error:  # of this cell alone: the others go on
                print(f"error: {cell.name}: {error}", file=sys.stderr, flush=True)
                failed = error.exit_code
                continue
            records = _read(path) | {cell.name: record}  # another command may have run other cells meanwhile
            store.write_plain_json(path, records)
    known = {name: record for name, record in records.items() if name in settings and _holds(record, settings[name])}
    shown = [cell for cell in cells if cell.name in known or cell in listed]
    store.write_bytes(out / "results.md", f"{note}\n\n{table(shown, known)}\n".encode())
    print(out / "results.md", flush=True)
    if failed:
        sys.exit(failed)


def _read(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text()) if path.exists() else {}


def settings_of(cell: Cell, flags) -> pipeline.Config:
    """The checked settings of a cell. Raises ConfigError."""
    c = config.load(f"{ROOT}/{cell.config}")
    c.update_from_flattened_dict({"methods": cell.methods, **cell.changes})
    if flags.smoke:
        c = c.copy_and_resolve_references()  # what follows the IPC stays as it is at the cell's
        _shrink(c)
    elif flags.data_dir:
        c.data.path = flags.data_dir if c.data.source == "tfds" else f"{flags.data_dir}/{Path(c.data.path).name}"
    if flags.seeds:
        c.evaluate.seeds, c.evaluate.hard_seeds = flags.seeds, min(flags.seeds, c.evaluate.hard_seeds)
    if flags.hard_seeds is not None:
        c.evaluate.hard_seeds = flags.hard_seeds
    if flags.weights and not flags.smoke and (path := flags.weights / f"{c.teacher.model}.safetensors").is_file():
        c.teacher.weights = str(path)
    return pretrained.adopt(config.resolve(c))[0]


def _shrink(c) -> None:
    """Digits, one tiny network for all, one student of one epoch; rules, estimators, labels and mosaics stay."""
    toy = digits.get_config()
    c.data, c.teacher = toy.data, toy.teacher
    c.update_from_flattened_dict({
        "name": "smoke", "ipc": 1, "candidates": 16, "crop.per_image": 2, "crop.window": c.crop.window * 2 // 4,
        "teacher.width": 8, "teacher.epochs": 2, "teacher.early_epoch": 1, "teacher.min_times_chance": 0.0,
        "attribute.grid": 2, "attribute.budget": 8, "attribute.micro_batch": 16,
        "evaluate.model": "convnet3", "evaluate.width": 8, "evaluate.learning_rate": 1e-3, "evaluate.batch_size": 10,
        "evaluate.epochs": 1, "evaluate.test_every": 1, "evaluate.seeds": 1, "evaluate.hard_seeds": 0,
    })  # fmt: skip


def _same_run(plain: dict) -> dict:
    """A plain config without what a result does not depend on: its name, where data and weights lie, how many students."""
    counts, teacher = {"seeds": 0, "hard_seeds": 0}, plain["teacher"]
    placeless = {"data": plain["data"] | {"path": ""}, "teacher": teacher | {"weights": Path(teacher["weights"]).name}}
    return {**plain, **placeless, "name": "", "evaluate": plain["evaluate"] | counts}


def _key(settings) -> str:
    return store.fingerprint(_same_run(results.plain(settings)))


def _completed(plain: dict, defaults: dict) -> dict:
    """With the defaults of keys that are younger than the record: what was done then."""
    whole = {**defaults, **plain}
    return {k: _completed(v, defaults[k]) if isinstance(defaults.get(k), dict) else v for k, v in whole.items()}


def _holds(record: dict | None, settings, counts=()) -> bool:
    """Whether a record is of these settings, and its `counts` of students are no smaller."""
    if record is None or _same_run(_completed(record["config"], YOUNG)) != _same_run(results.plain(settings)):
        return False
    return all(record["config"]["evaluate"][n] >= getattr(settings.evaluate, n) for n in counts)


def _run(experiment: str, cell: Cell, settings, flags) -> dict:
    """One run of the pipeline -> what results.json keeps of it."""
    slug = re.sub("[^a-z0-9]+", "-", cell.name.lower())
    students = f"{settings.evaluate.seeds}-{settings.evaluate.hard_seeds}"
    workdir = flags.runs / experiment / f"{slug}-{_key(settings)[:8]}-{students}"
    pipeline.run(settings, workdir=str(workdir), artifacts=str(flags.artifacts))
    record, timing = json.loads((workdir / "results.json").read_text()), workdir / "timing.json"
    spent = store.read_json(timing) if timing.exists() else []
    command = [f"python experiments/{experiment}/run.py --only='^{cell.name}$' --seeds={settings.evaluate.seeds}"]
    command += [f"--hard_seeds={settings.evaluate.hard_seeds}"] * (flags.hard_seeds is not None)
    command += [f"--recipe={flags.recipe}"] * (flags.recipe != RECIPES[0])
    command += ["--weights=WEIGHTS_DIR"] * bool(settings.teacher.weights)
    command += ["--smoke"] * flags.smoke + ["--data_dir=DATA_DIR"] * bool(flags.data_dir)
    del record["curves"]
    record["config"]["data"]["path"] = "DATA_DIR" if flags.data_dir else settings.data.path
    record["config"]["teacher"]["weights"] = Path(settings.teacher.weights).name
    return record | {
        "command": " ".join(command),
        "cpu_cores": os.cpu_count(),
        "seconds": round(sum(row[activity] for row in spent for activity in clock.ACTIVITIES), 1),
    }


def table(cells: list[Cell], records: dict[str, dict]) -> str:
    """Markdown: every cell's methods, ours beside the published figure, and what the runs were; run cells first."""
    cells = sorted(cells, key=lambda cell: cell.name not in records)
    lines = ["| cell | method | ours | best epoch | hard labels | published |", "|---|---|---|---|---|---|"]
    for cell in cells:
        for method in dict.fromkeys([*cell.methods, *cell.published]):
            title, published = results.TITLES.get(method, method), cell.published.get(method, "-")
            ours = " | ".join(_ours(cell, method, records.get(cell.name)))
            lines.append(f"| {cell.name} | {title} | {ours} | {published} |")
    return "\n".join([*lines, "", *_runs(cells, records)])


def _ours(cell: Cell, method: str, record: dict | None) -> list[str]:
    """Final epoch, best epoch, hard labels."""
    if method not in cell.methods or record is None:
        return ["not run yet" if method in cell.methods else "-", "-", "-"]
    by, labels = record["methods"][method], record["config"]["evaluate"]["labels"]
    return [_percent(by.get(which, {}).get(column)) for which, column in (
        (labels, "top1"), (labels, "best_epoch_top1"), ("hard", "top1")
    )]  # fmt: skip


def _percent(statistics: dict | None) -> str:
    if statistics is None:
        return "-"
    mean, n = f"{100 * statistics['mean']:.1f}", len(statistics["seeds"])
    return f"{mean} ± {100 * statistics['std']:.1f}" if n > 1 else f"{mean} (1 seed)"


def _runs(cells: list[Cell], records: dict[str, dict]) -> list[str]:
    done = [cell.name for cell in cells if cell.name in records]
    if not done:
        return ["No cell was run yet."]
    lines = ["| run | teacher, early / converged | seeds | devices | seconds | commit |", "|---|---|---|---|---|---|"]
    for name in done:
        r = records[name]
        teacher = " / ".join(f"{100 * r['teacher'][which]['top1']:.1f}" for which in ("early", "converged"))
        devices = f"{r['environment']['devices']}, {r['cpu_cores']} cores"
        commit, dirty, _ = r["environment"]["git"].partition("+")
        seeds, commit = r["config"]["evaluate"]["seeds"], commit[:10] + dirty
        lines.append(f"| {name} | {teacher} | {seeds} | {devices} | {r['seconds']:.0f} | {commit} |")
    known = "what another cell or an earlier command had made: teachers, attributions, scores, students"
    return [*lines, "", f"Seconds are without {known}. A commit with + had changes beside it."]
