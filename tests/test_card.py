from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from boxwright.card import Head, ModelCard, Nms, SourceFile, Transform
from boxwright.errors import CardError

FULL = ModelCard(
    name="yolov4-tiny",
    class_names=("person", "Fußgänger", "自転車"),
    input_size=(416, 608),
    family="yolov4-tiny",
    resize="stretch",
    interpolation="darknet",
    pad_value=128,
    score_threshold=0.3,
    nms=Nms("diou", 0.5, 0.7, class_agnostic=True, multi_label=False),
    heads=(Head("yolo", (13, 19), ((10.0, 14.0), (23.5, 27.0)), 494, "head/0"),),
    source_format="darknet",
    source_files=(SourceFile("yolov4-tiny.cfg", "0" * 64, 1234),),
    licence="MIT",
    transforms=(Transform("import:darknet", {"size": [416, 608]}, {"onnx": "1.16"}, {"ap": 0.4}),),
)


def content(**changes: Any) -> dict[str, Any]:
    return {**json.loads(FULL.to_json()), **changes}


def test_round_trip() -> None:
    assert ModelCard.from_json(FULL.to_json()) == FULL
    assert ModelCard.from_json(FULL.to_json(indent=2).encode()) == FULL


def test_defaults_fill_what_is_left_out() -> None:
    card = ModelCard.from_json(
        '{"schema": 1, "name": "a", "class_names": ["x"], "input_size": [1, 2]}'
    )
    assert card == ModelCard("a", ("x",), (1, 2))


def test_unknown_fields_are_dropped() -> None:
    changed = content(colour="green", nms={**content()["nms"], "sigma": 0.5})
    assert ModelCard.from_json(json.dumps(changed)) == FULL


def test_json_is_stable_and_readable() -> None:
    assert FULL.to_json() == FULL.to_json()
    assert "Fußgänger" in FULL.to_json()
    assert next(iter(content())) == "schema"


def test_with_transform_goes_last() -> None:
    longer = FULL.with_transform(Transform("quantize"))
    assert [step.name for step in longer.transforms] == ["import:darknet", "quantize"]
    assert len(FULL.transforms) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "must be a JSON object, got list"),
        ("{}", "schema 1, got None"),
        ('{"schema": 2}', "schema 1, got 2; a newer Boxwright"),
        ('{"schema": 1}', "lacks 'class_names'"),
        (b"\xff\xfe", "not valid JSON"),
        (" " * (17 << 20), "may hold"),
    ],
)
def test_what_is_no_card(text: str | bytes, message: str) -> None:
    with pytest.raises(CardError, match=message):
        ModelCard.from_json(text)


# One wrong value of each field; a card is read from files nobody vouches for.
@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": 5},
        {"class_names": []},
        {"class_names": [1, 2]},
        {"class_names": "person"},
        {"class_names": 3},
        {"input_size": [416]},
        {"input_size": [416, 0]},
        {"input_size": [416, -1]},
        {"input_size": [416, 416.0]},
        {"input_size": [True, True]},
        {"input_size": [1 << 20, 416]},
        {"task": "segment"},
        {"resize": "crop"},
        {"interpolation": "cubic"},
        {"pad_value": 256},
        {"pad_value": True},
        {"pad_value": 0.5},
        {"score_threshold": 1.5},
        {"score_threshold": "high"},
        {"score_threshold": float("nan")},
        {"nms": []},
        {"nms": {"kind": "soft"}},
        {"nms": {"iou_threshold": -1}},
        {"nms": {"beta": 0}},
        {"nms": {"class_agnostic": 1}},
        {"nms": {"multi_label": "yes"}},
        {"heads": 5},
        {"heads": {}},
        {"transforms": ""},
        {"heads": [{}]},
        {"heads": [{"kind": "yolo", "grid": [13], "anchors": [], "rows": 1, "tensor": "t"}]},
        {"heads": [{"kind": "yolo", "grid": [1, 1], "anchors": [[1]], "rows": 1, "tensor": "t"}]},
        {"heads": [{"kind": "yolo", "grid": [1, 1], "anchors": [], "rows": "1", "tensor": "t"}]},
        {"source_files": [{"name": "a", "sha256": "short", "size": 1}]},
        {"source_files": [{"name": "a", "sha256": "0" * 64}]},
        {"transforms": [{"parameters": {}}]},
        {"transforms": [{"name": "x", "parameters": []}]},
        {"transforms": [5]},
        {"licence": 1},
        {"family": None},
        {"source_format": None},
    ],
)
def test_wrong_field_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CardError):
        ModelCard.from_json(json.dumps(content(**changes)))


def test_message_names_what_was_expected_and_received() -> None:
    with pytest.raises(CardError, match=r"resize must be one of .*letterbox.*got 'crop'"):
        dataclasses.replace(FULL, resize="crop")  # type: ignore[arg-type]


def test_long_values_are_shortened() -> None:
    with pytest.raises(CardError) as caught:
        dataclasses.replace(FULL, name=("x" * 10_000,))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300
