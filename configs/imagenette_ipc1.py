"""ImageNette with ResNet-18 at IPC 1; see configs/imagenette.py for the recipe and the published figures."""

from configs import imagenette


def get_config():
    return imagenette.get_config(ipc=1)
