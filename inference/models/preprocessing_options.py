"""models: options of a registration, one by one or in a JSON or TOML file -> fields of the request. Reads a file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Final

from inference.errors import SettingsError
from inference.models.families import parse_scale, parse_size

_FIELDS: Final = {
    "family": "family",
    "input_size": "input_size",
    "crop": "crop_fraction",
    "filter": "resize_filter",
    "scale": "input_scale",
    "output": "output",
    "background": "background_columns",
    "licence": "licence",
}
"""Name of an option, on the command line with dashes -> field of ``RegistrationRequest``."""

_TEXTS: Final = frozenset({"family", "filter", "output", "licence"})


def registration_options(path: str | None, **given: object) -> dict[str, Any]:
    """Return fields of ``RegistrationRequest`` from options; what is given by itself wins over a file.

    Args:
        path: A ``.json`` or ``.toml`` file with some of the options; None for none.
        given: Options by name; None for one that was not given.

    Raises:
        SettingsError: the file cannot be read, or holds what is no option; or a value is impossible.
    """
    options = {} if path is None else _read(path)
    options |= {name: value for name, value in given.items() if value is not None}
    return {_FIELDS[name]: _value(name, value) for name, value in options.items()}


def _read(path: str) -> dict[str, Any]:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"the preprocessing {path} cannot be read ({error.strerror}); correct the path") from error
    try:
        options = tomllib.loads(data.decode()) if path.lower().endswith(".toml") else json.loads(data)
    except ValueError as error:
        raise SettingsError(
            f"the preprocessing {path} is neither JSON nor, as .toml, TOML ({error}); mend it"
        ) from error
    if not isinstance(options, dict):
        raise SettingsError(f"the preprocessing {path} holds no table of options; expected {', '.join(_FIELDS)}")
    options = {name.replace("-", "_"): value for name, value in options.items()}
    unknown = sorted(options.keys() - _FIELDS.keys())
    if unknown:
        raise SettingsError(
            f"the preprocessing {path} holds {', '.join(unknown)}; the options are {', '.join(_FIELDS)}"
        )
    return options


def _value(name: str, value: object) -> object:
    """Return an option's value as the request has it; a file may hold numbers where a command line has text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "input_size":
        size = "x".join(map(str, value)) if isinstance(value, list) else str(value)
        return parse_size(size)
    if name == "scale":
        return parse_scale(",".join(map(str, value)) if isinstance(value, list) else str(value))
    if name in _TEXTS and isinstance(value, str):
        return value
    if name == "crop" and is_number:
        return float(value)  # type: ignore[arg-type]  # it is a number
    if name == "background" and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise SettingsError(f"the option {name} is {value!r}; give {'text' if name in _TEXTS else 'a number'}")
