"""The embedded default: ten 16 x 16 images, one per class, that teach a network to read digits.

Data: scikit-learn's 1,797 real scanned digits (1,437 to distil, 360 to test). Teacher and student: ConvNet-3, width 32.
Hardware: 2 CPU cores, about two minutes. Expected: see README.md.
Digits are centred and small, so there is nothing to crop away: tiles are whole images (crop.window = grid) in 2 x 2 mosaics,
and crops near the class's median gradient norm are kept; the largest is the worst rule at one image per class.
"""

from configs import base


def get_config():
    c = base.get_config()
    c.name = "digits_ipc1"
    c.ipc = 1
    c.methods = ("infoutil", "random_images", "random_mosaics", "random_crops", "rded")
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
    c.evaluate.epochs = 300
    c.evaluate.test_every = 20
    return c
