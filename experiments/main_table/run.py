"""InfoUtil's Table 1: seven data sets, IPC 1, 10 and 50, three networks; and two sets of ours. Flags: cells.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.cells import Cell, main  # noqa: E402

NOTE = """InfoUtil's Table 1 (arXiv 2601.21296), top-1 in %. ResNet-101 learns from ResNet-18's set. Published figures
have the early teacher's labels at IPC 1 and 10 for InfoUtil alone, here every method has the same labels.
Fashion-MNIST and ImageNette at 160 px, where the paper has 224, are ours alone."""
SMALL = {"data.name": "imagenette/160px-v2", "data.image_size": 160, "data.crop_share": 1.0}
METHODS = ("infoutil", "rded", "random_images", "random_crops")
NETWORKS = {
    "cifar10": ("resnet18_cifar", "resnet101_cifar", "convnet3"),
    "cifar100": ("resnet18_cifar", "resnet101_cifar", "convnet3"),
    "imagenette": ("resnet18", "resnet101", "convnet5"),
    "imagewoof": ("resnet18", "resnet101", "convnet5"),
    "tiny_imagenet": ("resnet18_cifar", "resnet101_cifar", "convnet4"),
    "imagenet100": ("resnet18", "resnet101", "convnet6"),
    "imagenet": ("resnet18", "resnet101", "convnet4"),
}
COLUMNS = (
    ("sre2l", "rded", "infoutil"),
    ("sre2l", "rded", "infoutil"),
    ("mtt", "idm", "tesla", "datm", "rded", "infoutil"),
)
PUBLISHED = """
cifar10 1|16.6±0.9 22.9±0.4 25.3±0.4|13.7±0.2 18.7±0.1 19.6±0.6|46.3±0.8 45.6±0.7 48.5±0.8 46.9±0.5 23.5±0.3 28.5±1.4
cifar10 10|29.3±0.5 37.1±0.3 53.8±0.1|24.3±0.6 33.7±0.3 38.4±1.0|65.3±0.7 58.6±0.1 66.4±0.8 66.8±0.2 50.2±0.3 54.1±0.5
cifar10 50|45.0±0.7 62.1±0.1 71.0±0.8|34.9±0.1 51.6±0.4 67.1±0.5|71.6±0.2 67.5±0.1 72.6±0.7 76.1±0.3 68.4±0.1 69.8±0.1
cifar100 1|6.6±0.2 11.0±0.3 22.9±0.4|6.2±0.0 10.8±0.1 16.5±0.5|24.3±0.3 20.1±0.3 24.8±0.5 27.9±0.2 19.6±0.3 33.1±0.3
cifar100 10|27.0±0.4 42.6±0.2 47.5±0.7|30.7±0.3 41.1±0.2 41.9±0.6|40.1±0.4 45.1±0.1 41.7±0.3 47.2±0.4 48.1±0.3 50.5±0.3
cifar100 50|50.2±0.4 62.6±0.1 64.7±0.2|56.9±0.1 63.4±0.3 66.0±0.2|47.7±0.2 50.0±0.2 47.9±0.3 55.0±0.2 57.0±0.1 57.8±0.2
imagenette 1|19.1±1.1 35.8±1.0 43.8±0.7|15.8±0.6 25.1±2.7 28.2±0.5|47.7±0.9 - - - 33.8±0.8 42.3±0.7
imagenette 10|29.4±3.0 61.4±0.4 68.6±0.6|23.4±0.8 54.0±0.4 59.8±1.1|63.0±1.3 - - - 63.2±0.7 66.6±0.4
imagenette 50|40.9±0.3 80.4±0.4 86.2±0.6|36.5±0.7 75.0±1.2 82.4±0.3|- - - - 83.8±0.2 84.4±0.6
imagewoof 1|13.3±0.5 20.8±1.2 25.0±0.8|13.4±0.1 19.6±1.8 20.2±0.4|28.6±0.8 - - - 18.5±0.9 22.8±0.4
imagewoof 10|20.2±0.2 38.5±2.1 51.4±2.5|17.7±0.9 31.3±1.3 42.6±1.2|35.8±1.8 - - - 40.6±2.0 43.8±1.3
imagewoof 50|23.3±0.3 68.5±0.7 69.6±0.8|21.2±0.2 59.1±0.7 67.2±0.8|- - - - 61.5±0.3 62.6±0.4
tiny_imagenet 1|2.6±0.1 9.7±0.4 17.0±1.3|1.9±0.1 3.8±0.1 11.9±0.6|8.8±0.3 10.1±0.2 - 17.1±0.3 12.0±0.1 19.6±0.5
tiny_imagenet 10|16.1±0.2 41.9±0.2 45.6±0.3|14.6±1.1 22.9±3.3 34.4±0.2|23.2±0.2 21.9±0.3 - 31.1±0.3 39.6±0.1 40.2±0.3
tiny_imagenet 50|41.1±0.4 58.2±0.1 58.5±0.3|42.5±0.2 41.2±0.4 54.7±0.3|28.0±0.3 27.7±0.3 - 39.7±0.3 47.6±0.2 48.0±0.5
imagenet100 1|3.0±0.3 8.1±0.3 15.7±0.2|2.1±0.1 6.1±0.8 11.4±0.2|- 11.2±0.5 - - 7.1±0.2 15.0±0.8
imagenet100 10|9.5±0.4 36.0±0.3 50.5±0.4|6.4±0.1 33.9±0.1 49.9±0.4|- 17.1±0.6 - - 29.6±0.1 42.2±0.7
imagenet100 50|27.0±0.4 61.6±0.1 68.3±0.4|25.7±0.3 66.0±0.6 69.7±0.4|- 26.3±0.4 - - 50.2±0.2 60.8±0.9
imagenet 1|0.1±0.1 6.6±0.2 12.8±0.7|0.6±0.1 5.9±0.4 6.8±0.7|- - 7.7±0.2 - 6.4±0.1 6.6±0.3
imagenet 10|21.3±0.6 42.0±0.1 44.2±0.4|30.9±0.1 48.3±1.0 51.4±0.3|- - 17.8±1.3 - 20.4±0.1 21.5±0.3
imagenet 50|46.8±0.2 56.5±0.1 58.0±0.3|60.8±0.5 61.2±0.4 63.8±0.6|- - 27.9±1.2 - 38.4±0.2 40.2±0.4
"""


def cells():
    for line in PUBLISHED.split("\n")[1:-1]:
        where, *columns = line.split("|")
        data, ipc = where.split()
        for network, names, figures in zip(NETWORKS[data], COLUMNS, columns, strict=True):
            teacher = network.replace("resnet101", "resnet18")
            published = {n: figure for n, figure in zip(names, figures.split(), strict=True) if figure != "-"}
            student = {"evaluate.model": network} if network != teacher else {}
            yield Cell(f"{data} {network} ipc {ipc}", f"configs/{data}.py:{ipc},{teacher}", student, METHODS, published)
    for ipc in (1, 10, 50):
        yield Cell(f"imagenette 160 px resnet18 ipc {ipc}", f"configs/imagenette.py:{ipc}", SMALL, METHODS, {})
    for ipc in (1, 10):
        yield Cell(f"fashion_mnist convnet3 ipc {ipc}", f"configs/fashion_mnist.py:{ipc}", {}, METHODS, {})


CELLS = list(cells())


if __name__ == "__main__":
    main(HERE, CELLS, NOTE)
