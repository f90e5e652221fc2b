"""CIFAR-10, ConvNet-3: InfoUtil and its controls under one recipe at IPC 1, 10 and 50, beside the published figures.

    python experiments/cifar10_convnet3/run.py --data_dir=DIR --runs=runs/cifar10 [--ipcs=1,10,50]

DIR is TFDS's data_dir with cifar10 prepared as array_record. The three runs share one teacher, its attributions and
scores; an interrupted experiment goes on where it was. Writes results.json and results.md beside this file.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from absl import app, flags

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS's data_dir.", required=True)
RUNS = flags.DEFINE_string("runs", "runs/cifar10", "Where the runs and their shared artifacts go.")
IPCS = flags.DEFINE_list("ipcs", ["1", "10", "50"], "Images per class.")

# glibc gives freed arrays back at once and faults them in again; keeping them, in large pages, saves a fifth of a step
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "100000000000",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "2000000000",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
CHANGES = {50: ["--config.evaluate.hard_seeds=0"]}  # a quarter of the hours of two cores
# top-1 %, ConvNet column of InfoUtil's Table 1 (arXiv 2601.21296); random images are Table 9's, with hard labels
PUBLISHED = {
    "infoutil": {1: "28.5 ± 1.4", 10: "54.1 ± 0.5", 50: "69.8 ± 0.1"},
    "rded": {1: "23.5 ± 0.3", 10: "50.2 ± 0.3", 50: "68.4 ± 0.1"},
    "random_images": {1: "14.4 ± 2.0 (hard)", 10: "26.0 ± 1.2 (hard)", 50: "43.4 ± 1.0 (hard)"},
}


def run_one(ipc: int) -> dict:
    """One pipeline run; its results without the curves' inner points."""
    workdir = Path(RUNS.value) / f"ipc{ipc}"
    settings = [f"--config=configs/cifar10_ipc{ipc}.py", *CHANGES.get(ipc, [])]
    where = [
        f"--config.data.path={DATA_DIR.value}", f"--workdir={workdir}", f"--artifacts={RUNS.value}/artifacts"
    ]  # fmt: skip
    command = [sys.executable, "main.py", *settings, *where]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, **KEEP_MEMORY})
    results = json.loads((ROOT / workdir / "results.json").read_text())
    results["command"] = " ".join(["python main.py", *settings, "--config.data.path=DATA_DIR"])
    results["config"]["data"]["path"] = "DATA_DIR"
    return results


def cell(results: dict, method: str, labels: str, column: str) -> str:
    values = results["methods"][method].get(labels)
    if values is None:
        return "-"
    mean, std = (100 * values[column][name] for name in ("mean", "std"))
    return f"{mean:.1f} ± {std:.1f}" if len(values[column]["seeds"]) > 1 else f"{mean:.1f} (1 seed)"


def table(by_ipc: dict) -> str:
    """Markdown: ours beside the published figures."""
    lines = ["| IPC | method | ours, final epoch | best epoch | hard labels | published |", "|---|---|---|---|---|---|"]
    for ipc, results in by_ipc.items():
        labels = results["config"]["evaluate"]["labels"]
        for method in results["methods"]:
            published = PUBLISHED.get(method, {}).get(int(ipc), "-")
            columns = ((labels, "top1"), (labels, "best_epoch_top1"), ("hard", "top1"))
            cells = [cell(results, method, *column) for column in columns]
            lines.append(f"| {ipc} | {method} | {' | '.join(cells)} | {published} |")
        mean, std = (100 * results["nearest_neighbour"][name] for name in ("mean", "std"))
        lines.append(f"| {ipc} | 1-NN on random real images | {mean:.1f} ± {std:.1f} | - | - | - |")
    return "\n".join(lines)


def main(_):
    path = HERE / "results.json"
    by_ipc = json.loads(path.read_text()) if path.exists() else {}
    for ipc in IPCS.value:  # the others stay as they are
        by_ipc[ipc] = run_one(int(ipc))
        path.write_text(json.dumps(by_ipc, indent=1, sort_keys=True) + "\n")
    by_ipc = dict(sorted(by_ipc.items(), key=lambda item: int(item[0])))
    (HERE / "results.md").write_text(table(by_ipc) + "\n")
    print(table(by_ipc))


if __name__ == "__main__":
    app.run(main)
