"""A folder of synthetic images with as many classes as asked for; the same files from the same arguments."""

from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": 4, "val": 1}  # images a class
SIDE = 32  # pixels
SEED = 0


def make(root: Path, n_classes: int) -> None:
    """Writes root/SPLIT/CLASS/NUMBER.png: each class has a pattern of 4 x 4 colours, each image noise of its own."""
    for label in range(n_classes):
        pattern = np.random.default_rng((SEED, label)).integers(40, 216, (4, 4, 3))
        for part, (split, count) in enumerate(SPLITS.items()):
            folder = root / split / f"class{label:05d}"
            folder.mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng((SEED, label, part, number)).integers(-40, 41, (8, 8, 3))
                blocks = pattern.repeat(2, axis=0).repeat(2, axis=1) + noise
                pixels = blocks.repeat(SIDE // 8, axis=0).repeat(SIDE // 8, axis=1).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
