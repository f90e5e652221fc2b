"""CIFAR-10 with ConvNet-3: what the recipe gives and what the choice of images gives, as docs/images/findings.png.

python experiments/recommended/plot.py      # from committed results.json alone; needs the bench extra (matplotlib)
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (no display is needed)

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from experiments.recommended.run import PUBLISHED  # noqa: E402

COLUMNS = {  # label -> experiment, its cell at an IPC
    "RDED's\nrecipe": ("cifar10_convnet3", "{}"),
    "modern\nrecipe": ("main_table", "cifar10 convnet3 ipc {}, modern recipe"),
    "ours": ("recommended", "chosen ipc {}"),
}
STYLES = {  # method -> name, colour
    "infoutil": ("InfoUtil", "#c44e52"),
    "rded": ("RDED", "#4c72b0"),
    "random_crops": ("random crops", "#e3bd57"),
    "random_images": ("random images", "#8c8c8c"),
    "easy_images": ("whole images, lowest loss", "#55a868"),
}
GAP = 0.13  # between methods of a column


def measured(experiment: str, cell: str) -> dict:
    """Method -> percent of every seed, of the methods shown; none where the cell was not run."""
    methods = json.loads((ROOT / "experiments" / experiment / "results.json").read_text()).get(cell, {"methods": {}})
    students = {name: run["online"]["top1"]["seeds"] for name, run in methods["methods"].items() if name in STYLES}
    return {name: [100 * top1 for top1 in seeds] for name, seeds in students.items()}


def panel(axes, ipc: int) -> None:
    for method, figure in PUBLISHED[ipc].items():
        top1 = float(figure.partition("±")[0])
        axes.plot(0, top1, "o", markersize=7, markerfacecolor="none", color=STYLES[method][1])
    for x, (experiment, cell) in enumerate(COLUMNS.values(), 1):
        found = measured(experiment, cell.format(ipc))
        for i, method in enumerate(method for method in STYLES if method in found):
            place = x + GAP * (i - (len(found) - 1) / 2)
            axes.plot(
                [place] * len(found[method]), found[method], "o", markersize=4, alpha=0.8, color=STYLES[method][1]
            )
    axes.set_xticks(range(len(COLUMNS) + 1), ["published", *COLUMNS], fontsize=8)
    axes.set_xlim(-0.5, len(COLUMNS) + 0.5)
    axes.set_title(f"IPC {ipc}", fontsize=9)
    axes.grid(axis="y", alpha=0.3)
    axes.tick_params(axis="y", labelsize=8)


def main() -> None:
    figure, panels = plt.subplots(1, len(PUBLISHED), figsize=(11, 3.6), sharey=True, layout="constrained")
    for axes, ipc in zip(panels, PUBLISHED):
        panel(axes, ipc)
    panels[0].set_ylabel("top-1 on the test set, %", fontsize=8)
    names = dict(STYLES.values())
    dots = [plt.Line2D([], [], marker="o", linestyle="", markersize=5, color=colour) for colour in names.values()]
    figure.legend(dots, names, loc="outside lower center", ncols=len(names), fontsize=8, frameon=False)
    figure.savefig(ROOT / "docs" / "images" / "findings.png", dpi=110)


if __name__ == "__main__":
    main()
