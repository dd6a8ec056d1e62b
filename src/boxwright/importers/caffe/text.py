"""Protobuf's text format, as far as Caffe's prototxt files use it.

The grammar is that of https://protobuf.dev/reference/protobuf/textformat-spec/ without
extensions and ``Any``. Parsing needs no schema: a message is a table of fields, each with
the line it stands in, and is asked for its values by whoever knows their types, so that
every refusal names the line. Nesting, file size and number lengths are bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from boxwright.errors import CfgError, ImportFailedError, UnsupportedError
from boxwright.files import human_size, open_regular

# ResNet-152's is 200 KB.
MAX_BYTES = 4 << 20
# NetParameter, layer, parameter, filler or shape: five levels are the most that Caffe has.
_MAX_DEPTH = 16
# A float of more characters is no number anybody wrote; int() is quadratic in them.
_MAX_NUMBER = 40
_WHOLE_LIMIT = 1 << 31

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+|\#[^\n]*)
      | (?P<line>\n)
      | (?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
      | (?P<word>-?[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[+-]?(?:0[xX][0-9A-Fa-f]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[fF]?)
      | (?P<mark>[{}<>\[\]:;,])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_CLOSING = {"{": "}", "<": ">"}


@dataclass(frozen=True)
class Token:
    """A piece of the text: its kind (a group of the pattern above), its text and line."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True)
class Scalar:
    """A value that is no message: as it was written, or the content of a string."""

    text: str
    line: int
    quoted: bool


