"""Our own recipe: which crops, which rule, which labels and which student do best on a validation split of CIFAR-10's
training images; then what was chosen on the test set. Flags: experiments/cells.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.cells import Cell, main  # noqa: E402

NOTE = """ConvNet-3 on CIFAR-10, top-1 in %. Cells that begin with "search" distil from the first 90 % of the training
images, teacher included, and test on the other 10 %; choices were made on these alone. "chosen" cells are the others'
outcome on the test set, "first" and "second chosen" of earlier states of the search."""
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
PUBLISHED = {
    1: {"infoutil": "28.5±1.4", "rded": "23.5±0.3"},
    10: {"infoutil": "54.1±0.5", "rded": "50.2±0.3"},
    50: {"infoutil": "69.8±0.1", "rded": "68.4±0.1"},
}
STUDENTS = """
1 | whole images, k-means
1 | 2 x 2 whole images, k-means
1 | 2 x 2 whole images, lowest loss
1 | 2 x 2 Shapley crops, lowest loss
1 | 4 x 4 whole images, k-means
1 | 2 x 2 whole images, k-means; converged labels
1 | whole images, lowest loss; labels of epoch 1
1 | whole images, k-means; labels of epoch 1
1 | 2 x 2 whole images, k-means; labels of epoch 1
1 | controls; labels of epoch 1
1 | 2 x 2 whole images, k-means; 4000 epochs
1 | 2 x 2 whole images, lowest loss; 4000 epochs
1 | 2 x 2 Shapley crops, lowest loss; 4000 epochs
1 | 2 x 2 whole images, lowest loss; 4000 epochs; labels of epoch 1
1 | 2 x 2 whole images, lowest loss; 4000 epochs; labels of epoch 5
1 | whole images, lowest loss; 4000 epochs; labels of epoch 1
1 | whole images, lowest loss; 4000 epochs; labels of epoch 5
1 | controls; 4000 epochs
1 | 2 x 2 controls; 4000 epochs
1 | 2 x 2 whole images, lowest loss; 4000 epochs; a teacher of 3 epochs
1 | 2 x 2 whole images, lowest loss; 4000 epochs; a teacher of 5 epochs
1 | whole images, lowest loss; 4000 epochs; a teacher of 3 epochs
1 | whole images, lowest loss; 4000 epochs; a teacher of 5 epochs
10 | whole images, k-means
10 | whole images, lowest loss
10 | 2 x 2 whole images, k-means
10 | 2 x 2 whole images, lowest loss
10 | whole images, k-means; converged labels
10 | whole images, lowest loss; labels of epoch 1
10 | 2 x 2 whole images, lowest loss; labels of epoch 1
10 | whole images, lowest loss; labels of epoch 5
10 | whole images, lowest loss; converged labels
10 | 2 x 2 whole images, lowest loss; labels of epoch 5
10 | whole images, k-means; labels of epoch 1
10 | controls; labels of epoch 1
10 | whole images, lowest loss; a teacher of 3 epochs
10 | whole images, lowest loss; a teacher of 5 epochs
50 | whole images, lowest loss; labels of epoch 5; 400 epochs
50 | whole images, lowest loss; labels of epoch 10; 400 epochs
50 | whole images, lowest loss; converged labels; 400 epochs
50 | whole images, lowest loss; a teacher of 3 epochs; 400 epochs
50 | whole images, lowest loss; a teacher of 5 epochs; 400 epochs
"""  # by the modern recipe: IPC | crops and rule, F x F of them in an image; what else differs
ELSE = {
    "converged labels": {"label.teacher": "converged"},
    **{f"labels of epoch {n}": {"teacher.early_epoch": n, "label.teacher": "early"} for n in (1, 5, 10)},
    **{
        f"a teacher of {n} epochs": {"teacher.epochs": n, "teacher.early_epoch": n, "label.teacher": "converged"}
        for n in (3, 5)
    },
    "4000 epochs": {"evaluate.epochs": 4000},
    "400 epochs": {"evaluate.epochs": 400},
}


def search(ipc, name, changes, methods=("infoutil",)):
    return Cell(f"search ipc {ipc}: {name}", f"configs/cifar10_ipc{ipc}.py", {**SPLIT, **changes}, methods, {})


def modern(line):
    """A cell of a line of STUDENTS."""
    ipc, name = line.split(" | ")
    what, *others = name.split("; ")
    tiles, _, rest = what.partition(" x ")
    factor, what = (int(tiles), rest.partition(" ")[2]) if rest else (1, what)
    changes = {"recipe": "modern", "evaluate.test_every": 4000, "compose.factor": factor, **SELECTIONS.get(what, {})}
    for other in others:
        changes |= ELSE[other]
    controls = ("random_mosaics" if factor > 1 else "random_images", *CONTROLS[1:])
    return search(
        int(ipc), f"modern, {name.replace(';', ',')}", changes, ("infoutil",) if what in SELECTIONS else controls
    )


def chosen(ipc, name="chosen", changes={}, random="random_images"):
    """What the search chose, on the test set, and other sets for the same students."""
    methods = ("easy_images", "infoutil", random, "rded")
    return Cell(f"{name} ipc {ipc}", f"configs/cifar10_recommended.py:{ipc}", changes, methods, PUBLISHED[ipc])


def cells():
    yield search(10, "controls", {}, CONTROLS)
    for name, changes in SELECTIONS.items():
        yield search(10, name, changes)
    for ipc in (1, 10):
        shared = {"recipe": "modern", "evaluate.test_every": 4000}
        yield search(ipc, "modern, controls", shared, ("infoutil", *CONTROLS))
    yield from map(modern, STUDENTS.split("\n")[1:-1])
    long, mosaics = {"teacher.epochs": 20}, {"compose.factor": 2}
    yield chosen(1, "first chosen", {**long, **mosaics, "teacher.early_epoch": 1}, "random_mosaics")
    yield chosen(10, "first chosen", {**long, "teacher.early_epoch": 5})
    yield chosen(1, "second chosen", {**mosaics, "teacher.epochs": 3, "teacher.early_epoch": 3}, "random_mosaics")
    yield from map(chosen, PUBLISHED)


CELLS = list(cells())


if __name__ == "__main__":
    main(HERE, CELLS, NOTE)
