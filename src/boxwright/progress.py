"""How long work reports where it is, without knowing who watches."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int | None], None]
"""Called as ``callback(stage, done, total)``; `total` is ``None`` where it is not known."""


def silent(stage: str, done: int, total: int | None) -> None:
    """The default callback: nobody is watching."""
