"""From curves to what people read: the table on the terminal, results.json and report.html."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infoutil_jax import clock, distil, pictures, records, report, store
from infoutil_jax.metrics import label_robust_score, mean_std
from infoutil_jax.settings import Config, for_method
from infoutil_jax.stages import attribute

TITLES = {
    "infoutil": "InfoUtil",
    "random_images": "random images",
    "random_mosaics": "random mosaics",
    "easy_images": "easy images",
    "herding": "herding",
    "k_means": "k-means",
    "forgetting": "forgetting",
    "random_crops": "random crops",
    "rded": "RDED",
}
N_HEATMAPS = 9


class Table(NamedTuple):
    """Everything that was measured."""

    curves: dict  # method -> labels -> a list per seed of [epoch, top-1, top-5], the final epoch last
    labels: str  # the labels of the main column
    neighbour: list[float]  # accuracy of 1-NN on random real images, per draw


def plain(config: Config) -> dict:
    """A config as nested dictionaries and lists, as JSON gives it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(before: dict, now: dict, prefix: str = "") -> list[str]:
    """'section.key: old -> new' for every key in which two plain configs differ."""
    lines = []
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old} -> {new}")
    return lines


def percent(values) -> str:
    """Mean and standard deviation of fractions over seeds, in percent."""
    mean, std = mean_std(values)
    return f"{100 * mean:.1f} ± {100 * std:.1f}" if len(values) > 1 else f"{100 * mean:.1f}"


def final(curves, column: int = 1) -> list[float]:
    """Top-1 (or column 2, top-5) of every seed's last epoch."""
    return [curve[-1][column] for curve in curves]


def statistics(values: list[float]) -> dict:
    """Mean, standard deviation (n - 1) and the values themselves."""
    return dict(zip(("mean", "std"), mean_std(values))) | {"seeds": values}


def summarise(table: Table) -> dict:
    """method -> labels -> mean, standard deviation (n - 1) and seeds of final, top-5 and best-epoch accuracy."""

    def of(curves):
        best = [max(curve, key=lambda point: point[1]) for curve in curves]
        named = {"top1": final(curves), "top5": final(curves, 2)}
        named |= {"best_epoch_top1": [point[1] for point in best], "best_epoch_top5": [point[2] for point in best]}
        return {k: statistics(v) for k, v in named.items()}

    return {
        method: {labels: of(curves) for labels, curves in by.items() if curves} for method, by in table.curves.items()
    }


def label_robust_scores(config: Config, teacher, table: Table) -> dict[str, list[float]]:
    """method -> DD-Ranking's label-robust score of every seed that has both a soft and a hard student.

    Empty where an ingredient is missing: students of random images, a hard-label column, or the students' own network
    trained on all real images, which is the converged teacher where both have one architecture and it was trained here.
    """
    same = (config.teacher.model, config.teacher.width) == (config.evaluate.model, config.evaluate.width)
    random = final(table.curves.get("random_images", {}).get(table.labels, []))
    if config.teacher.weights or not (same and random) or table.labels == "hard":
        return {}
    full = teacher.record["converged"]["top1"]
    seeds = lambda by: zip(final(by.get("hard", [])), final(by[table.labels]), random)
    scores = {method: [float(label_robust_score(full, *s)) for s in seeds(by)] for method, by in table.curves.items()}
    return {method: values for method, values in scores.items() if values}


def rows(config: Config, teacher, table: Table) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table, in percent."""
    hard = any("hard" in by for by in table.curves.values()) and table.labels != "hard"
    robust = label_robust_scores(config, teacher, table)
    columns = ["method", "patches", "top-1", "top-5", "best epoch"] + ["hard labels"] * hard + ["LRS"] * bool(robust)
    body = []
    for method, by in table.curves.items():
        curves = by[table.labels]
        values = [final(curves), final(curves, 2), [max(p[1] for p in c) for c in curves]]
        values += ([final(by["hard"])] if hard else []) + ([robust[method]] if robust else [])
        cells = [TITLES[method], f"{for_method(config, method).compose.factor ** 2}"]
        body.append(cells + [percent(v) for v in values])
    extra = [("1-nearest neighbour on random real images", percent(table.neighbour), "")]
    for which in ("early", "converged"):
        seen = teacher.record[which]
        name = f"teacher, {which} ({seen.get('file') or 'epoch ' + str(seen['epoch'])})"
        extra.append((name, f"{100 * seen['top1']:.1f}", f"{100 * seen['top5']:.1f}"))
    return columns, body + [[name, "", *values] + [""] * (len(columns) - 4) for name, *values in extra]


def note(config: Config, dataset_name: str, table: Table) -> str:
    """What the table's numbers are, in a paragraph."""
    settings = config.evaluate
    seeds = f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}"
    seeds += f", hard labels {settings.hard_seeds}" if settings.hard_seeds else ""
    return (
        f"{dataset_name}, IPC {config.ipc}: accuracy in % of students ({settings.model}, {settings.epochs} epochs, "
        f"{table.labels} labels from the {config.label.teacher} teacher) on the validation split; "
        f"mean ± standard deviation, {seeds}. "
        "top-1 and top-5 are of the final epoch; 'best epoch' is picked by validation accuracy and so flatters. "
        "LRS, where it can be had, is DD-Ranking's label-robust score, 0 to 100."
    )


