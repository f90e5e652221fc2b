"""Tiny-ImageNet with ResNet-18 at IPC 10; see configs/tiny_imagenet.py for the recipe and the published figures."""

from configs import tiny_imagenet


def get_config():
    return tiny_imagenet.get_config(ipc=10)
