"""What the paper's seven data sets share; configs/<set>.py adds the rest. Alone it is a run on the digits.

    python main.py --config=configs/imagenette_ipc10.py             # a published row: the set's first network
    python main.py --config=configs/imagenette.py:10,convnet5       # any other cell: IPC,MODEL
    ... --config.evaluate.model=resnet101                           # another student of the same distilled set

The first network is ConvNet-3 on CIFAR and ResNet-18 on all larger images; its name is left out of files and runs.

The paper's settings (App. B) that are base.py's already: a 4 x 4 grid, five crops an image of which the last has no
noise, noise of two standard deviations, 300 candidates a class, largest gradient norm, ImageNet's mean and std. Here:
labels of the early teacher up to IPC 10 and of the converged one from IPC 50 on (by the modern recipe always of the
early one), RDED's learning rate of each student.

Three things differ from the paper's. Its early teacher is a training of its own: 10 epochs at a rate of 0.001 (CIFAR)
or 0.01 (all others), the rest unknown; ours is the converged teacher's own training after 10 epochs, at that training's
rate (--config.teacher.early_learning_rate=0.001 makes it the paper's). Its students have AutoAugment
(--config.recipe=infoutil). Its Shapley values are Captum's, of unknown number of evaluations (Captum's own is 25), ours
odd_gp's of 128 (--config.attribute.estimator=kernel_shap --config.attribute.budget=25). How the paper's converged
teachers were trained is unknown too; the accuracies of RDED's are in each set's table.
"""

from configs import base

# RDED's argument.py (commit 3f6453d); every other student takes 1e-3
LEARNING_RATES = {
    "vgg11": 5e-4,
    "efficientnet_b0": 2e-3,
    "mobilenet_v2": 2.5e-3,
    "vit_b_16": 1e-4,
    "swin_v2_t": 1e-4,
}


def get_config(name="paper", first="convnet3", ipc=10, model=""):
    """A set's config. `ipc` is a number, or the text IPC or IPC,MODEL of a command line; no model: the `first` one."""
    ipc, _, model_in_text = str(ipc).partition(",")
    ipc, model = int(ipc), model or model_in_text or first
    c = base.get_config()
    c.ipc = ipc
    c.methods = ("infoutil", "random_images", "random_mosaics", "random_crops", "rded")
    c.teacher.model = model
    cell = lambda model, ipc: f"{name}_ipc{ipc}" if model == first else f"{name}_{model}_ipc{ipc}"
    c.name = base.follow(cell, c.teacher.get_ref("model"), c.get_ref("ipc"))
    c.label.teacher = base.follow(label_teacher, *base.recipe_and_ipc(c))
    c.evaluate.learning_rate = by_networks(c, learning_rate)
    return c


def label_teacher(recipe, ipc):
    """The paper's; by the modern recipe the early one, whose labels teach better at every IPC (EDC)."""
    return "early" if ipc < 50 or recipe == "modern" else "converged"


def by_model(c, convnet, others):
    """A value for ConvNet teachers and one for all others."""
    return base.follow(lambda model: convnet if model.startswith("convnet") else others, c.teacher.get_ref("model"))


def learning_rate(teacher, student):
    """RDED's, which does not depend on the teacher."""
    return LEARNING_RATES.get(student, 1e-3)


def by_networks(c, rule):
    """rule(teacher's model, student's model) as a value that follows the two on the command line until it is set."""
    return base.follow(rule, c.teacher.get_ref("model"), c.evaluate.get_ref("model"))
