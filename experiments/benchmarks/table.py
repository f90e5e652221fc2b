"""The figures as text."""


def of(name: str, section: dict) -> str:
    lines = list(TABLES[name](section["figures"]))
    return "\n".join([f"== {name} ({section['seconds']:.0f} s)", *(lines or ["not at this scale"])]) + "\n"


def title(network: dict, *more) -> str:
    return ", ".join([f"{network['model']} {network['side']} px", *map(str, more)])


def ceiling(figures: dict):
    for precision, libraries in figures.items():
        for library, kinds in libraries.items():
            rates = ", ".join(f"{kind} {rate['gflop_per_second']:.0f}" for kind, rate in kinds.items())
            yield f"{precision:9s} {library:8s} {rates} GFLOP/s"


def variants(row: dict, unit: str):
    yield f"  {unit + 's/s':>52s}   time over   its baseline (quartiles)  utilisation"
    for name, variant in row["variants"].items():
        low, high = variant["ratio"]["quartiles"]
        ratio = f"{variant['ratio']['median']:6.2f} x {variant['baseline']:25s} ({low:.2f}-{high:.2f})"
        yield f"  {name:42s}{variant[unit + 's_per_second']:10.1f} {ratio:50s} {variant['utilisation']['median']:5.0%}"


def attribution(figures: list):
    for row in figures:
        distance = f"distance from PyTorch's values {row['difference_from_torch']:.1e}"
        yield f"{title(row['network'], row['precision'], str(row['budget']) + ' evaluations')}; {distance}"
        yield from variants(row, "evaluation")


def gradient_norms(figures: list):
    for row in figures:
        worst = max(row["largest_relative_difference"].values())
        yield f"{title(row['network'], 'batch ' + str(row['batch']))}; largest relative difference of norms {worst:.1e}"
        yield from variants(row, "example")


def student(figures: list):
    for row in figures:
        step, ratio = row["seconds_per_step"]["median"], row["over_its_arithmetic"]["median"]
        what = title(row["network"], f"IPC {row['ipc']}", f"batch {row['batch']}")
        yield f"{what}: {1e3 * step:.1f} ms a step, {ratio:.2f} x its arithmetic"


def scaling(figures: dict):
    for axis, points in figures.items():
        shown = (f"{p[axis]}: {p['seconds']['median']:.2f} s {p['peak_bytes'] / 2**20:.0f} MiB" for p in points)
        yield f"{axis:11s} {', '.join(shown)}"


def per_class(figures: list):
    for row in figures:
        stages = ", ".join(f"{stage} {s['median']:.2f} s" for stage, s in row["seconds_per_class"].items())
        used = ", ".join(f"{what} {row[f'utilisation_of_{what}']:.0%}" for what in ("attribution", "scores"))
        yield f"{title(row['network'], row['precision'])}: {stages}; utilisation: {used}"
        yield f"  1,000 classes: {row['hours_for_1000_classes']:.2f} h"


TABLES = {f.__name__: f for f in (ceiling, attribution, gradient_norms, student, scaling, per_class)}
