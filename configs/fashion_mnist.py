"""Fashion-MNIST at 32 px: ConvNet-3, or ResNet-18 with a 3 x 3 stem; any IPC. Not one of the paper's sets.

    python main.py --config=configs/fashion_mnist_ipc10.py    # also ipc1; --config.data.path=DIR for TFDS's data_dir
    python main.py --config=configs/fashion_mnist.py:50,resnet18_cifar

As configs/cifar10.py, with the set's own mean and std; grey images of 28 px, resampled to 32. Never run by us.
"""

from configs import paper
from configs.base import by_recipe


def get_config(ipc=10, model=""):
    c = paper.get_config("fashion_mnist", "convnet3", ipc, model)
    c.data.source = "tfds"
    c.data.name = "fashion_mnist"
    c.data.mean = (0.286, 0.286, 0.286)
    c.data.std = (0.353, 0.353, 0.353)
    c.teacher.batch_size = 128
    c.teacher.learning_rate = 0.1
    c.crop.window = 3
    c.compose.factor = 1
    c.evaluate.epochs = by_recipe(c, rded=300, modern=1000)
    c.evaluate.batch_size = by_recipe(c, rded=0, modern=25)
    c.evaluate.test_every = 20
    return c
