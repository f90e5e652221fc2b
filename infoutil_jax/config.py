"""Flags and ConfigDict -> `settings.Config`. The only importer of ml_collections; imports no JAX before `resolve`."""

import dataclasses
import runpy
import typing

from absl import flags
from ml_collections import ConfigDict, config_flags

from infoutil_jax.checks import nearest
from infoutil_jax.errors import ConfigError

HELP = "Python file whose get_config() gives the settings; --config.section.key=value changes one of them."


def define_flag():
    """--config=FILE.py and --config.section.key=VALUE."""
    return config_flags.DEFINE_config_file("config", None, HELP)


def parse_flags(argv: list[str], default: str) -> list[str]:
    """Parses `argv` with --config=`default` unless it names another; returns what is no flag.

    Raises ConfigError for a flag, file or key that does not exist or a value that does not parse.
    """
    argument = _config_argument(argv)
    if argument is None:
        argument, argv = default, [argv[0], f"--config={default}", *argv[1:]]
    _require_known(argv, load(argument))  # the flag library would fail with a traceback
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise ConfigError(f"{_one_line(error)}; see --help.") from error


def _config_argument(argv: list[str]) -> str | None:
    """The value of --config=VALUE or --config VALUE; None when there is no such flag."""
    for i, argument in enumerate(argv[1:], start=1):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            return value if equals else "".join(argv[i + 1 : i + 2])
    return None


def load(argument: str) -> ConfigDict:
    """What get_config() of a file returns; `argument` is FILE.py, or FILE.py:TEXT for get_config(TEXT).

    Raises ConfigError when the file is missing, fails or returns something else.
    """
    file, *text = argument.split(":", 1)
    try:
        config = runpy.run_path(file)["get_config"](*text)
    except Exception as error:  # a config is the user's own program, it can fail in any way
        fault = f"{type(error).__name__}: {_one_line(error)}"
        raise ConfigError(f"--config={argument}: cannot be loaded ({fault}); mend it, see configs/.") from error
    if not isinstance(config, ConfigDict):
        given = type(config).__name__
        raise ConfigError(f"--config={argument}: get_config() gave a {given}; return a ConfigDict, see configs/.")
    return config


def _one_line(error) -> str:
    return " ".join(str(error).split())


def _require_known(argv: list[str], config: ConfigDict) -> None:
    """Raises ConfigError for a --config.a.b=... that names no key of `config`, saying what it may have meant."""
    names = [argument.lstrip("-").split("=")[0] for argument in argv[1:] if argument.startswith("-")]
    for name in names:
        here, parts = config, name.split(".")
        for part in parts[1:] if parts[0] == "config" else ():
            keys = list(here) if isinstance(here, ConfigDict) else []
            if part not in keys:
                there = ", ".join(keys) or "none"
                raise ConfigError(f"--{name}: unknown key {part!r}{nearest(part, keys)} Keys there: {there}.")
            here = here[part]


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
