"""Matching classes by name."""

from __future__ import annotations

import numpy as np
import pytest

from boxwright.datasets import map_classes
from boxwright.datasets.classes import normal_name
from boxwright.detections import Detections
from boxwright.errors import InputError
from boxwright.formats import COCO_CATEGORY_IDS


@pytest.mark.parametrize(
    ("model", "dataset", "expected", "synonyms"),
    [
        (["cat", "dog"], ["dog", "cat"], [1, 0], 0),
        (["Traffic Light"], ["traffic_light"], [0], 0),
        (["hot-dog", "cat"], ["hotdog"], [0, -1], 0),
        (["aeroplane", "sofa", "tvmonitor"], ["tv", "couch", "airplane"], [2, 1, 0], 3),
        (["diningtable", "pottedplant"], ["potted plant", "dining table"], [1, 0], 0),
        # The name itself goes before its synonym.
        (["sofa", "couch"], ["couch"], [-1, 0], 0),
        (["couch", "sofa"], ["sofa", "couch"], [1, 0], 0),
        # Two of one name: the first.
        (["cat", "cat"], ["cat"], [0, -1], 0),
        (["cat"], ["cat", "Cat"], [0], 0),
    ],
)
def test_names(model: list[str], dataset: list[str], expected: list[int], synonyms: int) -> None:
    found = map_classes(model, dataset)
    np.testing.assert_array_equal(found.to_dataset, expected)
    assert len(found.synonyms) == synonyms
    assert set(found.only_model) == {m for m, e in zip(model, expected, strict=True) if e < 0}
    assert len(found.only_dataset) == len(dataset) - len(set(expected) - {-1})
    assert not found.by_number


def test_every_darknet_name_of_coco_is_found() -> None:
    darknet = list(COCO_CATEGORY_IDS)
    for old, new in (("motorbike", "motorcycle"), ("diningtable", "dining table")):
        darknet[darknet.index(new)] = old
    found = map_classes(darknet, list(COCO_CATEGORY_IDS))
    np.testing.assert_array_equal(found.to_dataset, np.arange(80))


def test_numbers_are_matched_where_there_are_no_names() -> None:
    found = map_classes(["cat", "dog", "bird"], ["0", "1"])
    np.testing.assert_array_equal(found.to_dataset, [0, 1, -1])
    assert found.by_number
    assert found.only_model == ("bird",)
    few = map_classes(["cat"], ["0", "1"])
    assert few.only_dataset == ("1",)
    # Where the model numbers its classes, too, those are names like others.
    assert not map_classes(["0", "1"], ["0", "1"]).by_number


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(InputError, match="no class in common; the model's are cat, dog"):
        map_classes(["cat", "dog"], ["car"])


def test_detections_get_the_classes_of_the_dataset() -> None:
    found = map_classes(["bird", "dog", "cat"], ["cat", "dog"])
    detections = Detections(
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.array([0.9, 0.8, 0.7], np.float32),
        np.array([2, 0, 1]),
        landmarks=np.arange(12, dtype=np.float32).reshape(3, 2, 2),
    )
    mapped = found.apply(detections)
    np.testing.assert_array_equal(mapped.class_id, [0, 1])
    np.testing.assert_array_equal(mapped.score, np.array([0.9, 0.7], np.float32))
    assert mapped.names() == ["cat", "dog"]
    assert mapped.landmarks is not None
    assert mapped.landmarks.reshape(-1, 4).tolist() == mapped.xyxy.tolist()
    assert any("bird" in line for line in found.lines())


def test_normal_name() -> None:
    assert normal_name(" Potted_plant-X ") == "pottedplantx"
