"""What exporters write about a network into its file."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boxwright.errors import ImportFailedError
from boxwright.files import printable

if TYPE_CHECKING:
    import onnx

_LONGEST = 1 << 20
_MOST_CLASSES = 65_536


@dataclass(frozen=True)
class Metadata:
    """The facts that were found; ``None`` or empty where there are none.

    Attributes:
        task: ``detect``, ``segment`` and so on.
        names: Class names.
        size: ``(height, width)`` it was exported for.
        description: The exporter's own words.
        licence: As stated.
        exporter: Who wrote it, for people.
    """

    task: str | None = None
    names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    description: str = ""
    licence: str | None = None
    exporter: str = ""


def read_metadata(proto: onnx.ModelProto, origin: str) -> Metadata:
    """Read the properties that Ultralytics' exports carry, and YOLOv5's fewer ones.

    Values are literals, read as such: nothing is evaluated.

    Raises:
        ImportFailedError: The names are no list of names.
    """
    found = {p.key: p.value for p in proto.metadata_props if len(p.value) <= _LONGEST}
    size = _literal(found.get("imgsz"))
    pair = isinstance(size, (list, tuple)) and len(size) == 2 and all(type(x) is int for x in size)
    author = found.get("author", "")
    return Metadata(
        task=found.get("task"),
        names=_names(found["names"], origin) if "names" in found else (),
        size=(size[0], size[1]) if pair and size is not None else None,
        description=printable(found.get("description", ""))[:200],
        licence=printable(found["license"])[:200] if "license" in found else None,
        exporter=printable(author)[:80] or ("YOLOv5" if "stride" in found else ""),
    )


def _names(text: str, origin: str) -> tuple[str, ...]:
    """``{0: 'person', ...}`` or ``['person', ...]``."""
    value = _literal(text)
    if isinstance(value, dict):
        keys = [int(key) if str(key).isdecimal() else -1 for key in value]
        if sorted(keys) == list(range(len(value))):
            value = [name for _, name in sorted(zip(keys, value.values(), strict=True))]
    if (
        not isinstance(value, (list, tuple))
        or not 0 < len(value) <= _MOST_CLASSES
        or not all(isinstance(name, str) for name in value)
    ):
        raise ImportFailedError(
            f"{origin}: its metadata 'names' is no list of class names: {text[:60]!r}"
        )
    return tuple(map(printable, value))


def _literal(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
