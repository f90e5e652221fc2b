"""Flags and ConfigDict -> `settings.Config`. The only importer of ml_collections; imports no JAX before `resolve`."""

import dataclasses
import functools
import json
import operator
import re
import runpy
import traceback
import typing
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from infoutil_jax.checks import nearest
from infoutil_jax.errors import ConfigError

HELP = (
    "Python program whose get_config() gives the settings, or a JSON file of them; --config.section.key=value sets one."
)
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def define_flag():
    """--config=FILE.py and --config.section.key=VALUE."""
    return config_flags.DEFINE_config_file("config", None, HELP)


def parse_flags(argv: list[str], default: str) -> list[str]:
    """Parses `argv` with --config=`default` unless it names another; returns what is no flag.

    Raises ConfigError for a flag, file or key that does not exist or a value that does not parse.
    """
    argument, argv = _take_config(argv, default)
    config = load(argument)
    for name in (argument.lstrip("-").split("=")[0] for argument in argv[1:] if argument.startswith("-")):
        section, *path = name.split(".")
        if section == "config" and (fault := _unknown(config, path)):
            raise ConfigError(f"--{name}: {fault}")
    for name in [name for name in flags.FLAGS if name.split(".")[0] == "config"]:
        delattr(flags.FLAGS, name)  # of a file that would be run again, and of an earlier call
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow a command
    try:
        config_flags.DEFINE_config_dict("config", config, HELP, sys_argv=argv)
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise ConfigError(f"{_one_line(error)}; see --help.") from error


def _take_config(argv: list[str], default: str) -> tuple[str, list[str]]:
    """The value of --config=VALUE or --config VALUE, `default` without such a flag; and the other arguments."""
    for i, argument in enumerate(argv[1:], start=1):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            return (
                (value, argv[:i] + argv[i + 1 :])
                if equals
                else ("".join(argv[i + 1 : i + 2]), argv[:i] + argv[i + 2 :])
            )
    return default, argv


def require_command(words: list[str], commands: dict[str, tuple[str, ...]]) -> None:
    """Raises ConfigError unless `words`, what is no flag, are none or one of `commands` with the arguments it takes."""
    if not words:
        return
    name, *given = words
    if name not in commands:
        known = [*commands, *(f"--{flag}" for flag in flags.FLAGS)]
        is_file = name.split(":")[0].endswith((".py", ".json"))
        meant = f", did you mean '--config={name}'?" if is_file else nearest(name.split("=")[0], known)
        there = ", ".join(" ".join([command, *takes]) for command, takes in commands.items())
        raise ConfigError(f"unexpected argument {name!r}{meant} Commands are {there}; all else is a flag, see --help.")
    if len(given) != len(commands[name]):
        takes = " ".join(commands[name]) or "nothing"
        raise ConfigError(f"{name} takes {takes}, and got {' '.join(given) or 'nothing'}.")


def load(argument: str) -> ConfigDict:
    """The config of FILE.py (what its get_config() returns), FILE.py:TEXT (get_config(TEXT)) or FILE.json.

    Raises ConfigError, with the line where there is one, when the file is missing, fails or returns something else.
    """
    file, *text = argument.split(":", 1)
    try:
        config = _from_json(file) if file.endswith(".json") else runpy.run_path(file)["get_config"](*text)
    except Exception as error:  # a config is the user's own program, it can fail in any way
        fault = _place(error, file) + (_refused(error) or f"{type(error).__name__}: {_one_line(error)}")
        raise ConfigError(f"--config={argument}: cannot be loaded ({fault}); mend it, see configs/.") from error
    if not isinstance(config, ConfigDict):
        given = type(config).__name__
        raise ConfigError(f"--config={argument}: get_config() gave a {given}; return a ConfigDict, see configs/.")
    return config


def _one_line(error) -> str:
    return " ".join(str(error).split())


def _unknown(config, path: list[str]) -> str:
    """What is wrong with a path of keys, and what may have been meant; '' if all are keys."""
    for part in path:
        keys = list(config) if isinstance(config, ConfigDict) else []
        if part not in keys:
            return f"unknown key {part!r}{nearest(part, keys)} Keys there: {', '.join(keys) or 'none'}."
        config = config[part]
    return ""


