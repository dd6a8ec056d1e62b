"""Darknet's heads in standard operators: raw tensors to `boxes` and `scores`.

Rows come in Darknet's own order of candidates: cell by cell, row by row of the grid, and
within a cell anchor by anchor. Boxes are `xyxy` in pixels of the network's input. Nodes
bear names under ``decode/``, which precision transforms leave in float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boxwright.darknet.layers import Head, Shape, Tree
from boxwright.graph.builder import GraphBuilder

Floats = NDArray[np.float32]


def decode(graph: GraphBuilder, head: Head, raw: str, net: Shape) -> tuple[str, str]:
    """Add the decoding of one head.

    Args:
        graph: Where to add it.
        head: The head.
        raw: Name of the tensor that enters it.
        net: Shape of the network's input.

    Returns:
        Names of its boxes ``(N, rows, 4)`` and scores ``(N, rows, classes)``.
    """
    name = f"decode/{head.index:03d}_{head.kind}"
    if head.kind == "detection":
        return _decode_detection(graph, head, raw, net, name)
    candidates = _rows(graph, head, raw, name)
    if head.kind == "gaussian_yolo":
        return _decode_gaussian(graph, head, candidates, net, name)
    if head.kind == "region":
        return _decode_region(graph, head, candidates, net, name)
    return _decode_yolo(graph, head, candidates, net, name)


def _rows(graph: GraphBuilder, head: Head, raw: str, name: str) -> str:
    """``(N, anchors * values, H, W)`` to ``(N, H * W * anchors, values)``."""
    values = head.input_shape.channels // head.count
    cells = head.shape.height * head.shape.width
    parts = graph.reshape(raw, [0, head.count, values, cells], f"{name}/anchors")
    moved = graph.add("Transpose", [parts], f"{name}/cells", perm=[0, 3, 1, 2])
    return graph.reshape(moved, [0, head.rows, values], f"{name}/rows")


def _decode_yolo(
    graph: GraphBuilder, head: Head, rows: str, net: Shape, name: str
) -> tuple[str, str]:
    """``get_yolo_box`` and ``get_yolo_detections`` in ``src/yolo_layer.c``."""
    xy, wh, objectness, classes = graph.split(rows, [2, 2, 1, head.classes], 2, f"{name}/parts")
    if not head.new_coords:
        xy = graph.add("Sigmoid", [xy], f"{name}/xy")
        objectness = graph.add("Sigmoid", [objectness], f"{name}/objectness")
        classes = graph.add("Sigmoid", [classes], f"{name}/classes")
        size = graph.add("Exp", [wh], f"{name}/exp")
        half_anchor = anchor_rows(head) / np.float32(2)
    else:
        # (2t)² * anchor, halved.
        size = graph.add("Mul", [wh, wh], f"{name}/square")
        half_anchor = anchor_rows(head) * np.float32(2)
    centre = _centre(graph, head, xy, net, name)
    half = graph.add("Mul", [size, graph.constant(f"{name}/anchor", half_anchor)], f"{name}/half")
    scores = graph.add("Mul", [classes, objectness], f"{name}/scores")
    return _corners(graph, centre, half, name), scores


def _decode_gaussian(
    graph: GraphBuilder, head: Head, rows: str, net: Shape, name: str
) -> tuple[str, str]:
    """``src/gaussian_yolo_layer.c``: each coordinate is a mean followed by its uncertainty."""
    coordinates, rest = graph.split(rows, [8, 1 + head.classes], 2, f"{name}/parts")
    pairs = graph.reshape(coordinates, [0, head.rows, 4, 2], f"{name}/pairs")
    means, sigmas = graph.split(pairs, [1, 1], 3, f"{name}/gaussian")
    means = graph.reshape(means, [0, head.rows, 4], f"{name}/means")
    xy, wh = graph.split(means, [2, 2], 2, f"{name}/box")
    xy = graph.add("Sigmoid", [xy], f"{name}/xy")
    size = graph.add("Exp", [wh], f"{name}/exp")
    anchor = graph.constant(f"{name}/anchor", anchor_rows(head) / 2)
    half = graph.add("Mul", [size, anchor], f"{name}/half")
    centre = _centre(graph, head, xy, net, name)
    if head.point != "center":
        operator = "Add" if head.point == "left_top" else "Sub"
        centre = graph.add(operator, [centre, half], f"{name}/moved")
    sigmas = graph.reshape(sigmas, [0, head.rows, 4], f"{name}/sigmas")
    sigmas = graph.add("Sigmoid", [sigmas], f"{name}/sigma")
    mean = graph.add("ReduceMean", [sigmas], f"{name}/uncertainty", axes=[2], keepdims=1)
    certainty = graph.add("Sub", [graph.scalar(1.0), mean], f"{name}/certainty")
    objectness, classes = graph.split(
        graph.add("Sigmoid", [rest], f"{name}/sigmoid"), [1, head.classes], 2, f"{name}/rest"
    )
    gate = graph.add("Mul", [objectness, certainty], f"{name}/gate")
    scores = graph.add("Mul", [classes, gate], f"{name}/scores")
    return _corners(graph, centre, half, name), scores


def _decode_region(
    graph: GraphBuilder, head: Head, rows: str, net: Shape, name: str
) -> tuple[str, str]:
    """``get_region_box`` and ``get_region_boxes`` in ``src/region_layer.c``."""
    xy, wh, objectness, classes = graph.split(rows, [2, 2, 1, head.classes], 2, f"{name}/parts")
    xy = graph.add("Sigmoid", [xy], f"{name}/xy")
    objectness = graph.add("Sigmoid", [objectness], f"{name}/objectness")
    size = graph.add("Exp", [wh], f"{name}/exp")
    # Anchors are in cells.
    half_anchor: Floats = (anchor_rows(head) * stride_of(head, net) / 2).astype(np.float32)
    half = graph.add("Mul", [size, graph.constant(f"{name}/anchor", half_anchor)], f"{name}/half")
    boxes = _corners(graph, _centre(graph, head, xy, net, name), half, name)
    if head.objectness_floor:
        floor = graph.scalar(head.objectness_floor)
        low = graph.add("Less", [objectness, floor], f"{name}/low")
        objectness = graph.add("Where", [low, graph.scalar(0.0), objectness], f"{name}/floored")
    if head.tree is not None:
        return boxes, _tree_scores(graph, head.tree, classes, objectness, name)
    if head.softmax:
        classes = graph.add("Softmax", [classes], f"{name}/softmax", axis=2)
    return boxes, graph.add("Mul", [classes, objectness], f"{name}/scores")


def _decode_detection(
    graph: GraphBuilder, head: Head, raw: str, net: Shape, name: str
) -> tuple[str, str]:
    """``get_detection_detections`` in ``src/detection_layer.c`` (YOLOv1)."""
    cells, count = head.shape.height * head.shape.width, head.count
    flat = graph.reshape(raw, [0, head.input_shape.size], f"{name}/flat")
    sizes = [cells * head.classes, cells * count, cells * count * 4]
    classes, objectness, boxes = graph.split(flat, sizes, 1, f"{name}/parts")
    classes = graph.reshape(classes, [0, cells, 1, head.classes], f"{name}/classes")
    if head.softmax:
        classes = graph.add("Softmax", [classes], f"{name}/softmax", axis=3)
    objectness = graph.reshape(objectness, [0, cells, count, 1], f"{name}/objectness")
    product = graph.add("Mul", [classes, objectness], f"{name}/product")
    scores = graph.reshape(product, [0, head.rows, head.classes], f"{name}/scores")
    boxes = graph.reshape(boxes, [0, head.rows, 4], f"{name}/boxes")
    xy, wh = graph.split(boxes, [2, 2], 2, f"{name}/box")
    if head.square_root:
        wh = graph.add("Mul", [wh, wh], f"{name}/square")
    half_net = np.array([net.width / 2, net.height / 2], np.float32)
    half = graph.add("Mul", [wh, graph.constant(f"{name}/net", half_net)], f"{name}/half")
    return _corners(graph, _centre(graph, head, xy, net, name), half, name), scores


def _centre(graph: GraphBuilder, head: Head, xy: str, net: Shape, name: str) -> str:
    """``(s * xy - (s - 1) / 2 + cell) * stride`` as one factor and one offset."""
    stride = stride_of(head, net)
    factor = (head.scale_x_y * stride).astype(np.float32)
    offset = (cell_rows(head) - (head.scale_x_y - 1) / 2) * stride
    scaled = graph.add("Mul", [xy, graph.constant(f"{name}/stride", factor)], f"{name}/scaled")
    cell = graph.constant(f"{name}/cell", offset.astype(np.float32))
    return graph.add("Add", [scaled, cell], f"{name}/centre")


def _corners(graph: GraphBuilder, centre: str, half: str, name: str) -> str:
    low = graph.add("Sub", [centre, half], f"{name}/low_corner")
    high = graph.add("Add", [centre, half], f"{name}/high_corner")
    return graph.add("Concat", [low, high], f"{name}/xyxy", axis=2)


def stride_of(head: Head, net: Shape) -> NDArray[np.float64]:
    """Input pixels per cell, ``(x, y)``."""
    return np.array([net.width / head.shape.width, net.height / head.shape.height])


def cell_rows(head: Head) -> NDArray[np.float64]:
    """Column and row of each candidate's cell, ``(1, rows, 2)``."""
    rows, columns = np.mgrid[: head.shape.height, : head.shape.width]
    cells = np.stack([columns.ravel(), rows.ravel()], axis=1)
    return np.repeat(cells, head.count, axis=0)[None].astype(np.float64)


