"""DD-Ranking's scores (arXiv 2505.13300) of a run's methods: label-robust (LRS) and augmentation-robust (ARS).

    python experiments/ddranking/run.py --config=configs/cifar10_ipc10.py [--config.key=value ...] --workdir=DIR

Runs the pipeline, or goes on with it; the config's methods must include random_images, and LRS wants evaluate.hard_seeds
and one architecture for teacher and student. Then the same sets are learned without augmentation. Adds the scores to
results.json beside this file, under the names of config, recipe and student. --smoke: the embedded digits at toy size; results.json in DIR/ddranking.
"""

import json
import os
import sys
from pathlib import Path

from absl import app, flags, logging

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from infoutil_jax import config  # noqa: E402
from infoutil_jax.errors import InfoUtilError  # noqa: E402

CONFIG = config.define_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
ARTIFACTS = flags.DEFINE_string("artifacts", "", "Teachers, attributions and students; by default in workdir.")
SMOKE = flags.DEFINE_bool("smoke", False, "Toy sizes: shows that it runs, its figures mean nothing.")


def main(_):
    logging.set_verbosity(logging.WARNING)
    workdir = Path(WORKDIR.value)
    settings = config.resolve(config.load(str(ROOT / "experiments" / "toy.py")) if SMOKE.value else CONFIG.value)
    if "random_images" not in settings.methods:
        sys.exit("methods lack random_images: both scores are differences to them; add them.")
    import scores

    from infoutil_jax import compilation, pipeline, results

    compilation.keep_programs()
    found = scores.score(settings, workdir, Path(ARTIFACTS.value or workdir / "artifacts"))
    path = (workdir / "ddranking" if SMOKE.value else HERE) / "results.json"
    path.parent.mkdir(exist_ok=True)
    written = json.loads(path.read_text()) if path.exists() else {}
    plain = results.plain(settings)
    plain["data"]["path"] = "DATA"
    written[f"{settings.name}, {settings.recipe}, {settings.evaluate.model}"] = {
        "scores": found, "config": plain, "environment": pipeline.environment(), "cpu_cores": os.cpu_count(),
    }  # fmt: skip
    path.write_text(json.dumps(written, indent=1) + "\n")
    print(scores.table(found))


if __name__ == "__main__":
    try:
        app.run(main)
    except InfoUtilError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
