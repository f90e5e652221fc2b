"""Checks of settings, one line each; a failure names the field, what was given and what is allowed."""

import difflib

from infoutil_jax.errors import ConfigError


def nearest(name: str, known) -> str:
    """', did you mean X?' when something known is close to `name`, else '.'; the end of a sentence either way."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else "."


def one_of(field: str, value, allowed) -> None:
    """Raises ConfigError unless `value` is among `allowed`."""
    if value not in allowed:
        known = ", ".join(map(str, allowed))
        raise ConfigError(f"{field}={value!r} is not known{nearest(value, allowed)} Allowed: {known}.")


def in_range(field: str, value, low, high=float("inf")) -> None:
    """Raises ConfigError unless low <= value <= high."""
    if not low <= value <= high:
        limit = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
        raise ConfigError(f"{field}={value!r} is out of range: it must be {limit}.")
