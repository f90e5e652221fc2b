"""CIFAR-10 at 32 px: ConvNet-3, or ResNet-18 with a 3 x 3 stem; any IPC.

    python main.py --config=configs/cifar10_ipc10.py    # also ipc1, ipc50; --config.data.path=DIR for TFDS's data_dir
    python main.py --config=configs/cifar10.py:10,resnet18_cifar     # and --config.evaluate.model=resnet101_cifar

Published top-1, and RDED's teachers:

    IPC        ConvNet-3         ResNet-18         ResNet-101 on ResNet-18's set
               InfoUtil  RDED    InfoUtil  RDED    InfoUtil  RDED
    1          28.5      23.5    25.3      22.9    19.6      18.7
    10         54.1      50.2    53.8      37.1    38.4      33.7
    50         69.8      68.4    71.0      62.1    67.1      51.6
    teacher    82.24             93.86

The paper uses one patch per image at 32 px and does not say how large the crop is: ours is 3 of 4 cells a side,
resampled to 32 px. Mean and std are CIFAR-10's own, not ImageNet's as in RDED. Ours: experiments/cifar10_convnet3/.
"""

from configs import paper
from configs.base import by_recipe, follow, recipe_and_ipc


def get_config(ipc=10, model="", name="cifar10"):
    c = paper.get_config(name, "convnet3", ipc, model)
    c.data.source = "tfds"
    c.data.name = name
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)
    c.teacher.batch_size = 128
    c.teacher.learning_rate = 0.1
    c.crop.window = 3
    c.compose.factor = 1
    modern = lambda ipc: 1000 if ipc < 50 else 400  # 4,000 and 8,000 steps
    c.evaluate.epochs = follow(lambda recipe, ipc: modern(ipc) if recipe == "modern" else 300, *recipe_and_ipc(c))
    c.evaluate.batch_size = by_recipe(c, rded=0, modern=25)
    c.evaluate.augment = by_recipe(c, rded="none", infoutil="autoaugment_cifar10", modern="randaugment")
    c.evaluate.test_every = by_recipe(c, rded=20, modern=50)  # three or four tests of 10,000 images
    c.evaluate.hard_seeds = follow(lambda ipc: 3 if ipc < 10 else 1, c.get_ref("ipc"))
    return c
