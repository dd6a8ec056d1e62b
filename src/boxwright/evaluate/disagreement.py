"""Where two detectors disagree about one image, as a person would see it.

Detections are paired by class and overlap in pixels of the source image, so that the two
need share neither input size nor number of candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boxwright.boxes import iou_xyxy

if TYPE_CHECKING:
    from boxwright.detections import Detections

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PAIR_IOU = 0.5
"""Detections of one class that overlap by this are the same object, as in AP50."""


@dataclass(frozen=True)
class ImageDisagreement:
    """Two detectors' results for one image.

    Attributes:
        pairs: int64 ``(k, 2)``: subject's and reference's rows of the same object.
        iou: float64 ``(k,)`` of the pairs.
        score_delta: float64 ``(k,)``: subject's score minus the reference's.
        renamed: int64 ``(r, 2)``: rows at the same place, of different classes.
        only_subject: Rows of the subject with no partner of any class.
        only_reference: Rows of the reference likewise.
        borderline: How many rows without a partner have a score within tolerance of the
            threshold; they are in no other list.
        not_finite: Values of the subject that are not numbers and should be.
        badness: How much they disagree, in boxes: a lone box counts its score, a renamed
            one the larger score of the two, a pair ``1 - IoU`` plus its difference in
            score, a value that is not a number 1. 0 is full agreement.
    """

    pairs: Ints
    iou: Floats
    score_delta: Floats
    renamed: Ints
    only_subject: Ints
    only_reference: Ints
    borderline: int
    not_finite: int
    badness: float

    @property
    def counts(self) -> tuple[int, int, int]:
        """Agreed pairs, and what only the subject and only the reference has."""
        return (
            len(self.pairs),
            len(self.only_subject) + len(self.renamed),
            len(self.only_reference) + len(self.renamed),
        )


def disagreement(
    subject: Detections,
    reference: Detections,
    *,
    threshold: float = 0.0,
    score_tolerance: float = 0.0,
    not_finite: int = 0,
) -> ImageDisagreement:
    """Compare the detections of one image.

    Args:
        subject: What is judged.
        reference: What it is judged by, in pixels of the same image.
        threshold: Score threshold that both were filtered by.
        score_tolerance: A lone box this close to the threshold is borderline: rounding
            decides on which side of it a score falls.
        not_finite: Counted in as given.
    """
    iou = np.asarray(iou_xyxy(subject.xyxy, reference.xyxy), np.float64)
    same = subject.class_id[:, None] == reference.class_id[None, :]
    pairs = _greedy(np.where(same, iou, 0.0))
    free = np.where(same, 0.0, iou)
    free[pairs[:, 0]] = 0
    free[:, pairs[:, 1]] = 0
    renamed = _greedy(free)
    lone, borderline = [], 0
    for column, detections in enumerate((subject, reference)):
        used = np.concatenate([pairs[:, column], renamed[:, column]])
        rest = np.setdiff1d(np.arange(len(detections), dtype=np.int64), used)
        close = detections.score[rest] - threshold <= score_tolerance
        borderline += int(close.sum())
        lone.append(rest[~close])
    overlap = iou[pairs[:, 0], pairs[:, 1]]
    own, other = subject.score.astype(np.float64), reference.score.astype(np.float64)
    delta = own[pairs[:, 0]] - other[pairs[:, 1]]
    badness = (
        float((1 - overlap).sum() + np.abs(delta).sum())
        + float(np.maximum(own[renamed[:, 0]], other[renamed[:, 1]]).sum())
        + float(own[lone[0]].sum() + other[lone[1]].sum())
        + not_finite
    )
    return ImageDisagreement(
        pairs, overlap, delta, renamed, lone[0], lone[1], borderline, not_finite, badness
    )


def _greedy(iou: Floats) -> Ints:
    """Pairs that overlap by :data:`PAIR_IOU`, the largest overlaps first, each row once."""
    first, second = np.nonzero(iou >= PAIR_IOU)
    order = np.argsort(-iou[first, second], kind="stable")
    taken: tuple[set[int], set[int]] = (set(), set())
    pairs = []
    for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            pairs.append((i, j))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)
