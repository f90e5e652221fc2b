"""What each --scale measures. `smoke` only shows that everything runs; its figures mean nothing."""

from typing import NamedTuple


class Network(NamedTuple):
    model: str  # a name in infoutil_jax.models.MODELS
    side: int  # pixels
    n_classes: int = 10
    width: int = 0  # of a ConvNet; 0 = the model's own


class Ceiling(NamedTuple):
    matmul_sides: tuple[int, ...]  # square matrices
    convolutions: tuple[tuple[int, int, int], ...]  # (batch, image side, channels in and out), 3x3
    seconds: float  # a timed stretch repeats the operation for about as long
    precisions: tuple[str, ...] = ("float32", "bfloat16")


class Attribution(NamedTuple):
    network: Network
    images: int
    budget: int  # evaluations per image
    batch_sizes: tuple[int, ...]  # among which the bare forward's best is looked for
    precision: str = "float32"


class Gradients(NamedTuple):
    network: Network
    batch: int


class Student(NamedTuple):
    network: Network
    ipc: int
    epochs: int  # of the shorter of two trainings; the longer one has four times as many


class Scaling(NamedTuple):
    network: Network
    candidates: tuple[int, ...]  # of each curve the first value is also where the other curves are taken
    coalitions: tuple[int, ...]
    sides: tuple[int, ...]
    classes: tuple[int, ...]


class PerClass(NamedTuple):
    network: Network
    candidates: int
    classes: int
    precisions: tuple[str, ...]


class Sizes(NamedTuple):
    scale: str
    repeats: int
    ceiling: Ceiling
    attribution: tuple[Attribution, ...]
    gradient_norms: tuple[Gradients, ...]
    student: tuple[Student, ...]
    scaling: Scaling
    per_class: PerClass | None


BOTH = ("float32", "bfloat16")
CONVNET = Network("convnet3", 32)
RESNET_32 = Network("resnet18_cifar", 32)
RESNET_224 = Network("resnet18", 224, n_classes=1000)
TINY = Network("convnet3", 16, width=8)

SCALES = {
    "smoke": Sizes(
        scale="smoke",
        repeats=2,
        ceiling=Ceiling((64,), ((2, 8, 8),), seconds=0.001),
        attribution=(Attribution(TINY, 2, 32, (4, 8)), Attribution(TINY, 1, 32, (8,), "bfloat16")),
        gradient_norms=(Gradients(TINY, 4),),
        student=(Student(TINY, 1, 1),),
        scaling=Scaling(TINY, (2, 4), (32, 64), (16, 24), (1, 2)),
        per_class=PerClass(TINY, 4, 2, BOTH),
    ),
    "cpu": Sizes(
        scale="cpu",
        repeats=5,
        ceiling=Ceiling((512, 1024, 2048), ((8, 32, 128), (16, 32, 128), (8, 16, 256)), seconds=0.2),
        attribution=(
            Attribution(CONVNET, 4, 128, (8, 16, 32, 64)),
            Attribution(RESNET_32, 1, 128, (8, 16, 32, 64)),
            Attribution(RESNET_32, 1, 128, (16, 32), "bfloat16"),
            Attribution(RESNET_224, 1, 128, (4, 8, 16)),
        ),
        gradient_norms=(Gradients(CONVNET, 16), Gradients(RESNET_32, 16)),
        student=(Student(CONVNET, 1, 50), Student(CONVNET, 10, 5)),
        scaling=Scaling(CONVNET, (4, 8, 16, 32), (64, 128, 256, 512), (32, 64, 96), (1, 2, 4, 8)),
        per_class=None,
    ),
    "gpu": Sizes(
        scale="gpu",
        repeats=7,
        ceiling=Ceiling((4096, 8192), ((128, 56, 64), (256, 28, 128), (512, 14, 256)), seconds=0.2),
        attribution=tuple(
            Attribution(network, images, 128, batch_sizes, precision)
            for network, images, batch_sizes in (
                (CONVNET, 64, (128, 512, 2048)),
                (RESNET_32, 16, (128, 512, 2048)),
                (RESNET_224, 8, (64, 128, 256, 512)),
            )
            for precision in BOTH
        ),
        gradient_norms=(Gradients(CONVNET, 128), Gradients(RESNET_32, 64), Gradients(RESNET_224, 32)),
        student=(Student(CONVNET, 1, 500), Student(CONVNET, 10, 200), Student(CONVNET, 50, 100)),
        scaling=Scaling(CONVNET, (32, 64, 128, 256), (64, 128, 256, 512), (32, 64, 128, 224), (1, 2, 4, 8)),
        per_class=PerClass(RESNET_224, 300, 10, BOTH),
    ),
}
