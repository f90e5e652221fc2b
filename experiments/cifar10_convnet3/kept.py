"""What the labelling teacher sees in the kept crops of finished runs: python experiments/cifar10_convnet3/kept.py RUNS

Writes kept.json beside this file: IPC -> method -> crops kept, those that the teacher reads as their class, and how many
different images they are from. RUNS is run.py's --runs.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from infoutil_jax import records  # noqa: E402


def look(directory: Path) -> dict:
    kept = records.load(directory)
    read = kept.patch_logits.argmax(axis=-1) == kept.labels[:, None]
    images = {name for names in kept.patch_ids for name in names}
    return {"crops": read.size, "read_as_their_class": int(read.sum()), "images": len(images)}


def sets(workdir: Path) -> dict[str, Path]:
    return {"infoutil": workdir / "distilled", **{path.name: path for path in sorted((workdir / "controls").iterdir())}}


if __name__ == "__main__":
    runs = {ipc: sets(Path(sys.argv[1]) / f"ipc{ipc}") for ipc in (1, 10, 50)}
    found = {ipc: {method: look(path) for method, path in of.items()} for ipc, of in runs.items()}
    (HERE / "kept.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
