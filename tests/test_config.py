"""Configs resolve into checked settings, and what is wrong is named together with what was meant."""

import dataclasses
import json
import re
import runpy
import typing
from pathlib import Path

import pytest
from absl import flags
from configs import base, digits_ipc1
from ml_collections import config_flags

from infoutil_jax import config
from infoutil_jax.checks import nearest
from infoutil_jax.errors import ConfigError
from infoutil_jax.settings import METHODS, Config, for_method

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.name != "__init__.py")
OLD_LOADER = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections uses it
TYPOS = {  # what a hurried hand types -> what it meant
    "ip": "ipc", "icp": "ipc", "sed": "seed", "candidate": "candidates", "method": "methods", "teachr": "teacher",
    "evalute": "evaluate", "atribute": "attribute", "teacher.epoch": "epochs", "teacher.lr": "learning_rate",
    "teacher.learningrate": "learning_rate", "teacher.batchsize": "batch_size", "teacher.optimiser": "optimizer",
    "teacher.wd": "weight_decay", "data.imagesize": "image_size", "data.img_size": "image_size", "crop.windw": "window",
    "select.rules": "rule", "evaluate.temprature": "temperature", "attribute.budgets": "budget",
}  # fmt: skip


def changed(**paths):
    """base.py resolved with some keys replaced, e.g. changed(data__mean=(0, 0, 0))."""
    c = base.get_config()
    with c.ignore_type():
        c.update_from_flattened_dict({path.replace("__", "."): value for path, value in paths.items()})
    return config.resolve(c)


