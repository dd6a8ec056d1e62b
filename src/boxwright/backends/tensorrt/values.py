"""Checks of option values; each takes the option's name and value and gives it converted.

Values come from Python or from ``--option NAME=VALUE`` and configuration files, so lists
may also be text with commas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from boxwright.errors import InputError

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_MAX_PROFILES = 16
_MAX_BATCH = 65536


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {value!r}")
    return value


def number(least: int, most: int) -> Callable[[str, Any], int]:
    """A whole number within bounds."""

    def check(name: str, value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise InputError(f"{name} must be a whole number, {least} to {most}, got {value!r}")
        return value

    return check


def choice(known: Sequence[str]) -> Callable[[str, Any], str]:
    """One of a few words."""

    def check(name: str, value: Any) -> str:
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        return str(value)

    return check


def size_in_bytes(least: int, most: int) -> Callable[[str, Any], int]:
    """Bytes, as a number or as text such as ``512MiB`` or ``4g`` (units of 1024)."""

    def check(name: str, value: Any) -> int:
        size: Any = value
        if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())) is not None:
            # More digits than that are out of every bound, and too many for a float.
            size = int(float(match[1][:30]) * _UNITS[match[2].lower()])
        if type(size) is not int or not least <= size <= most:
            raise InputError(f"{name} must be a size such as 512MiB or 4GiB, got {value!r}")
        return size

    return check


def words(name: str, value: Any) -> tuple[str, ...]:
    """Words, as a list or as text with commas."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise InputError(f"{name} must be words with commas between them, got {value!r}")
    return tuple(item.strip() for item in items if item.strip())


def paths(name: str, value: Any) -> tuple[Path, ...]:
    """Files that exist."""
    found = tuple(Path(item) for item in words(name, value))
    for path in found:
        try:
            there = path.is_file()
        except (OSError, ValueError):  # a name that no file can have
            there = False
        if not there:
            raise InputError(f"{name}: there is no file {str(path)[:200]!r}")
    return tuple(path.resolve() for path in found)


def versions(name: str, value: Any) -> tuple[tuple[int, int], ...]:
    """Compute capabilities such as ``8.6,8.9``."""
    # Configuration files and the command line make numbers of them: 8.9.
    given = value if isinstance(value, (list, tuple)) else (value,)
    items = [part for item in given for part in str(item).split(",") if part.strip()]
    found = []
    for item in items:
        match = re.fullmatch(r"(\d{1,2})\.(\d)", item.strip())
        if match is None:
            raise InputError(f"{name} must be compute capabilities such as 8.6,8.9, got {item!r}")
        found.append((int(match[1]), int(match[2])))
    return tuple(sorted(set(found)))


def batches(name: str, value: Any) -> tuple[tuple[int, int, int], ...]:
    """Batches such as ``1:1:1,8:8:8``: smallest, usual and largest of each profile."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not 1 <= len(items) <= _MAX_PROFILES:
        raise InputError(
            f"{name} must be 1 to {_MAX_PROFILES} batches such as 1:1:1,8:8:8, got {value!r}"
        )
    return tuple(_batch(name, item) for item in items)


def _batch(name: str, item: Any) -> tuple[int, int, int]:
    parts: Any = item.split(":") if isinstance(item, str) else item
    try:
        low, usual, high = (_whole(part) for part in parts)
    except (TypeError, ValueError):
        low = usual = high = 0
    if not 1 <= low <= usual <= high <= _MAX_BATCH:
        raise InputError(
            f"{name}: a batch is smallest:usual:largest, each 1 to {_MAX_BATCH}, got {item!r}"
        )
    return low, usual, high


def _whole(value: Any) -> int:
    """A whole number, possibly as text; ``int`` would also take 1.5 and true."""
    if type(value) is int or isinstance(value, str):
        return int(value)
    raise TypeError
