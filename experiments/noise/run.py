"""InfoUtil's Table 7: noise on the pooled map, and none; and whether it is only there against duplicates. Flags:
experiments/cells.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.cells import Cell, main  # noqa: E402

NOTE = """InfoUtil's Table 7 (arXiv 2601.21296), ResNet-18, top-1 in %. Without noise the five crops of an image are
one crop five times; "no duplicates" keeps one of them, which the paper does not report."""
PUBLISHED = {  # IPC 1, 10, 50
    "imagenette": {"noise": ("43.8", "68.6", "86.2"), "no noise": ("35.4", "59.8", "70.6")},
    "imagewoof": {"noise": ("25.0", "51.4", "69.6"), "no noise": ("23.2", "40.0", "59.4")},
    "imagenet100": {"noise": ("15.7", "50.5", "68.3"), "no noise": ("12.6", "43.8", "56.3")},
    "imagenet": {"noise": ("12.8", "44.2", "58.0"), "no noise": ("9.6", "38.5", "48.3")},
}
KINDS = {
    "noise": {},
    "no noise": {"crop.alpha": 0.0},
    "no noise, no duplicates": {"crop.alpha": 0.0, "select.duplicates": False},
}
CELLS = [
    Cell(f"cifar10 ipc 10: {kind}", "configs/cifar10_ipc10.py", changes, ("infoutil",), {})
    for kind, changes in KINDS.items()
]  # ConvNet-3, not in the paper's table
CELLS += [
    Cell(
        f"{data} ipc {ipc}: {kind}", f"configs/{data}_ipc{ipc}.py", changes, ("infoutil",),
        {"infoutil": by_kind[kind][i]} if kind in by_kind else {},
    )
    for data, by_kind in PUBLISHED.items()
    for i, ipc in enumerate((1, 10, 50))
    for kind, changes in KINDS.items()
]  # fmt: skip


if __name__ == "__main__":
    main(HERE, CELLS, NOTE)
