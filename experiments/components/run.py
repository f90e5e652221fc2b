"""InfoUtil's Table 6, completed: the crop's rule and the score's rule, each with and without the other. Flags:
experiments/cells.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.cells import Cell, main  # noqa: E402

NOTE = """InfoUtil's Table 6 (arXiv 2601.21296), ResNet-18, top-1 in %. "loss" is RDED's score: each image's best crop,
lowest loss first. The published column for ImageWoof is headed IPC 1; its first figure is RDED's at IPC 10, so it
stands there."""
LOSS = {"select.rule": "lowest_loss", "select.pool": "best_per_image"}
CHANCE = {"select.rule": "random", "select.pool": "best_per_image"}
RANDOM_CROP = {"crop.rule": "random_resized"}  # RDED's
PARTS = {  # name -> changes, place in the published columns
    "both": ({}, 2),
    "gradient norm, random crops": (RANDOM_CROP, 1),
    "attribution crops, chance": (CHANCE, None),
    "attribution crops, loss": (LOSS, None),
    "random crops, loss": (RANDOM_CROP | LOSS, 0),
}
PUBLISHED = {  # RDED, gradient norm, both; CIFAR-10 (ConvNet-3) is not in the paper's table
    ("cifar10", 10): ("", "", ""),
    ("imagewoof", 10): ("38.5", "43.6", "45.2"),
    ("imagewoof", 50): ("68.5", "68.8", "69.6"),
    ("imagenette", 50): ("80.4", "85.0", "86.2"),
    ("imagenet", 10): ("42.0", "43.5", "44.2"),
}
CELLS = [
    Cell(
        f"{data} ipc {ipc}: {part}", f"configs/{data}_ipc{ipc}.py", changes, ("infoutil",),
        {} if place is None or not figures[place] else {"infoutil": figures[place]},
    )
    for (data, ipc), figures in PUBLISHED.items()
    for part, (changes, place) in PARTS.items()
]  # fmt: skip


if __name__ == "__main__":
    main(HERE, CELLS, NOTE)
