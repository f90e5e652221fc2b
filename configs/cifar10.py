"""CIFAR-10, ConvNet-3 teacher and student, any IPC.

    python main.py --config=configs/cifar10_ipc10.py    # also ipc1, ipc50; --config.data.path=DIR for TFDS's data_dir

Published top-1 (IPC 1 / 10 / 50): InfoUtil 28.5 / 54.1 / 69.8, RDED 23.5 / 50.2 / 68.4, with RDED's ConvNet-3 teacher
of 82.24. The paper uses one patch per image at 32 px and does not say how large the crop is: ours is 3 of 4 cells a
side, resampled to 32 px.
Labels: the early teacher up to IPC 10, the converged one at IPC 50 (App. B.2). The experiment: experiments/cifar10_convnet3/.
"""

from configs import base


def get_config(ipc: int = 10):
    c = base.get_config()
    c.name = f"cifar10_ipc{ipc}"
    c.ipc = ipc
    c.methods = ("infoutil", "random_images", "random_mosaics", "random_crops", "rded")
    c.data.source = "tfds"
    c.data.name = "cifar10"
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)
    c.teacher.batch_size = 128
    c.teacher.learning_rate = 0.1
    c.crop.window = 3
    c.compose.factor = 1
    c.label.teacher = "early" if ipc < 50 else "converged"
    c.evaluate.test_every = 20
    c.evaluate.hard_seeds = 3 if ipc < 10 else 1
    return c
