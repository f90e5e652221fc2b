"""How another library names and lays out the weights of a network of ours."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """One library's names of one family's tensors.

    rename: a key of the file -> where that tensor lives in our modules, path and PyTorch's own last name joined by
        dots ('layer1.0.conv1.weight' -> 'stage1_block1.conv1.weight'); None for a tensor that we have no use for
        (counters, tables that follow from the shape). Raises nothing: an unknown key comes back as it is.
    prepare: the tensors as read -> the tensors to rename, where several make one (split biases) or one several.
    """

    rename: Callable[[str], str | None]
    prepare: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda tensors: tensors


def rename_modules(names, key):
    """A `Layout.rename` from a table of modules, theirs -> ours; BatchNorm's counters have no place here."""
    module, _, kind = key.rpartition(".")
    if kind == "num_batches_tracked":
        return None
    return f"{names[module]}.{kind}" if module in names else key
