"""Numbers as people read them; what is no number is a dash."""

from __future__ import annotations

DASH = "–"


def number(value: object, digits: int = 3) -> str:
    """Three significant digits, never in powers of ten: ``0.123``, ``12.3``, ``1230``."""
    if not _is_number(value):
        return DASH
    size = abs(float(value))  # type: ignore[arg-type]  # checked above
    places = 0
    while places < 6 and size and size * 10**places < 10 ** (digits - 1):
        places += 1
    return f"{float(value):.{places}f}"  # type: ignore[arg-type]


def percent(value: object, places: int = 1) -> str:
    """A fraction as per cent, without the sign."""
    return f"{100 * float(value):.{places}f}" if _is_number(value) else DASH  # type: ignore[arg-type]


def power(value: object) -> str:
    """A small number as ``1.2e-06``; nothing at all as ``0``."""
    if not _is_number(value):
        return DASH
    return "0" if value == 0 else f"{float(value):.1e}"  # type: ignore[arg-type]


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min 20 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def signed(value: object, places: int = 2) -> str:
    """A fraction as points of per cent with its sign."""
    if not _is_number(value):
        return DASH
    text = f"{100 * float(value):+.{places}f}"  # type: ignore[arg-type]
    return text if float(text) else text[1:]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
