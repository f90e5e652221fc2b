"""InfoUtil's Figure 4: the epoch of the teacher that labels. Flags: experiments/cells.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.cells import Cell, main  # noqa: E402

NOTE = """InfoUtil's Figure 4 (arXiv 2601.21296): ImageWoof, ConvNet-5, top-1 in %. It gives no numbers; by its text
epoch 10 is above "full" at IPC 1 and below it at IPC 10. Crops and scores have the converged teacher throughout."""
EPOCHS = (1, 5, 10, 20, 40, 60)
STAGES = {f"epoch {epoch}": {"teacher.early_epoch": epoch, "label.teacher": "early"} for epoch in EPOCHS}
STAGES["full"] = {"label.teacher": "converged"}
OWN = {"label.teacher": "early", "teacher.early_learning_rate": 0.001}  # the paper's: 10 epochs of its own
CELLS = [  # ConvNet-3, whose teacher trains for 20 epochs: "full" is epoch 20
    Cell(f"cifar10 ipc {ipc}, {stage}", f"configs/cifar10_ipc{ipc}.py", STAGES[stage], ("infoutil", "rded"), {})
    for ipc in (1, 10)
    for stage in ("epoch 1", "epoch 5", "epoch 10", "full")
]
CELLS += [
    Cell(f"cifar10 ipc {ipc}, 10 epochs at 0.001", f"configs/cifar10_ipc{ipc}.py", OWN, ("infoutil", "rded"), {})
    for ipc in (1, 10)
]
CELLS += [
    Cell(f"ipc {ipc}, {stage}", f"configs/imagewoof.py:{ipc},convnet5", changes, ("infoutil", "rded"), {})
    for ipc in (1, 10)
    for stage, changes in STAGES.items()
]


if __name__ == "__main__":
    main(HERE, CELLS, NOTE)
