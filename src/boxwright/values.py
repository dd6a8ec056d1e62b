"""Numbers that a caller gave, numpy's own among them."""

from __future__ import annotations

import numbers
import operator


def whole(value: object) -> int | None:
    """`value` as an int, or ``None`` where it is no whole number; a bool is none."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # whatever has no index raises
    except TypeError:
        return None


def real(value: object) -> float | None:
    """`value` as a float, or ``None`` where it is no number; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return float(value)
