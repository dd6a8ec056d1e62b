"""Which detections hit an object, image by image: what any average precision is made of.

Kept per image, so that AP can be computed again for any resampling of the images without
matching anything twice. The rules are COCO's (``evaluateImg`` in pycocotools'
``cocoeval.py``, area range "all"): per image and class the best 100 detections, by falling
score, each take the free object they overlap most, if by at least the threshold. Crowds
may be hit by any number of detections, which then count neither as right nor as wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import InputError

if TYPE_CHECKING:
    from boxwright.datasets import GroundTruth
    from boxwright.detections import Detections

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

IOU_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's: 0.50, 0.55, ... 0.95."""

MAX_DETECTIONS = 100


@dataclass(frozen=True)
class ImageMatches:
    """The detections of one image against its labels.

    Attributes:
        score: float64 ``(n,)``.
        class_id: int64 ``(n,)``.
        hit: bool ``(thresholds, n)``: took an object.
        ignored: bool ``(thresholds, n)``: took a crowd; counts neither way.
        objects: int64 ``(classes,)``: labelled objects that count.
    """

    score: Floats
    class_id: Ints
    hit: Bools
    ignored: Bools
    objects: Ints


def match_image(detections: Detections, labels: GroundTruth, classes: int) -> ImageMatches:
    """Match one image.

    Args:
        detections: In pixels of the source image, classes numbered as the labels'.
        labels: The objects of the same image.
        classes: How many classes there are.

    Raises:
        InputError: A class number is out of range.
    """
    for name, used in (("detection", detections.class_id), ("label", labels.class_id)):
        if len(used) and not 0 <= used.min() <= used.max() < classes:
            raise InputError(f"{name} classes must be 0 to {classes - 1}, got {used.max()}")
    # pycocotools works on left, top, width, height in float64, and so must we to the bit.
    corners = detections.xyxy.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    scores: list[Floats] = []
    numbers: list[Ints] = []
    hits = [np.zeros((len(IOU_THRESHOLDS), 0), bool)]
    ignores = [np.zeros((len(IOU_THRESHOLDS), 0), bool)]
    for class_id in np.unique(detections.class_id).tolist():
        rows = np.flatnonzero(detections.class_id == class_id)
        score = detections.score[rows].astype(np.float64)
        order = np.argsort(-score, kind="stable")[:MAX_DETECTIONS]
        own = labels.class_id == class_id
        hit, ignored = _match_class(boxes[rows[order]], labels.xywh[own], labels.crowd[own])
        scores.append(score[order])
        numbers.append(np.full(len(order), class_id, np.int64))
        hits.append(hit)
        ignores.append(ignored)
    return ImageMatches(
        np.concatenate([np.zeros(0), *scores]),
        np.concatenate([np.zeros(0, np.int64), *numbers]),
        np.concatenate(hits, axis=1),
        np.concatenate(ignores, axis=1),
        np.bincount(labels.class_id[~labels.crowd], minlength=classes).astype(np.int64),
    )


def _match_class(boxes: Floats, objects: Floats, crowd: Bools) -> tuple[Bools, Bools]:
    """Detections (best first) against the objects of their class, at every threshold."""
    shape = (len(IOU_THRESHOLDS), len(boxes))
    hit, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    if not len(objects):
        return hit, ignored
    # Objects that count come first: a crowd is taken only where none of them can be.
    order = np.argsort(crowd, kind="stable")
    crowd = crowd[order]
    iou = _iou_xywh(boxes, objects[order], crowd)
    for t, threshold in enumerate(IOU_THRESHOLDS):
        free = np.ones(len(crowd), bool)
        # A detection that overlaps nothing by the threshold can take nothing.
        for i in np.flatnonzero((iou >= min(threshold, 1 - 1e-10)).any(axis=1)).tolist():
            able = iou[i] >= min(threshold, 1 - 1e-10)
            counting = able & free & ~crowd
            if counting.any():
                # Of equal overlaps pycocotools takes the last: it replaces on >=.
                free[_last_best(iou[i], counting)] = False
                hit[t, i] = True
            elif (able & crowd).any():
                ignored[t, i] = True
    return hit, ignored


def _last_best(iou: Floats, allowed: Bools) -> int:
    values = np.where(allowed, iou, -1.0)
    return int(len(values) - 1 - np.argmax(values[::-1]))


def _iou_xywh(boxes: Floats, objects: Floats, crowd: Bools) -> Floats:
    """``(n, m)``; for a crowd the part of the detection within it (``maskApi.c`` bbIou)."""
    low = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = np.minimum(
        boxes[:, None, :2] + boxes[:, None, 2:], objects[None, :, :2] + objects[None, :, 2:]
    )
    intersection = np.maximum(high - low, 0).prod(axis=2)
    area = boxes[:, 2] * boxes[:, 3]
    union = area[:, None] + (objects[:, 2] * objects[:, 3])[None] - intersection
    union = np.where(crowd[None], area[:, None], union)
    result: Floats = np.divide(
        intersection, union, out=np.zeros_like(intersection), where=union > 0
    )
    return result
