"""Reading label files that nobody vouches for: bounded, and without surprises."""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from boxwright.errors import InputError
from boxwright.extras import require
from boxwright.files import human_size, open_regular

MAX_JSON_BYTES = 1 << 30
"""COCO's own training annotations are 450 MB; parsed, a file takes some five times its size."""
MAX_TEXT_BYTES = 256 << 20
MAX_XML_BYTES = 16 << 20
MAX_YAML_BYTES = 4 << 20
_MAX_XML_DEPTH = 32


def brief(value: object) -> str:
    """A few characters of a value, for messages.

    ``str`` would write out all of what a few lines of YAML aliases stand for, which may be
    more than there is memory.
    """
    return reprlib.repr(value)[:80]


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """A whole file of at most `limit` bytes.

    Raises:
        InputError: It cannot be read, is no regular file, or is longer.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} must be a file with {what}, but it is none")
        with open_regular(path) as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    if len(data) > limit:
        raise InputError(f"{path} is too large for {what}: more than {human_size(limit)}")
    return data


def read_text(path: Path, what: str, limit: int = MAX_TEXT_BYTES) -> str:
    """A whole UTF-8 file.

    Raises:
        InputError: It cannot be read, is too long, or is not text.
    """
    try:
        return read_bytes(path, limit, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be UTF-8 text with {what}: {error.reason}") from error


def read_json(path: Path, what: str) -> Any:
    """A JSON file of at most `MAX_JSON_BYTES`.

    Raises:
        InputError: It cannot be read, is too large, nested too deeply, or not JSON.
    """
    data = read_bytes(path, MAX_JSON_BYTES, what)
    try:
        return json.loads(data)
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply for {what}") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def read_yaml(path: Path, what: str) -> Any:
    """A YAML file of plain values.

    Raises:
        InputError: It cannot be read, is too large, nested too deeply, or not YAML.
        MissingExtraError: PyYAML is not installed.
    """
    yaml = require("yaml", extra="yaml")
    text = read_text(path, what, MAX_YAML_BYTES)
    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply for {what}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


@dataclass
class Element:
    """One XML element: its name, its own text, and what is inside."""

    name: str
    parts: list[str] = field(default_factory=list)
    children: list[Element] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its own text, without that of the elements inside."""
        return "".join(self.parts)

    def find(self, *path: str) -> Element | None:
        """The first element below, by names from the outside in."""
        element: Element | None = self
        for name in path:
            children = element.children if element is not None else []
            element = next((child for child in children if child.name == name), None)
        return element

    def all(self, name: str) -> list[Element]:
        """Every element of this name directly below."""
        return [child for child in self.children if child.name == name]

    def value(self, *path: str) -> str:
        """The text of an element below, without blanks around it; empty where there is none."""
        element = self.find(*path)
        return "" if element is None else element.text.strip()


def read_xml(path: Path, what: str) -> Element:
    """The root of an XML file without a document type.

    A document type is where entities are declared: those that expand a thousandfold and
    those that read other files. Labels have none.

    Raises:
        InputError: It cannot be read, is too large or too deep, has a document type, or is
            not XML.
    """
    data = read_bytes(path, MAX_XML_BYTES, what)
    stack = [Element("")]

    def start(name: str, _attributes: dict[str, str]) -> None:
        if len(stack) > _MAX_XML_DEPTH:
            raise InputError(f"{path} is nested too deeply for {what}")
        element = Element(name)
        stack[-1].children.append(element)
        stack.append(element)

    def end(_name: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].parts.append(data)

    def refuse(*_arguments: object) -> None:
        raise InputError(
            f"{path} has a document type (<!DOCTYPE), which is refused: labels need none, "
            "and it can make a small file expand without end; remove it"
        )

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise InputError(f"{path} is not valid XML: {error}") from error
    return stack[0].children[0]
