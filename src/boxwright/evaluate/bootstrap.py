"""How sure a difference in AP is: a paired bootstrap over images.

A dataset is a sample of the world. Drawing as many images from it again, with replacement,
and computing AP of *both* sides on each draw shows how much the difference between them
would vary on another sample of the same size (Efron and Tibshirani 1993, percentile
interval). Both sides see the same draws, so what makes images easy or hard for both
cancels out: the interval of the difference is much narrower than that of either AP.

Matching is done once (:mod:`boxwright.evaluate.matches`). A draw is then only a weight per
image, how often it was drawn, and AP follows from weighted cumulative sums. An image drawn
twice repeats its detections at the same score; that changes no point of the interpolated
precision-recall curve beyond what the doubled weight does, so that weights are exact
(where one image has two detections of one class and one score, their order is arbitrary
either way).

AP is COCO's: mean over IoU 0.50 to 0.95 and over the classes that have an object among the
images drawn, of the precision interpolated at 101 recalls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import InputError
from boxwright.evaluate.matches import IOU_THRESHOLDS, ImageMatches
from boxwright.progress import ProgressCallback, silent

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_RECALLS = np.linspace(0, 1, 101)
# Numbers in one weighted sum at a time: 4 million float64 are 32 MB.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A value with the bounds between which the bootstrap's middle share lies."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """The whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class ClassDifference:
    """One class: AP of both sides, their difference, and how many objects it rests on."""

    class_id: int
    name: str
    objects: int
    reference: float
    subject: float
    difference: Interval


@dataclass(frozen=True)
class ApDifference:
    """AP of two sides on the same labelled images, 0 to 1, and the difference.

    Attributes:
        images: How many images.
        objects: Labelled objects that count; crowds do not.
        resamples: How many times the images were drawn.
        confidence: Share of the draws within the intervals.
        seed: Of the draws.
        reference_ap: AP of the reference; `reference_ap50` at IoU 0.50 alone.
        subject_ap: AP of the subject; `subject_ap50` at IoU 0.50 alone.
        ap: Subject minus reference.
        ap50: The same at IoU 0.50.
        classes: Each class that has an object, the largest loss first.
    """

    images: int
    objects: int
    resamples: int
    confidence: float
    seed: int
    reference_ap: float
    reference_ap50: float
    subject_ap: float
    subject_ap50: float
    ap: Interval
    ap50: Interval
    classes: tuple[ClassDifference, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **dataclasses.asdict(self),
            "classes": [dataclasses.asdict(item) for item in self.classes],
        }


