"""mAP at one IoU against Darknet's and the VOC kit's own loops."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.datasets import Dataset, GroundTruth, LabelledImage
from boxwright.detections import Detections
from boxwright.errors import InputError
from boxwright.evaluate.voc import Definition, voc_accuracy
from tests.evaluate.judges import darknet_map, voc_kit_aps
from tests.evaluate.labelled import CLASSES, UNLABELLED, make_labelled


def distinct_scores(detections: list[Detections], seed: int) -> list[Detections]:
    """How equal scores are ordered is nobody's definition, so there are none."""
    random = np.random.default_rng(seed)
    result = []
    for found in detections:
        score = np.sort(random.random(len(found)).astype(np.float32))[::-1]
        result.append(dataclasses.replace(found, score=score))
    return result


@pytest.mark.parametrize("points", [0, 11, 101])
@pytest.mark.parametrize("seed", range(6))
def test_darknet(seed: int, points: int) -> None:
    dataset, detections = make_labelled(seed, difficult=True)
    detections = distinct_scores(detections, seed)
    accuracy = voc_accuracy(dataset, detections, points=points)
    judged = darknet_map(dataset, detections, points)
    assert accuracy.map == pytest.approx(judged["map"], abs=1e-12)
    assert 0.1 < judged["map"] < 0.9
    np.testing.assert_allclose([c.ap50 or 0 for c in accuracy.classes], judged["aps"], atol=1e-12)
    at = accuracy.at
    counts = (at.true_positives, at.false_positives, at.false_negatives)
    assert counts == (judged["tp"], judged["fp"], judged["fn"])
    assert at.average_iou == pytest.approx(judged["average_iou"], abs=1e-6)


@pytest.mark.parametrize("year", [2007, 2010])
@pytest.mark.parametrize("seed", range(6))
def test_the_kit(seed: int, year: int) -> None:
    dataset, detections = make_labelled(seed, difficult=True)
    detections = distinct_scores(detections, seed)
    definition: Definition = "voc2007" if year == 2007 else "voc2010"
    accuracy = voc_accuracy(dataset, detections, definition=definition)
    judged = voc_kit_aps(dataset, detections, year)
    assert [c.ap50 is None for c in accuracy.classes] == [ap is None for ap in judged]
    for item, ap in zip(accuracy.classes, judged, strict=True):
        if ap is not None:
            assert item.ap50 == pytest.approx(ap, abs=1e-12)
    assert accuracy.map == pytest.approx(np.mean([ap for ap in judged if ap is not None]))
    assert accuracy.map == accuracy.map_present


def one(labels: Any, found: Any, **more: Any) -> tuple[Dataset, list[Detections]]:
    """One image of one class: labels as xywh, detections as xyxy and score."""
    truth = GroundTruth.from_xywh(labels, [0] * len(labels), **more)
    image = LabelledImage(Path("a.png"), 1, 100, 100, truth)
    table = np.array(found, np.float32).reshape(-1, 5)
    detections = Detections(table[:, :4], table[:, 4], np.zeros(len(table), np.int64))
    return Dataset("d", "voc", ("cat",), (1,), (image,)), [detections]


BOX = [0, 0, 10, 10]
HALF = [0, 0, 10, 5]  # IoU with BOX of exactly 0.5


def test_an_overlap_must_exceed_half_in_darknet_and_reach_it_in_the_kit() -> None:
    material = one([BOX], [[*HALF, 0.9]])
    assert voc_accuracy(*material).map == 0
    assert voc_accuracy(*material, definition="voc2010").map == 1


def test_difficult_objects_neither_count_nor_harm() -> None:
    material = one(
        [BOX, [50, 50, 10, 10]], [[50, 50, 60, 60, 0.9], [*BOX, 0.8]], difficult=[False, True]
    )
    for definition in ("darknet", "voc2007", "voc2010"):
        accuracy = voc_accuracy(*material, definition=definition)
        assert (accuracy.map, accuracy.objects) == (1, 1)
    # Darknet's counts at a threshold know no mercy.
    assert voc_accuracy(*material).at.false_positives == 1


def test_a_second_detection_of_an_object_is_wrong() -> None:
    material = one([BOX, [50, 50, 10, 10]], [[*BOX, 0.9], [*BOX, 0.8], [50, 50, 60, 60, 0.7]])
    accuracy = voc_accuracy(*material)
    assert accuracy.map == pytest.approx(0.5 + 0.5 * 2 / 3)
    at = accuracy.at
    assert (at.true_positives, at.false_positives, at.false_negatives) == (2, 1, 0)
    assert at.precision == pytest.approx(2 / 3)
    assert at.recall == 1
    assert at.f1 == pytest.approx(0.8)
    assert at.average_iou == pytest.approx(2 / 3)


def test_the_operating_score_must_be_exceeded() -> None:
    at = voc_accuracy(*one([BOX], [[*BOX, 0.25]])).at
    assert (at.true_positives, at.false_negatives, at.precision, at.f1) == (0, 1, None, None)
    assert voc_accuracy(*one([BOX], [[*BOX, 0.25]]), score=0.24).at.true_positives == 1


def test_classes_without_objects_count_in_darknet_only() -> None:
    dataset, detections = make_labelled(0)
    accuracy = voc_accuracy(dataset, detections)
    assert accuracy.classes[UNLABELLED].ap50 is None
    assert accuracy.map_present is not None
    assert accuracy.map == pytest.approx(accuracy.map_present * 4 / len(CLASSES))


def test_nothing_labelled() -> None:
    accuracy = voc_accuracy(*one([], [[*BOX, 0.9]]))
    assert accuracy.map is None
    assert accuracy.headline is None
    assert accuracy.at.recall is None
    json.dumps(accuracy.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "wrong", [{"definition": "coco"}, {"points": 1}, {"points": -1}, {"iou": 0}, {"score": 2}]
)
def test_arguments_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be"):
        voc_accuracy(*one([BOX], []), **wrong)
