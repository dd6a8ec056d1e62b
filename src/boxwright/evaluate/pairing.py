"""Differences of boxes, gathered image by image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from boxwright.boxes import iou_xyxy
from boxwright.evaluate.matching import Pairs, box_error, match
from boxwright.evaluate.parity_report import BoxParity, Reason, UnmatchedBox

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.evaluate.reference import Candidates
    from boxwright.evaluate.tolerances import Tolerances

# How many boxes without a partner a report lists.
_LISTED = 20


class BoxDifference:
    """Running comparison of one list of boxes per image; see :class:`BoxParity`."""

    def __init__(
        self,
        stage: Literal["candidates", "detections"],
        threshold: float,
        tolerances: Tolerances,
        size: tuple[int, int],
    ) -> None:
        self.stage = stage
        self.threshold = threshold
        self._tolerances = tolerances
        self._size = size
        self._counts = dict.fromkeys(
            ("subject", "reference", "matched", "borderline", "tied", "suppressed"), 0
        )
        self._missing = {"subject": 0, "reference": 0}
        self._box_error = self._score_error = 0.0
        self._min_iou = 1.0
        self._by_row = True
        self._truncated = False
        self._unmatched: list[UnmatchedBox] = []

    def add(
        self,
        image: int,
        subject: Candidates,
        reference: Candidates,
        before: tuple[Candidates, Candidates] | None = None,
    ) -> None:
        """Count one image in.

        Args:
            image: Its number.
            subject: The subject's boxes.
            reference: The reference's boxes.
            before: Both sides' candidates, for detections: a box without a partner that
                was among the other side's candidates was suppressed there.
        """
        by_row = subject.row is not None and reference.row is not None
        self._by_row &= by_row
        self._truncated |= reference.truncated
        tolerances = self._tolerances
        pairs = match(
            subject, reference, self._size, tolerances.match_box, tolerances.match_score, by_row
        )
        self._counts["subject"] += len(subject)
        self._counts["reference"] += len(reference)
        self._counts["matched"] += len(pairs.first)
        self._measure(subject, reference, pairs)
        others = (None, None) if before is None else (before[1], before[0])
        if not reference.truncated:
            self._explain(image, "subject", subject[pairs.only_first], reference, others[0])
        self._explain(image, "reference", reference[pairs.only_second], subject, others[1])

    def result(self) -> BoxParity:
        """The comparison over all images counted in."""
        tolerances = self._tolerances
        listed = sorted(self._unmatched, key=lambda box: -box.score)
        # What nothing explains comes first: it is what a reader looks for.
        listed.sort(key=lambda box: box.reason != "missing")
        return BoxParity(
            stage=self.stage,
            threshold=self.threshold,
            count=self._counts["subject"],
            reference_count=self._counts["reference"],
            matched=self._counts["matched"],
            by_row=self._by_row,
            box_error=self._box_error,
            score_error=self._score_error,
            min_iou=self._min_iou,
            missing=self._missing["reference"],
            extra=self._missing["subject"],
            borderline=self._counts["borderline"],
            tied=self._counts["tied"],
            suppressed=self._counts["suppressed"],
            truncated=self._truncated,
            box_tolerance=tolerances.box,
            score_tolerance=tolerances.score,
            unmatched_share=tolerances.unmatched_share,
            unmatched=tuple(listed[:_LISTED]),
        )

    def _measure(self, subject: Candidates, reference: Candidates, pairs: Pairs) -> None:
        if not len(pairs.first):
            return
        a, b = subject[pairs.first], reference[pairs.second]
        error = box_error(a.xyxy, b.xyxy, self._size)
        self._box_error = max(self._box_error, float(error.max()))
        self._score_error = max(self._score_error, float(np.abs(a.score - b.score).max()))
        self._min_iou = min(self._min_iou, float(paired_iou(a.xyxy, b.xyxy).min()))

    def _explain(
        self,
        image: int,
        side: Literal["subject", "reference"],
        boxes: Candidates,
        other: Candidates,
        other_candidates: Candidates | None,
    ) -> None:
        """Sort boxes without a partner by reason; `other` is what the other side shows."""
        margin = boxes.score - self.threshold
        reason = np.full(len(boxes), "missing", "U10")
        if other_candidates is not None and len(boxes):
            known = self._among(boxes, other_candidates)
            reason[known] = "suppressed"
            # Whether a list that was cut held the box cannot be told: it may have.
            hidden = np.arange(len(boxes)) if other_candidates.truncated else known
            tied = _has_rival(boxes[hidden], other, self._tolerances.score)
            reason[hidden[tied]] = "tied"
        reason[margin <= self._tolerances.score] = "borderline"
        self._missing[side] += int((reason == "missing").sum())
        reasons: tuple[Reason, ...] = ("missing", "suppressed", "tied", "borderline")
        for name in reasons:
            rows = np.flatnonzero(reason == name)
            if name != "missing":
                self._counts[name] += len(rows)
            best = rows[np.argsort(-boxes.score[rows], kind="stable")][:_LISTED]
            for i in best.tolist():
                x1, y1, x2, y2 = (float(x) for x in boxes.xyxy[i])
                score, above = float(boxes.score[i]), float(margin[i])
                class_id = int(boxes.class_id[i])
                box = UnmatchedBox(image, side, class_id, score, (x1, y1, x2, y2), above, name)
                self._unmatched.append(box)

    def _among(self, boxes: Candidates, candidates: Candidates) -> NDArray[np.int64]:
        """Indices of `boxes` that have a partner among the other side's candidates."""
        above = candidates[candidates.score > self.threshold]
        reach, score_reach = self._tolerances.match_box, self._tolerances.match_score
        return match(boxes, above, self._size, reach, score_reach, by_row=False).first


def _has_rival(boxes: Candidates, shown: Candidates, score: float) -> NDArray[np.bool_]:
    """Which boxes overlap a box of their class and score in `shown`.

    Both sides' rounding counts, hence twice the tolerance.
    """
    result = np.zeros(len(boxes), bool)
    for class_id in np.unique(boxes.class_id):
        same = shown[shown.class_id == class_id]
        for i in np.flatnonzero(boxes.class_id == class_id).tolist():
            near = same.xyxy[np.abs(same.score - boxes.score[i]) <= 2 * score]
            result[i] = bool((iou_xyxy(boxes.xyxy[i : i + 1], near) > 0).any())
    return result


def paired_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of boxes pair by pair: ``(n, 4)`` and ``(n, 4)`` to ``(n,)``.

    Equal boxes without an area have an IoU of 1 here: they are the same box.
    """
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, 2:], second[:, 2:])
    intersection = np.maximum(high - low, 0).prod(axis=1)
    areas = [np.maximum(box[:, 2:] - box[:, :2], 0).prod(axis=1) for box in (first, second)]
    union = areas[0] + areas[1] - intersection
    result = np.where((first == second).all(axis=1), 1.0, 0.0)
    ratio: NDArray[np.float64] = np.divide(intersection, union, out=result, where=union > 0)
    return ratio
