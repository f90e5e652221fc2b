"""Continual learning in 5 steps on finished distilled sets: the classes come in groups, in several random orders.

    python experiments/continual/run.py --set=DIR [--artifacts=DIR]          # DIR: the workdir of a finished run
    python experiments/continual/run.py --config=configs/X.py --set=DIR      # makes the run first

Every method of the run is learned by both protocols (README.md). What is finished lies in DIR/continual and is not learned
again. Writes results.json and results.md, a section for every run, beside this file.
--smoke: the embedded digits at toy size; writes both into DIR/continual.
"""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from absl import app, flags, logging

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from infoutil_jax import config  # noqa: E402
from infoutil_jax.errors import InfoUtilError  # noqa: E402

CONFIG = config.define_flag()
SET = flags.DEFINE_string("set", None, "Workdir of a run.", required=True)
ARTIFACTS = flags.DEFINE_string("artifacts", "", "The run's artifacts, where they are not in its workdir.")
HOW = ["joint", "new_only"]
PROTOCOLS = flags.DEFINE_list("protocols", HOW, "How the student of a step is trained.")
flags.register_validator("protocols", lambda given: set(given) <= set(HOW), f"known protocols: {', '.join(HOW)}")
ORDERS = flags.DEFINE_integer("orders", 5, "Random orders of the classes, a student's seed each.")
STEPS = flags.DEFINE_integer("steps", 5, "Groups of classes.")
SMOKE = flags.DEFINE_bool("smoke", False, "Toy sizes: shows that it runs, its figures mean nothing.")


def settings_of(workdir: Path):
    """The config that is asked for, or the finished run's own."""
    from ml_collections import ConfigDict

    from infoutil_jax import store

    if SMOKE.value:
        return config.resolve(config.load(str(ROOT / "experiments" / "toy.py")))
    return config.resolve(CONFIG.value or ConfigDict(store.read_json(workdir / "config.json")))


def learn_all(settings, workdir: Path) -> tuple[dict, float]:
    """method -> protocol -> a list of accuracies for every order, one a step; and the seconds that all took."""
    import increments

    from infoutil_jax import guard, pipeline, pretrained, records, store, teachers
    from infoutil_jax.stages import teacher as teacher_stage

    artifacts = Path(ARTIFACTS.value or workdir / "artifacts")
    settings, _ = pretrained.adopt(settings)
    if CONFIG.value or SMOKE.value:
        pipeline.run(settings, workdir=str(workdir), artifacts=str(artifacts))
    dataset = pipeline.open_data(settings)
    teacher, own = teachers.obtain(settings, dataset, artifacts), settings.students
    shape = (len(dataset.class_names), settings.data.mean, settings.data.std)
    student = teacher_stage.build_network(own.model, own.width, *shape, bn_momentum=own.bn_momentum)
    students = dataclasses.replace(own, seeds=1, hard_seeds=0)  # their number changes nothing

    def learned(method, distilled, protocol, order):
        parts = increments.groups(len(dataset.class_names), STEPS.value, order)
        labeller = teacher.record[distilled.manifest["label_teacher"]]["sha256"]
        shards = [shard["sha256"] for shard in distilled.manifest["shards"]]
        seed, label = settings.seed + order, f"{method}, {protocol}, order {order}"

        def learn():
            began, given = time.monotonic(), (settings, distilled, student, teacher, dataset.val, parts, seed)
            top1 = increments.learn(*given, protocol=protocol, label=label)
            return {"top1": top1, "seconds": time.monotonic() - began}

        made_from = shards, labeller, dataclasses.asdict(students), parts, seed, protocol, dataset.content_id
        with guard.signals():
            return store.cached_json(workdir / "continual" / f"{store.fingerprint(*made_from)}.json", learn)

    found, seconds = {}, 0.0
    for number, method in enumerate(settings.methods):
        distilled = records.load(workdir / (f"controls/{method}" if number else "distilled"))
        for protocol in PROTOCOLS.value:
            of_orders = [learned(method, distilled, protocol, order) for order in range(ORDERS.value)]
            found.setdefault(method, {})[protocol] = [one["top1"] for one in of_orders]
            seconds += sum(one["seconds"] for one in of_orders)
    return found, seconds


def table(found: dict) -> str:
    """Markdown: mean and standard deviation over the orders, a column a step."""
    from infoutil_jax.metrics import mean_std

    n_steps = len(next(iter(next(iter(found.values())).values()))[0])
    columns = ["method", "protocol", *(f"step {i + 1}" for i in range(n_steps))]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method, by in found.items():
        for protocol, orders in by.items():
            steps = [mean_std(values) for values in zip(*orders)]
            cells = " | ".join(f"{mean:.3f} ± {std:.3f}" for mean, std in steps)
            lines.append(f"| {method} | {protocol} | {cells} |")
    return "\n".join(lines)


def main(_):
    logging.set_verbosity(logging.WARNING)
    from infoutil_jax import compilation, provenance, results, store

    compilation.keep_programs()
    workdir = Path(SET.value)
    settings = settings_of(workdir)
    found, seconds = learn_all(settings, workdir)
    out = workdir / "continual" if SMOKE.value else HERE
    path, plain = out / "results.json", results.plain(settings)
    written = json.loads(path.read_text()) if path.exists() else {}
    plain["data"]["path"] = "DATA"
    given = f"--set=DIR --protocols={','.join(PROTOCOLS.value)} --orders={ORDERS.value} --steps={STEPS.value}"
    written[f"{settings.name}, {settings.recipe}, {settings.evaluate.model}, {STEPS.value} steps"] = {
        "top1": found, "command": f"python experiments/continual/run.py {given}", "seconds": round(seconds, 1),
        "config": plain, "environment": provenance.environment(), "cpu_cores": os.cpu_count(),
    }  # fmt: skip
    store.write_plain_json(path, written)
    sections = [f"## {name}\n\n{table(record['top1'])}\n" for name, record in written.items()]
    store.write_bytes(out / "results.md", "\n".join(sections).encode())
    print(table(found))


if __name__ == "__main__":
    try:
        app.run(main)
    except InfoUtilError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