def anchor_rows(head: Head) -> Floats:
    """Anchor of each candidate, ``(1, rows, 2)``."""
    cells = head.shape.height * head.shape.width
    return np.tile(np.array(head.anchors, np.float32), (cells, 1))[None]


def _tree_scores(graph: GraphBuilder, tree: Tree, classes: str, objectness: str, name: str) -> str:
    """YOLO9000: the deepest class whose probability along the tree exceeds one half.

    Darknet reports that class's probability when the objectness exceeds the threshold
    (``get_region_boxes``). One number cannot carry two conditions, so the score is the
    smaller of both: it exceeds a threshold exactly when Darknet yields the candidate
    (for thresholds up to 0.5, below which no probability lies).
    """
    probabilities = _tree_probabilities(graph, tree, classes, name)
    count = len(tree.parents)
    likely = graph.add("Greater", [probabilities, graph.scalar(0.5)], f"{name}/likely")
    # Children follow their parents, so the highest number is the deepest class.
    order = graph.constant(f"{name}/order", np.arange(1, count + 1, dtype=np.float32))
    ranks = graph.add("Where", [likely, order, graph.scalar(0.0)], f"{name}/ranks")
    top = graph.add("ReduceMax", [ranks], f"{name}/top", axes=[2], keepdims=1)
    chosen = graph.add("Equal", [order, top], f"{name}/chosen")
    gated = graph.add("Min", [probabilities, objectness], f"{name}/gated")
    return graph.add("Where", [chosen, gated, graph.scalar(0.0)], f"{name}/scores")


