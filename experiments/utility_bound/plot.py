"""Every sample's utility against its gradient norm, and the theorem's line, as docs/images/utility_bound.png: seed 0.

python experiments/utility_bound/plot.py [RUNS]      # after run.py; needs the bench extra (matplotlib)
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (no display is needed)
from matplotlib.ticker import NullLocator  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"continuous": "#4c72b0", "step 0.05": "#c44e52", "step 0.005": "#e3bd57"}


def panel(axes, arrays: dict, epoch: str) -> None:
    norms = arrays[f"{epoch}/norms"]
    for form, colour in reversed(COLOURS.items()):
        axes.loglog(norms, arrays[f"{epoch}/{form}"], ".", markersize=3, color=colour, label=form)
    ends = np.array([norms.min(), norms.max()])
    axes.loglog(ends, norms.max() * ends, color="black", linewidth=1, label="the bound")
    axes.set_title(f"epoch {epoch}" if epoch != "0" else "untrained", fontsize=9)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = np.geomspace(low, high, 5)[1::2]
        axis.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=7)


def main(runs: Path) -> None:
    files = sorted(runs.glob("*-0.npz"))
    figure, rows = plt.subplots(len(files), 4, figsize=(11, 2.6 * len(files)), squeeze=False, layout="constrained")
    for row, file in zip(rows, files):
        with np.load(file) as saved:
            arrays = dict(saved)
        epochs = sorted({key.split("/")[0] for key in arrays}, key=int)
        for axes, epoch in zip(row, epochs):
            panel(axes, arrays, epoch)
        row[0].set_ylabel(f"{file.stem.removesuffix('-0')}\nutility / eta", fontsize=8)
    for axes in rows[-1]:
        axes.set_xlabel("gradient norm", fontsize=8)
    rows[0, 0].legend(fontsize=7)
    figure.savefig(ROOT / "docs" / "images" / "utility_bound.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "runs" / "utility_bound"))
