"""The embedded digits at toy size, for `--smoke`: shows that an experiment runs, its figures mean nothing."""

from configs import digits


def get_config():
    c = digits.get_config(ipc=1)
    c.update_from_flattened_dict({
        "name": "toy", "methods": ("random_crops", "random_images"), "candidates": 12, "teacher.width": 8,
        "teacher.epochs": 2, "teacher.early_epoch": 1, "teacher.min_times_chance": 0.0, "attribute.grid": 2,
        "crop.window": 2, "compose.factor": 1, "score.norms": "vmap", "evaluate.epochs": 20, "evaluate.test_every": 20,
        "evaluate.learning_rate": 0.01, "evaluate.seeds": 2, "evaluate.hard_seeds": 1,
    })  # fmt: skip
    return c
