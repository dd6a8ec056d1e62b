"""The confusion matrix by hand-made cases, one rule each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.datasets import Dataset, GroundTruth, LabelledImage
from boxwright.detections import Detections
from boxwright.errors import InputError
from boxwright.evaluate.confusion import Confusion, confusion

CAT, DOG, NOTHING = 0, 1, 2
BOX = (0, 0, 10, 10)
FAR = (50, 50, 60, 60)


def matrix(labels: list[Any], found: list[Any], **more: Any) -> Confusion:
    """Labels as (xywh, class), detections as (xyxy, class, score)."""
    truth = GroundTruth.from_xywh([b for b, _ in labels], [c for _, c in labels], **more)
    image = LabelledImage(Path("a.png"), 1, 100, 100, truth)
    dataset = Dataset("d", "voc", ("cat", "dog"), (1, 2), (image,))
    detections = Detections(
        np.array([b for b, _, _ in found], np.float32).reshape(-1, 4),
        np.array([s for _, _, s in found], np.float32),
        np.array([c for _, c, _ in found], np.int64),
    )
    return confusion(dataset, [detections])


@pytest.mark.parametrize(
    ("labels", "found", "expected"),
    [
        # right, confused, missed, made up
        ([(BOX, CAT)], [(BOX, CAT, 0.9)], {(CAT, CAT): 1}),
        ([(BOX, CAT)], [(BOX, DOG, 0.9)], {(CAT, DOG): 1}),
        ([(BOX, CAT)], [], {(CAT, NOTHING): 1}),
        ([], [(BOX, DOG, 0.9)], {(NOTHING, DOG): 1}),
        ([(BOX, CAT)], [(FAR, CAT, 0.9)], {(CAT, NOTHING): 1, (NOTHING, CAT): 1}),
        # the score must be exceeded; an overlap of exactly one half is enough
        ([(BOX, CAT)], [(BOX, CAT, 0.25)], {(CAT, NOTHING): 1}),
        ([(BOX, CAT)], [((0, 0, 10, 5), CAT, 0.9)], {(CAT, CAT): 1}),
        # each object once: the greatest overlap goes first, whatever its score or class
        (
            [(BOX, CAT)],
            [((0, 0, 10, 9), CAT, 0.9), (BOX, DOG, 0.3)],
            {(CAT, DOG): 1, (NOTHING, CAT): 1},
        ),
        # of equal overlaps the one of the same class, then the better score
        ([(BOX, CAT)], [(BOX, DOG, 0.9), (BOX, CAT, 0.3)], {(CAT, CAT): 1, (NOTHING, DOG): 1}),
    ],
)
def test_rules(labels: list[Any], found: list[Any], expected: dict[Any, int]) -> None:
    result = matrix(labels, found).matrix
    assert {(r, c): int(result[r, c]) for r, c in zip(*np.nonzero(result), strict=True)} == expected


@pytest.mark.parametrize("kind", ["crowd", "difficult"])
def test_crowds_and_difficult_objects_excuse_and_are_not_missed(kind: str) -> None:
    # Six tenths of the box lie in the crowd.
    found = [((4, 0, 14, 10), DOG, 0.9)] if kind == "crowd" else [(BOX, DOG, 0.9)]
    assert matrix([(BOX, CAT)], found, **{kind: [True]}).matrix.sum() == 0
    assert matrix([(BOX, CAT)], [(FAR, DOG, 0.9)], **{kind: [True]}).matrix[NOTHING, DOG] == 1


def test_as_json() -> None:
    content = matrix([(BOX, CAT)], [(FAR, DOG, 0.9)]).to_dict()
    assert content["entries"] == [["cat", None, 1], [None, "dog", 1]]


@pytest.mark.parametrize("wrong", [{"score": -1}, {"iou": 0}, {"iou": 1.5}])
def test_arguments_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be"):
        confusion(Dataset("d", "voc", ("a",), (1,), ()), [], **wrong)
