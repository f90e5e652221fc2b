"""The configs of the paper's data sets against a table typed by hand from the two papers and RDED's code."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pytest
from absl import flags
from configs import base, cifar10, imagenet
from ml_collections import config_flags

from infoutil_jax import config, plan
from infoutil_jax.errors import ConfigError
from infoutil_jax.settings import for_method
from infoutil_jax.stages.evaluate import default_batch_size

ROOT = Path(__file__).resolve().parents[1]
OLD_LOADER = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections uses it
CLASSES = {
    "cifar10": 10, "cifar100": 100, "tiny_imagenet": 200, "imagenette": 10, "imagewoof": 10, "imagenet100": 100,
    "imagenet": 1000,
}  # fmt: skip

# set, network, IPC | patches an image, candidates a class, teacher that labels, student's batch and rate, pixels
TABLE = """
cifar10        convnet3        1    1  300  early      10   0.001  32
cifar10        convnet3        10   1  300  early      50   0.001  32
cifar10        convnet3        50   1  300  converged  100  0.001  32
cifar10        resnet18_cifar  1    1  300  early      10   0.001  32
cifar10        resnet18_cifar  10   1  300  early      50   0.001  32
cifar10        resnet18_cifar  50   1  300  converged  100  0.001  32
cifar100       convnet3        1    1  300  early      25   0.002  32
cifar100       convnet3        10   1  300  early      25   0.002  32
cifar100       convnet3        50   1  300  converged  25   0.002  32
cifar100       resnet18_cifar  1    1  300  early      20   0.001  32
cifar100       resnet18_cifar  10   1  300  early      100  0.001  32
cifar100       resnet18_cifar  50   1  300  converged  200  0.001  32
tiny_imagenet  resnet18_cifar  1    1  300  early      100  0.001  64
tiny_imagenet  resnet18_cifar  10   1  300  early      100  0.001  64
tiny_imagenet  resnet18_cifar  50   1  300  converged  100  0.001  64
tiny_imagenet  resnet18_cifar  100  1  300  converged  100  0.001  64
tiny_imagenet  resnet18_cifar  200  1  300  converged  100  0.001  64
tiny_imagenet  convnet4        1    1  300  early      100  0.001  64
tiny_imagenet  convnet4        10   1  300  early      100  0.001  64
tiny_imagenet  convnet4        50   1  300  converged  100  0.001  64
imagenette     resnet18        1    4  300  early      10   0.001  224
imagenette     resnet18        10   4  300  early      50   0.001  224
imagenette     resnet18        50   4  300  converged  100  0.001  224
imagenette     convnet5        1    4  300  early      10   0.001  128
imagenette     convnet5        10   4  300  early      50   0.001  128
imagenette     convnet5        50   4  300  converged  100  0.001  128
imagewoof      resnet18        1    4  300  early      10   0.001  224
imagewoof      resnet18        10   4  300  early      50   0.001  224
imagewoof      resnet18        50   4  300  converged  100  0.001  224
imagewoof      convnet5        1    4  300  early      10   0.001  128
imagewoof      convnet5        10   4  300  early      50   0.001  128
imagewoof      convnet5        50   4  300  converged  100  0.001  128
imagenet100    resnet18        1    4  300  early      20   0.001  224
imagenet100    resnet18        10   4  300  early      100  0.001  224
imagenet100    resnet18        50   4  300  converged  200  0.001  224
imagenet100    convnet6        1    4  300  early      20   0.001  128
imagenet100    convnet6        10   4  300  early      100  0.001  128
imagenet100    convnet6        50   4  300  converged  200  0.001  128
imagenet       resnet18        1    4  300  early      20   0.001  224
imagenet       resnet18        10   4  300  early      100  0.001  224
imagenet       resnet18        50   4  300  converged  200  0.001  224
imagenet       resnet18        100  4  300  converged  200  0.001  224
imagenet       resnet18        200  1  600  converged  200  0.001  224
imagenet       convnet4        1    4  300  early      20   0.001  64
imagenet       convnet4        10   4  300  early      100  0.001  64
imagenet       convnet4        50   4  300  converged  200  0.001  64
"""


class Row(NamedTuple):
    set: str
    model: str
    ipc: int
    expected: tuple

    @property
    def settings(self):
        return config.resolve(config.load(f"{ROOT}/configs/{self.set}.py:{self.ipc},{self.model}"))

    @property
    def has_file(self):
        """Whether a file is named by this row's set and IPC alone: ConvNet-3 on CIFAR, ResNet-18 elsewhere."""
        return self.model.startswith("convnet3" if self.set.startswith("cifar") else "resnet18")


