"""Whether two contenders of a benchmark find the same objects: a quicker wrong answer is none.

This compares final detections, in pixels of the source image, for engines that need share
neither input size nor number of candidates. `boxwright verify` compares in depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from boxwright.evaluate.matching import box_error, match
from boxwright.evaluate.reference import Candidates
from boxwright.evaluate.speed import Agreement

if TYPE_CHECKING:
    from boxwright.detections import Detections

# Wider than the tolerances of a parity check: a runtime that folds batch norm in another
# way, or an epsilon of its own (OpenCV's), is the same answer here, INT8 that moves boxes
# visibly is not.
_BOX = 0.02
_SCORE = 0.05
# Up to here two detections are partners that differ, beyond it they are two strangers.
_REACH = 0.1
_SCORE_REACH = 0.3


def agreement_of(
    subject: Sequence[Detections], contender: Sequence[Detections], threshold: float = 0.0
) -> Agreement:
    """Compare the detections of the same images.

    Args:
        subject: Of the subject, one per image.
        contender: Of the other, in the same order.
        threshold: The score threshold of both: what lies just above it may well have its
            partner just below.
    """
    found = (sum(map(len, subject)), sum(map(len, contender)))
    if subject and subject[0].class_names != contender[0].class_names:
        return Agreement(False, len(subject), *found, 0, 0.0, 0.0, "it knows other classes")
    matched = lone = 0
    boxes: list[float] = [0.0]
    scores: list[float] = [0.0]
    for own, other in zip(subject, contender, strict=True):
        size = _extent(own, other)
        first, second = _candidates(own), _candidates(other)
        pairs = match(first, second, size, reach=_REACH, score_reach=_SCORE_REACH, by_row=False)
        matched += len(pairs.first)
        alone = (first.score[pairs.only_first], second.score[pairs.only_second])
        lone += int((np.concatenate(alone) > threshold + _SCORE).sum())
        a, b = first.xyxy[pairs.first], second.xyxy[pairs.second]
        boxes += box_error(a, b, size).tolist()
        scores += np.abs(first.score[pairs.first] - second.score[pairs.second]).tolist()
    reason = _reason(sum(found), lone, max(boxes), max(scores))
    return Agreement(not reason, len(subject), *found, matched, max(boxes), max(scores), reason)


def _reason(found: int, lone: int, boxes: float, scores: float) -> str:
    reasons = []
    if lone:
        reasons.append(f"{lone} of {found} detections have no partner")
    if boxes > _BOX:
        reasons.append(f"boxes differ by up to {100 * boxes:.1f} % of the image side")
    if scores > _SCORE:
        reasons.append(f"scores differ by up to {scores:.2f}")
    return ", ".join(reasons)


def _candidates(detections: Detections) -> Candidates:
    return Candidates(
        detections.xyxy.astype(np.float64),
        detections.score.astype(np.float64),
        detections.class_id.astype(np.int64),
    )


def _extent(own: Detections, other: Detections) -> tuple[int, int]:
    """The part of the image that detections take up: its own size is not known here."""
    corners = np.concatenate([own.xyxy, other.xyxy, np.ones((1, 4), np.float32)])
    width, height = corners[:, 2].max(), corners[:, 3].max()
    return int(np.ceil(height)), int(np.ceil(width))