def _tree_probabilities(graph: GraphBuilder, tree: Tree, classes: str, name: str) -> str:
    """A softmax among siblings, then the product along the path from the root.

    Groups of one size are taken together and levels of the tree one after the other, so
    the number of nodes follows the number of sizes and levels, not of groups.
    """
    starts = np.cumsum([0, *tree.group_sizes[:-1]])
    sizes = np.array(tree.group_sizes)
    parts, order = [], []
    for size in sorted(set(tree.group_sizes)):
        members = (starts[sizes == size][:, None] + np.arange(size)).ravel()
        label = f"{name}/siblings{size}"
        index = graph.constant(f"{label}/index", members)
        taken = graph.add("Gather", [classes, index], f"{label}/taken", axis=2)
        groups = graph.reshape(taken, [0, 0, -1, size], f"{label}/groups")
        softmax = graph.add("Softmax", [groups], f"{label}/softmax", axis=3)
        parts.append(graph.reshape(softmax, [0, 0, len(members)], f"{label}/flat"))
        order.append(members)
    conditional = _unsort(graph, parts, np.concatenate(order), f"{name}/conditional")

    parents = np.array(tree.parents)
    depth = np.zeros(len(parents), np.int64)
    for child, parent in enumerate(tree.parents):
        depth[child] = 0 if parent < 0 else depth[parent] + 1
    level = np.flatnonzero(depth == 0)
    index = graph.constant(f"{name}/level0/index", level)
    product = graph.add("Gather", [conditional, index], f"{name}/level0", axis=2)
    parts, order = [product], [level]
    for step in range(1, int(depth.max()) + 1):
        children = np.flatnonzero(depth == step)
        # Where each child's parent stands within the level above.
        place = np.searchsorted(level, parents[children])
        label = f"{name}/level{step}"
        above = graph.add(
            "Gather", [product, graph.constant(f"{label}/parent", place)], f"{label}/above", axis=2
        )
        own = graph.add(
            "Gather",
            [conditional, graph.constant(f"{label}/index", children)],
            f"{label}/own",
            axis=2,
        )
        product = graph.add("Mul", [own, above], f"{label}/product")
        parts.append(product)
        order.append(children)
        level = children
    return _unsort(graph, parts, np.concatenate(order), f"{name}/probabilities")


def _unsort(graph: GraphBuilder, parts: list[str], order: NDArray[np.int64], name: str) -> str:
    """Concatenate parts whose entries are classes `order`, and bring them into class order."""
    joined = graph.add("Concat", parts, f"{name}/joined", axis=2) if len(parts) > 1 else parts[0]
    inverse = graph.constant(f"{name}/inverse", np.argsort(order))
    return graph.add("Gather", [joined, inverse], name, axis=2)
