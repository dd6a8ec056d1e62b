"""mAP at one IoU: as Darknet's ``detector map`` prints it, and as the Pascal VOC kits do.

Darknet (``validate_detector_map`` in ``src/detector.c`` of AlexeyAB's repository): every
detection points to the object of its class that it overlaps most, if by more than the IoU
threshold, whether or not that object is taken. Over all images by falling score, the first
detection that points to an object is right, the others wrong. One that points to nothing
but overlaps a difficult object is left out.

The kits (``VOCevaldet.m``): likewise, but difficult objects may be pointed to, and then the
detection is left out; an overlap *equal* to the threshold is enough; the mean is over
classes with objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from boxwright.boxes import iou_xyxy
from boxwright.errors import InputError
from boxwright.evaluate.accuracy import (
    RECALL_POINTS,
    ClassAccuracy,
    OperatingPoint,
    VocAccuracy,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from boxwright.datasets import Dataset, GroundTruth
    from boxwright.detections import Detections

Definition = Literal["darknet", "voc2007", "voc2010"]

DARKNET_SCORE = 0.005
"""Darknet's ``map`` takes part with every detection above this."""

DARKNET_OPERATING_SCORE = 0.25
"""Darknet's ``-thresh`` for TP, FP, FN and the average IoU."""

_POINTS = {"voc2007": 11, "voc2010": 0}


@dataclass
class _Pointers:
    """Every detection of every image, in order of images; columns of equal length.

    Attributes:
        score: float32.
        class_id: int64.
        target: Number of the object pointed to, counted over all images, or -1.
        ignored: Left out of the curve because of a difficult object.
        iou: With the object pointed to; 0 without.
        image: Number of the image.
    """

    score: NDArray[np.float32]
    class_id: NDArray[np.int64]
    target: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    iou: NDArray[np.float64]
    image: NDArray[np.int64]


def voc_accuracy(
    dataset: Dataset,
    detections: Sequence[Detections],
    *,
    definition: Definition = "darknet",
    points: int | None = None,
    iou: float = 0.5,
    score: float = DARKNET_OPERATING_SCORE,
) -> VocAccuracy:
    """MAP of detections at one IoU.

    Args:
        dataset: The labels. Crowds are taken for difficult objects.
        detections: One for each image, in the same order, best first, with classes of the
            dataset (see :meth:`ClassMap.apply`). Darknet's own numbers come from
            detections above `DARKNET_SCORE`, not clipped to the image.
        definition: ``darknet``; ``voc2007`` (11 points); ``voc2010`` (area, 2010 to 2012).
        points: Darknet's ``-points``: 0 for the area under the curve (its default), or
            11 or 101 recall points. The kits' definitions bring their own.
        iou: Darknet's ``-iou_thresh``.
        score: Darknet's ``-thresh``.

    Raises:
        InputError: An argument is out of its range.

    Where one image has several detections of one object above `score`, Darknet counts the
    first *in the order its suppression leaves them*, which depends on the last class; here
    it is the best one. Only `at` can differ by it.
    """
    if definition not in get_args(Definition):
        raise InputError(
            f"definition must be one of {', '.join(get_args(Definition))}, got {definition!r}"
        )
    points = _POINTS.get(definition, 0 if points is None else points)
    if points < 0 or points == 1:
        raise InputError(f"points must be 0, or 2 or more, got {points}")
    if not (0 < iou < 1 and 0 <= score <= 1):
        raise InputError(f"iou must be between 0 and 1, and score 0 to 1, got {iou} and {score}")
    pointers = _point(dataset, detections, iou, definition)
    objects = np.zeros(len(dataset.class_names), np.int64)
    for image in dataset.images:
        counted = image.boxes.class_id[_counts(image.boxes)]
        objects += np.bincount(counted, minlength=len(objects))
    right = _first_to_target(pointers)
    classes = tuple(
        _class_accuracy(name, number, pointers, right, int(objects[number]), points)
        for number, name in enumerate(dataset.class_names)
    )
    present = [item.ap50 or 0.0 for item in classes if item.objects]
    mean_present = float(np.mean(present)) if present else None
    # Darknet divides by all its classes, those without an object (AP 0) included.
    mean = float(np.sum(present) / len(classes)) if present else None
    return VocAccuracy(
        definition=definition,
        points=points,
        iou=iou,
        map=mean if definition == "darknet" else mean_present,
        map_present=mean_present,
        classes=classes,
        at=_operating_point(pointers, score, int(objects.sum())),
        images=len(dataset),
        objects=int(objects.sum()),
        detections=len(pointers.score),
    )


def _counts(boxes: GroundTruth) -> NDArray[np.bool_]:
    return ~(boxes.difficult | boxes.crowd)