def _place(error: Exception, file: str) -> str:
    """'FILE:LINE: ' of the last line of a config file that `error` came through, '' if it came through none."""
    if isinstance(error, _JSONFault):
        return f"{file}:{error.line}: "
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    folders = {Path(file).resolve().parent, CONFIGS}
    places = [f"{path}:{line}: " for path, line in places if Path(path).resolve().parent in folders]
    return places[-1] if places else ""


def _refused(error: Exception) -> str:
    """What to say of a key that a ConfigDict does not have, '' for other errors."""
    if isinstance(error, _JSONFault):
        return str(error)
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        found = frame.f_locals
        name = found.get("attribute", found.get("key"))
        if isinstance(found.get("self"), ConfigDict) and isinstance(name, str):
            return _unknown(found["self"], name.split("."))
    return ""


class _JSONFault(ValueError):
    def __init__(self, fault: str, line: int):
        super().__init__(fault)
        self.line = line


def _from_json(file: str) -> ConfigDict:
    """configs/base.py with the values that a JSON file has for some of its keys, or for all. Runs no foreign code."""
    text, config = Path(file).read_text(), load(str(CONFIGS / "base.py"))
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise _JSONFault(error.msg, error.lineno) from error
    if not isinstance(values, dict):
        raise _JSONFault("it must be an object of keys and values", 1)
    if set(values) == {"content", "sha256"}:  # the config.json of a run
        values = values["content"]
    with config.ignore_type():  # `resolve` says it better
        for path, value in _leaves(values):
            if fault := _unknown(config, path):
                raise _JSONFault(fault, _line_of(text, path))
            functools.reduce(operator.getitem, path[:-1], config)[path[-1]] = (
                tuple(value) if isinstance(value, list) else value
            )
    return config


def _leaves(values: dict, path=()):
    """((section, key), value) of every value."""
    for key, value in values.items():
        here = (*path, *key.split("."))
        if isinstance(value, dict):
            yield from _leaves(value, here)
        else:
            yield here, value


def _line_of(text: str, path) -> int:
    """The line of a JSON text where the key at the end of `path` stands."""
    at = 0
    for part in path:
        found = re.compile(rf'"(?:[^"\n]*\.)?{re.escape(part)}(?:\.[^"\n]*)?"\s*:').search(text, at)
        at = found.start() if found else at
    return text.count("\n", 0, at) + 1


def _typed(field: str, value, kind):
    """`value` as `kind`; an int is a fine float, a list a fine tuple, nothing else is changed."""
    origin = typing.get_origin(kind) or kind
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = typing.get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(value) != len(kinds):
            raise ConfigError(f"{field}={value!r} has {len(value)} entries; it needs {len(kinds)}.")
        return tuple(_typed(field, v, k) for v, k in zip(value, kinds))
    if not isinstance(value, origin) or (isinstance(value, bool) and origin is not bool):
        raise ConfigError(f"{field}={value!r} has type {type(value).__name__}; it must be {origin.__name__}.")
    return value


def _build(cls, section, prefix: str = ""):
    """A settings dataclass from a mapping with the same keys; unknown and missing keys are errors."""
    if not isinstance(section, dict):
        raise ConfigError(f"config: {prefix.rstrip('.')}={section!r} is no section; start from configs/base.py.")
    hints, known = typing.get_type_hints(cls), [f.name for f in dataclasses.fields(cls)]
    for key in section:
        if key not in known:
            raise ConfigError(f"config: unknown key {prefix}{key}{nearest(key, known)} Keys here: {', '.join(known)}.")
    values = {}
    for key in known:
        if key not in section:
            raise ConfigError(f"config: key {prefix}{key} is missing; start from configs/base.py.")
        if dataclasses.is_dataclass(hints[key]):
            values[key] = _build(hints[key], section[key], f"{prefix}{key}.")
        else:
            values[key] = _typed(prefix + key, section[key], hints[key])
    return cls(**values)


def resolve(config_dict: ConfigDict):
    """The checked `settings.Config` of a run. Raises ConfigError naming the key, what was given and what is allowed."""
    from infoutil_jax.settings import Config

    return _build(Config, config_dict.to_dict())
