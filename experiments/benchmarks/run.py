"""Our kernels and the peers, in one process and in turns, on the same weights, images and number of evaluations.

    make bench                                            # all sections at --scale=cpu
    python experiments/benchmarks/run.py --scale=gpu      # the same on an accelerator
    python experiments/benchmarks/run.py --only=attribution,student

Needs the packages of the `bench` extra. Writes results.json and benchmarks.png to --out; sections that were measured
there before, on the same machine with the same versions, stay.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two libraries share the device

from absl import app, flags, logging  # noqa: E402  (the line above must come first)

HERE = Path(__file__).resolve().parent
SECTIONS = ("ceiling", "attribution", "gradient_norms", "student", "scaling", "per_class")
BUSY = 0.5  # other processes' share of a core, over the last minute
SCALE = flags.DEFINE_enum("scale", "cpu", ("smoke", "cpu", "gpu"), "Sizes and repeats; sizes.py lists them.")
ONLY = flags.DEFINE_list("only", list(SECTIONS), f"Sections to measure, of {', '.join(SECTIONS)}.")
OUT = flags.DEFINE_string("out", str(HERE), "Folder of results.json and benchmarks.png.")


def earlier(path: Path, here: dict) -> dict:
    """The sections that `path` holds from the same machine, versions and scale."""
    old = json.loads(path.read_text()) if path.exists() else {}
    return old["sections"] if all(old.get(key) == value for key, value in here.items()) else {}


def prepare() -> None:
    """The same rules for both libraries: all cores, and on a GPU TensorFloat-32 for float32, JAX's default.

    (One core for the smoke test: on a busy machine PyTorch's threads wait for each other.)
    """
    import torch

    torch.set_num_threads(1 if SCALE.value == "smoke" else len(os.sched_getaffinity(0)))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def refuse_what_cannot_work() -> None:
    import machine

    if missing := machine.missing_peers():
        sys.exit(f"{', '.join(missing)}: not installed; run `make bench`, or `pip install -e .[bench]`.")
    if unknown := set(ONLY.value) - set(SECTIONS):
        sys.exit(f"--only={','.join(sorted(unknown))}: no such section; known: {', '.join(SECTIONS)}.")
    if machine.describe()["devices"] > 1:
        sys.exit("JAX sees several devices, PyTorch uses one; show it one, e.g. CUDA_VISIBLE_DEVICES=0.")


def measure(path: Path) -> dict:
    """All results, written to `path` after every section."""
    import machine
    import sizes
    import table

    here = {"scale": SCALE.value, "machine": machine.describe(), "versions": machine.versions()}
    ceilings, results = None, {**here, "sections": earlier(path, here)}
    asked = dict(command=f"run.py --scale={SCALE.value} --only={','.join(ONLY.value)}", load_average=os.getloadavg()[0])
    if asked["load_average"] > BUSY:
        print("note: the machine is busy; these figures are not to be kept.", file=sys.stderr)
    for name in SECTIONS:
        if name not in ("ceiling", *ONLY.value):
            continue  # the ceiling is always measured: the others are held against its fastest operation
        start = time.perf_counter()
        figures = importlib.import_module(name).run(sizes.SCALES[SCALE.value], ceilings)
        ceilings = ceilings or figures
        results["sections"][name] = {**asked, "seconds": time.perf_counter() - start, "figures": figures}
        print(table.of(name, results["sections"][name]), flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    return results


def main(_):
    logging.set_verbosity(logging.WARNING)
    refuse_what_cannot_work()
    prepare()
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    results = measure(out / "results.json")
    import plot

    plot.draw(results, out / "benchmarks.png")


if __name__ == "__main__":
    app.run(main)
