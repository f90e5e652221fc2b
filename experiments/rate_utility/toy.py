"""Two classes of the embedded digits at toy size, for --smoke: shows that it runs, its figures mean nothing."""

from pathlib import Path

from PIL import Image

CLASSES = 2
IMAGES = {"train": 16, "val": 16}  # of each class
TRAINING = {"warmup_steps": 3, "steps": (2,), "lambdas": (1e3,)}  # of the codec


def get_config(ipc: int, runs: Path):
    from experiments import toy

    c = toy.get_config()
    c.update_from_flattened_dict({
        "name": "rate_utility_toy", "ipc": ipc, "data.source": "folder", "data.path": str(_folder(runs / "two_digits")),
        "data.val_split": "val", "crop.per_image": 2, "teacher.width": 4, "evaluate.width": 4, "evaluate.epochs": 5,
        "evaluate.test_every": 5, "evaluate.loss": "kl", "attribute.budget": 8,
    })  # fmt: skip
    return c


def _folder(root: Path) -> Path:
    """CLASS/IMAGE files of the first classes; the folder source needs no other words to have two classes."""
    from configs import digits_ipc1

    from infoutil_jax import config, data

    settings = config.resolve(digits_ipc1.get_config()).data
    dataset = data.open_dataset(settings)
    for split, count in IMAGES.items():
        own = getattr(dataset, split)
        for label in range(CLASSES):
            folder = root / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            rows = [i for i, of in enumerate(own.labels) if of == label][:count]
            for row, image in zip(rows, own.images(rows)):
                if not (folder / f"{row}.png").exists():
                    Image.fromarray(image).save(folder / f"{row}.png")
    return root
