"""The embedded data: tables at IPC 1 and 10, digits in photographs, and how much of a digit the chosen window holds.

    python experiments/digits/run.py [--runs=runs/digits]

Needs no data but what scikit-learn ships; about fifteen minutes on 2 CPU cores. Writes results.json beside this file
and the README's pictures in docs/images/. An interrupted experiment goes on where it was.
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
sys.path.insert(0, str(ROOT))
CONFIGS = ("digits_ipc1", "digits_ipc10", "digits_in_photos_ipc10")
RUNS = flags.DEFINE_string("runs", "runs/digits", "Where the runs go.")


def run_one(name: str) -> dict:
    """One pipeline run, with the number of cores it had."""
    workdir = Path(RUNS.value) / name
    command = [sys.executable, "main.py", f"--config=configs/{name}.py", f"--workdir={workdir}"]
    subprocess.run(command, cwd=ROOT, check=True)
    results = json.loads((ROOT / workdir / "results.json").read_text())
    del results["curves"]
    return {**results, "command": f"python main.py --config=configs/{name}.py", "cpu_cores": os.cpu_count()}


def covered(boxes, digits) -> np.ndarray:
    """Share of each digit's box that lies in the other box; both (N, 4) y x h w."""
    low = np.maximum(boxes[:, :2], digits[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], digits[:, :2] + digits[:, 2:])
    return np.prod(np.maximum(high - low, 0), axis=1) / np.prod(digits[:, 2:], axis=1)


def coverage(name: str) -> dict:
    """Mean share of the digit inside the noise-free Shapley window and inside a random window of the same size."""
    import dataclasses
    import importlib

    from infoutil_jax import config, data, distil, teachers
    from infoutil_jax.data import digits
    from infoutil_jax.stages import attribute, crop

    settings = config.resolve(importlib.import_module(f"configs.{name}").get_config())
    dataset = data.open_dataset(settings.data)
    artifacts = ROOT / RUNS.value / name / "artifacts"
    teacher = teachers.obtain(settings, dataset, artifacts)
    coalitions = attribute.design(settings.attribute, settings.seed)
    method = distil.Method(settings, teacher, coalitions, artifacts, distil.origin(settings, dataset))
    places = dict(zip(dataset.train.ids, digits.photo_boxes(settings.data), strict=True))
    shares = {"shapley_window": [], "random_window": []}
    for label in range(len(dataset.class_names)):
        pool = distil.candidates(settings, dataset.train, label)
        truth = np.stack([places[i] for i in pool.ids])
        phi = distil.attribution_of(method, pool).phi
        random = dataclasses.replace(settings.crop, rule="random_window")
        side, grid = settings.data.image_size, settings.attribute.grid
        chosen = {"shapley_window": crop.run(settings.crop, 0, pool.ids, side, grid, phi)}
        chosen["random_window"] = crop.run(random, 0, pool.ids, side, grid)
        for rule, crops in chosen.items():
            shares[rule].append(covered(crops.boxes[:, -1], truth))
    return {rule: float(np.concatenate(values).mean()) for rule, values in shares.items()}


def draw(ipc1: Path, photos: Path) -> None:
    """The README's pictures."""
    import re
    from base64 import b64decode

    images = ROOT / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    for report, number, name in ((ipc1, 0, "digits_ipc1.png"), (photos, 1, "digits_in_photos_heatmaps.png")):
        found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", report.read_text())
        (images / name).write_bytes(b64decode(found[number]))


def main(_):
    results = {name: run_one(name) for name in CONFIGS}
    results[CONFIGS[2]]["share_of_digit_covered"] = coverage(CONFIGS[2])
    (HERE / "results.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    draw(*(ROOT / RUNS.value / name / "report.html" for name in (CONFIGS[0], CONFIGS[2])))


if __name__ == "__main__":
    app.run(main)
