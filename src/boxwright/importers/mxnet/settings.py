"""The settings of an operator: texts in the file, values of a type here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from boxwright.errors import ImportFailedError

_T = TypeVar("_T")

# Python 2 wrote a long whole number as 8L.
_WHOLE = re.compile(r"[+-]?\d{1,18}[lL]?")
# Extents, strides and repetitions beyond this are damage, and would only waste memory.
MAX_WHOLE = 1 << 24


@dataclass(frozen=True)
class Settings:
    """Settings by name.

    Attributes:
        where: What they belong to, for messages.
        texts: As the file has them.
    """

    where: str
    texts: Mapping[str, str]

    def error(self, reason: str) -> ImportFailedError:
        """The error to raise, with the node."""
        return ImportFailedError(f"{self.where}: {reason}")

    def has(self, name: str) -> bool:
        """Whether the file gives it, and not as ``None``."""
        return self.texts.get(name, "None") not in ("None", "")

    def text(self, name: str, default: str, choices: tuple[str, ...] = ()) -> str:
        """A word; one of `choices`, where there are any."""
        value = self.texts.get(name, default)
        if choices and value not in choices:
            raise self._wrong(name, f"one of {', '.join(choices)}", value)
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        if not self.has(name):
            return self._given(name, default)
        return self._whole(name, self.texts[name])

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        if not self.has(name):
            return self._given(name, default)
        return self._number(name, self.texts[name])

    def truth(self, name: str, default: bool = False) -> bool:
        """A truth value."""
        if not self.has(name):
            return default
        value = self.texts[name].strip().lower()
        if value not in ("true", "false", "1", "0"):
            raise self._wrong(name, "True or False", self.texts[name])
        return value in ("true", "1")

    def wholes(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Whole numbers; a single one is a list of one."""
        if not self.has(name):
            return self._given(name, default)
        return tuple(self._whole(name, item) for item in self._items(name))

    def numbers(self, name: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """Finite numbers; a single one is a list of one."""
        if not self.has(name):
            return self._given(name, default)
        return tuple(self._number(name, item) for item in self._items(name))

    def optional_wholes(self, name: str) -> tuple[int | None, ...]:
        """Whole numbers, any of which may be ``None``."""
        if not self.has(name):
            return self._given(name, None)
        items = self._items(name)
        return tuple(None if item == "None" else self._whole(name, item) for item in items)

    def pair(self, name: str, default: int | None = None) -> tuple[int, int]:
        """Two whole numbers, down and across."""
        fallback = None if default is None else (default, default)
        values = self.wholes(name, fallback)
        if not values and fallback is not None:
            return fallback
        if len(values) != 2:
            raise self._wrong(name, "two whole numbers (height, width)", self.texts[name])
        return values[0], values[1]

    def _items(self, name: str) -> list[str]:
        text = self.texts[name].strip()
        if text[:1] in "([" and text[-1:] in ")]":
            text = text[1:-1]
        return [item.strip() for item in text.split(",") if item.strip()]

    def _whole(self, name: str, text: str) -> int:
        if not _WHOLE.fullmatch(text.strip()):
            raise self._wrong(name, "whole numbers", text)
        value = int(text.strip().rstrip("lL"))
        if abs(value) > MAX_WHOLE:
            raise self._wrong(name, f"at most {MAX_WHOLE}", text)
        return value

    def _number(self, name: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._wrong(name, "a finite number", text)
        return value

    def _given(self, name: str, default: _T | None) -> _T:
        if default is None:
            raise self.error(f"{name} is missing")
        return default

    def _wrong(self, name: str, expected: str, received: str) -> ImportFailedError:
        return self.error(f"{name} must be {expected}, got {received[:60]!r}")
