"""ImageNet-1K: ResNet-18 at 224 px, or ConvNet-4 at 64 px; any IPC.

    python main.py --config=configs/imagenet_ipc10.py --dry_run      # the plan, no data needed; also ipc1, 50, 100, 200
    python main.py --config=configs/imagenet.py:10,convnet4

Published top-1, and RDED's teachers (IPC 100 and 200: Table 5, which has 43.5 and 57.6 at IPC 10 and 50):

    IPC        ResNet-18         ConvNet-4         ResNet-101        ResNet-50
               InfoUtil  RDED    InfoUtil  RDED    InfoUtil  RDED    InfoUtil
    1          12.8      6.6     6.6       6.4     6.8       5.9
    10         44.2      42.0    21.5      20.4    51.4      48.3    48.0
    50         58.0      56.5    40.2      38.4    63.8      61.2    63.1
    100        58.8      58.2                                        65.5
    200        63.4      62.5                                        68.0
    teacher    69.76             43.6

ResNet-101 learns from ResNet-18's set: --config.evaluate.model=resnet101. Of ResNet-50 the paper does not say. Both
papers' ResNet-18 teacher is torchvision's, where this config trains its own.
IPC 100 leaves out the controls that would need more images of a class than its candidates. IPC 200 has whole images
instead of mosaics, chosen from 600 candidates; RDED's crops then fill an image each, and views are not cropped (1/F).
Data: TFDS's imagenet2012, prepared as array_record (it needs the archives from image-net.org), in the order of sorted
WordNet ids, class_orders/imagenet1k.txt. Never run by us: no figure of our own.
"""

from configs import paper
from configs.base import by_recipe, follow


def get_config(ipc=10, model=""):
    c = paper.get_config("imagenet", "resnet18", ipc, model)
    c.data.source = "tfds"
    c.data.name = "imagenet2012"
    c.data.val_split = "validation"
    c.data.image_size = paper.by_model(c, convnet=64, others=224)
    train_teacher(c)
    by_ipc = lambda below, at_100, at_200: follow(
        lambda ipc: below if ipc < 100 else at_100 if ipc < 200 else at_200, c.get_ref("ipc")
    )
    c.methods = by_ipc(c.methods, ("infoutil", "random_images"), ("infoutil", "random_images", "rded"))
    c.candidates = by_ipc(300, 300, 600)
    c.crop.rule = by_ipc("shapley", "shapley", "whole")
    c.compose.factor = by_ipc(2, 2, 1)
    c.evaluate.epochs = by_recipe(c, rded=300, modern=400)
    return c


def train_teacher(c):
    """The usual 90 epochs of ResNets on ImageNet, spread over all devices."""
    c.data.cache_gib = 8.0
    c.teacher.epochs = 90
    c.teacher.batch_size = 256
    c.teacher.learning_rate = 0.1
    c.teacher.warmup_epochs = 5.0
    c.teacher.weight_decay = 1e-4
    c.teacher.augment = "random_resized_crop"
    c.teacher.data_parallel = True
