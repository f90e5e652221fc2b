"""Every stage of a run, in seconds: digits, two methods, networks of width 8."""

from configs import digits


def get_config():
    c = digits.get_config(ipc=1)
    c.update_from_flattened_dict({
        "name": "faults", "candidates": 12, "methods": ("infoutil", "rded"), "teacher.width": 8, "teacher.epochs": 6,
        "teacher.early_epoch": 2, "teacher.checkpoint_epochs": 1, "teacher.min_times_chance": 0.0, "attribute.grid": 2,
        "attribute.budget": 16, "attribute.micro_batch": 16, "crop.window": 2, "evaluate.width": 8,
        "evaluate.epochs": 60, "evaluate.test_every": 20, "evaluate.seeds": 2, "evaluate.hard_seeds": 0,
    })  # fmt: skip
    return c
