"""Box formats and overlaps, on numpy arrays of shape ``(..., 4)``.

Formats are named in full: `xyxy` is left, top, right, bottom; `cxcywh` is centre and
size; `xywh` is left, top and size. No function rounds or adds one pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def cxcywh_to_xyxy(boxes: Floats) -> Floats:
    """Centre and size to corners; any leading shape, same unit in and out."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def xyxy_to_cxcywh(boxes: Floats) -> Floats:
    """Corners to centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


def xyxy_to_xywh(boxes: Floats) -> Floats:
    """Corners to left, top, width, height (COCO's format)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([low, high - low], axis=-1)


def xywh_to_xyxy(boxes: Floats) -> Floats:
    """Left, top, width, height (COCO's format) to corners."""
    low, size = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([low, low + size], axis=-1)


def clip_xyxy(boxes: Floats, height: int, width: int) -> Floats:
    """Corners limited to an image of `height` x `width` pixels."""
    limit = np.array([width, height, width, height], dtype=boxes.dtype)
    return np.clip(boxes, 0, limit)


def area_xyxy(boxes: Floats) -> Floats:
    """Areas of corner boxes, 0 for boxes turned inside out."""
    size = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    result: Floats = size[..., 0] * size[..., 1]
    return result


def iou_xyxy(first: Floats, second: Floats) -> Floats:
    """Intersection over union of every pair.

    Args:
        first: Shape ``(n, 4)``.
        second: Shape ``(m, 4)``.

    Returns:
        Shape ``(n, m)``; 0 where both boxes are empty.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    size = np.maximum(high - low, 0)
    intersection = size[..., 0] * size[..., 1]
    union = area_xyxy(first)[:, None] + area_xyxy(second)[None, :] - intersection
    result: Floats = np.divide(
        intersection, union, out=np.zeros_like(intersection), where=union > 0
    )
    return result


def diou_xyxy(first: Floats, second: Floats, beta: float = 1.0) -> Floats:
    """Distance-IoU of every pair: ``iou - (d² / c²) ** beta``.

    `d` is the distance between centres and `c` the diagonal of the smallest box around
    both (Zheng et al., "Distance-IoU Loss", 2020, equation 5); the exponent is Darknet's
    (``box_diounms`` in ``src/box.c``), which uses 0.6 by default.

    Returns:
        Shape ``(n, m)``; plain IoU where the surrounding box is a point.
    """
    low = np.minimum(first[:, None, :2], second[None, :, :2])
    high = np.maximum(first[:, None, 2:], second[None, :, 2:])
    diagonal = ((high - low) ** 2).sum(axis=-1)
    offset = (first[:, None, :2] + first[:, None, 2:]) / 2 - (
        second[None, :, :2] + second[None, :, 2:]
    ) / 2
    distance = (offset**2).sum(axis=-1)
    ratio = np.divide(distance, diagonal, out=np.zeros_like(distance), where=diagonal > 0)
    result: Floats = iou_xyxy(first, second) - ratio**beta
    return result
