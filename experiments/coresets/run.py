"""InfoUtil's Tables 9 and 10: coresets of whole real images, here with the labels and the students that InfoUtil has.
Flags: experiments/cells.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.cells import Cell, main  # noqa: E402

NOTE = """InfoUtil's Tables 9 (ConvNet) and 10 (ResNet-18) (arXiv 2601.21296), top-1 in %. Published coresets have hard
labels, so they compare with the column of hard labels; "ours" has the same soft labels for every method."""
METHODS = ("infoutil", "random_images", "herding", "k_means", "forgetting")
COLUMNS = ("random_images", "herding", "forgetting", "infoutil")
PUBLISHED = """
cifar10 convnet3 1 | 14.4±2.0 21.5±1.2 13.5±1.2 28.5±1.4
cifar10 convnet3 10 | 26.0±1.2 31.6±0.7 23.3±1.0 54.1±0.5
cifar10 convnet3 50 | 43.4±1.0 40.4±0.6 23.3±1.1 69.8±0.1
cifar100 convnet3 1 | 4.2±0.3 8.4±0.3 4.5±0.2 33.1±0.3
cifar100 convnet3 10 | 14.6±0.5 17.3±0.3 15.1±0.3 50.5±0.3
cifar100 convnet3 50 | 30.0±0.4 33.7±0.5 30.5±0.3 57.8±0.2
tiny_imagenet convnet4 1 | 1.4±0.1 1.4±0.1 1.6±0.1 19.6±0.5
tiny_imagenet convnet4 10 | 5.0±0.2 5.0±0.2 5.1±0.2 40.2±0.3
tiny_imagenet convnet4 50 | 15.0±0.4 15.0±0.4 15.0±0.3 48.0±0.5
"""
RESNET_18 = {
    "tiny_imagenet": ("resnet18_cifar", "7.5±0.1", "9.0±0.3", "8.9±0.2", "45.6±0.3"),
    "imagenet": ("resnet18", "4.4±0.1", "5.8±0.1", "5.5±0.1", "44.2±0.4"),
}


def cell(data, network, ipc, published):
    return Cell(f"{data} {network} ipc {ipc}", f"configs/{data}.py:{ipc},{network}", {}, METHODS, published)


def cells():
    for line in PUBLISHED.split("\n")[1:-1]:
        where, figures = line.split(" | ")
        yield cell(*where.split(), dict(zip(COLUMNS, figures.split(), strict=True)))
    for data, (network, *figures) in RESNET_18.items():
        yield cell(
            data, network, 10, dict(zip(("random_images", "herding", "k_means", "infoutil"), figures, strict=True))
        )


CELLS = list(cells())


if __name__ == "__main__":
    main(HERE, CELLS, NOTE)
