"""InfoUtil's Table 2: five teachers that distil and label, three students, ImageNet-1K at IPC 10. Flags:
experiments/cells.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from experiments.cells import Cell, main  # noqa: E402

NOTE = "InfoUtil's Table 2 (arXiv 2601.21296), ImageNet-1K at IPC 10, top-1 in %; teacher -> student."
STUDENTS = ("resnet18", "mobilenet_v2", "swin_v2_t")
PUBLISHED = {  # teacher -> method -> by student
    "resnet18": {
        "sre2l": "21.7±0.6 15.4±0.2 -",
        "rded": "42.3±0.6 40.4±0.1 17.2±0.2",
        "infoutil": "44.8±0.4 37.1±0.5 19.8±0.4",
    },
    "resnet50": {"rded": "33.9±0.5 26.0±0.3 17.3±0.2", "infoutil": "34.7±1.4 28.1±0.6 15.6±0.4"},
    "mobilenet_v2": {
        "sre2l": "19.7±0.1 10.2±2.6 -",
        "rded": "34.4±0.2 33.8±0.8 11.8±0.3",
        "infoutil": "39.2±0.3 35.5±0.5 20.6±0.2",
    },
    "vgg11": {
        "sre2l": "16.5±0.1 10.6±0.1 -",
        "rded": "22.7±0.1 21.6±0.2 7.8±0.1",
        "infoutil": "35.1±0.3 31.6±0.1 17.8±0.4",
    },
    "swin_v2_t": {
        "sre2l": "9.6±0.3 7.4±0.1 -",
        "rded": "17.8±0.1 18.1±0.2 12.1±0.2",
        "infoutil": "18.4±0.4 19.7±0.4 16.4±0.3",
    },
}
TRAINING = {  # where ResNets' rate and decay do not fit; torchvision's references
    "mobilenet_v2": {"teacher.learning_rate": 0.045, "teacher.weight_decay": 4e-5},
    "vgg11": {"teacher.learning_rate": 0.01},
    "swin_v2_t": {"teacher.optimizer": "adamw", "teacher.learning_rate": 1e-3, "teacher.weight_decay": 0.05},
}


def cells():
    for teacher, by_method in PUBLISHED.items():
        for i, student in enumerate(STUDENTS):
            published = {m: figures.split()[i] for m, figures in by_method.items() if figures.split()[i] != "-"}
            changes = {**TRAINING.get(teacher, {}), "evaluate.model": student}
            config, methods = f"configs/imagenet.py:10,{teacher}", ("infoutil", "rded", "random_images")
            yield Cell(f"{teacher} to {student}", config, changes, methods, published)


CELLS = list(cells())


if __name__ == "__main__":
    main(HERE, CELLS, NOTE)
