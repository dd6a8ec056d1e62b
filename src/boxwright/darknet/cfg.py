"""Reading a Darknet cfg into sections that remember where every value stood.

The rules are those of ``read_cfg`` and ``option_find*`` in Darknet's ``src/parser.c`` and
``src/option_list.c``: blanks do not count anywhere, ``#`` and ``;`` start a comment, the
first of two equal keys wins, and numbers may be written ``.00001`` or ``2.f``. Where Darknet
would read on with a guess (``atoi`` of text, a line without ``=``), this reader refuses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from boxwright.errors import CfgError, ImportFailedError, UnsupportedError
from boxwright.files import human_size, open_regular

# The largest cfg of the Darknet repository has 3,000 lines and 60 kB.
MAX_CFG_BYTES = 4 << 20
MAX_SECTIONS = 20_000

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[fF]?")


@dataclass(frozen=True)
class Option:
    """The value of one key and the line it stands on."""

    value: str
    line: int


@dataclass(frozen=True)
class Section:
    """One ``[section]``: its name in lower case, its line and its options.

    The readers below return `default` for a missing key, and raise :class:`CfgError` for a
    missing key without a default and for a value that is not what it must be.
    """

    path: str
    name: str
    line: int
    options: dict[str, Option] = field(default_factory=dict)

    def fail(self, reason: str, key: str | None = None) -> NoReturn:
        """Refuse the section: the cfg is wrong."""
        raise CfgError(self.path, self._line_of(key), self.name, reason)

    def unsupported(self, reason: str, key: str | None = None) -> NoReturn:
        """Refuse the section: it cannot be converted faithfully."""
        raise UnsupportedError(self.path, self._line_of(key), self.name, reason)

    def _line_of(self, key: str | None) -> int:
        return self.options[key].line if key in self.options else self.line

    def has(self, key: str) -> bool:
        """Whether the key is given, whatever its value."""
        return key in self.options

    def text(self, key: str, default: str | None = None) -> str:
        """A value as it stands."""
        if key in self.options:
            return self.options[key].value
        if default is None:
            self.fail(f"{key}= is missing")
        return default

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        if key not in self.options and default is not None:
            return default
        return self._number(key, self.text(key))

    def integer(
        self, key: str, default: int | None = None, low: int = -(2**31), high: int = 2**31 - 1
    ) -> int:
        """A whole number from `low` to `high`; ``3.0`` counts as whole."""
        if key not in self.options and default is not None:
            return default
        return self._integer(key, self.text(key), low, high)

    def flag(self, key: str) -> bool:
        """A number that switches something on when it is not 0; a missing key is off."""
        return self.number(key, 0.0) != 0

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Whole numbers with commas between them."""
        if key not in self.options and default is not None:
            return default
        return tuple(
            self._integer(key, item, -(2**31), 2**31 - 1) for item in self._items(self.text(key))
        )

    def numbers(self, key: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """Numbers with commas between them."""
        if key not in self.options and default is not None:
            return default
        return tuple(self._number(key, item) for item in self._items(self.text(key)))

    @staticmethod
    def _items(text: str) -> Iterator[str]:
        return (item for item in text.split(",") if item)

    def _number(self, key: str, text: str) -> float:
        if not _NUMBER.fullmatch(text):
            self.fail(f"{key}= must be a number, got {text[:40]!r}", key)
        value = float(text.rstrip("fF"))
        if not math.isfinite(value):
            self.fail(f"{key}= must be finite, got {text[:40]!r}", key)
        return value

    def _integer(self, key: str, text: str, low: int, high: int) -> int:
        value = self._number(key, text)
        if value != int(value):
            self.fail(f"{key}= must be a whole number, got {text[:40]!r}", key)
        if not low <= value <= high:
            self.fail(f"{key}= must be {low} to {high}, got {int(value)}", key)
        return int(value)


def read_cfg(path: str | Path) -> list[Section]:
    """Read a cfg file into its sections, in order; the first one is ``[net]``.

    Raises:
        ImportFailedError: The file cannot be read or is far too large.
        CfgError: A line is neither a section, an option nor a comment; or there are no layers.
    """
    try:
        with open_regular(path) as stream:
            data = stream.read(MAX_CFG_BYTES + 1)
    except OSError as error:
        raise ImportFailedError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_CFG_BYTES:
        raise ImportFailedError(
            f"{path}: a cfg holds at most {human_size(MAX_CFG_BYTES)}; is this the weights file?"
        )
    if b"\0" in data:
        raise ImportFailedError(f"{path} is not a cfg: it holds binary data")
    return parse_cfg(data.decode("utf-8", errors="replace"), str(path))


def parse_cfg(text: str, path: str = "cfg") -> list[Section]:
    """As :func:`read_cfg`, from text; `path` names it in messages."""
    sections: list[Section] = []
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        line = "".join(re.split(r"[#;]", raw, maxsplit=1)[0].split())
        if not line:
            continue
        if line.startswith("["):
            if not line.endswith("]") or len(line) == 2:
                raise CfgError(path, number, "", f"expected [section], got {raw.strip()[:60]!r}")
            sections.append(Section(path, line[1:-1].lower(), number))
            if len(sections) > MAX_SECTIONS:
                raise CfgError(path, number, "", f"more than {MAX_SECTIONS} sections")
            continue
        key, equals, value = line.partition("=")
        if not equals or not key:
            raise CfgError(path, number, "", f"expected key=value, got {raw.strip()[:60]!r}")
        if not sections:
            raise CfgError(path, number, "", "an option stands before the first [section]")
        # Darknet's option_find returns the first of two equal keys.
        sections[-1].options.setdefault(key, Option(value, number))
    if not sections or sections[0].name not in ("net", "network"):
        line_number = sections[0].line if sections else 1
        raise CfgError(path, line_number, "", "a cfg starts with a [net] section")
    if len(sections) == 1:
        raise CfgError(path, sections[0].line, sections[0].name, "the network has no layers")
    return sections