def row(line):
    name, model, ipc, patches, candidates, labels, batch, rate, pixels = line.split()
    numbers = (int(patches), int(candidates), labels, int(batch), float(rate), int(pixels))
    return Row(name, model, int(ipc), numbers)


ROWS = [row(line) for line in TABLE.strip().splitlines()]
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.set}-{row.model}-{row.ipc}")


def flat(settings):
    return {
        f"{section}.{key}" if section != key else key: value
        for section, values in dataclasses.asdict(settings).items()
        for key, value in (values.items() if isinstance(values, dict) else [(section, values)])
    }


def differences(module):
    """What a config's settings have that base.py's have not."""
    ours, bases = (flat(config.resolve(m.get_config())) for m in (module, base))
    return {key: value for key, value in ours.items() if value != bases[key]}


@every_row
def test_settings_are_the_papers(row):
    s = row.settings
    batch = s.evaluate.batch_size or default_batch_size(s.ipc, CLASSES[row.set])
    assert (s.ipc, s.teacher.model, s.evaluate.model) == (row.ipc, row.model, row.model)
    assert row.expected == (
        s.compose.factor**2, s.candidates, s.label.teacher, batch, s.evaluate.learning_rate, s.data.image_size
    )  # fmt: skip
    assert (s.attribute.grid, s.crop.per_image, s.crop.alpha, s.teacher.early_epoch) == (4, 5, 2.0, 10)
    assert (s.select.rule, s.score.teacher) == ("largest_gradient_norm", "converged")
    assert s.crop.rule == ("whole" if (row.set, row.ipc) == ("imagenet", 200) else "shapley")
    assert s.crop.window == (3 if s.compose.factor == 1 and s.crop.rule == "shapley" else 2)


@every_row
def test_there_are_enough_candidates_for_every_method(row):
    for method in row.settings.methods:
        s = for_method(row.settings, method)
        crops = 1 if s.crop.rule == "whole" or s.select.pool == "best_per_image" else s.crop.per_image
        assert s.n_crops <= s.candidates * crops, method


@every_row
def test_names_tell_the_network_where_it_is_not_the_first(row):
    first, other = f"{row.set}_ipc{row.ipc}", f"{row.set}_{row.model}_ipc{row.ipc}"
    assert row.settings.name == (first if row.has_file else other)


def test_every_published_ipc_has_a_file_and_no_other_has():
    expected = {f"{row.set}_ipc{row.ipc}": row.settings for row in ROWS if row.has_file}
    files = {path.stem: path for name in CLASSES for path in (ROOT / "configs").glob(f"{name}_ipc*.py")}
    assert files.keys() == expected.keys()
    for stem, settings in expected.items():
        assert config.resolve(config.load(str(files[stem]))) == settings


