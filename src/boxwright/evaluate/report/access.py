"""Reading what a file holds: what is not as we write it counts as absent."""

from __future__ import annotations

import math
from typing import Any


def mapping(value: object) -> dict[str, Any]:
    """A JSON object; else an empty one."""
    return value if isinstance(value, dict) else {}


def listing(value: object) -> list[Any]:
    """A JSON list; else an empty one."""
    return list(value) if isinstance(value, list | tuple) else []


def mappings(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON list."""
    return [item for item in listing(value) if isinstance(item, dict)]


def real(value: object, default: float = 0.0) -> float:
    """A finite number; else `default`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return float(value) if math.isfinite(value) else default


def whole(value: object, default: int = 0) -> int:
    """A whole number; else `default`."""
    return value if type(value) is int else default
