"""ImageNette: ResNet-18 at 224 px, or ConvNet-5 at 128 px; any IPC.

    python main.py --config=configs/imagenette_ipc10.py              # also ipc1, ipc50
    python main.py --config=configs/imagenette.py:10,convnet5

Published top-1, and RDED's teachers:

    IPC        ResNet-18         ConvNet-5         ResNet-101 on ResNet-18's set
               InfoUtil  RDED    InfoUtil  RDED    InfoUtil  RDED
    1          43.8      35.8    42.3      33.8    28.2      25.1
    10         68.6      61.4    66.6      63.2    59.8      54.0
    50         86.2      80.4    84.4      83.8    82.4      75.0
    teacher    90.00             89.60

RDED validates on ImageNet-1K's 50 validation images of each class. TFDS has fastai's second release, whose validation
images (about 390 a class) lie partly in ImageNet-1K's training set: figures on the two must not be compared, nor may a
teacher that has seen ImageNet-1K be used with it. docs/datasets.md makes RDED's split, read with
--config.data.source=folder --config.data.path=DIR --config.data.val_split=val. Class order, both ways: sorted WordNet
ids, class_orders/imagenette.txt. Never run by us.
"""

from configs import paper
from configs.base import by_recipe


def get_config(ipc=10, model=""):
    c = paper.get_config("imagenette", "resnet18", ipc, model)
    c.data.source = "tfds"
    c.data.name = "imagenette/full-size-v2"
    c.data.val_split = "validation"
    c.data.image_size = paper.by_model(c, convnet=128, others=224)
    c.teacher.epochs = 90
    c.teacher.warmup_epochs = 5.0
    c.teacher.augment = "random_resized_crop"
    c.evaluate.epochs = by_recipe(c, rded=300, modern=1000)
    return c
