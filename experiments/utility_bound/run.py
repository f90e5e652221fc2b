"""The utility bound (InfoUtil, Theorem 1): the true effect of leaving a sample out of a step against its gradient norm.

    python experiments/utility_bound/run.py [--data_dir=DIR] [--sets=digits,...] [--seeds=3] [--runs=runs/utility_bound]

Small ConvNet-3 teachers are trained here; the embedded digits are enough, --data_dir (TFDS's data_dir with cifar10 and
fashion_mnist) adds two sets. Two minutes of CPU time a seed without it. results.json beside this file is written after
every seed of a set, and one that is there is not run again; results.md is made from it. Every sample's figures are left
in RUNS/SET-SEED.npz for plot.py. --smoke: toy sizes, results in RUNS.
"""

import dataclasses
import importlib
import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from experiments.utility_bound import bound, table  # noqa: E402
from infoutil_jax import compilation, config, data, models, pipeline, store, train  # noqa: E402
from infoutil_jax.keys import generator, key_for  # noqa: E402
from infoutil_jax.stages import teacher as teacher_stage  # noqa: E402

SETS = {  # name -> config, and what differs from it
    "digits": ("digits_ipc1", {}),
    "digits_in_photos": ("digits_in_photos_ipc10", {}),
    "cifar10": ("cifar10_ipc10", {"teacher.epochs": 20, "teacher.learning_rate": 0.05}),
    "fashion_mnist": (
        "cifar10_ipc10",
        {"teacher.epochs": 20, "teacher.learning_rate": 0.05, "data.name": "fashion_mnist", "data.mean": (0.286,) * 3,
         "data.std": (0.353,) * 3},
    ),
}  # fmt: skip
EMBEDDED = ("digits", "digits_in_photos")
DATA_DIR = flags.DEFINE_string("data_dir", "", "TFDS's data_dir with cifar10 and fashion_mnist.")
NAMES = flags.DEFINE_list("sets", None, "Which data sets; by default all that there are.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of a data set, each with other samples.")
RUNS = flags.DEFINE_string("runs", "runs/utility_bound", "Where every sample's figures are left.")
SAMPLES = flags.DEFINE_integer("samples", 256, "Real images: every i, and the j that the maximum is over.")
BATCH = flags.DEFINE_integer("batch", 64, "Mini-batch of the discrete step.")
RATES = flags.DEFINE_list("learning_rates", ["0.05", "0.005"], "Of the mean gradient: eta is this over the batch size.")
WIDTH = flags.DEFINE_integer("width", 16, "Channels of the ConvNet.")
SMOKE = flags.DEFINE_bool("smoke", False, "Toy sizes: shows that it runs, its figures mean nothing.")


class Kept:
    """Weights by epoch, in memory, where the teacher's training wants a store."""

    def __init__(self):
        self.weights = {}

    def steps(self) -> list[int]:
        return sorted(self.weights)

    def save(self, epoch: int, variables) -> None:
        self.weights[epoch] = jax.tree.map(np.array, variables)


def settings_of(name: str, seed: int):
    file, changes = SETS[name]
    c = importlib.import_module(f"configs.{file}").get_config()
    c.update_from_flattened_dict({**changes, "teacher.width": WIDTH.value, "seed": seed})
    if c.data.source == "tfds":
        c.data.path = DATA_DIR.value
    if SMOKE.value:
        c.update_from_flattened_dict({"teacher.epochs": 2, "teacher.early_epoch": 1})
    return config.resolve(c)


def trained(settings, dataset):
    """(network, {epoch: weights}) of one training, its first epochs run anew: untrained, 1 and 10 epochs, converged."""
    shape = (len(dataset.class_names), settings.data.mean, settings.data.std)
    network = teacher_stage.build_network(settings.teacher.model, settings.teacher.width, *shape)
    side, last = settings.data.image_size, settings.teacher.epochs
    epochs = [epoch for epoch in (1, 10, last) if epoch <= last]
    kept, rest = Kept(), dict(side=side, flip=settings.data.flip)
    for early in epochs[:-1]:
        stage = dataclasses.replace(settings.teacher, early_epoch=early)
        teacher_stage.run(stage, network, dataset, settings.seed, snapshots=kept, **rest)
    untrained = models.initialize(network.model, key_for(settings.seed, "teacher", "init"), side)
    return network, {0: untrained, **{epoch: kept.weights[epoch] for epoch in epochs}}


def measure(network, variables, dataset, rows) -> tuple[dict, dict]:
    """Figures of one stage of training, and the arrays (N,) behind them."""
    images = np.float32(dataset.train.images(rows)) / 255
    labels, etas = dataset.train.labels[rows], {rate: float(rate) / BATCH.value for rate in RATES.value}
    gradients_NP = bound.gradients(network, variables, images, labels, chunk=64)
    norms_N = np.linalg.norm(gradients_NP.astype(np.float64), axis=1)
    forms = {"continuous": (etas[RATES.value[0]], bound.continuous(gradients_NP, etas[RATES.value[0]]))}
    for rate, eta in etas.items():
        effects_NN = bound.discrete(network, variables, images, labels, gradients_NP, eta, BATCH.value)
        forms[f"step {rate}"] = (eta, effects_NN)
    quantiles = dict(zip(("least", "median", "largest"), np.quantile(norms_N, [0, 0.5, 1]).tolist()))
    figures = {"top1": train.test(network, variables, dataset.val).top1, "gradient_norm": quantiles}
    figures |= {form: bound.summary(norms_N, effects_NN, eta) for form, (eta, effects_NN) in forms.items()}
    return figures, {"norms": norms_N} | {form: bound.utility(effects) / eta for form, (eta, effects) in forms.items()}


def given() -> dict:
    """What a record was measured with, beside the data set's config."""
    return {
        "samples": SAMPLES.value, "batch": BATCH.value, "width": WIDTH.value, "learning_rates": RATES.value,
    }  # fmt: skip


def run_one(name: str, seed: int) -> dict:
    """All stages of one training on a data set; the arrays go to RUNS/NAME-SEED.npz."""
    began, settings = time.monotonic(), settings_of(name, seed)
    dataset = data.open_dataset(settings.data)
    network, weights = trained(settings, dataset)
    rows = generator(settings.seed, "utility").permutation(len(dataset.train))[: SAMPLES.value]
    stages, arrays = {}, {}
    for epoch, variables in weights.items():
        stages[str(epoch)], found = measure(network, variables, dataset, rows)
        arrays |= {f"{epoch}/{key}": values for key, values in found.items()}
        print(f"{name}, seed {seed}, epoch {epoch}: {json.dumps(stages[str(epoch)])}", flush=True)
    np.savez(Path(RUNS.value) / f"{name}-{seed}.npz", **arrays)
    where = {"cpu_cores": os.cpu_count(), "environment": pipeline.environment()}
    return {**given(), "epochs": stages, "seconds": round(time.monotonic() - began, 1), **where}


def main(_):
    logging.set_verbosity(logging.WARNING)
    compilation.keep_programs()
    Path(RUNS.value).mkdir(parents=True, exist_ok=True)
    path = (Path(RUNS.value) if SMOKE.value else HERE) / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in NAMES.value or (SETS if DATA_DIR.value else EMBEDDED):
        of_seeds = results.setdefault(name, {})
        for seed in range(SEEDS.value):
            if given().items() <= of_seeds.get(str(seed), {}).items():
                continue
            of_seeds[str(seed)] = run_one(name, seed)
            store.write_plain_json(path, results)
    store.write_bytes(path.with_suffix(".md"), table.page(results).encode())


if __name__ == "__main__":
    app.run(main)
