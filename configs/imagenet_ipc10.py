"""ImageNet-1K, ResNet-18, 10 images per class.

    python main.py --config=configs/imagenet_ipc10.py --dry_run      # the plan, no data needed
    python main.py --config=configs/imagenet_ipc10.py

Published top-1 with ResNet-18: InfoUtil 44.2 (Table 1; 43.5 in Table 5), RDED 42.0, SRe2L 21.3. Both use torchvision's
converged weights where this config trains its own teacher, and InfoUtil labels with a 10-epoch teacher. Data:
tensorflow-datasets' imagenet2012, prepared as array_record (it needs the archives from image-net.org). Never run by us:
no figure of our own.
"""

from configs import base


def get_config():
    c = base.get_config()
    c.name = "imagenet_ipc10"
    c.ipc = 10
    c.methods = ("infoutil", "random_images", "random_mosaics", "random_crops", "rded")
    c.data.source = "tfds"
    c.data.name = "imagenet2012"
    c.data.val_split = "validation"
    c.data.image_size = 224
    c.data.cache_gib = 8.0
    c.teacher.model = "resnet18"
    c.teacher.epochs = 90
    c.teacher.batch_size = 256
    c.teacher.learning_rate = 0.1
    c.teacher.warmup_epochs = 5.0
    c.teacher.weight_decay = 1e-4
    c.teacher.augment = "random_resized_crop"
    c.teacher.data_parallel = True
    return c
