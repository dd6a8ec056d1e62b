"""Darknet's heads as TensorRT layers; rows and formulas as in :mod:`boxwright.darknet.decode`."""

from __future__ import annotations

from typing import Any

import numpy as np

from boxwright.darknet.decode import anchor_rows, cell_rows, stride_of
from boxwright.darknet.layers import Head, Shape
from boxwright.darknet.tensorrt.graph import NetworkGraph


def decode(graph: NetworkGraph, head: Head, raw: Any, net: Shape) -> tuple[Any, Any]:
    """Add the decoding of one ``[yolo]`` or ``[region]`` head.

    Args:
        graph: Where to add it.
        head: The head.
        raw: The tensor ``(N, anchors * values, H, W)`` that enters it.
        net: Shape of the network's input.

    Returns:
        Its boxes ``(N, rows, 4)``, ``xyxy`` in pixels of the network's input, and its
        scores ``(N, rows, classes)``.
    """
    name = f"decode/{head.index:03d}_{head.kind}"
    values, cells = 5 + head.classes, head.shape.height * head.shape.width
    rows = graph.shuffle(
        raw,
        f"{name}/rows",
        before=(0, head.count, values, cells),
        perm=(0, 3, 1, 2),
        after=(0, head.rows, values),
    )
    xy, wh, objectness, classes = graph.split(
        rows, (head.rows, values), (2, 2, 1, head.classes), f"{name}/parts"
    )
    half_anchor = anchor_rows(head).astype(np.float64) / 2
    if head.new_coords:
        # Already activated; a size is (2t)² anchors.
        size, half_anchor = graph.elementwise("PROD", wh, wh, f"{name}/square"), 4 * half_anchor
    else:
        xy = graph.activation("SIGMOID", xy, f"{name}/xy")
        objectness = graph.activation("SIGMOID", objectness, f"{name}/objectness")
        size = graph.unary("EXP", wh, f"{name}/exp")
    if head.kind == "region":
        # get_region_boxes: anchors in cells, a floor, a softmax or nothing over the classes.
        half_anchor = half_anchor * stride_of(head, net)
        objectness = _floored(graph, head, objectness, name)
        if head.softmax:
            classes = graph.softmax(classes, 2, f"{name}/softmax")
    elif not head.new_coords:
        classes = graph.activation("SIGMOID", classes, f"{name}/classes")
    anchor = graph.constant(half_anchor.astype(np.float32), f"{name}/anchor")
    half = graph.elementwise("PROD", size, anchor, f"{name}/half")
    centre = _centre(graph, head, xy, net, name)
    low = graph.elementwise("SUB", centre, half, f"{name}/low_corner")
    high = graph.elementwise("SUM", centre, half, f"{name}/high_corner")
    boxes = graph.concatenation([low, high], 2, f"{name}/xyxy")
    return boxes, graph.elementwise("PROD", classes, objectness, f"{name}/scores")


def _floored(graph: NetworkGraph, head: Head, objectness: Any, name: str) -> Any:
    if not head.objectness_floor:
        return objectness
    floor, zero = graph.scalar(head.objectness_floor, 3), graph.scalar(0.0, 3)
    low = graph.elementwise("LESS", objectness, floor, f"{name}/low")
    return graph.layer("select", f"{name}/floored", low, zero, objectness).get_output(0)


def _centre(graph: NetworkGraph, head: Head, xy: Any, net: Shape, name: str) -> Any:
    """``(s * xy - (s - 1) / 2 + cell) * stride`` as one factor and one offset."""
    stride = stride_of(head, net)
    factor = (head.scale_x_y * stride).astype(np.float32).reshape(1, 1, 2)
    offset = ((cell_rows(head) - (head.scale_x_y - 1) / 2) * stride).astype(np.float32)
    scaled = graph.elementwise(
        "PROD", xy, graph.constant(factor, f"{name}/stride"), f"{name}/scaled"
    )
    return graph.elementwise(
        "SUM", scaled, graph.constant(offset, f"{name}/cell"), f"{name}/centre"
    )
