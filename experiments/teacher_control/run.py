"""InfoUtil's Table 11 and its missing half: both methods with the converged teacher's labels, and both with the early
teacher's. Flags: experiments/cells.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.cells import Cell, main  # noqa: E402

NOTE = """InfoUtil's Table 11 (arXiv 2601.21296): ImageWoof, labels of the same converged teacher, top-1 in %. With the
early teacher the published InfoUtil figures are Table 1's at IPC 1 and 10; RDED with the early teacher is not
published."""
METHODS = ("infoutil", "rded", "random_images")
PUBLISHED = {  # (RDED, InfoUtil) converged and InfoUtil early, at IPC 1, 10, 50
    "convnet5": (("18.5", "40.6", "61.5"), ("20.0", "42.4", "62.6"), ("22.8±0.4", "43.8±1.3", "")),
    "resnet18": (("20.8", "38.5", "68.5"), ("21.4", "43.6", "69.2"), ("25.0±0.8", "51.4±2.5", "")),
    "resnet101": (("19.6", "31.3", "59.1"), ("19.8", "35.0", "67.0"), ("20.2±0.4", "42.6±1.2", "")),
}


def cells():
    for ipc in (1, 10, 50):  # not in the paper's table
        for label in ("converged", "early"):
            changes = {"label.teacher": label}
            yield Cell(f"cifar10 ipc {ipc}, {label} teacher", f"configs/cifar10_ipc{ipc}.py", changes, METHODS, {})
    for student, figures in PUBLISHED.items():
        teacher = student.replace("resnet101", "resnet18")
        for ipc, rded, converged, early in zip((1, 10, 50), *figures, strict=True):
            for label in ("converged", "early"):
                published = (
                    {"infoutil": converged, "rded": rded} if label == "converged" else {"infoutil": early or "-"}
                )
                changes = {"label.teacher": label} | ({"evaluate.model": student} if student != teacher else {})
                config = f"configs/imagewoof.py:{ipc},{teacher}"
                yield Cell(f"{student} ipc {ipc}, {label} teacher", config, changes, METHODS, published)


CELLS = list(cells())


if __name__ == "__main__":
    main(HERE, CELLS, NOTE)
