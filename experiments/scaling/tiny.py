"""What experiments/scaling runs: every stage on a few small images a class; its accuracies mean nothing."""

from configs import base


def get_config():
    c = base.get_config()
    c.update_from_flattened_dict({
        "name": "scaling", "ipc": 1, "candidates": 4, "methods": ("infoutil", "rded"), "data.source": "folder",
        "data.val_split": "val", "data.image_size": 32, "data.cache_gib": 0.0, "teacher.width": 8, "teacher.epochs": 1,
        "teacher.batch_size": 40,  # divides the images of 10, 100 and 1,000 classes: all runs compile the same programs
        "teacher.early_epoch": 1, "teacher.min_times_chance": 0.0, "attribute.budget": 32, "crop.per_image": 2,
        "score.batch_size": 8, "evaluate.batch_size": 10, "evaluate.epochs": 1, "evaluate.test_every": 1,
        "evaluate.seeds": 1, "evaluate.hard_seeds": 0,
    })  # fmt: skip
    return c
