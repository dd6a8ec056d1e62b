"""What a model's tensors hold, kept in the model: lowest and highest value on real images.

A quantised graph has scales only where every runtime wants a Q/DQ pair. A runtime that wants
more of them finds the ranges here (metadata key ``boxwright.ranges``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from boxwright.errors import ModelError
from boxwright.metadata import read_metadata, write_metadata

if TYPE_CHECKING:
    import onnx

RANGES_KEY = "boxwright.ranges"

_MAX_BYTES = 16 << 20
_MAX_SHOWN = 60
# Of float32, which the tensors are.
_LARGEST = 3.4028234663852886e38


def with_ranges(proto: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Keep ranges ``(lowest, highest)`` in the model, in place of those it had.

    Raises:
        ModelError: A range is none: not finite, or its ends are the wrong way round.
    """
    for name, (low, high) in ranges.items():
        _check(name, low, high)
    text = json.dumps({name: [low, high] for name, (low, high) in sorted(ranges.items())})
    write_metadata(proto, RANGES_KEY, text)


def ranges_of(proto: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """The ranges that a model keeps; empty where it keeps none.

    Raises:
        ModelError: They are not what :func:`with_ranges` writes.
    """
    text = read_metadata(proto, RANGES_KEY)
    if text is None:
        return {}
    if len(text) > _MAX_BYTES:
        raise ModelError(f"the model's {RANGES_KEY} is larger than {_MAX_BYTES >> 20} MiB")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the model's {RANGES_KEY} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"the model's {RANGES_KEY} must be an object, got {_shown(content)}")
    found = {}
    for name, ends in content.items():
        pair = ends if isinstance(ends, list) else []
        # A boolean is a number to Python, and an integer may be larger than any float.
        if len(pair) != 2 or any(type(end) not in (int, float) for end in pair):
            raise ModelError(
                f"the model's {RANGES_KEY} must have two numbers for {name!r}, got {_shown(ends)}"
            )
        _check(name, *pair)
        found[name] = (float(pair[0]), float(pair[1]))
    return found


def _check(name: str, low: float, high: float) -> None:
    if not -_LARGEST <= low <= high <= _LARGEST:
        raise ModelError(
            f"the model's {RANGES_KEY} must go from a float32 to a larger one, got "
            f"{_shown(low)} to {_shown(high)} for {name!r}"
        )


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of too many digits to be shown
        return "a number of thousands of digits"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
