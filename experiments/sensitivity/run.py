"""How much noise, patches per image and the crop's side matter; the paper says of none. Flags: experiments/cells.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.cells import Cell, main  # noqa: E402

NOTE = """ResNet-18, IPC 10, top-1 in %. alpha: noise in standard deviations of the pooled map; published with 2 only.
Patches: tiles of a mosaic; published with 4 on these sets, 1 on CIFAR. 9 patches do not fit: 3 divides neither 224 nor
32. Window: side of the crop in cells of the 4 x 4 grid, ConvNet-3; the paper does not give it at 32 px."""
PUBLISHED = {"imagenette": "68.6±0.6", "imagewoof": "51.4±2.5", "cifar10": "53.8±0.1"}
CONFIGS = {"imagenette": "imagenette.py:10", "imagewoof": "imagewoof.py:10", "cifar10": "cifar10.py:10,resnet18_cifar"}


def cells():
    for window in (2, 3, 4):
        changes, methods = {"crop.window": window}, ("infoutil", "random_crops")
        yield Cell(f"cifar10: window {window}", "configs/cifar10_ipc10.py", changes, methods, {})
    for data in ("imagenette", "imagewoof"):
        for alpha in (0.5, 1.0, 2.0, 3.0, 4.0, 5.0):
            published = {"infoutil": PUBLISHED[data]} if alpha == 2 else {}
            yield Cell(
                f"{data}: alpha {alpha}", f"configs/{CONFIGS[data]}", {"crop.alpha": alpha}, ("infoutil",), published
            )
    for data, patches in (("imagenette", 4), ("imagewoof", 4), ("cifar10", 1)):
        for factor in (1, 2, 4):
            published = {"infoutil": PUBLISHED[data]} if factor**2 == patches else {}
            changes, methods = {"compose.factor": factor}, ("infoutil", "rded")
            yield Cell(f"{data}: {factor**2} patches", f"configs/{CONFIGS[data]}", changes, methods, published)


CELLS = list(cells())


if __name__ == "__main__":
    main(HERE, CELLS, NOTE)
