"""The nodes that turn a head's tensors into `boxes` and `scores`.

All stand under ``decode/``, which precision transforms leave in float32. Each function
names the formula's source in the record of :mod:`boxwright.graph.heads.describe`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.card import Head as CardHead
from boxwright.errors import ModelError
from boxwright.graph.builder import GraphBuilder
from boxwright.graph.heads.describe import (
    Anchors,
    BoxFormat,
    Distances,
    Grid,
    Head,
    Priors,
    Rows,
    Selected,
)
from boxwright.graph.heads.priors import cells, grid_sizes

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Raw:
    """Names of a head's float32 tensors, level by level.

    Attributes:
        boxes: Tensors with the boxes; with all values, where `classes` is empty.
        classes: Tensors with the class values, where they are tensors of their own.
        objectness: Tensors with the objectness, likewise; for :class:`Selected` the scores.
        count: For :class:`Selected`, a tensor that says how many rows of each image count.
    """

    boxes: tuple[str, ...]
    classes: tuple[str, ...] = ()
    objectness: tuple[str, ...] = ()
    count: str | None = None


@dataclass(frozen=True)
class Decoded:
    """A head's part of the contract.

    Attributes:
        boxes: Name of the tensor ``(N, rows, 4)``, `xyxy` in input pixels.
        scores: Name of the tensor ``(N, rows, classes)``.
        rows: How many rows, or ``None`` where only the network knows.
        heads: What the card says, one record for each level.
    """

    boxes: str
    scores: str
    rows: int | None
    heads: tuple[CardHead, ...]


def decode(
    graph: GraphBuilder,
    head: Head,
    raw: Raw,
    size: tuple[int, int],
    *,
    rows: int | None = None,
    priors: NDArray[np.float64] | None = None,
    name: str = "",
) -> Decoded:
    """Add the decoding of a head to a graph.

    Args:
        graph: Where to add it.
        head: What the tensors mean.
        raw: The tensors, float32.
        size: ``(height, width)`` of the network's input in pixels.
        rows: How many candidates there are, where the caller knows; needed for nothing
            but the card when the head is :class:`Rows` or :class:`Selected`.
        priors: For :class:`Priors`, the prior boxes: `cxcywh` in input pixels, ``(A, 4)``.
        name: Stands behind ``decode/`` in the names of nodes; the head's kind, if not given.

    Raises:
        ModelError: The numbers of tensors, levels, rows or priors do not fit each other.
    """
    name = f"decode/{name or head.kind}"
    if isinstance(head, Selected):
        boxes, scores = _selected(graph, head, raw, size, rows, name)
        levels = [((1, rows), rows)] if rows else []
        return Decoded(boxes, scores, rows, _card_heads(head, raw, levels))
    levels = _levels(head, size, rows, priors)
    _check_tensors(head, raw, len(levels))
    parts = _parts(graph, head, raw, name)
    boxes = _boxes(graph, head, parts["boxes"], size, priors, name)
    scores = _scores(graph, head, parts, name)
    total = sum(count for _, count in levels) or None
    return Decoded(boxes, scores, total, _card_heads(head, raw, levels))


Levels = list[tuple[tuple[int, int], int]]


def _levels(
    head: Head, size: tuple[int, int], rows: int | None, priors: NDArray[np.float64] | None
) -> Levels:
    """Grid and number of candidates of each level; one of no grid is ``(1, candidates)``."""
    if isinstance(head, (Anchors, Grid, Distances)):
        each = _each(head)
        levels = [(grid, grid[0] * grid[1] * each) for grid in grid_sizes(size, head.strides)]
        total = sum(count for _, count in levels)
        if rows is not None and rows != total:
            grids = ", ".join(f"{grid[0]}x{grid[1]}" for grid, _ in levels)
            raise ModelError(
                f"head: strides {head.strides} with {each} anchors on {size[0]}x{size[1]} pixels "
                f"(height x width) make grids of {grids} and {total} candidates, but the "
                f"network gives {rows}; say the right strides or size"
            )
        return levels
    if isinstance(head, Priors):
        if priors is None or priors.ndim != 2 or priors.shape[1] != 4 or not len(priors):
            raise ModelError("head: prior boxes must be cxcywh in pixels, (A, 4)")
        if rows is not None and rows != len(priors):
            raise ModelError(f"head: {len(priors)} prior boxes do not fit {rows} candidates")
        rows = len(priors)
    return [((1, rows), rows)] if rows else []


def _check_tensors(head: Head, raw: Raw, levels: int) -> None:
    counts = {len(names) for names in (raw.boxes, raw.classes, raw.objectness) if names}
    joined = not isinstance(head, Selected) and head.layout in ("rows", "columns")
    if isinstance(head, (Anchors, Grid, Distances)):
        expected = {1, levels} if joined else {levels}
    else:
        expected = counts
    if len(counts) != 1 or not counts <= expected or bool(raw.objectness) > bool(raw.classes):
        raise ModelError(
            f"head: {levels} levels need as many tensors of boxes, classes and objectness, got "
            f"{len(raw.boxes)}, {len(raw.classes)} and {len(raw.objectness)}"
        )


def _each(head: Head) -> int:
    """Candidates per cell."""
    return len(head.anchors[0]) if isinstance(head, Anchors) else 1


def _card_heads(head: Head, raw: Raw, levels: Levels) -> tuple[CardHead, ...]:
    return tuple(
        CardHead(
            kind=head.kind,
            grid=grid,
            anchors=head.anchors[i] if isinstance(head, Anchors) else (),
            rows=count,
            # Tensors that hold all levels stand for each of them.
            tensor=raw.boxes[min(i, len(raw.boxes) - 1)],
        )
        for i, (grid, count) in enumerate(levels)
    )


_Scored = Rows | Anchors | Grid | Distances | Priors


def _parts(graph: GraphBuilder, head: _Scored, raw: Raw, name: str) -> dict[str, str]:
    """Boxes, classes and perhaps objectness as ``(N, A, values)``, levels joined."""
    extents = {
        "boxes": 4 * head.bins if isinstance(head, Distances) else 4,
        "objectness": 1,
        "classes": head.class_columns,
    }
    given = {"boxes": raw.boxes, "classes": raw.classes, "objectness": raw.objectness}
    if not raw.classes:
        values = sum(extents[column] for column in head.columns)
        whole = _joined(graph, head, raw.boxes, values, f"{name}/levels")
        pieces = graph.split(whole, [extents[c] for c in head.columns], 2, f"{name}/parts")
        return dict(zip(head.columns, pieces, strict=True))
    return {
        column: _joined(graph, head, tensors, extents[column], f"{name}/{column}")
        for column, tensors in given.items()
        if tensors
    }


def _joined(
    graph: GraphBuilder, head: _Scored, tensors: Sequence[str], values: int, name: str
) -> str:
    parts = [
        _rows(graph, tensor, head, values, f"{name}{i}" if len(tensors) > 1 else f"{name}/rows")
        for i, tensor in enumerate(tensors)
    ]
    return graph.concat(parts, 1, name)


def _rows(graph: GraphBuilder, x: str, head: _Scored, values: int, name: str) -> str:
    """One tensor as ``(N, A, values)``."""
    if head.layout == "rows":
        return x
    if head.layout == "columns":
        return graph.add("Transpose", [x], name, perm=[0, 2, 1])
    if head.layout in ("pixels", "anchor_maps"):
        return graph.reshape(x, [0, -1, values], name)
    each = _each(head)
    if each == 1:
        flat = graph.reshape(x, [0, values, -1], f"{name}/flat")
        return graph.add("Transpose", [flat], name, perm=[0, 2, 1])
    flat = graph.reshape(x, [0, each, values, -1], f"{name}/flat")
    moved = graph.add("Transpose", [flat], f"{name}/cells", perm=[0, 1, 3, 2])
    return graph.reshape(moved, [0, -1, values], name)


def _scores(graph: GraphBuilder, head: _Scored, parts: dict[str, str], name: str) -> str:
    classes, objectness = parts["classes"], parts.get("objectness")
    if head.activation == "sigmoid":
        classes = graph.add("Sigmoid", [classes], f"{name}/classes/sigmoid")
    elif head.activation == "softmax":
        classes = graph.add("Softmax", [classes], f"{name}/classes/softmax", axis=2)
    if objectness is not None and head.activation != "none":
        objectness = graph.add("Sigmoid", [objectness], f"{name}/objectness/sigmoid")
    if head.background != "none":
        start = 1 if head.background == "first" else 0
        classes = graph.slice(classes, start, start + head.classes, 2, f"{name}/foreground")
    if objectness is None:
        return classes
    product = graph.add("Mul", [classes, objectness], f"{name}/scores")
    return graph.add("Sqrt", [product], f"{name}/root") if head.geometric else product


def _boxes(
    graph: GraphBuilder,
    head: _Scored,
    boxes: str,
    size: tuple[int, int],
    priors: NDArray[np.float64] | None,
    name: str,
) -> str:
    if isinstance(head, Rows):
        return _corners_of(graph, boxes, head.box, head.normalised, size, name)
    if isinstance(head, Distances):
        return _distances(graph, head, boxes, size, name)
    if isinstance(head, Priors):
        assert priors is not None  # noqa: S101  # _levels() has seen them
        return _priors(graph, head, boxes, priors, name)
    xy, wh = graph.split(boxes, [2, 2], 2, f"{name}/box")
    if isinstance(head, Grid):
        points, strides = _points(size, head.strides, 0.0)
        centre = _affine(graph, xy, strides, points, f"{name}/centre")
        extent = graph.add("Exp", [wh], f"{name}/exp")
        return _around(graph, centre, _times(graph, extent, strides / 2, f"{name}/half"), name)
    return _anchors(graph, head, xy, wh, size, name)


def _anchors(
    graph: GraphBuilder, head: Anchors, xy: str, wh: str, size: tuple[int, int], name: str
) -> str:
    cell, extent, strides = [], [], []
    for level, stride, (rows, columns) in zip(
        head.anchors, head.strides, grid_sizes(size, head.strides), strict=True
    ):
        places, shapes = cells(rows, columns), np.array(level, np.float64)
        by_cell = head.layout == "pixels"
        if by_cell:
            cell.append(np.repeat(places, len(shapes), axis=0))
            extent.append(np.tile(shapes, (len(places), 1)))
        else:
            cell.append(np.tile(places, (len(shapes), 1)))
            extent.append(np.repeat(shapes, len(places), axis=0))
        strides.append(np.full((len(places) * len(shapes), 1), float(stride)))
    step, anchor = np.concatenate(strides)[None], np.concatenate(extent)[None]
    offset = (np.concatenate(cell)[None] - (head.scale - 1) / 2) * step
    xy = graph.add("Sigmoid", [xy], f"{name}/xy")
    centre = _affine(graph, xy, head.scale * step, offset, f"{name}/centre")
    if head.size == "exp":
        factor = graph.add("Exp", [wh], f"{name}/exp")
        return _around(graph, centre, _times(graph, factor, anchor / 2, f"{name}/half"), name)
    wh = graph.add("Sigmoid", [wh], f"{name}/wh")
    square = graph.add("Mul", [wh, wh], f"{name}/square")
    # Half of (2 s)² a.
    return _around(graph, centre, _times(graph, square, anchor * 2, f"{name}/half"), name)


def _distances(
    graph: GraphBuilder, head: Distances, boxes: str, size: tuple[int, int], name: str
) -> str:
    points, strides = _points(size, head.strides, head.offset)
    if head.bins > 1:
        bins = graph.reshape(boxes, [0, -1, 4, head.bins], f"{name}/bins")
        weights = graph.add("Softmax", [bins], f"{name}/distribution", axis=3)
        numbers = np.arange(head.bins, dtype=np.float32)[:, None]
        mean = graph.add(
            "MatMul", [weights, graph.constant(f"{name}/bin", numbers)], f"{name}/mean"
        )
        boxes = graph.reshape(mean, [0, -1, 4], f"{name}/distances")
    elif head.exponential:
        boxes = graph.add("Exp", [boxes], f"{name}/distances")
    if head.in_strides:
        boxes = _times(graph, boxes, strides, f"{name}/pixels")
    before, after = graph.split(boxes, [2, 2], 2, f"{name}/sides")
    point = graph.constant(f"{name}/points", points.astype(np.float32))
    low = graph.add("Sub", [point, before], f"{name}/low_corner")
    high = graph.add("Add", [point, after], f"{name}/high_corner")
    return graph.add("Concat", [low, high], f"{name}/xyxy", axis=2)


def _priors(
    graph: GraphBuilder, head: Priors, boxes: str, priors: NDArray[np.float64], name: str
) -> str:
    centre, extent = priors[None, :, :2], priors[None, :, 2:]
    variances = np.array(head.variances, np.float64)
    first, second = graph.split(boxes, [2, 2], 2, f"{name}/box")
    if head.order == "yxhw":
        swap = graph.constant(f"{name}/swap", np.array([1, 0], np.int64))
        first = graph.add("Gather", [first, swap], f"{name}/xy", axis=2)
        second = graph.add("Gather", [second, swap], f"{name}/wh", axis=2)
    middle = _affine(graph, first, extent * variances[:2], centre, f"{name}/centre")
    scaled = _times(graph, second, variances[None, None, 2:], f"{name}/scaled")
    if head.limit is not None:
        scaled = graph.add("Min", [scaled, graph.scalar(head.limit)], f"{name}/limited")
    factor = graph.add("Exp", [scaled], f"{name}/exp")
    return _around(graph, middle, _times(graph, factor, extent / 2, f"{name}/half"), name)


def _selected(
    graph: GraphBuilder,
    head: Selected,
    raw: Raw,
    size: tuple[int, int],
    rows: int | None,
    name: str,
) -> tuple[str, str]:
    """Each detection's score goes into its class's column."""
    if raw.classes:
        boxes = raw.boxes[0]
        # (N, K) to (N, K, 1).
        score = graph.reshape(raw.objectness[0], [0, -1, 1], f"{name}/score")
        label = graph.reshape(raw.classes[0], [0, -1, 1], f"{name}/label")
    else:
        extents = [4 if column == "boxes" else 1 for column in head.columns]
        pieces = graph.split(raw.boxes[0], extents, 2, f"{name}/parts")
        parts = dict(zip(head.columns, pieces, strict=True))
        boxes, score, label = parts["boxes"], parts["score"], parts["class"]
    # Numbers of classes up to 2^24 are exact in float32; half a class apart is no match.
    numbers = np.arange(head.first_class, head.first_class + head.classes, dtype=np.float32)
    apart = graph.add("Sub", [label, graph.constant(f"{name}/numbers", numbers)], f"{name}/apart")
    distance = graph.add("Abs", [apart], f"{name}/distance")
    same = graph.add("Less", [distance, graph.scalar(0.5)], f"{name}/same")
    scores = graph.add("Where", [same, score, graph.scalar(0.0)], f"{name}/one_hot")
    if raw.count is not None:
        # Rows from the count on hold whatever was there before.
        place = _places(graph, score, rows, f"{name}/place")
        count = graph.reshape(raw.count, [-1, 1, 1], f"{name}/count")
        counts = graph.add("Less", [place, count], f"{name}/counts")
        scores = graph.add("Where", [counts, scores, graph.scalar(0.0)], f"{name}/counted")
    return _corners_of(graph, boxes, head.box, head.normalised, size, name), scores


def _places(graph: GraphBuilder, score: str, rows: int | None, name: str) -> str:
    """Numbers of the rows, ``(1, rows, 1)`` float32."""
    if rows is not None:
        return graph.constant(name, np.arange(rows, dtype=np.float32)[None, :, None])
    from onnx import TensorProto

    shape = graph.add("Shape", [score], f"{name}/shape")
    length = graph.slice(shape, 1, 2, 0, f"{name}/length")
    limit = graph.reshape(length, [], f"{name}/limit")
    zero, one = (graph.constant(f"{name}/{n}", np.array(n, np.int64)) for n in (0, 1))
    numbers = graph.add("Range", [zero, limit, one], f"{name}/numbers")
    floats = graph.add("Cast", [numbers], f"{name}/float", to=TensorProto.FLOAT)
    return graph.reshape(floats, [1, -1, 1], name)


def _corners_of(
    graph: GraphBuilder,
    boxes: str,
    box: BoxFormat,
    normalised: bool,
    size: tuple[int, int],
    name: str,
) -> str:
    """Decoded boxes of any format as `xyxy` in pixels."""
    if box == "yxyx":
        order = graph.constant(f"{name}/order", np.array([1, 0, 3, 2], np.int64))
        boxes = graph.add("Gather", [boxes, order], f"{name}/xyxy", axis=2)
    if normalised:
        height, width = size
        boxes = _times(graph, boxes, np.array([width, height] * 2), f"{name}/pixels")
    if box in ("xyxy", "yxyx"):
        return boxes
    first, extent = graph.split(boxes, [2, 2], 2, f"{name}/box")
    if box == "xywh":
        high = graph.add("Add", [first, extent], f"{name}/high_corner")
        return graph.add("Concat", [first, high], f"{name}/xyxy", axis=2)
    half = graph.add("Mul", [extent, graph.scalar(0.5)], f"{name}/half")
    return _around(graph, first, half, name)


def _points(
    size: tuple[int, int], strides: Sequence[int], offset: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each candidate's point in pixels ``(1, A, 2)``, and its stride ``(1, A, 1)``."""
    points, steps = [], []
    for stride, (rows, columns) in zip(strides, grid_sizes(size, strides), strict=True):
        points.append((cells(rows, columns) + offset) * stride)
        steps.append(np.full((rows * columns, 1), float(stride)))
    return np.concatenate(points)[None], np.concatenate(steps)[None]


def _affine(
    graph: GraphBuilder, x: str, factor: NDArray[np.float64], offset: NDArray[np.float64], name: str
) -> str:
    scaled = _times(graph, x, factor, f"{name}/scaled")
    return graph.add(
        "Add", [scaled, graph.constant(f"{name}/offset", offset.astype(np.float32))], name
    )


def _times(graph: GraphBuilder, x: str, factor: NDArray[np.float64], name: str) -> str:
    return graph.add("Mul", [x, graph.constant(f"{name}/factor", factor.astype(np.float32))], name)


def _around(graph: GraphBuilder, centre: str, half: str, name: str) -> str:
    low = graph.add("Sub", [centre, half], f"{name}/low_corner")
    high = graph.add("Add", [centre, half], f"{name}/high_corner")
    return graph.add("Concat", [low, high], f"{name}/xyxy", axis=2)
