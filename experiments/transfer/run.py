"""ResNet-18's distilled sets for students of other kinds: ViT, Mixer, ConvNeXt. Flags: experiments/cells.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.cells import Cell, main  # noqa: E402

NOTE = (
    "Distilled and labelled with ResNet-18, top-1 in %. Nothing is published; ResNet-18 itself stands for comparison."
)
STUDENTS = {  # the rate of RDED's ViT for those that it does not name
    "resnet18": {},
    "vit_b_16": {"evaluate.model": "vit_b_16"},
    "mixer_b16": {"evaluate.model": "mixer_b16", "evaluate.learning_rate": 1e-4},
    "convnext_t": {"evaluate.model": "convnext_t", "evaluate.learning_rate": 1e-4},
}
CELLS = [
    Cell(
        f"{data} ipc {ipc} to {student}",
        f"configs/{data}_ipc{ipc}.py",
        changes,
        ("infoutil", "rded", "random_images"),
        {},
    )
    for data in ("imagenette", "imagewoof")
    for ipc in (10, 50)
    for student, changes in STUDENTS.items()
]


if __name__ == "__main__":
    main(HERE, CELLS, NOTE)
