"""Which class is taken for which, and what is missed or made up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.boxes import area_xyxy, iou_xyxy
from boxwright.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from boxwright.datasets import Dataset, GroundTruth
    from boxwright.detections import Detections


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix with a row and a column for background.

    Attributes:
        matrix: int64 ``(classes + 1, classes + 1)``: rows are what was labelled, columns
            what was detected; the last row holds detections of nothing, the last column
            objects that were missed.
        class_names: Of all classes but background.
        score: Detections above it take part.
        iou: A pair must overlap by at least this much.
    """

    matrix: NDArray[np.int64]
    class_names: tuple[str, ...]
    score: float
    iou: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: the entries that are not 0, as label, detection, count."""
        names = (*self.class_names, None)
        rows, columns = np.nonzero(self.matrix)
        return {
            "score": self.score,
            "iou": self.iou,
            "entries": [
                [names[row], names[column], int(self.matrix[row, column])]
                for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            ],
        }


def confusion(
    dataset: Dataset,
    detections: Sequence[Detections],
    *,
    score: float = 0.25,
    iou: float = 0.5,
) -> Confusion:
    """Pair labels and detections whatever their class, the greatest overlap first.

    Among equal overlaps a pair of one class comes first, then the better score. Crowds and
    difficult objects are no rows: a detection without a partner that lies on one of them
    (over more than half of itself for a crowd, by `iou` for a difficult one) is left out.

    Args:
        dataset: The labels.
        detections: One for each image, in the same order, with classes of the dataset.
        score: 0 to 1.
        iou: Above 0, to 1.

    Raises:
        InputError: An argument is out of its range.
    """
    if not (0 <= score <= 1 and 0 < iou <= 1):
        raise InputError(f"score must be 0 to 1 and iou above 0 to 1, got {score} and {iou}")
    background = len(dataset.class_names)
    matrix = np.zeros((background + 1, background + 1), np.int64)
    for image, found in zip(dataset.images, detections, strict=True):
        some = found[found.score > np.float32(score)]
        _count(matrix, image.boxes, some, iou)
    return Confusion(matrix, dataset.class_names, score, iou)


def _count(matrix: NDArray[np.int64], truth: GroundTruth, found: Detections, least: float) -> None:
    background = len(matrix) - 1
    boxes = found.xyxy.astype(np.float64)
    overlap = iou_xyxy(boxes, truth.xyxy.astype(np.float64))
    counted = ~(truth.crowd | truth.difficult)
    rows, columns = np.nonzero((overlap >= least) & counted[None, :])
    same = found.class_id[rows] == truth.class_id[columns]
    order = np.lexsort((-found.score[rows], ~same, -overlap[rows, columns]))
    free_found, free_truth = np.ones(len(found), bool), counted.copy()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if free_found[row] and free_truth[column]:
            free_found[row] = free_truth[column] = False
            matrix[truth.class_id[column], found.class_id[row]] += 1
    np.add.at(matrix[:, background], truth.class_id[free_truth], 1)
    excused = _on_crowd(boxes, truth) | (overlap[:, truth.difficult] >= least).any(axis=1)
    np.add.at(matrix[background], found.class_id[free_found & ~excused], 1)


def _on_crowd(boxes: NDArray[np.float64], truth: GroundTruth) -> NDArray[np.bool_]:
    """Whether more than half of each box lies in one crowd."""
    crowds = truth.xyxy[truth.crowd].astype(np.float64)
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    result: NDArray[np.bool_] = (shared > 0.5 * area_xyxy(boxes)[:, None]).any(axis=1)
    return result
