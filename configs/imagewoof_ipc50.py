"""ImageWoof with ResNet-18 at IPC 50; see configs/imagewoof.py for the recipe and the published figures."""

from configs import imagewoof


def get_config():
    return imagewoof.get_config(ipc=50)
