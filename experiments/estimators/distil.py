"""Does a better Shapley value distil better? InfoUtil on digits in photographs with other estimators and budgets.

    python experiments/estimators/distil.py [--runs=runs/estimators_distil]

Every variant has the same teacher, candidates, noise and students for each of three seeds; the embedded data are enough.
Writes distil.json beside this file: accuracy over all students, and the share of kept crops (image and box) in common with
the set that 2,048 evaluations of the odd GP give. An hour on 2 CPU cores; an interrupted experiment goes on.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUNS = flags.DEFINE_string("runs", "runs/estimators_distil", "Where the runs go.")
SEEDS, STUDENTS = 3, 2
REFERENCE = ("odd_gp", 2048, "float32")
VARIANTS = [
    ("kernel_shap", 25, "float32"), ("kernel_shap", 128, "float32"), ("leverage_shap", 128, "float32"),
    ("odd_gp", 32, "float32"), ("odd_gp", 128, "float32"), ("odd_gp", 128, "bfloat16"), ("odd_gp", 512, "float32"),
    REFERENCE,
]  # fmt: skip


def run_one(variant, seed: int) -> Path:
    """One pipeline run, or what is left of it -> its workdir."""
    estimator, budget, precision = variant
    workdir = Path(RUNS.value) / "_".join(map(str, (*variant, seed)))
    command = [
        sys.executable, "main.py", "--config=configs/digits_in_photos_ipc10.py", f"--workdir={workdir}",
        f"--artifacts={RUNS.value}/artifacts_{seed}", f"--config.seed={seed}", "--config.methods=('infoutil',)",
        f"--config.attribute.estimator={estimator}", f"--config.attribute.budget={budget}",
        f"--config.attribute.precision={precision}", f"--config.evaluate.seeds={STUDENTS}", "--config.evaluate.hard_seeds=0",
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True)
    return ROOT / workdir


def sources(workdir: Path) -> dict:
    """{(image, box)} of every kept crop, by class."""
    sys.path.insert(0, str(ROOT))
    from infoutil_jax import records

    kept = records.load(workdir / "distilled")
    crops = {}
    for label, ids, boxes in zip(kept.labels.tolist(), kept.patch_ids, kept.patch_boxes.tolist()):
        crops.setdefault(label, set()).update(zip(ids, map(tuple, boxes)))
    return crops


def shared(one: dict, other: dict) -> float:
    """Share of kept crops (image and box) that two sets have in common."""
    return float(np.mean([len(one[label] & other[label]) / len(one[label]) for label in one]))


def summary(variant) -> dict:
    """Accuracy over distillation seeds and students, and the kept crops in common with the reference."""
    workdirs = [run_one(variant, seed) for seed in range(SEEDS)]
    tables = [json.loads((workdir / "results.json").read_text()) for workdir in workdirs]
    top1 = [value for table in tables for value in table["methods"]["infoutil"]["online"]["top1"]["seeds"]]
    references = [run_one(REFERENCE, seed) for seed in range(SEEDS)]
    same = [shared(sources(one), sources(other)) for one, other in zip(workdirs, references)]
    means = np.reshape(top1, (SEEDS, STUDENTS)).mean(1)
    figures = {"mean": float(np.mean(top1)), "std_of_sets": float(means.std(ddof=1)), "top1": top1}
    return {**figures, "kept_crops_in_common_with_reference": same}


def main(_):
    found = {" ".join(map(str, variant)): summary(variant) for variant in [REFERENCE, *VARIANTS[:-1]]}
    setting = {"command": "python experiments/estimators/distil.py", "cpu_cores": os.cpu_count()}
    (HERE / "distil.json").write_text(json.dumps({**setting, "variants": found}, indent=1) + "\n")
    for name, figures in found.items():
        common = 100 * np.mean(figures["kept_crops_in_common_with_reference"])
        print(
            f"{name:26s} {100 * figures['mean']:.1f} ± {100 * figures['std_of_sets']:.1f} %, {common:.0f} % in common"
        )


if __name__ == "__main__":
    app.run(main)