def test_the_first_configs_keep_their_settings():
    """CIFAR-10's and ImageNet's as they were when only they existed, by what differs from base.py."""
    methods = ("infoutil", "random_images", "random_mosaics", "random_crops", "rded")
    assert differences(cifar10) == {
        "name": "cifar10_ipc10", "methods": methods, "data.source": "tfds", "data.name": "cifar10",
        "data.mean": (0.4914, 0.4822, 0.4465), "data.std": (0.2470, 0.2435, 0.2616), "teacher.batch_size": 128,
        "teacher.learning_rate": 0.1, "crop.window": 3, "compose.factor": 1, "evaluate.test_every": 20,
        "evaluate.hard_seeds": 1,
    }  # fmt: skip
    assert differences(imagenet) == {
        "name": "imagenet_ipc10", "methods": methods, "data.source": "tfds", "data.name": "imagenet2012",
        "data.val_split": "validation", "data.image_size": 224, "data.cache_gib": 8.0, "teacher.model": "resnet18",
        "teacher.epochs": 90, "teacher.batch_size": 256, "teacher.learning_rate": 0.1, "teacher.warmup_epochs": 5.0,
        "teacher.weight_decay": 1e-4, "teacher.augment": "random_resized_crop", "teacher.data_parallel": True,
        "evaluate.model": "resnet18",
    }  # fmt: skip
    assert config.resolve(cifar10.get_config(1)).evaluate.hard_seeds == 3


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - {"cifar10"}))
def test_pixels_are_standardised_as_in_rded(name):
    s = config.resolve(config.load(f"{ROOT}/configs/{name}.py"))
    assert (s.data.mean, s.data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def evaluate_section(name, *arguments):
    """`evaluate` of configs/`name`.py after a command line's flags; models need not exist."""
    values = flags.FlagValues()
    argv = ["main.py", f"--config={ROOT}/configs/{name}", *arguments]
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    values(argv)
    return values["config"].value.evaluate


STUDENTS = {
    "convnet4": 1e-3, "resnet18": 1e-3, "resnet50": 1e-3, "resnet101_cifar": 1e-3, "vgg11": 5e-4,
    "efficientnet_b0": 2e-3, "mobilenet_v2": 2.5e-3, "vit_b_16": 1e-4, "swin_v2_t": 1e-4,
}  # fmt: skip


@OLD_LOADER
@pytest.mark.parametrize("student", STUDENTS)
def test_learning_rate_and_batch_follow_the_student(student):
    for name in ("imagenet.py:10,resnet50", "cifar100_ipc10.py"):
        section = evaluate_section(name, f"--config.evaluate.model={student}")
        assert (section.model, section.learning_rate, section.batch_size) == (student, STUDENTS[student], 0)


@OLD_LOADER
def test_the_exception_of_cifar100_needs_both_networks():
    def chosen(*arguments):
        section = evaluate_section("cifar100_ipc10.py", *arguments)
        return section.learning_rate, section.batch_size

    assert chosen() == (2e-3, 25)
    assert chosen("--config.teacher.model=resnet18_cifar") == (1e-3, 0)
    assert chosen("--config.teacher.model=resnet18_cifar", "--config.evaluate.model=convnet3") == (1e-3, 0)


@OLD_LOADER
@pytest.mark.parametrize("swap", [1, -1])
def test_what_is_set_does_not_follow(swap):
    arguments = [
        "--config.evaluate.learning_rate=0.5",
        "--config.evaluate.model=vgg11",
        "--config.evaluate.batch_size=7",
    ]
    section = evaluate_section("cifar100_ipc10.py", *arguments[::swap])
    assert (section.model, section.learning_rate, section.batch_size) == ("vgg11", 0.5, 7)


PARAMETERS = {  # torchvision's 11,689,512 less a classifier's rows; a folder that is not there counts as one class
    "cifar10": ("10 classes", "convnet3: 320,010"), "cifar100": ("100 classes", "convnet3: 504,420"),
    "tiny_imagenet": ("1 classes", "resnet18_cifar: 11,169,345"), "imagenette": ("10 classes", "resnet18: 11,181,642"),
    "imagewoof": ("1 classes", "resnet18: 11,177,025"), "imagenet100": ("1 classes", "resnet18: 11,177,025"),
    "imagenet": ("1,000 classes", "resnet18: 11,689,512"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_plan_needs_no_data(name, tmp_path):
    c = config.load(f"{ROOT}/configs/{name}.py")
    c.data.path = str(tmp_path / "data")
    text = plan.describe(config.resolve(c))
    for part in PARAMETERS[name]:
        assert part in text
    assert f"plan of {name}_ipc10: " in text and "missing         nothing" not in text


@pytest.mark.parametrize("text", ["ten", "", "10,resnet81", "0"])
def test_a_wrong_cell_is_refused(text):
    with pytest.raises(ConfigError):
        config.resolve(config.load(f"{ROOT}/configs/imagenette.py:{text}"))


def test_a_cell_without_a_network_has_the_first():
    assert config.load(f"{ROOT}/configs/imagenette.py:50").name == "imagenette_ipc50"


def resolved(*arguments):
    values = flags.FlagValues()
    argv = ["main.py", *arguments]
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    values(argv)
    return config.resolve(values["config"].value)


MODERN = dict(schedule="ssrs", ema=0.99, loss="mse", class_weight=0.025, min_scale=0.25, augment="randaugment")
RDED = dict(schedule="half_cosine", ema=0.0, loss="kl", class_weight=0.0, min_scale=0.0, augment="none", epochs=300)


@OLD_LOADER
@pytest.mark.parametrize(
    ("file", "recipe", "expected"),
    [
        ("cifar10_ipc10", "rded", RDED | {"batch_size": 0, "bn_momentum": 0.81, "zoom": 0.0}),
        ("cifar10_ipc10", "infoutil", RDED | {"batch_size": 0, "augment": "autoaugment_cifar10"}),
        ("cifar10_ipc10", "modern", MODERN | {"batch_size": 25, "epochs": 1000, "bn_momentum": 0.9, "zoom": 0.0}),
        ("cifar100_ipc10", "modern", MODERN | {"batch_size": 50, "epochs": 1000}),
        ("imagenette_ipc10", "infoutil", RDED | {"augment": "autoaugment_imagenet"}),
        ("imagenette_ipc10", "modern", MODERN | {"batch_size": 50, "epochs": 1000, "zoom": 0.75}),
        ("imagenet_ipc10", "modern", MODERN | {"batch_size": 50, "epochs": 400, "zoom": 0.75}),
    ],
)
def test_a_recipe_gives_keys_their_values(file, recipe, expected):
    students = resolved(f"--config={ROOT}/configs/{file}.py", f"--config.recipe={recipe}").evaluate
    assert {key: getattr(students, key) for key in expected} == expected


@OLD_LOADER
@pytest.mark.parametrize(
    ("given", "same"),
    [
        ("imagenette_ipc10.py --config.ipc=50", "imagenette_ipc50.py"),
        ("cifar10_ipc10.py --config.ipc=50 --config.recipe=modern", "cifar10_ipc50.py --config.recipe=modern"),
        ("imagenet_ipc10.py --config.ipc=200", "imagenet_ipc200.py"),
        ("tiny_imagenet_ipc1.py --config.ipc=100", "tiny_imagenet_ipc100.py"),
        ("imagenette_ipc10.py --config.teacher.model=convnet5", "imagenette.py:10,convnet5"),
    ],
)
def test_what_depends_on_ipc_and_network_follows_them(given, same):
    one, other = (resolved(*f"--config={ROOT}/configs/{line}".split()) for line in (given, same))
    assert one == other


@OLD_LOADER
@pytest.mark.parametrize("ipc", [1, 10, 50])
@pytest.mark.parametrize("name", PARAMETERS)
def test_modern_students_make_more_steps_with_early_labels(name, ipc):
    n_classes = {"cifar100": 100, "tiny_imagenet": 200, "imagenet100": 100, "imagenet": 1000}.get(name, 10)
    steps = {}
    for recipe in ("rded", "modern"):
        c = resolved(f"--config={ROOT}/configs/{name}.py:{ipc}", f"--config.recipe={recipe}")
        batch = c.evaluate.batch_size or default_batch_size(ipc, n_classes)
        steps[recipe] = c.evaluate.epochs * -(-ipc * n_classes // batch)
        assert c.label.teacher == ("early" if ipc < 50 or recipe == "modern" else "converged")
    assert steps["modern"] > steps["rded"]


@OLD_LOADER
def test_a_key_that_is_set_follows_no_recipe():
    flags_of_run = ["--config.recipe=modern", "--config.evaluate.ema=0.5", "--config.evaluate.loss=kl"]
    students = resolved(f"--config={ROOT}/configs/cifar10_ipc10.py", *flags_of_run).evaluate
    assert (students.ema, students.loss, students.schedule) == (0.5, "kl", "ssrs")


@OLD_LOADER
def test_an_unknown_recipe_is_refused():
    with pytest.raises(ConfigError, match="recipe='modem'.*modern"):
        resolved(f"--config={ROOT}/configs/cifar10_ipc10.py", "--config.recipe=modem")


@OLD_LOADER
def test_another_students_width_is_its_own():
    digits = f"--config={ROOT}/configs/digits_ipc1.py"
    assert resolved(digits).evaluate.width == resolved(digits).teacher.width == 32
    assert resolved(digits, "--config.evaluate.model=vit_b_16").evaluate.width == 0
    assert resolved(digits, "--config.evaluate.model=convnet4", "--config.evaluate.width=8").evaluate.width == 8


@OLD_LOADER
def test_a_modern_zoom_shows_one_tile():
    students = resolved(
        f"--config={ROOT}/configs/base.py", "--config.recipe=modern", "--config.compose.factor=4"
    ).evaluate
    assert (students.zoom_grid, students.zoom) == (4, 1 - 1 / 16)
