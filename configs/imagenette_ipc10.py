"""ImageNette with ResNet-18 at IPC 10; see configs/imagenette.py for the recipe and the published figures."""

from configs import imagenette


def get_config():
    return imagenette.get_config(ipc=10)
