"""CIFAR-10 with ConvNet-3 by our own recipe: what did best on a validation split (experiments/recommended).

    python main.py --config=configs/cifar10_recommended.py:10 --config.data.path=DIR    # IPC 1, 10 or 50; TFDS's data_dir

Whole images of the lowest loss, students by the modern recipe, on-line labels of a teacher that is trained for a few
epochs only. InfoUtil's two steps and the controls have the same labels and students.
"""

from configs import cifar10

SEARCHED = {  # IPC -> epochs of the teacher, epochs of the students
    1: (3, 4000),
    10: (5, 1000),
    50: (5, 400),
}


def get_config(ipc=10):
    c = cifar10.get_config(ipc)
    if c.ipc not in SEARCHED:
        raise ValueError(f"ipc={c.ipc} was not searched; choose one of {', '.join(map(str, SEARCHED))}")
    c.teacher.epochs, epochs = SEARCHED[c.ipc]
    c.name = f"cifar10_recommended_ipc{c.ipc}"
    c.recipe = "modern"
    c.methods = ("easy_images", "infoutil", "random_images", "rded")
    c.teacher.early_epoch = c.teacher.epochs  # one network chooses and labels
    c.label.teacher = "early"
    c.evaluate.epochs = epochs
    c.evaluate.test_every = epochs // 10
    c.evaluate.hard_seeds = 0
    return c
