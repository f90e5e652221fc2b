"""Which class has which index: WordNet ids and names of ImageNet-1K and of its subsets, one file each in class_orders/.

Data sources number classes as these files do, by sorted WordNet ids; teachers trained elsewhere may not. The files'
first lines say where each list comes from.
"""

import importlib.resources

from infoutil_jax.checks import one_of

NAMES = ("imagenet1k", "imagenet100", "imagenette", "imagewoof", "tiny_imagenet")


def load(name: str) -> tuple[tuple[str, str], ...]:
    """(WordNet id, name) of every class of `name`, one of NAMES, in the order of their indices.

    ('n01440764', 'tench') is the first of ImageNet-1K. Raises ConfigError for a name that is not in NAMES.
    """
    one_of("class order", name, NAMES)
    file = importlib.resources.files("infoutil_jax") / "data" / "class_orders" / f"{name}.txt"
    lines = (line for line in file.read_text("utf-8").splitlines() if not line.startswith("#"))
    return tuple(tuple(line.split(" ", 1)) for line in lines)
