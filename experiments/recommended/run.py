"""Our own recipe: which crops, which rule, which labels and which student do best on a validation split of CIFAR-10's
training images; then, once, on the test set. Flags: experiments/cells.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.cells import Cell, main  # noqa: E402

NOTE = """ConvNet-3 on CIFAR-10, top-1 in %. Cells that begin with "search" distil from the first 90 % of the training
images, teacher included, and test on the other 10 %; choices were made on these alone. "chosen" cells are the others'
outcome on the test set."""
SPLIT = {
    "data.train_split": "train[:90%]", "data.val_split": "train[90%:]",
    "evaluate.seeds": 2, "evaluate.hard_seeds": 0, "evaluate.test_every": 300,
}  # fmt: skip
SHAPLEY = {"select.pool": "best_per_image"}
WHOLE = {"crop.rule": "whole", **SHAPLEY}
RESIZED = {"crop.rule": "random_resized", **SHAPLEY}
SELECTIONS = {
    "Shapley crops, largest gradient norm": {},
    "Shapley crops, largest gradient norm, one an image": SHAPLEY,
    "Shapley crops, largest gradient norm among the correct": {"select.rule": "largest_correct", **SHAPLEY},
    "Shapley crops, middle gradient norm": {"select.rule": "middle_gradient_norm", **SHAPLEY},
    "Shapley crops, lowest loss": {"select.rule": "lowest_loss", **SHAPLEY},
    "resized crops, smallest gradient norm": {"select.rule": "smallest_gradient_norm", **RESIZED},
    "resized crops, middle gradient norm": {"select.rule": "middle_gradient_norm", **RESIZED},
    "whole images, lowest loss": {"select.rule": "lowest_loss", **WHOLE},
    "whole images, middle gradient norm": {"select.rule": "middle_gradient_norm", **WHOLE},
    "whole images, largest gradient norm among the correct": {"select.rule": "largest_correct", **WHOLE},
    "whole images, k-means": {"select.rule": "k_means", **WHOLE},
    "whole images, herding": {"select.rule": "herding", **WHOLE},
}
CONTROLS = ("random_images", "random_crops", "rded")
K_MEANS, LOWEST_LOSS = {"select.rule": "k_means", **WHOLE}, {"select.rule": "lowest_loss", **WHOLE}
TILES = {  # images per class -> what differs, students by the modern recipe; F x F smaller images in one
    1: {
        "whole images, k-means": K_MEANS,
        "2 x 2 whole images, k-means": {**K_MEANS, "compose.factor": 2},
        "2 x 2 whole images, lowest loss": {**LOWEST_LOSS, "compose.factor": 2},
        "2 x 2 Shapley crops, lowest loss": {**SELECTIONS["Shapley crops, lowest loss"], "compose.factor": 2},
        "4 x 4 whole images, k-means": {**K_MEANS, "compose.factor": 4},
        "2 x 2 whole images, k-means, converged labels": {
            **K_MEANS, "compose.factor": 2, "label.teacher": "converged",
        },
        "2 x 2 whole images, k-means, 4000 epochs": {**K_MEANS, "compose.factor": 2, "evaluate.epochs": 4000},
        "whole images, lowest loss, labels of epoch 1": {**LOWEST_LOSS, "teacher.early_epoch": 1},
        "whole images, k-means, labels of epoch 1": {**K_MEANS, "teacher.early_epoch": 1},
        "2 x 2 whole images, k-means, labels of epoch 1": {**K_MEANS, "compose.factor": 2, "teacher.early_epoch": 1},
        "controls, labels of epoch 1": {"teacher.early_epoch": 1},
    },
    10: {
        "whole images, k-means": K_MEANS,
        "whole images, lowest loss": LOWEST_LOSS,
        "2 x 2 whole images, k-means": {**K_MEANS, "compose.factor": 2},
        "whole images, k-means, converged labels": {**K_MEANS, "label.teacher": "converged"},
    },
}  # fmt: skip


def search(name, changes, methods=("infoutil",), ipc=10):
    return Cell(f"search ipc {ipc}: {name}", f"configs/cifar10_ipc{ipc}.py", {**SPLIT, **changes}, methods, {})


def cells():
    yield search("controls", {}, CONTROLS)
    for name, changes in SELECTIONS.items():
        yield search(name, changes)
    for ipc, variants in TILES.items():
        modern = {"recipe": "modern", "evaluate.test_every": 4000}
        yield search("modern, controls", modern, ("infoutil", *CONTROLS), ipc)
        for name, changes in variants.items():
            methods = CONTROLS if name.startswith("controls") else ("infoutil",)
            yield search(f"modern, {name}", {**modern, **changes}, methods, ipc)


CELLS = list(cells())


if __name__ == "__main__":
    main(HERE, CELLS, NOTE)
