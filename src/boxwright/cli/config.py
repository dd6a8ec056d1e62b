"""Options from a file: ``--config FILE``.

The file is TOML or YAML. A key is an option's long name without dashes in front
(``score-threshold``; ``score_threshold`` is the same). A key at the top applies to every
verb that has the option; a table named like a verb applies to that verb and wins::

    device = "cpu"

    [detect]
    score = 0.4
    save = "drawn,jsonl"
"""

from __future__ import annotations

import difflib
import math
import reprlib
import tomllib
from pathlib import Path
from typing import Any

import click

from boxwright.errors import InputError
from boxwright.extras import require
from boxwright.files import open_regular

_MAX_BYTES = 1 << 20
# Python writes out no integer of thousands of digits, not even in a message.
_MAX_BITS = 64
_TEXTS = (click.types.StringParamType, click.Path, click.Choice)
# Our own types (sizes, batches, words with commas) read lists, too.
_SCALARS = (*_TEXTS, click.types.IntParamType, click.types.FloatParamType)


class ConfigValueError(click.ClickException):
    """A value is not of the kind that its option takes: wrong usage, as on the command line."""

    exit_code = 2


def defaults_for(path: Path, verb: str, command: click.Command) -> dict[str, Any]:
    """The values `path` holds for `verb`, by parameter name.

    Raises:
        InputError: The file cannot be read, or holds a key no option has.
        ConfigValueError: A value is not of the kind that its option takes.
        MissingExtraError: It is YAML and PyYAML is not installed.
    """
    content = read(path)
    options = _options_of_all_verbs()
    options[verb] = _options(command)
    common = {key: value for key, value in content.items() if key not in options}
    known = {key for keys in options.values() for key in keys}
    for key in common:
        _check_key(path, key, {*known, *options}, "")
    for other in options:
        table = content.get(other, {})
        if not isinstance(table, dict):
            raise InputError(f"{path}: {other!r} must be a table of options, got {table!r}")
        for key in table:
            _check_key(path, f"{key}", set(options[other]), f" of {other!r}")
    own = options[verb]
    common = {key: value for key, value in common.items() if _normal(key) in own}
    return _values(path, own, common) | _values(path, own, content.get(verb, {}))


def read(path: Path) -> dict[str, Any]:
    """Parse a TOML or YAML file into a table."""
    try:
        with open_regular(path) as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise InputError(f"{path}: a configuration file holds at most {_MAX_BYTES} bytes")
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a configuration file must be UTF-8 text") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return _read_yaml(path, text)
    if suffix != ".toml":
        raise InputError(f"{path}: a configuration file ends in .toml, .yaml or .yml")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: thousands of digits, too
        raise InputError(f"{path} is not valid TOML: {error}") from error


def _read_yaml(path: Path, text: str) -> dict[str, Any]:
    yaml = require("yaml", extra="yaml")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: expected a table of options at the top")
    return content


def _options(command: click.Command) -> dict[str, click.Option]:
    """Key in a file -> option, for one verb; the ``no-`` name of a flag is a key, too."""
    return {
        _normal(long): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name != "config"
        for long in (*parameter.opts, *parameter.secondary_opts)
        if long.startswith("--")
    }


def _options_of_all_verbs() -> dict[str, dict[str, click.Option]]:
    from boxwright.cli.group import VERBS, cli

    context = click.Context(cli)
    commands = {name: cli.get_command(context, name) for name in VERBS}
    return {name: _options(command) for name, command in commands.items() if command is not None}


def _values(path: Path, options: dict[str, click.Option], table: dict[str, Any]) -> dict[str, Any]:
    """The values of one table, checked, by parameter name."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        option = options[_normal(key)]
        name = option.name or ""
        if name in result:
            raise ConfigValueError(f"{path}: {key!r} is given twice, under two names")
        result[name] = _checked(path, key, option, value)
    return result


def _checked(path: Path, key: str, option: click.Option, value: object) -> object:
    """A value as click takes it for `option`; click itself trusts what is no text."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise _wrong(path, key, "true or false", value)
        return value == (f"--{_normal(key)}" in option.opts)
    if option.multiple:
        # One value for an option that may be repeated is once that option.
        items = value if isinstance(value, list) else [value]
        return [_scalar(path, key, option, item) for item in items]
    if isinstance(value, list) and not isinstance(option.type, _SCALARS):
        return [_scalar(path, key, option, item) for item in value]
    return _scalar(path, key, option, value)


def _scalar(path: Path, key: str, option: click.Option, value: object) -> object:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise ConfigValueError(f"{path}: {key!r} is far too large a number")
    if isinstance(option.type, click.types.IntParamType):
        if not (isinstance(value, str) or (number and isinstance(value, int))):
            raise _wrong(path, key, "a whole number", value)
    elif isinstance(option.type, click.types.FloatParamType):
        finite = isinstance(value, (int, float)) and math.isfinite(value)
        if not (isinstance(value, str) or (number and finite)):
            raise _wrong(path, key, "a finite number", value)
    elif isinstance(option.type, _TEXTS):
        if not isinstance(value, str):
            raise _wrong(path, key, "text in quotes", value)
    elif not (isinstance(value, str) or (number and isinstance(value, int))):
        raise _wrong(path, key, "text or a whole number", value)
    return value


def _wrong(path: Path, key: str, expected: str, value: object) -> ConfigValueError:
    return ConfigValueError(f"{path}: {key!r} must be {expected}, got {reprlib.repr(value)}")


def _normal(key: str) -> str:
    return key.lstrip("-").replace("_", "-")


def _check_key(path: Path, key: str, known: set[str], where: str) -> None:
    if _normal(key) in known:
        return
    near = difflib.get_close_matches(_normal(key), sorted(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{path}: no option{where} is named {key!r}{hint}")