def _point(
    dataset: Dataset, detections: Sequence[Detections], iou: float, definition: Definition
) -> _Pointers:
    """Which object each detection points to."""
    parts: list[_Pointers] = []
    first = 0
    for number, (image, found) in enumerate(zip(dataset.images, detections, strict=True)):
        truth = image.boxes
        overlap = np.where(
            found.class_id[:, None] == truth.class_id[None, :],
            iou_xyxy(found.xyxy.astype(np.float64), _corners(truth)),
            -1.0,
        )
        counted = _counts(truth)
        if definition == "darknet":
            target, best = _best(np.where(counted[None, :], overlap, -1.0))
            hit = best > iou
            ignored = ~hit & (overlap[:, ~counted] > iou).any(axis=1)
        else:
            target, best = _best(overlap)
            hit = best >= iou
            ignored = hit & ~counted[target] if len(truth) else np.zeros(len(found), bool)
            hit &= ~ignored
        parts.append(
            _Pointers(
                found.score,
                found.class_id,
                np.where(hit, target + first, -1),
                ignored,
                np.where(hit, best, 0.0),
                np.full(len(found), number, np.int64),
            )
        )
        first += len(truth)
    empty = _Pointers(
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros(0, bool),
        np.zeros(0),
        np.zeros(0, np.int64),
    )
    columns = vars(empty)
    return _Pointers(
        **{
            name: np.concatenate([column, *(getattr(part, name) for part in parts)])
            for name, column in columns.items()
        }
    )


def _corners(truth: GroundTruth) -> NDArray[np.float64]:
    return np.concatenate([truth.xywh[:, :2], truth.xywh[:, :2] + truth.xywh[:, 2:]], axis=1)


def _best(overlap: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The column of the greatest overlap of each row, and that overlap."""
    if not overlap.shape[1]:
        return np.zeros(len(overlap), np.int64), np.full(len(overlap), -1.0)
    target = overlap.argmax(axis=1)
    return target, overlap[np.arange(len(overlap)), target]


def _first_to_target(pointers: _Pointers) -> NDArray[np.bool_]:
    """Whether each detection is the best of all that point to its object."""
    order = np.argsort(-pointers.score, kind="stable")
    order = order[pointers.target[order] >= 0]
    _, first = np.unique(pointers.target[order], return_index=True)
    right = np.zeros(len(pointers.score), bool)
    right[order[first]] = True
    return right


def _class_accuracy(
    name: str,
    number: int,
    pointers: _Pointers,
    right: NDArray[np.bool_],
    objects: int,
    points: int,
) -> ClassAccuracy:
    rows = np.flatnonzero((pointers.class_id == number) & ~pointers.ignored)
    rows = rows[np.argsort(-pointers.score[rows], kind="stable")]
    found = np.cumsum(right[rows])
    if not objects:
        return ClassAccuracy(name, None, None, 0, len(rows))
    precision = found / np.arange(1, len(rows) + 1)
    recall = found / objects
    # The best precision at this recall or beyond.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if points:
        levels = np.arange(points) / (points - 1)
        ap = float(_at(levels, recall, envelope).mean())
    else:
        ap = float((np.diff(recall, prepend=0.0) * envelope).sum())
    levels = np.array(RECALL_POINTS)
    return ClassAccuracy(
        name,
        ap,
        ap,
        objects,
        len(rows),
        tuple(_at(levels, recall, envelope).tolist()),
        tuple(_at(levels, recall, pointers.score[rows].astype(np.float64)).tolist()),
    )


def _at(
    levels: NDArray[np.float64], recall: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`values` where `recall` first reaches each level; 0 where it never does."""
    places = np.searchsorted(recall, levels, side="left")
    result: NDArray[np.float64] = np.append(values, 0.0)[places]
    return result


def _operating_point(pointers: _Pointers, score: float, objects: int) -> OperatingPoint:
    """Darknet's counts: a difficult object saves no detection from being a false positive."""
    above = np.flatnonzero(pointers.score > np.float32(score))
    above = above[np.lexsort((-pointers.score[above], pointers.image[above]))]
    targets = pointers.target[above]
    _, first = np.unique(targets, return_index=True)
    first = first[targets[first] >= 0]
    right, total = len(first), len(above)
    precision = right / total if total else None
    recall = right / objects if objects else None
    either = precision is not None and recall is not None and precision + recall > 0
    return OperatingPoint(
        score=score,
        true_positives=right,
        false_positives=total - right,
        false_negatives=objects - right,
        precision=precision,
        recall=recall,
        f1=2 * right / (total + objects) if either else None,
        average_iou=float(pointers.iou[above[first]].sum()) / total if total else None,
    )
