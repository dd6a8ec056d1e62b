"""Options about heads and pixels, as ``--option`` has them: text, read as numbers and words.

They say what the graph's own words are (:mod:`boxwright.graph.heads`,
:mod:`boxwright.graph.pixels`), so every format whose files leave that open reads them here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from boxwright.errors import ImportFailedError, ModelError
from boxwright.graph.heads import Head
from boxwright.graph.pixels import PixelFormat

KNOWN = {
    "channels": "rgb, bgr or grey: what the network was fed",
    "scale": "factor of a pixel's 0 to 255, such as 0.00392157, or 1/255",
    "mean": "one number, or one for each channel in the network's order: 123.7,116.3,103.5",
    "std": "likewise",
    "pad_value": "0 to 255, of letterbox borders",
    "boxes": "names of the tensors with boxes, or with everything, level by level",
    "scores": "names of the tensors with classes",
    "objectness": "names of the tensors with objectness",
    "strides": "input pixels per cell, level by level: 8,16,32",
    "anchors": "levels parted by /, anchors by space or ;: 10,13;16,30/30,61;62,45",
    "bins": "bins of each distance; 1 for none",
    "offset": "where in its cell a point lies: 0 or 0.5",
    "activation": "none, sigmoid or softmax: what makes scores of class values",
    "background": "none, first or last: a class value that is no class",
    "layout": "rows, columns, maps, pixels or anchor_maps: how head tensors lie",
    "columns": "order of values in a joint tensor: boxes,objectness,classes",
    "box": "xyxy, cxcywh, xywh or yxyx",
    "normalised": "true where boxes are fractions of the input",
    "size_rule": "square (YOLOv5) or exp (YOLOv3): how anchors grow",
    "first_class": "number of the first class, 0 or 1",
}

_Record = TypeVar("_Record", Head, PixelFormat)


def numbers(name: str, value: Any) -> tuple[float, ...]:
    """Numbers parted by commas, or as a list; ``1/255`` is one too.

    Raises:
        ImportFailedError: They are no numbers.
    """
    try:
        found = []
        for word in value if isinstance(value, (list, tuple)) else str(value).split(","):
            above, _, below = str(word).partition("/")
            found.append(float(above) / float(below or 1))
        return tuple(found)
    except (ValueError, ZeroDivisionError) as error:
        raise ImportFailedError(
            f"option {name} must be numbers parted by commas, got {str(value)[:60]!r}"
        ) from error


def words(value: Any) -> tuple[str, ...]:
    """Words parted by commas."""
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    return tuple(str(word).strip() for word in parts if str(word).strip())


def _wholes(name: str, value: Any) -> tuple[int, ...]:
    found = numbers(name, value)
    if any(number != int(number) for number in found):
        raise ImportFailedError(f"option {name} must be whole numbers, got {value!r}")
    return tuple(map(int, found))


def _whole(name: str, value: Any) -> int:
    return _wholes(name, value)[0]


def _number(name: str, value: Any) -> float:
    return numbers(name, value)[0]


def _anchors(name: str, value: Any) -> tuple[tuple[tuple[float, ...], ...], ...]:
    return tuple(
        tuple(numbers(name, pair) for pair in level.replace(";", " ").split())
        for level in str(value).split("/")
    )


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ImportFailedError(f"option {name} must be true or false, got {value!r}")


def _word(_name: str, value: Any) -> str:
    return str(value)


def _words(_name: str, value: Any) -> tuple[str, ...]:
    return words(value)


_HEAD: Mapping[str, Callable[[str, Any], Any]] = {
    "strides": _wholes,
    "anchors": _anchors,
    "bins": _whole,
    "offset": _number,
    "activation": _word,
    "background": _word,
    "layout": _word,
    "columns": _words,
    "box": _word,
    "normalised": _flag,
    "size_rule": _word,
    "first_class": _whole,
}
_FIELDS = {"size_rule": "size"}
_PIXELS: Mapping[str, Callable[[str, Any], Any]] = {
    "channels": _word,
    "scale": _number,
    "mean": numbers,
    "std": numbers,
}


def head_fields(options: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Fields of a head record that were given as options.

    Raises:
        ImportFailedError: One is malformed, or the record has no such field.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    found = {}
    for name, read in _HEAD.items():
        if name not in options:
            continue
        field = _FIELDS.get(name, name)
        if field not in known:
            raise ImportFailedError(f"option {name} means nothing for a head of {kind.kind!r}")
        found[field] = read(name, options[name])
    return found


def with_pixel_options(form: PixelFormat, options: Mapping[str, Any]) -> PixelFormat:
    """`form` as the options have it.

    Raises:
        ImportFailedError: One is malformed.
    """
    given = {name: read(name, options[name]) for name, read in _PIXELS.items() if name in options}
    try:
        return dataclasses.replace(form, **given)
    except ModelError as error:
        raise ImportFailedError(f"options: {error}") from error
