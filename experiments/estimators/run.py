"""Estimators of Shapley values, ours and other packages', on whole games of real images under real teachers.

    python experiments/estimators/run.py [--data_dir=DIR] [--runs=runs/estimators] [--sets=photos_bn,photos_in,...]

DIR is TFDS's data_dir with cifar10 prepared (without it the two CIFAR-10 sets are left out). Every coalition of every
image is evaluated once, so errors are against exact values. Needs the `bench` extra for the other packages and the plot.
Writes results.json and results.md beside this file and docs/images/estimators.png.
"""

import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging
from scipy import stats

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import games  # noqa: E402
from peers import PEERS, Lookup  # noqa: E402

from infoutil_jax.attribution import shapley  # noqa: E402
from infoutil_jax.stages import crop  # noqa: E402

DATA_DIR = flags.DEFINE_string("data_dir", "", "TFDS's data_dir with cifar10.")
RUNS = flags.DEFINE_string("runs", "runs/estimators", "Where teachers and values are kept.")
NAMES = flags.DEFINE_list("sets", list(games.SETS), "Which games.")
IMAGES = flags.DEFINE_integer("images", 16, "Images per game.")
SEEDS = flags.DEFINE_integer("seeds", 4, "Draws of our estimators' coalitions; the others get one per image.")
OURS = ("odd_gp", "leverage_shap", "kernel_shap", "permutation")
BUDGETS = {3: (16, 32, 64, 128, 256), 4: (32, 64, 128, 256, 512, 1024, 2048)}


def ours(method: str, game, n_players: int, budget: int) -> np.ndarray:
    """Estimates (seeds, P, N) with one set of coalitions for all images, as in a run."""
    if budget < shapley.least_budget(n_players, method):
        return np.full((1, *game.phi_PN.shape), np.nan)
    found = []
    for seed in range(SEEDS.value):
        design = shapley.design(n_players, budget, jax.random.key(seed), method)
        found.append(design.solve(Lookup(game.values_SN)(design.masks_SP)))
    return np.stack(found)


def peer(name: str, game, n_players: int, budget: int) -> np.ndarray:
    """Estimates (1, P, N), one image after the other; NaN where the package cannot work with so few evaluations."""
    columns = []
    for image, values_S in enumerate(game.values_SN.T):
        lookup = Lookup(values_S)
        try:
            columns.append(PEERS[name](lookup, n_players, budget, image))
        except (AssertionError, ValueError, ZeroDivisionError, IndexError):
            columns.append(np.full(n_players, np.nan))
        assert lookup.evaluations <= budget, f"{name} used {lookup.evaluations} of {budget} evaluations"
    return np.stack(columns, axis=1)[None]


def best_window(phi_PN, window: int) -> np.ndarray:
    """Index of each image's best window."""
    grid = round(len(phi_PN) ** 0.5)
    return np.array([crop.pool(phi.reshape(grid, grid), window).argmax() for phi in phi_PN.T])


def judge(estimates, game) -> dict:
    """Normalised squared error, rank correlation and agreement of the chosen window, means over seeds and images."""
    truth, grid = game.phi_PN, round(len(game.phi_PN) ** 0.5)
    if not np.isfinite(estimates).all():
        return {}
    errors = np.square(estimates - truth).sum(1) / np.square(truth).sum(0)
    ranks = [stats.spearmanr(e[:, i], truth[:, i])[0] for e in estimates for i in range(truth.shape[1])]
    agree = {
        f"window_{w}": float(np.mean([best_window(e, w) == best_window(truth, w) for e in estimates]))
        for w in range(2, grid)
    }
    return {
        "nmse": float(errors.mean()),
        "nmse_median": float(np.median(errors)),
        "spearman": float(np.mean(ranks)),
        **agree,
    }


def measure(name: str, grid: int, value: str) -> dict:
    """{estimator: {budget: figures}} of one game, with the teacher's accuracy."""
    runs = Path(RUNS.value).absolute()
    runs.mkdir(parents=True, exist_ok=True)
    game, n_players = games.load(name, grid, value, IMAGES.value, DATA_DIR.value, runs), grid**2
    table = {"teacher_top1": game.accuracy, "estimators": {}}
    for estimators, estimate in ((OURS, ours), (PEERS, peer)):
        for estimator in estimators:
            figures = {b: judge(estimate(estimator, game, n_players, b), game) for b in BUDGETS[grid]}
            table["estimators"][estimator] = figures
            print(name, f"{grid}x{grid}", value, estimator, {b: f.get("nmse") for b, f in figures.items()}, flush=True)
    return table


def markdown(results: dict) -> str:
    """One table per game: nMSE, and in brackets the agreement of the 2 x 2 window."""
    lines = []
    for title, table in results["games"].items():
        budgets = list(next(iter(table["estimators"].values())))
        lines += [
            f"\n{title} (teacher {table['teacher_top1']:.1%})\n",
            "| estimator | " + " | ".join(map(str, budgets)) + " |",
        ]
        lines.append("|---" * (len(budgets) + 1) + "|")
        for estimator, figures in table["estimators"].items():
            cells = [f"{f['nmse']:.2g} ({f['window_2']:.2f})" if f else "-" for f in figures.values()]
            lines.append(f"| {estimator} | " + " | ".join(cells) + " |")
    return "\n".join(lines).strip()


def draw(results: dict, path: Path) -> None:
    """Error against evaluations, one panel per game of 16 players."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = {title: table for title, table in results["games"].items() if "4x4" in title}
    columns = -(-len(panels) // 2)
    figure, axes = plt.subplots(2, columns, figsize=(4.2 * columns, 7.5), sharex=True, squeeze=False, layout="constrained")
    for axis, (title, table) in zip(axes.T.flat, panels.items()):
        for estimator, figures in table["estimators"].items():
            points = [(int(b), f["nmse"]) for b, f in figures.items() if f]
            style, width = "-o" if estimator in OURS else ":.", 2.5 if estimator == "odd_gp" else 1
            axis.loglog(*zip(*points), style, markersize=4, label=estimator, linewidth=width)
        axis.set(title=title, xlabel="teacher evaluations per image", ylabel="normalised squared error")
        axis.set_ylim(top=20)
        axis.grid(alpha=0.3)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main(_):
    logging.set_verbosity(logging.WARNING)
    names = [name for name in NAMES.value if DATA_DIR.value or not name.startswith("cifar10")]
    cases = [(name, grid, value) for name in names for grid in BUDGETS for value in ("logit", "probability")]
    found = {f"{name} {grid}x{grid} {value}": measure(name, grid, value) for name, grid, value in cases}
    setting = {"images": IMAGES.value, "seeds": SEEDS.value, "cpu_cores": os.cpu_count()}
    results = {"command": "python experiments/estimators/run.py --data_dir=DIR", **setting, "games": found}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "results.md").write_text(markdown(results) + "\n")
    draw(results, ROOT / "docs" / "images" / "estimators.png")
    print(markdown(results))


if __name__ == "__main__":
    app.run(main)
