"""How accurate detections are, as JSON-ready facts: AP of COCO, mAP of Darknet and VOC.

The numbers are computed in :mod:`boxwright.evaluate.coco` and
:mod:`boxwright.evaluate.voc`; what they mean is written here. A value that no labelled
object speaks for is ``None``, never 0 or -1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Metric = Literal["coco", "voc"]

RECALL_POINTS = tuple(i / 100 for i in range(101))
"""Where precision-recall curves are sampled: recall 0, 0.01, ... 1."""


@dataclass(frozen=True)
class ClassAccuracy:
    """One class of the dataset.

    Attributes:
        name: Its name in the dataset.
        ap: COCO: mean over IoU 0.50 to 0.95; VOC: the same as `ap50`.
        ap50: At IoU 0.50.
        objects: Labelled, without crowds and difficult ones.
        detections: How many there were, over all scores.
        precision: At IoU 0.50, for each of `RECALL_POINTS`: the best precision at that
            recall or beyond; empty where there is no object.
        scores: The score that reaches each of these recalls; 0 where none does.
    """

    name: str
    ap: float | None
    ap50: float | None
    objects: int
    detections: int
    precision: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Accuracy:
    """COCO's metrics (https://cocodataset.org/#detection-eval), 0 to 1.

    Every mean is over classes that have an object of that size. Areas are the labels' own
    (in COCO: of the segmentation); small is below 32², large above 96² square pixels.

    Attributes:
        ap: Mean over IoU 0.50, 0.55, ... 0.95: the AP of papers.
        ap50: At IoU 0.50.
        ap75: At IoU 0.75.
        ap_small: As `ap`, for small objects; likewise `ap_medium` and `ap_large`.
        ar_1: Mean highest recall with 1 detection per image and class; `ar_10`, `ar_100`.
        ar_small: As `ar_100`, for small objects; likewise `ar_medium` and `ar_large`.
        classes: Each class of the dataset.
        images: How many images.
        objects: How many labelled objects that count; crowds do not.
        detections: How many detections were looked at.
        max_detections: The most per image and class that count (COCO: 100).
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar_1: float | None
    ar_10: float | None
    ar_100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    classes: tuple[ClassAccuracy, ...]
    images: int
    objects: int
    detections: int
    max_detections: int = 100
    metric: Metric = "coco"

    @property
    def headline(self) -> float | None:
        """The one number a budget is about: `ap`."""
        return self.ap

    def stats(self) -> tuple[float | None, ...]:
        """The twelve numbers in the order of ``COCOeval.stats``."""
        return (
            *(self.ap, self.ap50, self.ap75, self.ap_small, self.ap_medium, self.ap_large),
            *(self.ar_1, self.ar_10, self.ar_100),
            *(self.ar_small, self.ar_medium, self.ar_large),
        )

    def to_dict(self, *, curves: bool = True) -> dict[str, Any]:
        """As JSON values; without `curves`, what fits into a receipt."""
        return _to_dict(self, curves)


@dataclass(frozen=True)
class OperatingPoint:
    """Counts at one score threshold, over all classes.

    Attributes:
        score: Detections above it count.
        true_positives: Detections that found an object first.
        false_positives: The other detections.
        false_negatives: Objects not found.
        precision: ``TP / (TP + FP)``; ``None`` without detections.
        recall: ``TP / (TP + FN)``; ``None`` without objects.
        f1: Harmonic mean of both.
        average_iou: Sum of the IoU of true positives over *all* detections counted, as
            Darknet prints it: a false positive enters as 0.
    """

    score: float
    true_positives: int
    false_positives: int
    false_negatives: int
    precision: float | None
    recall: float | None
    f1: float | None
    average_iou: float | None


@dataclass(frozen=True)
class VocAccuracy:
    """mAP at one IoU, as Darknet's ``detector map`` or the Pascal VOC kits define it.

    Attributes:
        definition: ``darknet``, ``voc2007`` or ``voc2010``.
        points: Recall points of the mean precision; 0 for the area under the curve.
        iou: An overlap must exceed it (``darknet``) or reach it (VOC kits).
        map: The mean over *all* classes, those without an object as 0, which is what
            Darknet prints; in the VOC kits over the classes with objects.
        map_present: The mean over classes with objects.
        classes: Each class of the dataset.
        at: Counts at the score threshold of ``-thresh``.
        images: How many images.
        objects: How many labelled objects that count; difficult ones do not.
        detections: How many detections were looked at.
    """

    definition: str
    points: int
    iou: float
    map: float | None
    map_present: float | None
    classes: tuple[ClassAccuracy, ...]
    at: OperatingPoint
    images: int
    objects: int
    detections: int
    metric: Metric = "voc"

    @property
    def headline(self) -> float | None:
        """The one number a budget is about: `map`."""
        return self.map

    def to_dict(self, *, curves: bool = True) -> dict[str, Any]:
        """As JSON values; without `curves`, what fits into a receipt."""
        return _to_dict(self, curves)


def _to_dict(accuracy: Accuracy | VocAccuracy, curves: bool) -> dict[str, Any]:
    content = dataclasses.asdict(accuracy)
    for item in content["classes"]:
        for name in ("precision", "scores"):
            if curves:
                item[name] = list(item[name])
            else:
                del item[name]
    content["classes"] = list(content["classes"])
    return content
