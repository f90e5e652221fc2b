"""results.json as one picture: rates against the bare forward and the ceiling, gradient norms, scaling curves."""

import matplotlib
import timing

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (no display is needed)
from table import title  # noqa: E402

OURS, JAX_BARE, PEER, PEER_BARE = "#c44e52", "#e9b1b3", "#4c72b0", "#b3c3de"
AXES = {"candidates": "candidates a class", "coalitions": "coalitions an image", "side": "image side, pixels",
        "classes": "classes"}  # fmt: skip


def draw(results: dict, path) -> None:
    """Writes a PNG with a panel for every measured network and a row of scaling curves."""
    figures = {name: section["figures"] for name, section in results["sections"].items()}
    bars = [(bar_attribution, row) for row in figures.get("attribution", [])]
    bars += [(bar_gradients, row) for row in figures.get("gradient_norms", [])]
    curves = figures.get("scaling", {})
    heights = [3.0 * -(-len(bars) // 2)] * bool(bars) + [2.6] * bool(curves)
    if not heights:
        return
    figure = plt.figure(figsize=(13, sum(heights) + 0.5), layout="constrained")
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if bars:
        panels = parts.pop(0).subplots(-(-len(bars) // 2), 2, squeeze=False).ravel()
        for panel, (bar, row) in zip(panels, bars):
            bar(panel, row)
        for panel in panels[len(bars) :]:
            panel.axis("off")
    if curves:
        for panel, (axis, points) in zip(parts.pop(0).subplots(1, len(curves), squeeze=False).ravel(), curves.items()):
            draw_curve(panel, axis, points)
    machine = results["machine"]
    figure.suptitle(f"{machine['processor']}, {machine['cores']} cores; JAX on {machine['device']}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def colour(name: str) -> str:
    if name == timing.CEILING:
        return "#999999"
    if name.endswith(", JAX"):
        return JAX_BARE
    if name.endswith(", PyTorch"):
        return PEER_BARE
    return OURS if name == "ours" or name.startswith(("ours,", "loop of")) else PEER


def bars_of(panel, row: dict, unit: str) -> None:
    """Rates with their quartiles, each with its ratio to the baseline of its own library."""
    for y, (name, variant) in enumerate(row["variants"].items()):
        rate, seconds = variant[f"{unit}s_per_second"], variant[f"seconds_per_{unit}"]["quartiles"]
        error = [[rate - 1 / seconds[1]], [1 / seconds[0] - rate]]
        panel.barh(y, rate, color=colour(name), xerr=error, error_kw={"elinewidth": 0.8})
        panel.text(1 / seconds[0], y, f"  {variant['ratio']['median']:.2f} x", va="center", fontsize=7)
    panel.set_yticks(range(len(row["variants"])), row["variants"], fontsize=7)
    panel.invert_yaxis()
    panel.tick_params(axis="x", labelsize=7)
    panel.set_xlabel(f"{unit}s per second; beside a bar: time over the same library's pale one", fontsize=7)
    panel.margins(x=0.12)


def bar_attribution(panel, row: dict) -> None:
    bars_of(panel, row, "evaluation")
    what = title(row["network"], row["precision"], f"{row['budget']} evaluations")
    panel.set_title(f"Shapley values: {what}", fontsize=9)


def bar_gradients(panel, row: dict) -> None:
    bars_of(panel, row, "example")
    panel.set_title("Gradient norms: " + title(row["network"], f"batch {row['batch']}"), fontsize=9)


def draw_curve(panel, axis: str, points: list) -> None:
    values = [point[axis] for point in points]
    panel.plot(values, [point["seconds"]["median"] for point in points], "o-", color=OURS)
    panel.set_xlabel(AXES[axis], fontsize=7)
    panel.set_ylabel("seconds", fontsize=7, color=OURS)
    memory = panel.twinx()
    memory.plot(values, [point["peak_bytes"] / 2**20 for point in points], "s--", color=PEER)
    memory.set_ylabel("peak memory, MiB", fontsize=7, color=PEER)
    for one in (panel, memory):
        one.set_ylim(0, 1.1 * one.dataLim.ymax)
        one.tick_params(labelsize=7)
    panel.set_title(f"attribution against {AXES[axis]}", fontsize=8)
