"""results.md: every point, and what the comparisons say."""

import math

from experiments.rate_utility import compare
from experiments.rate_utility.points import COMMON_LABELS

NOTE = """Top-1 in % of students (final epoch, mean ± standard deviation) on what the bytes decode to; bits per class.
On-line labels are charged the teacher in float32. Formats are compared at equal bits by interpolation between points,
the best of all formats and IPCs. From fewer than five students nothing is concluded. Errors are of the students, of one
fit of the codec. A teacher (named by the first digits of its weights' SHA-256) has its own set for each method and IPC:
points are compared with those of the same teacher only."""
PARTS = ("images", "networks", "labels", "header")


def page(of_teachers: dict[str, dict], goals: bool) -> str:
    """Markdown of results.json's points; goals: whether to show those of CIFAR-10."""
    sections = [NOTE]
    for teacher, records in of_teachers.items():
        found = list(records.values())
        sections += [f"## Teacher {teacher}", _points(records)]
        for method in sorted({record["point"]["method"] for record in found}):
            sections += [f"### {method}", *[_first_goal(found, method), _second_goal(found, method)] * goals]
            sections.append(_verdicts(found, method))
    return "\n\n".join(section for section in sections if section) + "\n"


def _points(records: dict[str, dict]) -> str:
    def order(item):
        point = item[1]["point"]
        return point["method"], point["ipc"], point["labels"] == COMMON_LABELS, point["coder"], item[1]["total"]

    lines = [f"| point | {' | '.join(PARTS)} | total | PSNR | top-1 | seeds |", "|---" * 9 + "|"]
    for name, r in sorted(records.items(), key=order):
        bits = [f"{r['bits_per_class'][part]:,.0f}" for part in PARTS]
        psnr, seeds = "exact" if r["psnr"] is None else f"{r['psnr']:.1f}", len(r["top1"]["seeds"])
        top1 = f"{100 * r['top1']['mean']:.1f}" + f" ± {100 * r['top1']['std']:.1f}" * (seeds > 1)
        lines.append(f"| {name} | {' | '.join(bits)} | {r['total']:,.0f} | {psnr} | {top1} | {seeds} |")
    return "\n".join(lines)


def _first_goal(records, method: str) -> str:
    head = f"**Within {compare.SMALLEST:,} bits per class** (DD-RUO's least), labels counted:"
    lines = []
    for against in dict.fromkeys([method, "infoutil"]):
        verdicts = compare.at_their_bits(records, method, against)
        said = [f"{_place(v.ours)}, {_place(v.theirs)}: {_gain(v)}" for v in verdicts]
        lines += [f"- codec of {method}, formats of {against}: {one}." for one in said or ["not measured"]]
    return "\n".join([head, "", *lines])


def _second_goal(records, method: str) -> str:
    columns = "the accuracy of | top-1 | its float32 pixels | reached by | bits, labels counted | times fewer"
    lines = [f"| {columns} |", "|---" * 6 + "|"]
    for of in dict.fromkeys([method, "infoutil"]):
        for s in compare.savings(records, method, of):
            bits, times = (f"{s.bits:,.0f}", f"{s.times:.0f}") if s.bits else ("not reached", "-")
            own = f"{of} IPC {s.ipc}, labels {s.labels} | {100 * s.accuracy:.1f} | {s.nominal:,.0f}"
            lines.append(f"| {own} | {s.where} | {bits} | {times} |")
    if len(lines) == 2:
        return ""
    head = f"**Against float32 pixels** (goal: {compare.FEWER} times fewer bits at equal accuracy):"
    return "\n".join([head, "", *lines])


def _verdicts(records, method: str) -> str:
    lines = ["| codec | labels | bits | top-1 | best format at these bits | gain |", "|---" * 6 + "|"]
    for counted, labels in ((True, "counted"), (False, "left out")):
        for v in compare.against_formats(records, method, counted):
            ours = f"{v.ours.where} | {labels} | {v.ours.bits:,.0f} | {100 * v.ours.mean:.1f}"
            lines.append(f"| {ours} | {_place(v.theirs)} | {_gain(v)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _place(place) -> str:
    return f"{100 * place.mean:.1f} ({place.where})"


def _gain(verdict) -> str:
    if not math.isfinite(verdict.two_errors):
        return f"{100 * verdict.gain:+.1f}, too few students to conclude from"
    said = "more" if verdict.holds else "not more"
    return f"{100 * verdict.gain:+.1f}, {said} than two standard errors ({100 * verdict.two_errors:.1f})"
