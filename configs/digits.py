"""The embedded data: scikit-learn's 1,797 real scanned digits, 16 x 16 pixels, 1,437 to distil and 360 to test.

Teacher and student: ConvNet-3, width 32. Hardware: 2 CPU cores, minutes. Expected accuracy: README.md.
Digits are centred and small, so there is nothing to crop away: tiles are whole images (crop.window = grid) in 2 x 2
mosaics and crops near the class's median gradient norm are kept (the largest is a poor rule at one image per class). A
student sees single tiles at full size in three of four views: it never learns to read from mosaics alone, digits are
not scale free.
"""

from configs import base


def get_config(ipc: int = 1):
    c = base.get_config()
    c.name = f"digits_ipc{ipc}"
    c.ipc = ipc
    # random crops of a whole window are random mosaics
    c.methods = ("infoutil", "random_images", "random_mosaics", "rded")
    c.data.source = "digits"
    c.data.image_size = 16
    c.data.mean = (0.305, 0.305, 0.305)
    c.data.std = (0.34, 0.34, 0.34)
    c.data.flip = False
    c.teacher.width = 32
    c.teacher.epochs = 30
    c.teacher.optimizer = "adamw"
    c.teacher.learning_rate = 3e-3
    c.teacher.weight_decay = 0.01
    c.teacher.augment = "none"
    c.teacher.checkpoint_epochs = 10
    c.crop.window = 4
    c.crop.per_image = 1
    c.select.rule = "middle_gradient_norm"
    c.label.teacher = "converged"
    c.evaluate.zoom = 0.75
    c.evaluate.shuffle = False
    c.evaluate.epochs = 1000
    c.evaluate.test_every = 50
    return c
