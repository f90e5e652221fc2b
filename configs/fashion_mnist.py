"""Fashion-MNIST at 32 px: ConvNet-3, or ResNet-18 with a 3 x 3 stem; any IPC. Not one of the paper's sets.

    python main.py --config=configs/fashion_mnist_ipc10.py    # also ipc1; --config.data.path=DIR for TFDS's data_dir
    python main.py --config=configs/fashion_mnist.py:50,resnet18_cifar

As configs/cifar10.py, with the set's own mean and std and half its teacher's epochs, as it is easier; grey images of
28 px, resampled to 32. Our figures: experiments/main_table.
"""

from configs import cifar10


def get_config(ipc=10, model=""):
    c = cifar10.get_config(ipc, model, name="fashion_mnist")
    c.data.mean = (0.286, 0.286, 0.286)
    c.data.std = (0.353, 0.353, 0.353)
    c.teacher.epochs, c.teacher.early_epoch = 10, 5
    return c
