"""CIFAR-100 with ConvNet-3 at IPC 1; see configs/cifar100.py for the recipe and the published figures."""

from configs import cifar100


def get_config():
    return cifar100.get_config(ipc=1)