def timing_rows(timing: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of where the time went (`clock.Clock.read`): seconds without compiling, the share of these that
    was waiting for input, seconds of compiling. A stage with others in it includes them; the last row is the sum."""
    columns = ["stage", "seconds", "waiting for input", "compiling"]
    inside = lambda outer: [r for r in timing if f"{r['stage']}/".startswith(f"{outer}/")]
    of = {r["stage"]: inside(r["stage"]) for r in sorted(timing, key=lambda r: r["stage"] == clock.OTHER)}
    of["total"] = timing

    def cells(records):
        working, waiting, compiling = (sum(r[activity] for r in records) for activity in clock.ACTIVITIES)
        share = 100 * waiting / max(working + waiting, 1e-9)
        return [f"{working + waiting:.1f}", f"{share:.1f} %", f"{compiling:.1f}"]

    return columns, [["  " * name.count("/") + name.split("/")[-1], *cells(records)] for name, records in of.items()]


def _heatmaps(config: Config, dataset, teacher, sets: dict, artifacts: Path):
    """Attribution over the source images of the first patch of each class's best image, where it is still on disk."""
    name = next((m for m in sets if for_method(config, m).crop.rule == "shapley"), None)
    if name is None:
        return None
    origin = distil.origin(config, dataset)
    coalitions = attribute.design(config.attribute, config.seed)
    method = distil.Method(for_method(config, name), teacher, coalitions, artifacts, origin)
    images, phis, boxes = [], [], []
    for label in range(min(N_HEATMAPS, len(dataset.class_names))):
        known = store.undamaged(store.load_arrays, distil.attribution_file(method, label))
        if known is None:
            continue
        pool = distil.candidate_indices(dataset.train, label, config.candidates, config.seed)
        first = int(np.flatnonzero(sets[name].labels == label)[0])
        at = [dataset.train.ids[i] for i in pool].index(sets[name].patch_ids[first][0])
        images.append(dataset.train.images(pool[at : at + 1])[0])
        phis.append(known["phi"][at])
        boxes.append(sets[name].patch_boxes[first, 0])
    return pictures.heatmap_strip(np.stack(images), np.stack(phis), np.stack(boxes)) if images else None


def publish(
    config: Config, dataset, teacher, directories: dict, table: Table, workdir: Path, artifacts: Path,
    environment: dict, timing: list[dict], rate: tuple[list[str], list[list[str]]],
) -> None:  # fmt: skip
    """Prints the table and where the time went; writes results.json and report.html into the workdir. `rate` is the
    page's table of what the sets cost to store.

    results.json is equal for equal results, so seconds are not in it.
    """
    columns, body = rows(config, teacher, table)
    times = timing_rows(timing)
    main = next(iter(directories))
    mapped = next((name for name in directories if for_method(config, name).crop.rule == "shapley"), main)
    sets = {name: records.load(directories[name], with_logits=False) for name in dict.fromkeys((main, mapped))}
    results = {
        "command": " ".join(["python", *sys.argv]), "config": plain(config), "environment": environment,
        "teacher": teacher.record, "methods": summarise(table), "curves": table.curves,
        "nearest_neighbour": dict(zip(("mean", "std"), mean_std(table.neighbour))),
        "label_robust_score": {m: statistics(v) for m, v in label_robust_scores(config, teacher, table).items()},
    }  # fmt: skip
    store.write_plain_json(workdir / "results.json", results)
    page = report.Report(
        title=f"{config.name}: {TITLES[main]} on {dataset.name}, IPC {config.ipc}",
        summary=[
            ("top-1", body[0][2] + " %"), ("images", str(len(sets[main].labels))),
            ("teacher", f"{100 * teacher.record['converged']['top1']:.1f} %"), ("devices", environment["devices"]),
        ],
        columns=columns, rows=body, table_note=note(config, dataset.name, table),
        contact_sheet=pictures.contact_sheet(sets[main].images_u8, sets[main].labels, dataset.class_names),
        heatmaps=_heatmaps(config, dataset, teacher, sets, artifacts),
        curves={TITLES[m]: [(p[0], p[1]) for p in by[table.labels][0]] for m, by in table.curves.items()},
        config=plain(config), environment=environment,
        files=[(str(directories[main] / s["file"]), s["sha256"]) for s in sets[main].manifest["shards"]],
        method=TITLES[main], class_names=dataset.class_names, timing=times if timing else None, rate=rate,
    )  # fmt: skip
    store.write_bytes(workdir / "report.html", report.to_html(page).encode())
    print(f"\n{note(config, dataset.name, table)}\n\n{report.to_text(columns, body)}\n")
    if timing:
        print(f"{report.to_text(*times)}\n")
    print(f"distilled set: {directories[main]}\nreport:        {workdir / 'report.html'}", flush=True)
