"""DD-Ranking's two scores of the methods of a run: its students, and the same sets learned without augmentation."""

import dataclasses
from pathlib import Path

from infoutil_jax import pipeline, pretrained, results, teachers
from infoutil_jax.metrics import augmentation_robust_score

AUGMENTED = "augmentation of the recipe"
PLAIN = "no augmentation"


def without_augmentation(settings):
    """Students see whole images as they are: no crop, zoom, mirroring, shuffling, CutMix or colour change."""
    off = dict(augment="none", cutmix=False, min_scale=1.0, zoom=0.0, shuffle=False, hard_seeds=0)
    evaluate = dataclasses.replace(settings.evaluate, **off)
    return dataclasses.replace(settings, evaluate=evaluate, data=dataclasses.replace(settings.data, flip=False))


def score(settings, workdir: Path, artifacts: Path) -> dict:
    """method -> scores and the accuracies behind them, each with mean, standard deviation and seeds."""
    settings, _ = pretrained.adopt(settings)
    pipeline.run(settings, workdir=str(workdir), artifacts=str(artifacts))
    dataset = pipeline.open_data(settings)
    teacher = teachers.obtain(settings, dataset, artifacts)
    sets = pipeline.write_sets(settings, dataset, teacher, workdir, artifacts)  # finished: only their places
    tables = {
        AUGMENTED: pipeline.evaluate_sets(settings, dataset, teacher, sets, artifacts),
        PLAIN: pipeline.evaluate_sets(without_augmentation(settings), dataset, teacher, sets, artifacts),
    }
    final = lambda table, method: results.final(table.curves[method][table.labels])
    label_robust, found = results.label_robust_scores(settings, teacher, tables[AUGMENTED]), {}
    for method in settings.methods:
        accuracies = [final(table, name) for table in tables.values() for name in (method, "random_images")]
        values = {"ARS": augmentation_robust_score(*accuracies).tolist(), "LRS": label_robust.get(method, [])}
        values |= {name: final(table, method) for name, table in tables.items()}
        found[method] = {name: results.statistics(v) for name, v in values.items() if v}
    return found


def table(found: dict) -> str:
    """Markdown, in percent."""
    columns = ["LRS", "ARS", AUGMENTED, PLAIN]
    lines = [f"| method | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for method, values in found.items():
        cells = [results.percent(values[name]["seeds"]) if name in values else "-" for name in columns]
        lines.append(f"| {results.TITLES[method]} | {' | '.join(cells)} |")
    return "\n".join(lines)