def bootstrap_ap(
    subject: Sequence[ImageMatches],
    reference: Sequence[ImageMatches],
    class_names: Sequence[str],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> ApDifference:
    """AP of both sides and the bootstrap interval of the difference.

    Args:
        subject: Matches of the subject, one per image.
        reference: Those of the reference on the same images in the same order.
        class_names: Of the dataset.
        resamples: How often to draw; 1000 settle a 95 % interval to a few per cent of
            its width.
        confidence: Share of the draws within the interval, above 0 and below 1.
        seed: The same seed gives the same draws.
        progress: Told about each class.

    Raises:
        InputError: The sides differ in their images, or no image has an object.
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise InputError(
            f"resamples must be 1 or more and confidence between 0 and 1, got {resamples} "
            f"and {confidence}"
        )
    objects = _objects(subject, reference)
    count = len(subject)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    # The first row is the images as they are.
    weights = np.concatenate([np.ones((1, count)), draws]).astype(np.float64)
    total = 2 * len(class_names)
    sides = []
    for side, matches in enumerate((reference, subject)):
        tables = _by_class(matches, len(class_names))
        per_class = []
        for class_id, table in enumerate(tables):
            progress("resampling", side * len(class_names) + class_id, total)
            per_class.append(_class_ap(table, objects[:, class_id], weights))
        sides.append(np.stack(per_class, axis=1))
    progress("resampling", total, total)
    return _summarise(sides[0], sides[1], objects, class_names, confidence, seed)


def _objects(
    subject: Sequence[ImageMatches], reference: Sequence[ImageMatches]
) -> NDArray[np.int64]:
    """``(images, classes)``, the same on both sides."""
    if len(subject) != len(reference):
        raise InputError(
            f"both sides must have the same images, got {len(subject)} and {len(reference)}"
        )
    if not subject or not any(image.objects.any() for image in subject):
        raise InputError("AP needs at least one labelled object, got none")
    objects = np.stack([image.objects for image in subject])
    if not np.array_equal(objects, np.stack([image.objects for image in reference])):
        raise InputError("both sides must be matched with the same labels")
    return objects


@dataclass(frozen=True)
class _ClassTable:
    """All detections of one class, best first: their image, and what they hit."""

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    wrong: NDArray[np.bool_]


def _by_class(matches: Sequence[ImageMatches], classes: int) -> list[_ClassTable]:
    image = np.concatenate([np.full(len(m.score), i, np.int64) for i, m in enumerate(matches)])
    score = np.concatenate([m.score for m in matches])
    class_id = np.concatenate([m.class_id for m in matches])
    hit = np.concatenate([m.hit for m in matches], axis=1)
    ignored = np.concatenate([m.ignored for m in matches], axis=1)
    tables = []
    for number in range(classes):
        rows = np.flatnonzero(class_id == number)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        tables.append(_ClassTable(image[rows], hit[:, rows], ~hit[:, rows] & ~ignored[:, rows]))
    return tables


def _class_ap(table: _ClassTable, objects: NDArray[np.int64], weights: Floats) -> Floats:
    """AP of one class ``(draws, thresholds)``; NaN where a draw has no object of it."""
    result = np.zeros((len(weights), len(IOU_THRESHOLDS)))
    total = weights @ objects
    rows_at_once = max(1, _CHUNK // max(1, len(table.image)))
    for t in range(len(IOU_THRESHOLDS)):
        right = np.flatnonzero(table.hit[t])
        # What comes after the last hit adds no recall.
        end = int(right[-1]) + 1 if len(right) else 0
        if not end:
            continue
        image, wrong = table.image[:end], table.wrong[t, :end]
        for start in range(0, len(weights), rows_at_once):
            part = slice(start, start + rows_at_once)
            drawn = weights[part][:, image]
            false = np.cumsum(drawn * wrong, axis=1)[:, right]
            true = np.cumsum(drawn[:, right], axis=1)
            result[part, t] = _interpolated(true, false, total[part])
    result[total == 0] = np.nan
    return result


def _interpolated(true: Floats, false: Floats, total: Floats) -> Floats:
    """Mean precision at the 101 recalls, draw by draw; ``true`` and ``false`` at each hit.

    The precision at a recall is the best at that recall or any higher one.
    """
    found = true + false
    precision = np.divide(true, found, out=np.zeros_like(true), where=found > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.divide(true, total[:, None], out=np.zeros_like(true), where=total[:, None] > 0)
    result = np.empty(len(true))
    for i in range(len(true)):
        place = np.searchsorted(recall[i], _RECALLS, side="left")
        inside = place < recall.shape[1]
        result[i] = envelope[i, place[inside]].sum() / len(_RECALLS)
    return result


def _summarise(
    reference: Floats,
    subject: Floats,
    objects: NDArray[np.int64],
    class_names: Sequence[str],
    confidence: float,
    seed: int,
) -> ApDifference:
    """From AP ``(draws, classes, thresholds)`` of both sides, draw 0 being the images as are."""
    present: Bools = np.logical_not(np.isnan(reference).any(axis=2))
    ap = [np.mean(side, axis=2) for side in (reference, subject)]
    ap50 = [side[:, :, 0] for side in (reference, subject)]
    means, means50 = [_mean(side, present) for side in ap], [_mean(side, present) for side in ap50]
    classes = [
        ClassDifference(
            class_id,
            class_names[class_id],
            int(objects[:, class_id].sum()),
            float(ap[0][0, class_id]),
            float(ap[1][0, class_id]),
            _interval((ap[1] - ap[0])[:, class_id], confidence),
        )
        for class_id in np.flatnonzero(present[0]).tolist()
    ]
    return ApDifference(
        images=len(objects),
        objects=int(objects.sum()),
        resamples=len(reference) - 1,
        confidence=confidence,
        seed=seed,
        reference_ap=float(means[0][0]),
        reference_ap50=float(means50[0][0]),
        subject_ap=float(means[1][0]),
        subject_ap50=float(means50[1][0]),
        ap=_interval(means[1] - means[0], confidence),
        ap50=_interval(means50[1] - means50[0], confidence),
        classes=tuple(sorted(classes, key=lambda item: item.difference.value)),
    )


def _mean(values: Floats, present: NDArray[np.bool_]) -> Floats:
    """Mean over the classes present in each draw; NaN for a draw without any object."""
    count = present.sum(axis=1)
    total = np.where(present, values, 0).sum(axis=1)
    result: Floats = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return result


def _interval(values: Floats, confidence: float) -> Interval:
    """The value of the images as they are, and the percentiles of the draws."""
    drawn = values[1:][~np.isnan(values[1:])]
    if not len(drawn):
        drawn = values[:1]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values[0]), float(low), float(high))
