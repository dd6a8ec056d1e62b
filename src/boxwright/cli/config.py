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
import tomllib
from pathlib import Path
from typing import Any

import click

from boxwright.errors import InputError
from boxwright.extras import require
from boxwright.files import open_regular

_MAX_BYTES = 1 << 20


def defaults_for(path: Path, verb: str, command: click.Command) -> dict[str, Any]:
    """The values `path` holds for `verb`, by parameter name.

    Raises:
        InputError: The file cannot be read, or holds a key no option has.
        MissingExtraError: It is YAML and PyYAML is not installed.
    """
    content = read(path)
    options = _options_of_all_verbs()
    options[verb] = _options(command)
    common = {key: value for key, value in content.items() if key not in options}
    known = {key: name for names in options.values() for key, name in names.items()}
    for key in common:
        _check_key(path, key, {*known, *options}, "")
    for other in options:
        table = content.get(other, {})
        if not isinstance(table, dict):
            raise InputError(f"{path}: {other!r} must be a table of options, got {table!r}")
        for key in table:
            _check_key(path, f"{key}", set(options[other]), f" of {other!r}")
    own = options[verb]
    result = {own[_normal(key)]: value for key, value in common.items() if _normal(key) in own}
    result |= {own[_normal(key)]: value for key, value in content.get(verb, {}).items()}
    return result


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
    except (tomllib.TOMLDecodeError, RecursionError) as error:
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


def _options(command: click.Command) -> dict[str, str]:
    """Key in a file -> parameter name, for one verb."""
    return {
        _normal(long): parameter.name or ""
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name != "config"
        for long in parameter.opts
        if long.startswith("--")
    }


def _options_of_all_verbs() -> dict[str, dict[str, str]]:
    from boxwright.cli.group import VERBS, cli

    context = click.Context(cli)
    commands = {name: cli.get_command(context, name) for name in VERBS}
    return {name: _options(command) for name, command in commands.items() if command is not None}


def _normal(key: str) -> str:
    return key.lstrip("-").replace("_", "-")


def _check_key(path: Path, key: str, known: set[str], where: str) -> None:
    if _normal(key) in known:
        return
    near = difflib.get_close_matches(_normal(key), sorted(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{path}: no option{where} is named {key!r}{hint}")
