"""Others' definitions of AP: pycocotools itself, and Darknet's and VOC's loops, retold.

The two retold ones go detection by detection with plain lists, as their sources do, and
share nothing with what they judge but the labels.
"""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.datasets import Dataset, to_coco
from boxwright.detections import Detections


def pycocotools(annotations: dict[str, Any], results: list[dict[str, Any]]) -> Any:
    """A ``COCOeval`` that has run."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO()
        labels.dataset = annotations
        labels.createIndex()
        # It writes into what it is given.
        evaluation = COCOeval(labels, labels.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def judge(dataset: Dataset, results: list[dict[str, Any]]) -> Any:
    return pycocotools(to_coco(dataset), results)


def iou(a: Any, b: Any) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    whole = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(shared / (whole - shared))


def darknet_map(
    dataset: Dataset,
    detections: list[Detections],
    points: int = 0,
    thresh: float = 0.25,
    iou_thresh: float = 0.5,
) -> dict[str, Any]:
    """``validate_detector_map`` of AlexeyAB's ``src/detector.c``, loop by loop."""
    classes = len(dataset.class_names)
    truth_count = [0] * classes
    listed: list[tuple[float, int, int]] = []  # score, class, object pointed to
    tp = fp = unique = 0
    total_iou = 0.0
    for image, found in zip(dataset.images, detections, strict=True):
        boxes = image.boxes
        hard = (boxes.difficult | boxes.crowd).tolist()
        rows = list(zip(boxes.xyxy.tolist(), boxes.class_id.tolist(), hard, strict=True))
        truths = [(box, number) for box, number, is_hard in rows if not is_hard]
        difficult = [(box, number) for box, number, is_hard in rows if is_hard]
        for _, number in truths:
            truth_count[number] += 1
        earlier: list[int] = []
        for box, score, number in zip(
            found.xyxy.tolist(), found.score.tolist(), found.class_id.tolist(), strict=True
        ):
            target, best = -1, 0.0
            for j, (truth, truth_class) in enumerate(truths):
                overlap = iou(box, truth)
                if overlap > iou_thresh and number == truth_class and overlap > best:
                    target, best = unique + j, overlap
            left_out = target < 0 and any(
                iou(box, d) > iou_thresh and number == c for d, c in difficult
            )
            if not left_out:
                listed.append((score, number, target))
            if score > np.float32(thresh):
                if target >= 0 and target not in earlier:
                    tp, total_iou = tp + 1, total_iou + best
                else:
                    fp += 1
            if not left_out:
                earlier.append(target)
        unique += len(truths)
    listed.sort(key=lambda item: -item[0])
    aps = [
        _darknet_ap([item for item in listed if item[1] == number], truth_count[number], points)
        for number in range(classes)
    ]
    return {
        "aps": aps,
        "map": sum(aps) / classes,
        "tp": tp,
        "fp": fp,
        "fn": unique - tp,
        "average_iou": total_iou / (tp + fp) if tp + fp else None,
    }


def _darknet_ap(items: list[tuple[float, int, int]], objects: int, points: int) -> float:
    taken: set[int] = set()
    tp = fp = 0
    curve = []
    for _, _, target in items:
        if target >= 0 and target not in taken:
            taken.add(target)
            tp += 1
        else:
            fp += 1
        curve.append((tp / (tp + fp), tp / objects if objects else 0.0))
    if not curve:
        return 0.0
    ap = 0.0
    if points:
        for point in range(points):
            level = point / (points - 1)
            ap += max([p for p, r in curve if r >= level], default=0.0)
        return ap / points
    last_precision, last_recall = curve[-1]
    for precision, recall in reversed(curve[:-1]):
        step, last_recall = last_recall - recall, recall
        last_precision = max(precision, last_precision)
        ap += step * last_precision
    return ap + last_recall * last_precision


def voc_kit_aps(dataset: Dataset, detections: list[Detections], year: int) -> list[float | None]:
    """``VOCevaldet.m`` and ``VOCap.m``: the AP of each class, or ``None`` without objects."""
    return [_voc_kit_ap(dataset, detections, c, year) for c in range(len(dataset.class_names))]


def _voc_kit_ap(
    dataset: Dataset, detections: list[Detections], number: int, year: int
) -> float | None:
    positives = 0
    truths = []
    items = []
    for index, (image, found) in enumerate(zip(dataset.images, detections, strict=True)):
        boxes = image.boxes
        mine = boxes.class_id == number
        hard = (boxes.difficult | boxes.crowd)[mine].tolist()
        positives += hard.count(False)
        truths.append((boxes.xyxy[mine].tolist(), hard, [False] * len(hard)))
        of_class = found.class_id == number
        items += [
            (score, index, box)
            for score, box in zip(
                found.score[of_class].tolist(), found.xyxy[of_class].tolist(), strict=True
            )
        ]
    if not positives:
        return None
    items.sort(key=lambda item: -item[0])
    tp, fp = np.zeros(len(items)), np.zeros(len(items))
    for d, (_, index, box) in enumerate(items):
        boxes_, hard, detected = truths[index]
        best, at = -np.inf, -1
        for j, truth in enumerate(boxes_):
            overlap = iou(box, truth)
            if overlap > best:
                best, at = overlap, j
        if best >= 0.5:
            if not hard[at]:
                tp[d], fp[d] = (0, 1) if detected[at] else (1, 0)
                detected[at] = True
        else:
            fp[d] = 1
    return _voc_ap(np.cumsum(tp), np.cumsum(fp), positives, year)


def _voc_ap(tp: NDArray[np.float64], fp: NDArray[np.float64], positives: int, year: int) -> float:
    recall = tp / positives
    precision = tp / np.maximum(tp + fp, 1e-30)
    if year == 2007:
        return float(sum(precision[recall >= t / 10].max(initial=0.0) for t in range(11)) / 11)
    r, p = np.array([0, *recall, 1.0]), np.array([0, *precision, 0.0])
    for i in range(len(p) - 2, -1, -1):
        p[i] = max(p[i], p[i + 1])
    steps = np.flatnonzero(r[1:] != r[:-1]) + 1
    return float(((r[steps] - r[steps - 1]) * p[steps]).sum())
