"""Does a better Shapley value distil better? InfoUtil on digits in photographs with other estimators and budgets.

    python experiments/estimators/distil.py [--runs=runs/estimators_distil]

Every variant has the same teacher, candidates, noise and students for each of three seeds; the embedded data are enough.
Writes distil.json beside this file: accuracy over all students, and in how much a variant agrees with 2,048 evaluations
of the odd GP, and bfloat16 with float32: share of candidates with the same best window, of kept crops (image and box) in
common. An hour on 2 CPU cores; an interrupted experiment goes on.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from infoutil_jax import config, data, distil, records, store, teachers  # noqa: E402
from infoutil_jax.stages import crop  # noqa: E402

CONFIG = "configs/digits_in_photos_ipc10.py"
RUNS = flags.DEFINE_string("runs", "runs/estimators_distil", "Where the runs go.")
SEEDS, STUDENTS = 3, 2
REFERENCE = ("odd_gp", 2048, "float32")
VARIANTS = [
    ("kernel_shap", 25, "float32"), ("kernel_shap", 128, "float32"), ("leverage_shap", 128, "float32"),
    ("odd_gp", 32, "float32"), ("odd_gp", 128, "float32"), ("odd_gp", 128, "bfloat16"), ("odd_gp", 512, "float32"),
    REFERENCE,
]  # fmt: skip


@functools.cache
def run_one(variant, seed: int) -> Path:
    """One pipeline run, or what is left of it -> its workdir."""
    estimator, budget, precision = variant
    workdir = Path(RUNS.value) / "_".join(map(str, (*variant, seed)))
    command = [
        sys.executable, "main.py", f"--config={CONFIG}", f"--workdir={workdir}",
        f"--artifacts={RUNS.value}/artifacts_{seed}", f"--config.seed={seed}", "--config.methods=('infoutil',)",
        f"--config.attribute.estimator={estimator}", f"--config.attribute.budget={budget}",
        f"--config.attribute.precision={precision}", f"--config.evaluate.seeds={STUDENTS}", "--config.evaluate.hard_seeds=0",
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True)
    return ROOT / workdir


def sources(workdir: Path) -> dict:
    """{(image, box)} of every kept crop, by class."""
    kept = records.load(workdir / "distilled")
    crops = {}
    for label, ids, boxes in zip(kept.labels.tolist(), kept.patch_ids, kept.patch_boxes.tolist()):
        crops.setdefault(label, set()).update(zip(ids, map(tuple, boxes)))
    return crops


def best_windows(variant, seed: int) -> np.ndarray:
    """The window with the highest mean Shapley value of every candidate, class by class."""
    c, artifacts = config.load(str(ROOT / CONFIG)), ROOT / RUNS.value / f"artifacts_{seed}"
    estimator, budget, precision = variant
    c.update_from_flattened_dict({
        "seed": seed, "attribute.estimator": estimator, "attribute.budget": budget, "attribute.precision": precision,
    })  # fmt: skip
    settings = config.resolve(c)
    dataset = data.open_dataset(settings.data)
    teacher = teachers.obtain(settings, dataset, artifacts)
    method = distil.Method(settings, teacher, None, artifacts, distil.origin(settings, dataset))
    files = [distil.attribution_file(method, label) for label in range(len(dataset.class_names))]
    phi_MGG = np.concatenate([store.load_arrays(file)["phi"] for file in files])
    return np.array([crop.pool(phi, settings.crop.window).argmax() for phi in phi_MGG])


def agreement(one, other) -> dict:
    """In how much two variants agree, a figure for each seed."""
    pairs = [[sources(run_one(variant, seed)) for variant in (one, other)] for seed in range(SEEDS)]
    same = [np.mean([len(a[label] & b[label]) / len(a[label]) for label in a]) for a, b in pairs]
    windows = [np.mean(best_windows(one, seed) == best_windows(other, seed)) for seed in range(SEEDS)]
    return {"kept_crops_in_common": list(map(float, same)), "same_best_window": list(map(float, windows))}


def summary(variant) -> dict:
    """Accuracy over distillation seeds and students, and the agreement with the reference."""
    tables = [json.loads((run_one(variant, seed) / "results.json").read_text()) for seed in range(SEEDS)]
    top1 = [value for table in tables for value in table["methods"]["infoutil"]["online"]["top1"]["seeds"]]
    means = np.reshape(top1, (SEEDS, STUDENTS)).mean(1)
    figures = {"mean": float(np.mean(top1)), "std_of_sets": float(means.std(ddof=1)), "top1": top1}
    return {**figures, "with_reference": agreement(variant, REFERENCE)}


def main(_):
    found = {" ".join(map(str, variant)): summary(variant) for variant in [REFERENCE, *VARIANTS[:-1]]}
    precision = agreement(("odd_gp", 128, "bfloat16"), ("odd_gp", 128, "float32"))
    setting = {"command": "python experiments/estimators/distil.py", "cpu_cores": os.cpu_count()}
    results = {**setting, "variants": found, "bfloat16_with_float32_at_128": precision}
    (HERE / "distil.json").write_text(json.dumps(results, indent=1) + "\n")
    percent = lambda shares: f"{100 * np.mean(shares):.1f}"
    for name, figures in {**found, "bfloat16 with float32": {"with_reference": precision}}.items():
        accuracy = f"{percent(figures['top1'])} ± {100 * figures['std_of_sets']:.1f}" if "top1" in figures else "-"
        print(name, accuracy, *map(percent, figures["with_reference"].values()), sep=" | ")


if __name__ == "__main__":
    app.run(main)
