"""Darknet's heads in plain numpy: raw head to boxes and scores; see `numpy_darknet`.

Rows come cell by cell (row, column), then anchor by anchor: Darknet's own order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.oracle.numpy_layers import Array, Section, integer, numbers, real, sigmoid

Decoded = tuple[Array, Array]


def grid(height: int, width: int) -> tuple[Array, Array]:
    """Column and row of each cell, shaped to be added to ``(n, H, W)``."""
    columns, rows = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    return columns[None, None, :], rows[None, :, None]


def in_cell_order(values: Array) -> Array:
    """``(n, k, H, W)`` to ``(H * W * n, k)``."""
    return values.transpose(2, 3, 0, 1).reshape(-1, values.shape[1])


def corners(x: Array, y: Array, w: Array, h: Array, size: tuple[int, int]) -> Array:
    """Relative centre and extent, each ``(n, H, W)``, to `xyxy` pixels in cell order."""
    height, width = size
    stacked = np.stack(
        [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height],
        axis=1,
    )
    return in_cell_order(stacked)


def anchors_of(section: Section) -> Array:
    """The anchors a head uses, ``(n, 2)``; those the cfg lacks are 0.5 (make_yolo_layer)."""
    listed = numbers(section["anchors"])
    every = np.full(2 * integer(section, "num", 1), 0.5)
    every[: len(listed)] = listed[: len(every)]
    pairs: Array = every.reshape(-1, 2)
    if "mask" in section:
        return pairs[[int(n) for n in numbers(section["mask"])]]
    return pairs


def yolo(section: Section, raw: Array, size: tuple[int, int]) -> Decoded:
    """yolo_layer.c: forward_yolo_layer, get_yolo_box, get_yolo_detections."""
    anchors = anchors_of(section)
    scale = real(section, "scale_x_y", 1)
    raw = raw.reshape(len(anchors), -1, *raw.shape[1:])
    height, width = raw.shape[2:]
    column, row = grid(height, width)
    if integer(section, "new_coords", 0):
        head = raw
        extent = (2 * raw[:, 2:4]) ** 2
    else:
        head = sigmoid(raw)
        extent = np.exp(raw[:, 2:4])
    x = (head[:, 0] * scale - (scale - 1) / 2 + column) / width
    y = (head[:, 1] * scale - (scale - 1) / 2 + row) / height
    w = extent[:, 0] * anchors[:, 0, None, None] / size[1]
    h = extent[:, 1] * anchors[:, 1, None, None] / size[0]
    return corners(x, y, w, h, size), in_cell_order(head[:, 4:5] * head[:, 5:])


def gaussian_yolo(section: Section, raw: Array, size: tuple[int, int]) -> Decoded:
    """gaussian_yolo_layer.c: each coordinate comes with its uncertainty."""
    anchors = anchors_of(section)
    scale = real(section, "scale_x_y", 1)
    raw = raw.reshape(len(anchors), -1, *raw.shape[1:])
    height, width = raw.shape[2:]
    column, row = grid(height, width)
    head = sigmoid(raw)
    x = (head[:, 0] * scale - (scale - 1) / 2 + column) / width
    y = (head[:, 2] * scale - (scale - 1) / 2 + row) / height
    w = np.exp(raw[:, 4]) * anchors[:, 0, None, None] / size[1]
    h = np.exp(raw[:, 6]) * anchors[:, 1, None, None] / size[0]
    # get_gaussian_yolo_box: the point predicted may be a corner instead of the centre.
    side = {"left_top": 0.5, "right_bottom": -0.5}.get(section.get("yolo_point", "center"), 0)
    x, y = x + side * w, y + side * h
    certainty = 1 - head[:, [1, 3, 5, 7]].mean(axis=1, keepdims=True)
    return corners(x, y, w, h, size), in_cell_order(head[:, 8:9] * head[:, 9:] * certainty)


def region(section: Section, raw: Array, size: tuple[int, int]) -> Decoded:
    """region_layer.c: anchors in cells, softmax over the classes."""
    anchors = anchors_of(section)
    raw = raw.reshape(len(anchors), -1, *raw.shape[1:])
    height, width = raw.shape[2:]
    column, row = grid(height, width)
    x = (sigmoid(raw[:, 0]) + column) / width
    y = (sigmoid(raw[:, 1]) + row) / height
    w = np.exp(raw[:, 2]) * anchors[:, 0, None, None] / width
    h = np.exp(raw[:, 3]) * anchors[:, 1, None, None] / height
    classes = raw[:, 5:]
    if integer(section, "softmax", 0):
        powers = np.exp(classes - classes.max(axis=1, keepdims=True))
        classes = powers / powers.sum(axis=1, keepdims=True)
    objectness = sigmoid(raw[:, 4:5])
    if integer(section, "classfix", 0) == -1:
        objectness = np.where(objectness < 0.5, 0, objectness)
    return corners(x, y, w, h, size), in_cell_order(objectness * classes)


def detection(section: Section, raw: Array, size: tuple[int, int]) -> Decoded:
    """detection_layer.c: class scores of all cells, then objectness, then boxes."""
    side, count = integer(section, "side", 7), integer(section, "num", 1)
    classes = integer(section, "classes", 1)
    flat = raw.reshape(-1)
    cells = side * side
    probability = flat[: cells * classes].reshape(cells, 1, classes)
    if integer(section, "softmax", 0):
        powers = np.exp(probability - probability.max(axis=2, keepdims=True))
        probability = powers / powers.sum(axis=2, keepdims=True)
    objectness = flat[cells * classes : cells * (classes + count)].reshape(cells, count, 1)
    boxes = flat[cells * (classes + count) :].reshape(cells, count, 4)
    column = (np.arange(cells) % side)[:, None]
    row = (np.arange(cells) // side)[:, None]
    power = 2 if integer(section, "sqrt", 0) else 1
    x, y = (boxes[..., 0] + column) / side, (boxes[..., 1] + row) / side
    w, h = boxes[..., 2] ** power, boxes[..., 3] ** power
    height, width = size
    xyxy = np.stack(
        [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height],
        axis=-1,
    )
    return xyxy.reshape(-1, 4), (objectness * probability).reshape(-1, classes)


DECODERS: dict[str, Callable[[Section, Array, tuple[int, int]], Decoded]] = {
    "yolo": yolo,
    "gaussian_yolo": gaussian_yolo,
    "region": region,
    "detection": detection,
}
