"""Accuracy against bits per class as one picture, what is published beside it. Needs the bench extra (matplotlib).

python experiments/rate_utility/plot.py      # draws results.json anew
"""

import json
import math
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt  # noqa: E402  (no display is needed)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.rate_utility import compare  # noqa: E402

# bits per class -> top-1 in %, with what they count
TM_RUO = {106_500: 70.3, 774_000: 77.5, 2_010_000: 79.7}  # DD-RUO (arXiv 2507.17221), read off its figure
INFOUTIL = {98_304: 28.5, 983_040: 54.1, 4_915_200: 69.8}  # InfoUtil's Table 1, at float32 pixels
PUBLISHED = {
    "TM-RUO: latents and networks, estimated; no header, steps, labels": (TM_RUO, "*"),
    "InfoUtil as published: float32 pixels; no labels, no teacher": (INFOUTIL, "P"),
}
COLOURS = {
    "png": "#999999", "jpeg": "#e3bd57", "webp": "#4c72b0", "avif": "#55a868", "codec, mse": "#e9b1b3",
    "codec, teacher_kl": "#c44e52", "codec, teacher_features": "#8c2d31", "codec, distribution_matching": "#8172b2",
}  # fmt: skip
MARKERS = ("o", "s", "^", "v", "D")  # by IPC


def draw(records: dict[str, dict], path: Path, published: dict = PUBLISHED) -> None:
    """An SVG with a row for every method; labels counted on the left, left out on the right."""
    found = list(records.values())
    methods = list(dict.fromkeys(record["point"]["method"] for record in found))
    figure, rows = plt.subplots(
        len(methods), 2, figsize=(14, 4.5 * len(methods)), squeeze=False, sharey="row", layout="constrained"
    )
    for row, method in zip(rows, methods, strict=True):
        for panel, counted in zip(row, (True, False), strict=True):
            _panel(panel, found, method, counted, published)
        row[0].set_ylabel(f"{method}\ntop-1, %")
    for panel in rows[-1]:
        panel.set_xlabel("bits per class")
    named = {name: h for row in rows for h, name in zip(*row[0].get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), fontsize=6, loc="outside right upper")
    with plt.rc_context({"svg.hashsalt": "rate_utility"}):  # equal results, equal bytes
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _panel(panel, records, method, counted, published):
    ipcs = sorted({record["point"]["ipc"] for record in records})
    for (owner, ipc, coder), curve in compare.curves(records, counted).items():
        if owner == method:
            bits, means = ([getattr(place, axis) for place in curve] for axis in ("bits", "mean"))
            spread = [100 * place.error if math.isfinite(place.error) else 0 for place in curve]
            colour = COLOURS.get(coder, COLOURS.get(coder.split()[0], "black"))
            style = dict(color=colour, marker=MARKERS[ipcs.index(ipc) % len(MARKERS)], markersize=4, linewidth=1)
            style |= {"linestyle": "--" if coder.endswith("files") else "-", "label": f"{coder}, IPC {ipc}"}
            panel.errorbar(bits, [100 * mean for mean in means], spread, capsize=2, elinewidth=0.7, **style)
    for name, (points, marker) in published.items():
        panel.plot(*zip(*points.items()), marker, color="black", fillstyle="none", markersize=8, label=name)
    panel.set_xscale("log")
    panel.set_title("labels counted" if counted else "labels left out", fontsize=9)
    panel.grid(alpha=0.3)


if __name__ == "__main__":
    draw(json.loads((HERE / "results.json").read_text())["points"], HERE / "curves.svg")
