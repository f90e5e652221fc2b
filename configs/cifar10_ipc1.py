"""CIFAR-10 with ConvNet-3 at IPC 1; see configs/cifar10.py for the recipe and the published figures."""

from configs import cifar10


def get_config():
    return cifar10.get_config(ipc=1)
