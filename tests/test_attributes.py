from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import boxwright
from boxwright.attributes import AttributeModel
from boxwright.backends.plans import check_contract
from boxwright.card import Attribute, Crop, ModelCard, TemplatePoint
from boxwright.crops import crop_map, crop_region, cut_crop, resolve_crop, warp_crop
from boxwright.drawing import draw_detections
from boxwright.errors import CardError, EngineError, InputError, ModelError
from boxwright.model import Model
from tests.classifiers import COLOURS, SIDE, make_classifier
from tests.models import make_model

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def painted(height: int = 60, width: int = 80) -> Pixels:
    """Three upright stripes, red, green and blue."""
    image = np.zeros((height, width, 3), np.uint8)
    for i in range(3):
        image[:, width * i // 3 : width * (i + 1) // 3, i] = 200
    return image


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(rows, np.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("crop", "expected"),
    [
        (Crop(), (10, 20, 30, 60)),
        (Crop("box", 1.5), (5, 10, 35, 70)),
        (Crop("square"), (0, 20, 40, 60)),
        (Crop("square", 1.5), (-10, 10, 50, 70)),
    ],
)
def test_the_crop_rules(crop: Crop, expected: tuple[float, ...]) -> None:
    assert crop_region(boxes((10, 20, 30, 60))[0], crop) == pytest.approx(expected)


def test_a_crop_is_what_opencv_resizes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    part = cut_crop(image, (10, 20, 42, 36), (16, 32), 0)
    assert np.array_equal(part, image[20:36, 10:42])
    # Inside, where the crop's edge is not the image's; the warp rounds to 1/32 of a pixel.
    ours = cut_crop(image, (10, 20, 42, 36), (24, 48), 0)[2:-2, 2:-2].astype(int)
    theirs = cv2.resize(image[20:36, 10:42], (48, 24), interpolation=cv2.INTER_LINEAR)
    assert np.abs(ours - theirs[2:-2, 2:-2]).max() <= 4


def test_outside_the_image_is_the_pad_value() -> None:
    image = np.full((10, 10, 3), 200, np.uint8)
    part = cut_crop(image, (-10, 0, 10, 10), (10, 20), 7)
    assert (part[:, :9] == 7).all()
    assert (part[:, 11:] == 200).all()
    assert (cut_crop(image, (50, 50, 60, 60), (4, 4), 7) == 7).all()


def test_an_image_wider_than_opencv_warps() -> None:
    image = np.zeros((40, 40_000, 3), np.uint8)
    image[:, 20_000:] = 255
    part = cut_crop(image, (0, 0, 40_000, 40), (4, 8), 0)
    assert part[2, :, 0].tolist() == [0, 0, 0, 0, 255, 255, 255, 255]


def test_columns_of_several_images() -> None:
    image = painted()
    with AttributeModel(make_classifier(), batch_size=2) as model:
        assert model.names == ("colour", "colour_score", "bright")
        first, none, last = model(
            [image, image, image[:, ::-1]],
            [boxes((2, 2, 20, 50), (60, 0, 80, 60)), boxes(), boxes((2, 2, 20, 50))],
        )
    assert first["colour"].tolist() == ["red", "blue"]
    assert first["bright"] == pytest.approx(200 / 3, abs=1)
    assert (first["colour_score"] > 0.99).all()
    assert none["colour"].shape == none["bright"].shape == (0,)
    assert last["colour"].tolist() == ["blue"]
    with pytest.raises(InputError, match="is closed"):
        model([image], [boxes()])


def test_batches_change_nothing() -> None:
    image = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    rows = np.random.default_rng(2).uniform(0, 40, (7, 4)).astype(np.float32)
    rows[:, 2:] += rows[:, :2] + 5
    results = []
    for classifier, size in (
        (make_classifier(), 1),
        (make_classifier(), 5),
        (make_classifier(batch=4), None),
    ):
        with AttributeModel(classifier, batch_size=size) as model:
            results.append(model([image, image], [rows[:3], rows[3:]]))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            assert np.array_equal(got["colour"], want["colour"])
            assert np.allclose(got["bright"], want["bright"], atol=1e-3)


def detector(**how: Any) -> boxwright.Detector:
    return boxwright.Detector(make_model(), score_threshold=0.5, max_detections=5, **how)


def test_a_cascade(tmp_path: Path) -> None:
    path = tmp_path / "colours.onnx"
    make_classifier(crop=Crop("square", 1.2)).save(path)
    image = painted()
    with detector() as plain, detector(attributes=[path]) as described:
        expected = plain(image)
        found, empty = described.detect_batch([image, np.zeros((9, 9, 3), np.uint8)])
        assert "attributes" not in plain.settings
        assert described.settings["attributes"][0]["crop"] == {"shape": "square", "scale": 1.2}
        json.dumps(described.settings)
    assert len(found) == len(expected) > 0
    assert np.array_equal(found.xyxy, expected.xyxy)
    assert set(found.attributes) == {"colour", "colour_score", "bright"}
    assert set(empty.attributes) == set(found.attributes)
    assert set(found.attributes["colour"].tolist()) <= set(COLOURS)
    record = found.to_records()[0]
    assert record["colour"] in COLOURS
    json.dumps(record)
    texts = found.attribute_texts()[0]
    assert texts[0] == record["colour"]
    assert texts[1] == f"{record['bright']:.3g}"
    assert texts[0] in str(found)
    bare = dataclasses.replace(found, attributes={})
    assert not np.array_equal(draw_detections(image, found), draw_detections(image, bare))


def test_attributes_must_differ() -> None:
    with pytest.raises(InputError, match="two attribute models say"):
        detector(attributes=[make_classifier(), make_classifier(name="other")])
    wrong: Any = "colours.onnx"
    with pytest.raises(InputError, match="must be a list of models"):
        detector(attributes=wrong)


def test_a_detector_is_no_attribute_model() -> None:
    with pytest.raises(ModelError, match="tiny is a model to detect with 0 attributes"):
        AttributeModel(make_model())
    with pytest.raises(InputError, match="batch_size must be a whole number"):
        AttributeModel(make_classifier(), batch_size=0)


def test_the_card_keeps_attributes() -> None:
    card = make_classifier(crop=Crop("square", 1.5)).card
    assert ModelCard.from_json(card.to_json()) == card
    assert card.crop == Crop("square", 1.5)
    old = json.loads(card.to_json())
    del old["attributes"], old["crop"]
    assert ModelCard.from_json(json.dumps(old)).attributes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": (Attribute("a b", "number"),)}, "different names like Python's"),
        ({"attributes": (Attribute("score", "number"),)}, "different names like Python's"),
        ({"attributes": (Attribute("a", "number"), Attribute("a", "number"))}, "different names"),
        ({"attributes": (Attribute("a", "class"),)}, "'class', with names, or 'number'"),
        ({"attributes": (Attribute("a", "number", ("x",)),)}, "'class', with names, or 'number'"),
        ({"crop": Crop("box", 0)}, "scale above 0"),
        ({"crop": Crop("box", float("nan"))}, "scale above 0"),
        ({"crop": Crop("round")}, "'square' or 'box'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_cards(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CardError, match=message):
        dataclasses.replace(make_classifier().card, **change)


@pytest.mark.parametrize(
    "text", ['{"attributes": "abc"}', '{"attributes": [7]}', '{"attributes": [{"name": "a"}]}',
             '{"attributes": [{"name": "a", "kind": "class", "names": "xy"}]}', '{"crop": 5}']
)  # fmt: skip
def test_broken_cards(text: str) -> None:
    content = json.loads(make_classifier().card.to_json()) | json.loads(text)
    with pytest.raises(CardError):
        ModelCard.from_json(json.dumps(content))


def test_the_graph_must_keep_what_the_card_promises() -> None:
    model = make_classifier()
    more = (*model.card.attributes, Attribute("age", "number"))
    with pytest.raises(ModelError, match="expected an output 'age'"):
        model.with_card(dataclasses.replace(model.card, attributes=more)).check()
    fewer = (Attribute("colour", "class", ("red", "green")),)
    other = model.with_card(dataclasses.replace(model.card, attributes=fewer))
    with pytest.raises(ModelError, match="'colour' must be float"):
        other.check()
    with boxwright.load(model) as runner:
        check_contract(model.card, runner.inputs, runner.outputs, "it")
        with pytest.raises(EngineError, match=r"'colour' must be float32 \[None, 2\]"):
            check_contract(other.card, runner.inputs, runner.outputs, "it")


def test_an_engine_of_a_classifier(tmp_path: Path) -> None:
    engine = boxwright.build(make_classifier(), output=tmp_path / "colours.bw")
    with AttributeModel(engine) as model:
        (columns,) = model([painted()], [boxes((30, 0, 50, 60))])
    assert columns["colour"].tolist() == ["green"]
    saved = tmp_path / "colours.onnx"
    make_classifier().save(saved)
    assert Model.load(saved).card.input_size == (SIDE, SIDE)


def test_faces_with_sex_and_age(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "mxnet"
    faces = boxwright.import_model(folder / "retinaface-mnet25" / "mnet.25-0000.params")
    traits = boxwright.import_model(folder / "insightface-genderage" / "model-0000.params")
    with boxwright.Detector(faces, score_threshold=0.9, attributes=[traits]) as found:
        detections = found(fixtures_dir / "photos" / "zidane.jpg")
    assert len(detections) == 2
    assert detections.attributes["sex"].tolist() == ["male", "male"]
    # Another decoder of JPEG moves an age by a year or two.
    assert detections.attributes["age"] == pytest.approx([58, 34], abs=4)
