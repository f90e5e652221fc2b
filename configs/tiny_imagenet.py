"""Tiny-ImageNet at 64 px: ResNet-18 with a 3 x 3 stem, or ConvNet-4; any IPC.

    python main.py --config=configs/tiny_imagenet_ipc10.py           # also ipc1, 50, 100, 200
    python main.py --config=configs/tiny_imagenet.py:10,convnet4
    ... --config.data.path=DIR                                       # 'data/tiny-imagenet-200' otherwise

Published top-1, and RDED's teachers (IPC 100 and 200: Table 5):

    IPC        ResNet-18         ConvNet-4         ResNet-101        ResNet-50
               InfoUtil  RDED    InfoUtil  RDED    InfoUtil  RDED    InfoUtil
    1          17.0      9.7     19.6      12.0    11.9      3.8
    10         45.6      41.9    40.2      39.6    34.4      22.9
    50         58.5      58.2    48.0      47.6    54.7      41.2    48.3
    100        60.6      59.9                                        53.7
    200        62.0      61.5                                        58.0
    teacher    61.98             49.73

ResNet-101 learns from ResNet-18's set: --config.evaluate.model=resnet101_cifar. Of ResNet-50 the paper does not say.
One patch per image; the crop's side, 3 of 4 cells, is our choice, as on CIFAR-10. Batches of 100 at every IPC, as RDED.
Data: a folder whose validation images were sorted into classes (docs/datasets.md); class order: sorted WordNet ids,
class_orders/tiny_imagenet.txt, which is RDED's. Never run by us.
"""

from configs import paper
from configs.base import follow, modern_batch, recipe_and_ipc


def get_config(ipc=10, model=""):
    c = paper.get_config("tiny_imagenet", "resnet18_cifar", ipc, model)
    c.data.source = "folder"
    c.data.path = "data/tiny-imagenet-200"
    c.data.val_split = "val"
    c.data.image_size = 64
    c.teacher.epochs = 50
    c.teacher.batch_size = 128
    c.teacher.learning_rate = 0.1
    c.teacher.augment = "random_resized_crop"
    c.crop.window = 3
    c.compose.factor = 1
    c.evaluate.batch_size = follow(lambda r, ipc: modern_batch(ipc) if r == "modern" else 100, *recipe_and_ipc(c))
    c.evaluate.epochs = follow(epochs, *recipe_and_ipc(c))
    fewer = ("infoutil", "random_images", "random_crops", "rded")  # mosaics of whole images need more candidates
    c.methods = follow(lambda ipc, every=c.methods: fewer if ipc >= 100 else every, c.get_ref("ipc"))
    return c


def epochs(recipe, ipc):
    return 300 if recipe != "modern" else 1000 if ipc == 1 else 400
