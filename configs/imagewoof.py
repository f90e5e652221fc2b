"""ImageWoof: ResNet-18 at 224 px, or ConvNet-5 at 128 px; any IPC.

    python main.py --config=configs/imagewoof_ipc10.py               # also ipc1, ipc50
    python main.py --config=configs/imagewoof.py:10,convnet5
    ... --config.data.path=DIR                                       # 'data/imagewoof2' otherwise

Published top-1, and RDED's teachers:

    IPC        ResNet-18         ConvNet-5         ResNet-101 on ResNet-18's set
               InfoUtil  RDED    InfoUtil  RDED    InfoUtil  RDED
    1          25.0      20.8    22.8      18.5    20.2      19.6
    10         51.4      38.5    43.8      40.6    42.6      31.3
    50         69.6      68.5    62.6      61.5    67.2      59.1
    teacher    75.00             67.40

With the converged teacher for both methods (Table 11, RDED as above) InfoUtil has 21.4 / 43.6 / 69.2, 20.0 / 42.4 /
62.6 and 19.8 / 35.0 / 67.0: --config.label.teacher=converged.
Data: a folder, fastai's archive as it is or the classes out of ImageNet-1K; what configs/imagenette.py says of
validation images holds here too. Class order: sorted WordNet ids, class_orders/imagewoof.txt. Never run by us.
"""

from configs import paper
from configs.base import by_recipe


def get_config(ipc=10, model=""):
    c = paper.get_config("imagewoof", "resnet18", ipc, model)
    c.data.source = "folder"
    c.data.path = "data/imagewoof2"
    c.data.val_split = "val"
    c.data.image_size = paper.by_model(c, convnet=128, others=224)
    c.teacher.epochs = 90
    c.teacher.warmup_epochs = 5.0
    c.teacher.augment = "random_resized_crop"
    c.evaluate.epochs = by_recipe(c, rded=300, modern=1000)
    return c
