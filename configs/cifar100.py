"""CIFAR-100 at 32 px: ConvNet-3, or ResNet-18 with a 3 x 3 stem; any IPC.

    python main.py --config=configs/cifar100_ipc10.py    # also ipc1, ipc50; --config.data.path=DIR for TFDS's data_dir
    python main.py --config=configs/cifar100.py:10,resnet18_cifar    # and --config.evaluate.model=resnet101_cifar

Published top-1, and RDED's teachers:

    IPC        ConvNet-3         ResNet-18         ResNet-101 on ResNet-18's set
               InfoUtil  RDED    InfoUtil  RDED    InfoUtil  RDED
    1          33.1      19.6    22.9      11.0    16.5      10.8
    10         50.5      48.1    47.5      42.6    41.9      41.1
    50         57.8      57.0    64.7      62.6    66.0      63.4
    teacher    61.27             72.27

As configs/cifar10.py, but with ImageNet's mean and std, as RDED, and RDED's exception: ConvNet-3 taught by ConvNet-3
takes batches of 25 and a learning rate of 0.002. Never run by us.
"""

from configs import paper
from configs.base import by_recipe, follow


def get_config(ipc=10, model=""):
    c = paper.get_config("cifar100", "convnet3", ipc, model)
    c.data.source = "tfds"
    c.data.name = "cifar100"
    c.teacher.batch_size = 128
    c.teacher.learning_rate = 0.1
    c.crop.window = 3
    c.compose.factor = 1
    c.evaluate.epochs = by_recipe(c, rded=300, modern=1000)
    c.evaluate.augment = by_recipe(c, rded="none", infoutil="autoaugment_cifar10", modern="randaugment")
    networks = c.teacher.get_ref("model"), c.evaluate.get_ref("model")
    c.evaluate.batch_size = follow(batch_size, *networks, c.get_ref("recipe"))
    c.evaluate.learning_rate = follow(learning_rate, *networks, c.get_ref("recipe"))
    return c


def batch_size(teacher, student, recipe):
    return 50 if recipe == "modern" else 25 if teacher == student == "convnet3" else 0


def learning_rate(teacher, student, recipe):
    """RDED's 2e-3 belongs to its batches of 25."""
    return 2e-3 if teacher == student == "convnet3" and recipe != "modern" else paper.learning_rate(teacher, student)
