"""All settings of a run, checked; and the methods: InfoUtil and its controls as differences to these settings."""

import dataclasses
from dataclasses import dataclass

from infoutil_jax import data
from infoutil_jax.checks import in_range, one_of
from infoutil_jax.errors import ConfigError
from infoutil_jax.stages import attribute, compose, crop, evaluate, label, score, select, teacher

RANDOM = {"select": {"rule": "random", "pool": "best_per_image"}}
WHOLE = {"crop": {"rule": "whole"}} | RANDOM
RECIPES = ("rded", "infoutil", "modern")
METHODS = {
    "infoutil": {},
    "random_images": WHOLE | {"compose": {"factor": 1}},
    "random_mosaics": WHOLE | {"compose": {"factor": 2}},
    "easy_images": WHOLE | {"select": {"rule": "lowest_loss", "pool": "best_per_image"}},
    "herding": WHOLE | {"compose": {"factor": 1}, "select": {"rule": "herding", "pool": "best_per_image"}},
    "forgetting": WHOLE | {"compose": {"factor": 1}, "select": {"rule": "forgetting", "pool": "best_per_image"}},
    "k_means": WHOLE | {"compose": {"factor": 1}, "select": {"rule": "k_means", "pool": "best_per_image"}},
    "random_crops": {"crop": {"rule": "random_window"}} | RANDOM,
    "rded": {
        "crop": {"rule": "random_resized", "per_image": 5},
        "score": {"fit": "pad"},
        "select": {"rule": "lowest_loss", "pool": "best_per_image"},
        "compose": {"order": "rank_blocks"},
    },
}


@dataclass(frozen=True)
class Config:
    """A run. Sections are the stages' settings; configs/base.py explains every key."""

    name: str
    seed: int
    ipc: int
    recipe: str  # one of RECIPES; gave keys of `evaluate` their values in configs/base.py, nothing else reads it
    candidates: int
    methods: tuple[str, ...]
    data: data.Settings
    teacher: teacher.Settings
    attribute: attribute.Settings
    crop: crop.Settings
    score: score.Settings
    select: select.Settings
    compose: compose.Settings
    label: label.Settings
    evaluate: evaluate.Settings

    def __post_init__(self):
        in_range("seed", self.seed, 0, 2**32 - 1)  # JAX keys see the lowest 32 bits only
        in_range("ipc", self.ipc, 1)
        one_of("recipe", self.recipe, RECIPES)
        in_range("candidates", self.candidates, 1)
        in_range("crop.window", self.crop.window, 1, self.attribute.grid)
        if not self.methods:
            raise ConfigError(f"methods is empty; name at least one of {', '.join(METHODS)}.")
        in_range("evaluate.zoom_grid", self.evaluate.zoom_grid, 1, self.data.image_size)
        for method in self.methods:
            one_of("methods", method, METHODS)
            rule = METHODS[method].get("select", {}).get("rule", self.select.rule)
            if rule == "forgetting" and self.teacher.weights:
                fault = f"select.rule=forgetting ({method}) needs the teacher's training"
                raise ConfigError(f"{fault}; unset teacher.weights or leave the method out.")
            factor, side = METHODS[method].get("compose", {}).get("factor", self.compose.factor), self.data.image_size
            if side % factor:
                fault = f"compose.factor={factor} ({method}) does not divide data.image_size={side}"
                raise ConfigError(f"{fault}; choose a divisor.")

    @property
    def n_crops(self) -> int:
        """How many crops a class contributes: ipc mosaics of factor x factor."""
        return self.ipc * self.compose.factor**2

    @property
    def students(self) -> evaluate.Settings:
        """`evaluate` with RDED's 1/F for a min_scale of 0, F from this config: the same views for every method."""
        return dataclasses.replace(self.evaluate, min_scale=self.evaluate.min_scale or 1 / self.compose.factor)


def for_method(config: Config, method: str) -> Config:
    """`config` with one method's differences."""
    sections = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in METHODS[method].items()}
    return dataclasses.replace(config, **sections)
