"""Digits in photographs: a real scanned digit at a random place of a crop of scikit-learn's photos, made at run time.

Here attribution has something to find: a window of 3 x 3 of 4 x 4 cells chosen by Shapley value should hold the digit.
Teacher and student: ConvNet-3, width 32, 32 px; 2 x 2 mosaics. Hardware: 2 CPU cores, about ten minutes.
"""

from configs import digits


def get_config():
    c = digits.get_config(ipc=10)
    c.name = "digits_in_photos_ipc10"
    c.methods = ("infoutil", "random_images", "random_mosaics", "random_crops", "rded")
    c.data.source = "digits_in_photos"
    c.data.mean = (0.31, 0.32, 0.30)
    c.data.std = (0.26, 0.22, 0.24)
    c.data.image_size = 32
    c.teacher.epochs = 60
    c.teacher.augment = "pad_crop"
    c.crop.window = 3
    c.crop.per_image = 5
    c.evaluate.epochs = 300
    return c
