"""Inputs whose shapes are free."""

from __future__ import annotations

from collections.abc import Iterator

from boxwright.graph.checks.seen import Seen
from boxwright.graph.targets import Target
from boxwright.graph.view import View


def dynamic(view: View, target: Target) -> Iterator[Seen]:
    """Free extents after the first, which is the batch; unknown ranks."""
    for value in view.inputs:
        kind = value.type.tensor_type
        if value.type.WhichOneof("value") != "tensor_type":
            continue
        if not kind.HasField("shape"):
            yield Seen("unknown-rank", f"input {value.name!r}", subject=value.name)
            continue
        extents = [
            d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or "?"
            for d in kind.shape.dim
        ]
        if any(isinstance(extent, str) for extent in extents[1:]):
            shown = " x ".join(map(str, extents))
            # What height and width are is clear of four extents, of which the others are known.
            image = len(extents) == 4 and sum(isinstance(e, str) for e in extents[1:]) <= 2
            yield Seen("dynamic-shape", f"input {value.name!r} is {shown}", subject=value.name,
                       curable=image)  # fmt: skip


CHECKS = (dynamic,)
