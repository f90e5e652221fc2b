"""Flags and ConfigDict -> `settings.Config`. The only importer of ml_collections; imports no JAX until it is asked to resolve."""

import dataclasses
import runpy
import typing

from absl import flags
from ml_collections import config_flags

from infoutil_jax.checks import nearest
from infoutil_jax.errors import ConfigError


HELP = "Python file whose get_config() gives the settings; --config.section.key=value changes one of them."


def define_flag():
    """--config=FILE.py and --config.section.key=VALUE."""
    return config_flags.DEFINE_config_file("config", None, HELP)


def parse_flags(argv: list[str], default: str) -> list[str]:
    """Parses `argv` with --config=`default` unless it names another; returns what is no flag. Raises ConfigError for a flag, file
    or key that does not exist or a value that does not parse."""
    if not any(a.lstrip("-").split("=")[0] == "config" for a in argv[1:]):
        argv = [argv[0], f"--config={default}", *argv[1:]]
    try:
        rest = flags.FLAGS(argv)
        flags.FLAGS["config"].value  # a file that could not be loaded says so only now
        return rest
    except flags.Error as error:
        raise ConfigError(f"{error}; see --help.") from error
    except (OSError, SyntaxError, ImportError, NameError) as error:
        raise ConfigError(f"--config: the file cannot be loaded: {_last_line(error)}") from error
    except AttributeError as error:
        raise _unknown_override(argv, error) from error


def _last_line(error) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _unknown_override(argv, error) -> ConfigError:
    """Which --config.a.b=... names no key of the file, and what it may have meant."""
    arguments = [a.lstrip("-").split("=", 1) for a in argv[1:]]
    file = dict(a for a in arguments if len(a) == 2)["config"].split(":")[0]
    known = runpy.run_path(file)["get_config"]()
    for name in (a[0] for a in arguments if a[0].startswith("config.")):
        here = known
        for part in name.split(".")[1:]:
            if part not in here:
                return ConfigError(f"--{name}: unknown key {part!r}{nearest(part, here)} Keys there: {', '.join(here)}.")
            here = here[part]
    return ConfigError(f"--config={file}: {_last_line(error)}")


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
        raise ConfigError(f"{field}={value!r} is a {type(value).__name__}; it must be a {origin.__name__}.")
    return value


def _build(cls, section, prefix: str = ""):
    """A settings dataclass from a mapping with the same keys; unknown and missing keys are errors."""
    hints, given = typing.get_type_hints(cls), set(section)
    known = [f.name for f in dataclasses.fields(cls)]
    for key in sorted(given - set(known)):
        raise ConfigError(f"config: unknown key {prefix}{key}{nearest(key, known)} Keys here: {', '.join(known)}.")
    for key in known:
        if key not in given:
            raise ConfigError(f"config: key {prefix}{key} is missing; start from configs/base.py.")
    values = {}
    for key in known:
        nested = dataclasses.is_dataclass(hints[key])
        values[key] = _build(hints[key], section[key], f"{prefix}{key}.") if nested else _typed(prefix + key, section[key], hints[key])
    return cls(**values)


def resolve(config_dict):
    """The checked settings of a run. Raises ConfigError naming the key, what was given and what is allowed."""
    from infoutil_jax.settings import Config

    return _build(Config, config_dict.to_dict())