def parsed(*arguments):
    """What the command line `main.py *arguments` gives, by flags of this call's own."""
    values = flags.FlagValues()
    argv = ["main.py", *arguments]
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    values(argv)
    return config.resolve(values["config"].value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_resolves(path):
    settings = config.resolve(config.load(str(path)))
    assert isinstance(settings, Config) and settings.methods
    for method in METHODS:
        for_method(settings, method)


def key_names(cls, prefix=""):
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from key_names(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def test_base_has_every_setting_once_and_no_other():
    text = (ROOT / "configs/base.py").read_text()
    names = re.findall(r"^    c\.([\w.]+) = ", text, re.M)
    assigned = [name for name in names if f"c.{name} = ConfigDict()" not in text]
    assert sorted(assigned) == sorted(key_names(Config))


def test_configs_set_no_key_that_base_lacks():
    known = set(key_names(Config)) | {name.split(".")[0] for name in key_names(Config)}
    for path in CONFIGS:
        assert set(re.findall(r"^    c\.([\w.]+) = ", path.read_text(), re.M)) <= known, path


def test_most_typos_get_the_right_name():
    known = runpy.run_path(str(ROOT / "configs/base.py"))["get_config"]()
    right = 0
    for typo, meant in TYPOS.items():
        with pytest.raises(ConfigError) as error:
            config.parse_flags(["main.py", f"--config.{typo}=1"], str(ROOT / "configs/base.py"))
        assert f"--config.{typo}: unknown key" in str(error.value)
        assert list(known)[0] in str(error.value) or "." in typo  # what is there is listed
        right += f"did you mean {meant!r}?" in str(error.value)
    assert right >= 18, f"{right} of {len(TYPOS)}"


def test_most_typos_in_a_file_get_their_line_and_the_right_name(tmp_path):
    path, right = tmp_path / "mine.py", 0
    for typo, meant in TYPOS.items():
        path.write_text(
            f"from configs import base\ndef get_config():\n    c = base.get_config()\n    c.{typo} = 1\n    return c\n"
        )
        with pytest.raises(ConfigError) as error:
            config.load(str(path))
        assert f"({path}:4: unknown key {typo.split('.')[-1]!r}" in str(error.value) and "\n" not in str(error.value)
        right += f"did you mean {meant!r}?" in str(error.value)
    assert len(TYPOS) >= 20 and right >= 18, f"{right} of {len(TYPOS)}"


def test_most_typos_in_a_json_file_get_their_line_and_the_right_name(tmp_path):
    path, right = tmp_path / "mine.json", 0
    for typo, meant in TYPOS.items():
        nested = 1
        for part in reversed(typo.split(".")):
            nested = {part: nested}
        path.write_text(json.dumps({"seed": 1, **nested}, indent=1))
        with pytest.raises(ConfigError) as error:
            config.load(str(path))
        assert f"({path}:{2 + len(typo.split('.'))}: unknown key {typo.split('.')[-1]!r}" in str(error.value)
        right += f"did you mean {meant!r}?" in str(error.value)
    assert right >= 18, f"{right} of {len(TYPOS)}"


def test_nothing_is_suggested_where_nothing_is_close():
    assert nearest("qqqq", ["ipc", "seed"]) == "."


@pytest.mark.parametrize(
    "paths, message",
    [
        ({"ipc": "ten"}, "ipc='ten' has type str; it must be int."),
        ({"ipc": True}, "ipc=True has type bool; it must be int."),
        ({"ipc": 1.0}, "ipc=1.0 has type float; it must be int."),
        ({"name": 3}, "name=3 has type int; it must be str."),
        ({"data__flip": 1}, "data.flip=1 has type int; it must be bool."),
        ({"data__mean": (0.5, 0.5)}, "data.mean=(0.5, 0.5) has 2 entries; it needs 3."),
        ({"data__mean": (0.5, 0.5, "a")}, "data.mean='a' has type str; it must be float."),
        ({"methods": "infoutil"}, "methods='infoutil' has type str; it must be tuple."),
        ({"teacher__learning_rate": None}, "teacher.learning_rate=None has type NoneType; it must be float."),
        ({"ipc": 0}, "ipc=0 is out of range: it must be at least 1."),
        ({"seed": -1}, "seed=-1 is out of range: it must be between 0 and 4294967295."),
        ({"seed": 2**32}, "seed=4294967296 is out of range"),
        ({"candidates": 0}, "candidates=0 is out of range"),
        ({"crop__window": 5}, "crop.window=5 is out of range: it must be between 1 and 4."),
        ({"teacher__early_epoch": 21}, "teacher.early_epoch=21 is out of range: it must be between 1 and 20."),
        ({"teacher__learning_rate": float("nan")}, "teacher.learning_rate=nan is out of range"),
        ({"teacher__width": -1}, "teacher.width=-1 is out of range"),
        ({"teacher__weight_decay": -1.0}, "teacher.weight_decay=-1.0 is out of range"),
        ({"evaluate__zoom_grid": 33}, "evaluate.zoom_grid=33 is out of range: it must be between 1 and 32."),
        ({"evaluate__hard_seeds": -1}, "evaluate.hard_seeds=-1 is out of range: it must be at least 0."),
        ({"evaluate__learning_rate": 0.0}, "evaluate.learning_rate=0.0 is out of range: it must be between 1e-08 and 100."),
        ({"teacher__model": "resnet81"}, "teacher.model='resnet81' is not known, did you mean 'resnet18'?"),
        ({"data__source": "tdfs"}, "data.source='tdfs' is not known, did you mean 'tfds'?"),
        ({"select__rule": "random_"}, "select.rule='random_' is not known, did you mean 'random'?"),
        ({"methods": ("infoutils",)}, "methods='infoutils' is not known, did you mean 'infoutil'?"),
        ({"methods": ()}, "methods is empty; name at least one of infoutil, random_images"),
        ({"compose__factor": 3}, "compose.factor=3 (infoutil) does not divide data.image_size=32; choose a divisor."),
        ({"methods": ("random_mosaics",), "data__image_size": 31}, "compose.factor=2 (random_mosaics) does not divide"),
        ({"teacher": 3}, "config: teacher=3 is no section; start from configs/base.py."),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_is_refused_in_one_line(paths, message):
    with pytest.raises(ConfigError) as error:
        changed(**paths)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_control_that_does_not_run_may_have_an_impossible_factor():
    assert changed(methods=("random_images",), data__image_size=31, compose__factor=1).data.image_size == 31


def test_a_key_too_many_or_missing_is_refused():
    c = base.get_config().unlock()
    c.evaluate.epoch = 3
    with pytest.raises(ConfigError, match=r"unknown key evaluate\.epoch, did you mean 'epochs'\?"):
        config.resolve(c)
    c = base.get_config().unlock()
    del c["crop"]["alpha"]
    with pytest.raises(ConfigError, match=r"key crop\.alpha is missing"):
        config.resolve(c)


def test_an_int_is_a_float_and_a_list_is_a_tuple():
    settings = changed(crop__alpha=1, data__mean=[0, 0.5, 1], methods=["rded"])
    assert settings.crop.alpha == 1.0 and isinstance(settings.crop.alpha, float)
    assert settings.data.mean == (0.0, 0.5, 1.0) and all(isinstance(v, float) for v in settings.data.mean)
    assert settings.methods == ("rded",)


@OLD_LOADER
def test_overrides_reach_derived_values():
    settings = parsed(
        f"--config={ROOT}/configs/digits_ipc1.py", "--config.teacher.model=convnet4", "--config.teacher.width=64",
        "--config.ipc=3", "--config.methods=('rded','infoutil')", "--config.data.mean=(0,0,0)",
    )  # fmt: skip
    assert (settings.evaluate.model, settings.evaluate.width, settings.ipc) == ("convnet4", 64, 3)
    assert settings.methods == ("rded", "infoutil") and settings.data.mean == (0.0, 0.0, 0.0)


@OLD_LOADER
def test_the_students_own_model_does_not_change_the_teacher():
    settings = parsed(f"--config={ROOT}/configs/digits_ipc1.py", "--config.evaluate.model=resnet18_cifar")
    assert (settings.teacher.model, settings.evaluate.model) == ("convnet3", "resnet18_cifar")


def test_methods_differ_from_the_config_where_they_say_and_nowhere_else():
    settings = config.resolve(digits_ipc1.get_config())
    for method, differences in METHODS.items():
        before, after = (dataclasses.asdict(c) for c in (settings, for_method(settings, method)))
        for section, fields in differences.items():
            before[section] |= fields
        assert after == before
    assert for_method(settings, "infoutil") == settings
    whole = for_method(settings, "random_images")
    assert (whole.crop.rule, whole.select.rule, whole.compose.factor, whole.n_crops) == ("whole", "random", 1, 1)
    assert for_method(settings, "random_mosaics").n_crops == 4
    easy = for_method(changed(compose__factor=4), "easy_images")  # as many in an image as the config says
    assert (easy.crop.rule, easy.select.rule, easy.select.pool) == ("whole", "lowest_loss", "best_per_image")
    assert easy.n_crops == 16 * easy.ipc
    rded = for_method(settings, "rded")
    assert (rded.crop.rule, rded.select.rule, rded.score.fit) == ("random_resized", "lowest_loss", "pad")


def test_the_least_crop_of_a_view_is_the_configs_for_all_methods():
    c = digits_ipc1.get_config()
    assert config.resolve(c).students.min_scale == 1 / 4**0.5  # RDED's 1/F with F = 2
    c.compose.factor = 1
    assert config.resolve(c).students.min_scale == 1
    c.evaluate.min_scale = 0.3
    assert config.resolve(c).students == config.resolve(c).evaluate


START = "from configs import base\ndef get_config():\n    c = base.get_config()\n"
FAULTY_FILES = {  # FILE stands for the file's name
    "def get_config(:\n": "(FILE:1: SyntaxError",
    "x = 1\n": "(KeyError: 'get_config')",
    "\nraise ImportError\n": "(FILE:2: ImportError",
    "def get_config():\n    return 1 / 0\n": "(FILE:2: ZeroDivisionError: division by zero",
    "def get_config():\n    return {'a': 1}\n": "get_config() gave a dict; return a ConfigDict",
    "def get_config():\n    pass\n": "get_config() gave a NoneType",
    f"{START}    c.evalute.epochs = 3\n": "(FILE:4: unknown key 'evalute', did you mean 'evaluate'? Keys there: attribute,",
    f"{START}    c.evaluate.epoch = 3\n": "(FILE:4: unknown key 'epoch', did you mean 'epochs'? Keys there: augment,",
    f"{START}    c['evaluate.epoch'] = 3\n": "(FILE:4: unknown key 'epoch', did you mean 'epochs'? ",
    f"{START}    c.evaluate.update(epoch=3)\n": "(FILE:4: unknown key 'epoch', did you mean 'epochs'?",
    f"{START}\n    c.update_from_flattened_dict({{'crop.widow': 3}})\n": "(FILE:5: ",
    f"{START}    c.ipc = 'ten'\n": "(FILE:4: TypeError",
}


@pytest.mark.parametrize("text", FAULTY_FILES, ids=FAULTY_FILES.values())
def test_a_faulty_config_file_is_one_line(text, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        config.parse_flags(["main.py", "--config", str(path), "--config.ipc=3"], "unused.py")
    told = FAULTY_FILES[text].replace("FILE", str(path))
    assert told in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


FAULTY_JSON = {
    '{"ipc": 3,\n "seed" 4}': "(FILE:2: ",
    "[3]": "(FILE:1: ",
    '{"ipc": 3,\n "crop": {"alpha": 1,\n "widow": 3}}': "(FILE:3: unknown key 'widow', did you mean 'window'?",
    '{"ipc": 3,\n "crop.widow": 3}': "(FILE:2: unknown key 'widow', did you mean 'window'?",
    '{"ipc": {"a": 3}}': "(FILE:1: unknown key 'a'",
}


@pytest.mark.parametrize("text", FAULTY_JSON, ids=FAULTY_JSON.values())
def test_a_faulty_json_file_is_one_line(text, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        config.load(str(path))
    assert FAULTY_JSON[text].replace("FILE", str(path)) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("argument, message", [("crop", "crop=3 is no section"), ("crop.alpha", "crop.alpha='3'")])
def test_a_wrong_value_in_json_is_refused_as_any_other(argument, message, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({argument: "3" if "." in argument else 3}))
    with pytest.raises(ConfigError, match=message):
        config.resolve(config.load(str(tmp_path / "mine.json")))


def test_json_holds_what_differs_or_everything(tmp_path):
    some, all_of = tmp_path / "some.json", tmp_path / "all.json"
    some.write_text('{"ipc": 3, "methods": ["rded"], "data": {"mean": [0, 0.5, 1]}, "teacher.model": "convnet4"}')
    settings = config.resolve(config.load(str(some)))
    expected = changed(ipc=3, methods=("rded",), data__mean=(0, 0.5, 1), teacher__model="convnet4")
    assert settings == expected and settings.evaluate.model == "convnet4"  # what follows another key still does
    plain = json.loads(json.dumps(dataclasses.asdict(config.resolve(digits_ipc1.get_config()))))
    for whole in (plain, {"content": plain, "sha256": "of a run's config.json"}):
        all_of.write_text(json.dumps(whole))
        assert config.resolve(config.load(str(all_of))) == config.resolve(digits_ipc1.get_config())


def test_flags_change_what_json_says_and_what_follows_it(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"ipc": 3, "methods": ["rded"]}')
    values = [f"--config={path}", "--config.ipc=5", "--config.teacher.model=convnet4", "--config.methods=('infoutil',)"]
    for repeated in range(2):  # the second call knows nothing of the first
        assert config.parse_flags(["main.py", *values[: 4 - 2 * repeated]], "unused.py") == ["main.py"]
        settings = config.resolve(flags.FLAGS["config"].value)
        assert settings.ipc == 5 and settings.methods == (("rded",) if repeated else ("infoutil",))
        assert settings.evaluate.model == ("convnet3" if repeated else "convnet4")


@pytest.mark.parametrize(
    "words, message",
    [
        (["verfy", "x"], "unexpected argument 'verfy', did you mean 'verify'?"),
        (["jion"], "did you mean 'join'?"),
        (["configs/base.py"], "did you mean '--config=configs/base.py'?"),
        (["mine.json"], "did you mean '--config=mine.json'?"),
        (["qqqq"], "unexpected argument 'qqqq'. Commands are join, verify DIR; all else is a flag"),
        (["verify"], "verify takes DIR, and got nothing."),
        (["verify", "a", "b"], "verify takes DIR, and got a b."),
        (["join", "a"], "join takes nothing, and got a."),
    ],
)
def test_a_word_that_is_no_command_is_refused_with_what_was_meant(words, message):
    with pytest.raises(ConfigError) as error:
        config.require_command(words, {"join": (), "verify": ("DIR",)})
    assert message in str(error.value)


def test_commands_take_flags_before_and_after_them():
    default = str(ROOT / "configs/digits_ipc1.py")
    for argv in (["join", "--config.ipc=2"], ["--config.ipc=2", "join"]):
        rest = config.parse_flags(["main.py", *argv], default)
        assert rest == ["main.py", "join"] and config.resolve(flags.FLAGS["config"].value).ipc == 2


@pytest.mark.parametrize("argument", ["--config=nowhere.py", "--config=", "--config"])
def test_a_config_file_that_is_not_there(argument):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        config.parse_flags(["main.py", argument], "unused.py")


def test_a_file_may_take_an_argument(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from configs import cifar10\ndef get_config(ipc):\n    return cifar10.get_config(int(ipc))\n")
    assert config.resolve(config.load(f"{path}:50")).ipc == 50


@pytest.mark.parametrize("name", ["config.teacher.model.depth", "config.ipc.x"])
def test_a_key_below_a_value_is_refused(name):
    with pytest.raises(ConfigError, match="Keys there: none"):
        config.parse_flags(["main.py", f"--{name}=3"], str(ROOT / "configs/base.py"))
