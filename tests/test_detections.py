from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from boxwright.detections import Detections

NAMES = ("cat", "dog")


def three(**changes: Any) -> Detections:
    values: dict[str, Any] = {
        "xyxy": [[0, 0, 10, 10], [5, 5, 20, 20], [1, 2, 3, 4]],
        "score": [0.9, 0.8, 0.7],
        "class_id": [1, 0, 1],
        "class_names": NAMES,
        "track_id": np.array([7, 8, 9]),
        "attributes": {"age": np.array([30, 40, 50])},
        **changes,
    }
    return Detections(**values)


def test_types_are_made_uniform() -> None:
    detections = three()
    assert detections.xyxy.dtype == np.float32
    assert detections.score.dtype == np.float32
    assert detections.class_id.dtype == np.int64
    assert detections.track_id is not None
    assert detections.track_id.dtype == np.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xyxy": [[0, 0, 1]] * 3}, r"xyxy must have shape \(n, 4\), got \(3, 3\)"),
        ({"xyxy": [0, 0, 1, 1]}, "xyxy must have shape"),
        ({"score": [0.9]}, r"score must have shape \(3,\), got \(1,\)"),
        ({"class_id": [[1, 0, 1]]}, "class_id must have shape"),
        ({"track_id": np.array([1])}, "track_id must have shape"),
        ({"attributes": {"age": np.array([1])}}, "attribute 'age' must have 3 rows, got 1"),
        ({"score": [0.9, np.nan, 0.1]}, "finite"),
        ({"landmarks": np.zeros((2, 5, 2))}, r"landmarks must have shape \(3, L, 2\), got \(2, 5"),
        ({"landmarks": np.zeros((3, 10))}, r"landmarks must have shape \(3, L, 2\)"),
        ({"landmarks": np.zeros((3, 5, 3))}, r"landmarks must have shape \(3, L, 2\)"),
        ({"landmarks": np.full((3, 5, 2), np.inf)}, "landmarks must be finite"),
        ({"xyxy": [[0, 0, np.inf, 1]] * 3}, "finite"),
        ({"attributes": {"age": 30}}, "attribute 'age' must have 3 rows, got a single value"),
        ({"score": [0.9, 1.5, 0.1]}, "score must be 0 to 1, got 0.1.* to 1.5"),
        ({"score": [0.9, -0.5, 0.1]}, "score must be 0 to 1, got -0.5 to "),
        ({"xyxy": [[5, 0, 1, 1]] * 3}, r"left is beyond right.*\[5.0, 0.0, 1.0, 1.0\]"),
        ({"xyxy": [[0, 5, 1, 1]] * 3}, "top beyond bottom"),
        ({"class_id": [0, 1.7, 0]}, "class_id must be whole numbers"),
        ({"class_id": [0, np.nan, 0]}, "class_id must be whole numbers"),
        ({"track_id": [0, 1.5, 0]}, "track_id must be whole numbers"),
        ({"class_id": [0, -1, 0]}, "must not be negative, got -1"),
        ({"class_id": [0, 2, 0]}, "must be below 2, the number of class names, got 2"),
    ],
)
def test_wrong_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        three(**changes)


def test_indexing_selects_every_column() -> None:
    detections = three()
    for index in (detections.class_id == 1, np.array([0, 2]), slice(0, 3, 2)):
        chosen = detections[index]
        assert chosen.score.tolist() == pytest.approx([0.9, 0.7])
        assert chosen.xyxy[1].tolist() == [1, 2, 3, 4]
        assert chosen.track_id is not None
        assert chosen.track_id.tolist() == [7, 9]
        assert chosen.attributes["age"].tolist() == [30, 50]
        assert chosen.class_names == NAMES


@pytest.mark.parametrize(("index", "track"), [(0, 7), (2, 9), (-1, 9), (-3, 7)])
def test_integer_index_keeps_one_row(index: int, track: int) -> None:
    one = three()[index]
    assert len(one) == 1
    assert one.track_id is not None
    assert one.track_id.tolist() == [track]


@pytest.mark.parametrize("index", [3, -4])
def test_index_outside(index: int) -> None:
    with pytest.raises(IndexError, match="outside 3 detections"):
        three()[index]


def test_iteration() -> None:
    assert [each.names()[0] for each in three()] == ["dog", "cat", "dog"]


def test_names_without_class_names() -> None:
    assert three(class_names=()).names() == ["1", "0", "1"]


def test_records_are_json() -> None:
    record = json.loads(json.dumps(three().to_records()))[1]
    assert record == {
        "class_id": 0,
        "class_name": "cat",
        "score": pytest.approx(0.8),
        "xyxy": [5, 5, 20, 20],
        "track_id": 8,
        "age": 40,
    }
    assert "track_id" not in three(track_id=None).to_records()[0]


def test_empty() -> None:
    empty = Detections.empty(NAMES)
    assert len(empty) == 0
    assert empty.class_names == NAMES
    assert empty.to_records() == []
    assert str(empty) == "no detections"
    assert len(empty[empty.score > 0.5]) == 0


def test_text_is_a_table() -> None:
    lines = str(three()).splitlines()
    assert lines[0].split() == ["dog", "0.900", "0.0", "0.0", "10.0", "10.0", "30"]
    assert len({len(line) for line in lines}) == 1


def test_numpys_own_integers_select_one() -> None:
    found = Detections(
        np.array([[0, 0, 1, 1], [0, 0, 2, 2]], np.float32),
        np.array([0.2, 0.9], np.float32),
        np.array([0, 1]),
    )
    best = found[np.argmax(found.score)]
    assert (len(best), best.class_id[0]) == (1, 1)
    assert len(found[np.int64(-1)]) == 1
    with pytest.raises(IndexError, match="outside 2 detections"):
        found[np.int64(2)]
    assert found == found


def test_a_runtimes_rounding_above_1_is_kept() -> None:
    above = float(np.nextafter(np.float32(1), np.float32(2)))
    assert three(score=[above, 0.8, 0.7]).score[0] == np.float32(above)


def test_landmarks_go_with_their_boxes() -> None:
    points = np.arange(12).reshape(3, 2, 2)
    both = three(landmarks=points)
    assert both.landmarks is not None
    assert both.landmarks.dtype == np.float32
    chosen = both[both.class_id == 1].landmarks
    assert chosen is not None
    assert chosen.tolist() == points[[0, 2]].tolist()
    assert both[2].to_records()[0]["landmarks"] == [[8.0, 9.0], [10.0, 11.0]]
    json.dumps(both.to_records())
    assert "landmarks" not in three().to_records()[0]
    assert three()[1:].landmarks is None
