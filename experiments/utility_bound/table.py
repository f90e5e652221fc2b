"""results.md: mean and standard deviation over the seeds."""

from infoutil_jax.metrics import mean_std

NOTE = """Mean ± standard deviation over the seeds. U: utility; c: the least constant with U <= c ||g||, over the theorem's;
others: j = i left out of the maximum; above: share of samples whose U is above the bound. Step: what U is of."""
FIGURES = {  # column -> (what of a form's summary, digits)
    "Spearman": (lambda form: form["spearman"], 2),
    "Spearman, others": (lambda form: form["spearman_others"], 2),
    "c": (lambda form: form["smallest_c"] / form["theorem_c"], 2),
    "median of U / bound": (lambda form: form["utility_over_bound"]["median"], 2),
    "above, %": (lambda form: 100 * form["above_bound"], 0),
}


def page(results: dict) -> str:
    """Markdown of results.json: a row for each data set, epoch and form of the step; then what it ran on."""
    columns = ["data, epoch", "top-1 %", "step", *FIGURES]
    lines = [NOTE, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, of_seeds in results.items():
        for epoch in next(iter(of_seeds.values()))["epochs"]:
            lines += _rows(f"{name}, {epoch}", [record["epochs"][epoch] for record in of_seeds.values()])
    return "\n".join([*lines, "", *_hardware(results)]) + "\n"


def _rows(name: str, stages: list[dict]) -> list[str]:
    top1 = _over([100 * stage["top1"] for stage in stages], 1)
    forms = [key for key, value in stages[0].items() if isinstance(value, dict) and "spearman" in value]
    cells = {
        form: [_over([figure(stage[form]) for stage in stages], digits) for figure, digits in FIGURES.values()]
        for form in forms
    }
    return [f"| {name} | {top1} | {form} | {' | '.join(figures)} |" for form, figures in cells.items()]


def _over(values: list[float], digits: int) -> str:
    mean, std = mean_std(values)
    return f"{mean:.{digits}f}" + f" ± {std:.{digits}f}" * (len(values) > 1)


def _hardware(results: dict) -> list[str]:
    """A line for every training; the first ones did not keep their time."""
    return [
        f"* {name}, seed {seed}: {record['cpu_cores']} cores, {record.get('seconds', 'unknown')} s"
        for name, of_seeds in results.items()
        for seed, record in of_seeds.items()
    ]
