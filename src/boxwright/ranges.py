"""What a model's tensors hold, kept in the model: lowest and highest value on real images.

A quantised graph has scales only where every runtime wants a Q/DQ pair. A runtime that wants
more of them finds the ranges here (metadata key ``boxwright.ranges``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from boxwright.errors import ModelError

if TYPE_CHECKING:
    import onnx

RANGES_KEY = "boxwright.ranges"

_MAX_BYTES = 16 << 20


def with_ranges(proto: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Keep ranges ``(lowest, highest)`` in the model, in place of those it had."""
    text = json.dumps({name: [low, high] for name, (low, high) in sorted(ranges.items())})
    for prop in proto.metadata_props:
        if prop.key == RANGES_KEY:
            prop.value = text
            return
    proto.metadata_props.add(key=RANGES_KEY, value=text)


def ranges_of(proto: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """The ranges that a model keeps; empty where it keeps none.

    Raises:
        ModelError: They are not what :func:`with_ranges` writes.
    """
    text = next((prop.value for prop in proto.metadata_props if prop.key == RANGES_KEY), None)
    if text is None:
        return {}
    if len(text) > _MAX_BYTES:
        raise ModelError(f"the model's {RANGES_KEY} is larger than {_MAX_BYTES >> 20} MiB")
    try:
        content = json.loads(text)
        found = {str(name): (float(low), float(high)) for name, (low, high) in content.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"the model's {RANGES_KEY} cannot be read: {error}") from error
    for name, (low, high) in found.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ModelError(f"the model's {RANGES_KEY} has {name!r} from {low} to {high}")
    return found
