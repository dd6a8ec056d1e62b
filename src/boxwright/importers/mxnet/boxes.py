"""Operators of detectors: anchors and box decoding (MXNet's ``src/operator/contrib``)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.importers.mxnet.symbol import Node
from boxwright.importers.mxnet.values import Value, described
from boxwright.importers.mxnet.writer import Writer, operator


@operator("_contrib_MultiBoxPrior", "MultiBoxPrior")
def multibox_prior(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Anchors of a grid, ``[1, anchors, 4]`` as fractions of the image: a constant."""
    return writer.floats(node.name, priors(node, *inputs[0].shape[2:4]))


def priors(node: Node, rows: int, columns: int) -> NDArray[np.float32]:
    """``MultiBoxPriorForward`` in ``multibox_prior.cc``, in its order and in float32."""
    settings = node.settings
    sizes, ratios = settings.numbers("sizes", (1.0,)), settings.numbers("ratios", (1.0,))
    steps, offsets = (
        settings.numbers("steps", (-1.0, -1.0)),
        settings.numbers("offsets", (0.5,) * 2),
    )
    if min(sizes) <= 0 or min(ratios) <= 0 or len(steps) != 2 or len(offsets) != 2:
        raise settings.error(f"sizes {sizes}, ratios {ratios} or steps {steps} are not possible")
    # Sizes first, with the first ratio; then the other ratios, with the first size.
    pairs = [(size, ratios[0]) for size in sizes] + [(sizes[0], r) for r in ratios[1:]]
    if rows * columns * len(pairs) > 1 << 22:
        raise settings.error(f"{rows} x {columns} x {len(pairs)} anchors are too many")
    step_y = 1 / rows if steps[0] <= 0 else steps[0]
    step_x = 1 / columns if steps[1] <= 0 else steps[1]
    y = (np.arange(rows, dtype=np.float32) + np.float32(offsets[0])) * np.float32(step_y)
    x = (np.arange(columns, dtype=np.float32) + np.float32(offsets[1])) * np.float32(step_x)
    half = np.array(
        [
            (size * rows / columns * math.sqrt(ratio) / 2, size / math.sqrt(ratio) / 2)
            for size, ratio in pairs
        ],
        np.float32,
    )
    centre = np.stack(np.meshgrid(x, y), -1)[:, :, None]
    anchors = np.concatenate([centre - half, centre + half], -1).reshape(1, -1, 4)
    return np.clip(anchors, 0, 1) if settings.truth("clip") else anchors


@operator("_contrib_box_decode")
def box_decode(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Offsets from anchors to corners (``BoxDecode`` in ``bounding_box-inl.h``)."""
    settings = node.settings
    deltas, anchors = inputs
    corners = settings.text("format", "center", ("corner", "center")) == "corner"
    scales = [settings.number(f"std{i}", 1.0) for i in range(4)]
    limit = settings.number("clip", -1.0)
    return decode_centres(
        writer, deltas, anchors, node.name, scales=scales, corners=corners, limit=limit
    )


def decode_centres(
    writer: Writer,
    deltas: Value,
    anchors: Value,
    name: str,
    *,
    scales: list[float],
    corners: bool,
    limit: float = -1.0,
) -> Value:
    """Boxes of offsets, as every SSD decodes them.

    Args:
        writer: The graph.
        deltas: ``[N, A, 4]``: of the centre in anchor sizes, of the size as a logarithm.
        anchors: ``[1, A, 4]``, constant.
        name: Prefix of the tensors' names, and the result's name.
        scales: What each of the four numbers is multiplied by first (the "variances").
        corners: Whether anchors are `xyxy`, rather than `cxcywh`.
        limit: Upper bound of the scaled logarithm; none where not above 0.

    Returns:
        ``[N, A, 4]``, `xyxy` in the anchors' units.
    """
    array = anchors.array
    if array is None or array.shape[-1:] != (4,) or deltas.shape[-1:] != (4,):
        raise writer.symbol.error(
            f"{name!r}: anchors must be constant and boxes four numbers, got "
            f"{described(anchors.shape)} and {described(deltas.shape)}"
        )
    flat: NDArray[Any] = array.reshape(1, -1, 4).astype(np.float32)
    centre, extent = flat[..., :2], flat[..., 2:]
    if corners:
        centre, extent = (centre + extent) / 2, extent - centre
    axis = len(deltas.shape) - 1
    move = writer.slice(deltas, axis, 0, 2, f"{name}/move")
    grow = writer.slice(deltas, axis, 2, 4, f"{name}/grow")
    step = writer.floats(f"{name}/step", extent * np.array(scales[:2], np.float32))
    middle = writer.binary("Mul", move, step, f"{name}/offset")
    middle = writer.binary(
        "Add", middle, writer.floats(f"{name}/centres", centre), f"{name}/centre"
    )
    factor = writer.floats(f"{name}/factor", scales[2:])
    power = writer.binary("Mul", grow, factor, f"{name}/power")
    if limit > 0:
        power = writer.binary(
            "Min", power, writer.floats(f"{name}/limit", limit), f"{name}/limited"
        )
    half = writer.op("Exp", [power], f"{name}/exp", power.shape)
    half = writer.binary("Mul", half, writer.floats(f"{name}/halves", extent / 2), f"{name}/half")
    low = writer.binary("Sub", middle, half, f"{name}/low")
    high = writer.binary("Add", middle, half, f"{name}/high")
    return writer.concat([low, high], axis, name)
