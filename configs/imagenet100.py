"""ImageNet-100: ResNet-18 at 224 px, or ConvNet-6 at 128 px; any IPC.

    python main.py --config=configs/imagenet100_ipc10.py             # also ipc1, ipc50
    python main.py --config=configs/imagenet100.py:10,convnet6
    ... --config.data.path=DIR                                       # 'data/imagenet100' otherwise

Published top-1, and RDED's teachers:

    IPC        ResNet-18         ConvNet-6         ResNet-101 on ResNet-18's set
               InfoUtil  RDED    InfoUtil  RDED    InfoUtil  RDED
    1          15.7      8.1     15.0      7.1     11.4      6.1
    10         50.5      36.0    42.2      29.6    49.9      33.9
    50         68.3      61.6    60.8      50.2    69.7      66.0
    teacher    83.40             72.82

Data: a folder of the classes in class_orders/imagenet100.txt, in its order (sorted WordNet ids), taken out of
ImageNet-1K as docs/datasets.md shows. Which 100 classes RDED and InfoUtil took is not documented. Never run by us.
"""

from configs import imagenet, paper
from configs.base import by_recipe


def get_config(ipc=10, model=""):
    c = paper.get_config("imagenet100", "resnet18", ipc, model)
    c.data.source = "folder"
    c.data.path = "data/imagenet100"
    c.data.val_split = "val"
    c.data.image_size = paper.by_model(c, convnet=128, others=224)
    imagenet.train_teacher(c)
    c.evaluate.epochs = by_recipe(c, rded=300, modern=400)
    return c
