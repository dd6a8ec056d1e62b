"""AP equals pycocotools' on random detections: crowds, ties, empty classes, nothing at all."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from boxwright.datasets import Dataset
from boxwright.detections import Detections
from boxwright.errors import MissingExtraError
from boxwright.evaluate.accuracy import RECALL_POINTS, Accuracy
from boxwright.evaluate.coco import coco_accuracy, coco_results
from tests.evaluate.judges import judge
from tests.evaluate.labelled import UNDETECTED, UNLABELLED, make_labelled


def assert_equal_to(accuracy: Accuracy, judged: Any, dataset: Dataset) -> None:
    ours = [-1.0 if value is None else value for value in accuracy.stats()]
    np.testing.assert_allclose(ours, judged.stats, rtol=0, atol=1e-9)
    rows = {number: row for row, number in enumerate(judged.params.catIds)}
    for item, category in zip(accuracy.classes, dataset.category_ids, strict=True):
        precision = judged.eval["precision"][:, :, rows[category], 0, -1]
        known = precision[precision > -1]
        if item.ap is None:
            assert known.size == 0
            assert item.precision == ()
            continue
        assert item.ap == pytest.approx(known.mean(), abs=1e-9)
        assert item.ap50 == pytest.approx(precision[0].mean(), abs=1e-9)
        np.testing.assert_allclose(item.precision, precision[0], rtol=0, atol=1e-9)
        scores = judged.eval["scores"][0, :, rows[category], 0, -1]
        np.testing.assert_allclose(item.scores, scores, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_it_equals_pycocotools(seed: int) -> None:
    dataset, detections = make_labelled(seed)
    results = coco_results(dataset, detections)
    accuracy = coco_accuracy(dataset, results)
    assert_equal_to(accuracy, judge(dataset, results), dataset)
    assert accuracy.ap is not None
    assert 0.05 < accuracy.ap < 0.95
    assert accuracy.classes[UNLABELLED].ap is None
    assert accuracy.classes[UNLABELLED].detections > 0
    assert accuracy.classes[UNDETECTED].detections == 0
    assert accuracy.detections == len(results) == sum(map(len, detections))
    crowds = sum(int(image.boxes.crowd.sum()) for image in dataset)
    assert accuracy.objects == dataset.objects - crowds


def test_more_than_a_hundred_detections_of_one_class() -> None:
    dataset, detections = make_labelled(3, images=3, most=90)
    one = [dataclasses.replace(d, class_id=np.zeros(len(d), np.int64)) for d in detections]
    assert max(map(len, one)) > 100
    results = coco_results(dataset, one)
    assert_equal_to(coco_accuracy(dataset, results), judge(dataset, results), dataset)


def test_nothing_detected_is_0_not_nothing() -> None:
    dataset, _ = make_labelled(0)
    none = [Detections.empty()] * len(dataset)
    accuracy = coco_accuracy(dataset, coco_results(dataset, none))
    assert accuracy.ap == accuracy.ar_100 == 0
    assert accuracy.classes[UNLABELLED].ap is None


def test_nothing_labelled_is_nothing_not_0() -> None:
    dataset, detections = make_labelled(0)
    empty = dataset.images[0].boxes.from_xywh([], [])
    bare = dataclasses.replace(
        dataset, images=tuple(dataclasses.replace(i, boxes=empty) for i in dataset)
    )
    accuracy = coco_accuracy(bare, coco_results(bare, detections))
    assert accuracy.stats() == (None,) * 12
    assert accuracy.headline is None
    assert accuracy.objects == 0


def test_perfect_detections_are_1() -> None:
    dataset, _ = make_labelled(1, crowds=False)
    detections = [
        Detections(i.boxes.xyxy, np.ones(len(i.boxes), np.float32), i.boxes.class_id)
        for i in dataset
    ]
    accuracy = coco_accuracy(dataset, coco_results(dataset, detections))
    assert accuracy.ap == accuracy.ap50 == pytest.approx(1)


def test_the_results_are_coco_s() -> None:
    dataset, detections = make_labelled(2)
    first = next(i for i, found in enumerate(detections) if len(found))
    item = coco_results(dataset, detections)[0]
    left, top, right, bottom = detections[first].xyxy[0].tolist()
    assert item == {
        "image_id": 1000 - 7 * first,
        "category_id": dataset.category_ids[detections[first].class_id[0]],
        "bbox": [left, top, right - left, bottom - top],
        "score": pytest.approx(float(detections[first].score[0])),
    }


def test_boxes_are_kept_to_a_thousandth_of_a_pixel() -> None:
    dataset, _ = make_labelled(2, images=1)
    box = np.array([[1.23456, 2, 4.5, 6.0004]], np.float32)
    found = Detections(box, np.array([0.1], np.float32), np.zeros(1, np.int64))
    (item,) = coco_results(dataset, [found])
    assert item["bbox"] == [1.235, 2, 3.265, 4]
    # Not 0.10000000149, which is what a float32 reads as.
    assert item["score"] == 0.1


def test_results_of_unknown_images_and_categories_do_not_count() -> None:
    dataset, detections = make_labelled(4)
    results = coco_results(dataset, detections)
    more = [{**results[0], "image_id": 1}, {**results[0], "category_id": 1}]
    assert coco_accuracy(dataset, results + more) == coco_accuracy(dataset, results)


def test_it_is_json() -> None:
    dataset, detections = make_labelled(5)
    accuracy = coco_accuracy(dataset, coco_results(dataset, detections))
    content = json.loads(json.dumps(accuracy.to_dict(), allow_nan=False))
    assert content["ap"] == accuracy.ap
    assert len(content["classes"][0]["precision"]) == len(RECALL_POINTS) == 101
    assert "precision" not in accuracy.to_dict(curves=False)["classes"][0]


def test_without_the_extra_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    dataset, _ = make_labelled(0)
    with pytest.raises(MissingExtraError, match=r"boxwright\[eval\]"):
        coco_accuracy(dataset, [])
