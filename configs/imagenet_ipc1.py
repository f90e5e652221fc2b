"""ImageNet-1K with ResNet-18 at IPC 1; see configs/imagenet.py for the recipe and the published figures."""

from configs import imagenet


def get_config():
    return imagenet.get_config(ipc=1)