@dataclass
class Message:
    """One message: its fields in the order of the file, and where it came from.

    Attributes:
        path: The file.
        line: The line it begins in.
        where: What it belongs to, for error messages: a layer's name and type.
        fields: Values of each field; more than one where it is repeated.
    """

    path: str
    line: int
    where: str = ""
    fields: dict[str, list[Scalar | Message]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self.fields

    def fail(self, reason: str, name: str = "") -> NoReturn:
        """Refuse the file at the field `name`, or where the message begins."""
        raise CfgError(self.path, self._line_of(name), self.where, reason)

    def unsupported(self, reason: str, name: str = "") -> NoReturn:
        """As :meth:`fail`, for what is sound but cannot be converted faithfully."""
        raise UnsupportedError(self.path, self._line_of(name), self.where, reason)

    def only(self, *known: str) -> None:
        """Refuse any other field: leaving one out would change results unseen."""
        for name in self.fields:
            if name not in known:
                self.unsupported(f"{name[:60]} is not known here", name)

    def message(self, name: str) -> Message:
        """The message in a field, an empty one where there is none."""
        values = self.messages(name)
        if len(values) > 1:
            self.fail(f"{name} is there {len(values)} times", name)
        return values[0] if values else Message(self.path, self.line, self.where)

    def messages(self, name: str) -> list[Message]:
        """The messages in a repeated field."""
        found = []
        for value in self.fields.get(name, ()):
            if not isinstance(value, Message):
                self.fail(f"{name} must be a message in braces", name)
            value.where = value.where or self.where
            found.append(value)
        return found

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        texts = self.texts(name)
        if len(texts) > 1:
            self.fail(f"{name} is there {len(texts)} times", name)
        return texts[0] if texts else default

    def texts(self, name: str) -> list[str]:
        """A repeated string."""
        scalars = self._scalars(name)
        if not all(scalar.quoted for scalar in scalars):
            self.fail(f"{name} must be a text in quotation marks", name)
        return [scalar.text for scalar in scalars]

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        values = self.numbers(name)
        if len(values) > 1:
            self.fail(f"{name} is there {len(values)} times", name)
        return values[0] if values else default

    def numbers(self, name: str) -> list[float]:
        """A repeated number."""
        return [self._number(name, scalar) for scalar in self._scalars(name)]

    def integer(self, name: str, default: int, low: int = 0, high: int = _WHOLE_LIMIT) -> int:
        """A whole number from `low` to `high`."""
        values = self.integers(name, low, high)
        if len(values) > 1:
            self.fail(f"{name} is there {len(values)} times", name)
        return values[0] if values else default

    def integers(self, name: str, low: int = 0, high: int = _WHOLE_LIMIT) -> list[int]:
        """A repeated whole number."""
        found = []
        for value in self.numbers(name):
            if not value.is_integer() or not low <= value <= high:
                self.fail(
                    f"{name} must be a whole number from {low} to {high}, got {value:g}", name
                )
            found.append(int(value))
        return found

    def flag(self, name: str, default: bool) -> bool:
        """A bool."""
        scalar = self._scalar(name)
        if scalar is None:
            return default
        if scalar.quoted or scalar.text not in _BOOLS:
            self.fail(f"{name} must be true or false, got {scalar.text[:40]!r}", name)
        return _BOOLS[scalar.text]

    def choice(self, name: str, default: str, choices: Mapping[str, int]) -> str:
        """A value of an enumeration, written as its name or its number."""
        scalar = self._scalar(name)
        if scalar is None:
            return default
        spelt = {spelling: choice for choice, n in choices.items() for spelling in (choice, str(n))}
        if scalar.quoted or scalar.text not in spelt:
            self.fail(f"{name} must be one of {', '.join(choices)}, got {scalar.text[:40]!r}", name)
        return spelt[scalar.text]

    def _number(self, name: str, scalar: Scalar) -> float:
        text = scalar.text.rstrip("fF") if scalar.text[:2].lower() != "0x" else scalar.text
        try:
            if scalar.quoted or len(text) > _MAX_NUMBER:
                raise ValueError
            value = float(int(text, 16)) if text[:2].lower() == "0x" else float(text)
        except (ValueError, OverflowError):
            value = math.nan
        if not math.isfinite(value):
            raise CfgError(
                self.path,
                scalar.line,
                self.where,
                f"{name} must be a finite number, got {scalar.text[:40]!r}",
            )
        return value

    def _scalar(self, name: str) -> Scalar | None:
        scalars = self._scalars(name)
        if len(scalars) > 1:
            self.fail(f"{name} is there {len(scalars)} times", name)
        return scalars[0] if scalars else None

    def _scalars(self, name: str) -> list[Scalar]:
        found = []
        for value in self.fields.get(name, ()):
            if isinstance(value, Message):
                self.fail(f"{name} must be a value, not a message in braces", name)
            found.append(value)
        return found

    def _line_of(self, name: str) -> int:
        values = self.fields.get(name)
        return values[0].line if values else self.line


_BOOLS = {
    **dict.fromkeys(("true", "True", "t", "1"), True),
    **dict.fromkeys(("false", "False", "f", "0"), False),
}


def read_prototxt(path: Path) -> Message:
    """Read a prototxt file.

    Raises:
        CfgError: It does not parse; the message names the line.
        ImportFailedError: It cannot be read, is too large, or is no text.
    """
    try:
        with open_regular(path) as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImportFailedError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise ImportFailedError(
            f"{path}: a prototxt may have {human_size(MAX_BYTES)}; it is larger"
        )
    if b"\0" in data:
        raise ImportFailedError(f"{path} is no prototxt: it is not text")
    return parse(data.decode("utf-8-sig", errors="replace"), str(path))


def parse(text: str, path: str) -> Message:
    """Parse the content of the file `path`; raises as :func:`read_prototxt`."""
    return _Parser(text, path).read()


class _Parser:
    """Keeps its own stack of open messages: hostile nesting meets a limit, not Python's."""

    def __init__(self, text: str, path: str) -> None:
        self.path = path
        self._tokens = _tokens(text, path)
        self._next: Token | None = next(self._tokens, None)
        self._line = 1

    def read(self) -> Message:
        root = Message(self.path, 1)
        stack: list[tuple[Message, str]] = [(root, "")]
        while self._next is not None or len(stack) > 1:
            current, closing = stack[-1]
            token = self._take("a field name" + (f" or {closing!r}" if closing else ""))
            if token.kind == "mark" and token.text == closing:
                stack.pop()
                self._skip(",", ";")
            elif token.kind == "word" and not token.text.startswith("-"):
                opened = self._field(current, token)
                if opened is not None:
                    stack.append(opened)
                if len(stack) > _MAX_DEPTH:
                    self._fail(f"messages are nested more than {_MAX_DEPTH} deep", token.line)
            else:
                self._fail(f"expected a field name, got {token.text[:40]!r}", token.line)
        return root

    def _field(self, message: Message, name: Token) -> tuple[Message, str] | None:
        """Read a field up to its value's end, or up to the brace that opens a message."""
        colon = self._skip(":")
        token = self._take(f"the value of {name.text[:60]}")
        values = message.fields.setdefault(name.text, [])
        if token.kind == "mark" and token.text in _CLOSING:
            opened = Message(self.path, name.line)
            values.append(opened)
            return opened, _CLOSING[token.text]
        if not colon:
            self._fail(f"expected ':' or '{{' after {name.text[:60]!r}", token.line)
        if token.text == "[" and token.kind == "mark":
            values.extend(self._list(name))
        else:
            values.append(self._value(name, token))
        self._skip(",", ";")
        return None

    def _list(self, name: Token) -> Iterator[Scalar]:
        while True:
            token = self._take(f"a value of {name.text[:60]}")
            if token.kind == "mark" and token.text == "]":
                return
            yield self._value(name, token)
            if not self._skip(","):
                end = self._take("',' or ']'")
                if end.text != "]":
                    self._fail(f"expected ',' or ']', got {end.text[:40]!r}", end.line)
                return

    def _value(self, name: Token, token: Token) -> Scalar:
        if token.kind == "string":
            text = _unquote(token.text)
            while self._next is not None and self._next.kind == "string":
                text += _unquote(self._take("a string").text)
            return Scalar(text, token.line, quoted=True)
        if token.kind not in ("word", "number"):
            self._fail(f"expected the value of {name.text[:60]}, got {token.text!r}", token.line)
        return Scalar(token.text, token.line, quoted=False)

    def _take(self, expected: str) -> Token:
        token = self._next
        if token is None:
            self._fail(f"the file ends where {expected} should be", self._line)
        self._line = token.line
        self._next = next(self._tokens, None)
        return token

    def _skip(self, *marks: str) -> bool:
        if self._next is None or self._next.kind != "mark" or self._next.text not in marks:
            return False
        self._take("a mark")
        return True

    def _fail(self, reason: str, line: int) -> NoReturn:
        raise CfgError(self.path, line, "", reason)


def _tokens(text: str, path: str) -> Iterator[Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise CfgError(path, line, "", f"{text[position : position + 20]!r} is no prototxt")
        position = match.end()
        kind = match.lastgroup
        if kind == "line":
            line += 1
        elif kind is not None and kind != "space":
            yield Token(kind, match[0], line)


def _unquote(text: str) -> str:
    return _ESCAPE.sub(_unescape, text[1:-1])


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    return _ESCAPES.get(code, code)
