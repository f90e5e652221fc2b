"""Fashion-MNIST with ConvNet-3 at IPC 1; see configs/fashion_mnist.py for the recipe."""

from configs import fashion_mnist


def get_config():
    return fashion_mnist.get_config(ipc=1)
