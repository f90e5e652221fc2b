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
from experiments.rate_utility.points import COMMON_LABELS  # noqa: E402

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
    "codec, gradient_matching + mse": "#da8bc3", "codec, gradient_matching": "#937860",
}  # fmt: skip
LINES = {"files": "--", "one sheet": ":"}  # by what a coder's name ends with
MARKERS = {1: "o", 10: "s", 50: "^"}  # by IPC


def draw(of_teachers: dict[str, dict], path: Path, published: dict = PUBLISHED) -> None:
    """An SVG with a row for every teacher and method; labels counted on the left, left out on the right."""
    found = {}
    for teacher, records in of_teachers.items():
        for record in records.values():
            if record["point"]["labels"] == COMMON_LABELS:  # else on no curve
                found.setdefault((teacher, record["point"]["method"]), []).append(record)
    figure, rows = plt.subplots(
        len(found), 2, figsize=(14, 4.5 * len(found)), squeeze=False, sharey="row", layout="constrained"
    )
    for row, ((teacher, method), records) in zip(rows, found.items(), strict=True):
        for panel, counted in zip(row, (True, False), strict=True):
            _panel(panel, records, counted, published)
        row[0].set_ylabel(f"{method}, teacher {teacher}\ntop-1, %")
    for panel in rows[-1]:
        panel.set_xlabel("bits per class")
    named = {name: h for row in rows for h, name in zip(*row[0].get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), fontsize=6, loc="outside right upper")
    with plt.rc_context({"svg.hashsalt": "rate_utility"}):  # equal results, equal bytes
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _panel(panel, records, counted, published):
    for (_, ipc, coder), curve in compare.curves(records, counted).items():
        bits, means = ([getattr(place, axis) for place in curve] for axis in ("bits", "mean"))
        spread = [100 * place.error if math.isfinite(place.error) else 0 for place in curve]
        colour = next(colour for start, colour in COLOURS.items() if coder.startswith(start))
        line = next((line for end, line in LINES.items() if coder.endswith(end)), "-")
        style = dict(color=colour, marker=MARKERS.get(ipc, "D"), markersize=4, linewidth=1, linestyle=line)
        panel.errorbar(
            bits,
            [100 * mean for mean in means],
            spread,
            capsize=2,
            elinewidth=0.7,
            label=f"{coder}, IPC {ipc}",
            **style,
        )
    for name, (points, marker) in published.items():
        panel.plot(*zip(*points.items()), marker, color="black", fillstyle="none", markersize=8, label=name)
    panel.set_xscale("log")
    panel.set_title("labels counted" if counted else "labels left out", fontsize=9)
    panel.grid(alpha=0.3)


if __name__ == "__main__":
    draw(json.loads((HERE / "results.json").read_text())["points"], HERE / "curves.svg")
