"""ImageNet-100 with ResNet-18 at IPC 10; see configs/imagenet100.py for the recipe and the published figures."""

from configs import imagenet100


def get_config():
    return imagenet100.get_config(ipc=10)
