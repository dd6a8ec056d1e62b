from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from boxwright.backends.base import TensorSpec
from boxwright.card import ModelCard, Nms
from boxwright.closing import Closing
from boxwright.detector import Detector
from boxwright.errors import CardError, EngineError, ImageError, InputError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from boxwright.images import Pixels

CARD = ModelCard("test", ("bright", "dark"), (40, 40), resize="letterbox", pad_value=0)


class BrightSpot(Closing):
    """A runner that finds the white pixels of each image: a box round them, score 0.9."""

    def __init__(self, batch: int | None = None, name: str = "images") -> None:
        self.inputs = (TensorSpec(name, np.dtype(np.uint8), (batch, 40, 40, 3)),)
        self.outputs = ()
        self.batches: list[int] = []
        self.closed = 0

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        batch = feed["images"]
        assert batch.dtype == np.uint8
        assert batch.shape[1:] == (40, 40, 3)
        assert self.inputs[0].shape[0] in (None, len(batch))
        self.batches.append(len(batch))
        boxes = np.zeros((len(batch), 2, 4), np.float32)
        scores = np.zeros((len(batch), 2, 2), np.float32)
        for i, image in enumerate(batch):
            rows, columns = np.nonzero(image[..., 0] > 127)
            if len(rows):
                boxes[i] = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                scores[i] = [[0.9, 0.3], [0.8, 0.0]]
        return {"boxes": boxes, "scores": scores}

    def close(self) -> None:
        self.closed += 1


def picture(left: int, top: int, right: int, bottom: int) -> Pixels:
    image = np.zeros((100, 200, 3), np.uint8)
    image[top:bottom, left:right] = 255
    return image


def test_boxes_are_in_source_pixels() -> None:
    with Detector(CARD, runner=BrightSpot()) as detector:
        found = detector(picture(50, 20, 100, 60))
    assert found.names() == ["bright", "dark"]
    assert found.xyxy.tolist() == [[50, 20, 100, 60]] * 2
    assert found.score.tolist() == pytest.approx([0.9, 0.3])


def test_every_source_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "spot.png"
    Image.fromarray(picture(50, 20, 100, 60)).save(path)
    detector = Detector(CARD, runner=BrightSpot())
    for source in (path, str(path), path.read_bytes(), Image.open(path)):
        assert detector(source).xyxy[0].tolist() == [50, 20, 100, 60]


def test_boxes_are_in_pixels_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it upright
    path = tmp_path / "turned.png"
    Image.fromarray(picture(50, 20, 100, 60)).save(path, exif=exif)
    assert Detector(CARD, runner=BrightSpot())(path).xyxy[0].tolist() == [40, 50, 80, 100]


@pytest.mark.parametrize(
    ("fixed", "wanted", "batches"),
    [
        (None, 2, [2, 2, 1]),
        (None, None, [5]),
        (4, None, [4, 4]),  # the last run is filled up
        (4, 1, [4, 4, 4, 4, 4]),
        (1, None, [1, 1, 1, 1, 1]),
    ],
)
def test_batches(fixed: int | None, wanted: int | None, batches: list[int]) -> None:
    images = [picture(10 * i, 0, 10 * i + 50, 50) for i in range(5)]
    runner = BrightSpot(fixed)
    detector = Detector(CARD, runner=runner, batch_size=wanted)
    found = detector.detect_batch(iter(images))
    assert runner.batches == batches
    assert [int(each.xyxy[0, 0]) for each in found] == [0, 10, 20, 30, 40]


def test_empty_batch() -> None:
    assert Detector(CARD, runner=BrightSpot()).detect_batch([]) == []


def test_nothing_found() -> None:
    assert len(Detector(CARD, runner=BrightSpot())(picture(0, 0, 0, 0))) == 0


def test_arguments_win_over_the_card_and_the_card_over_defaults() -> None:
    card = ModelCard("test", ("a", "b"), (40, 40), score_threshold=0.1, nms=Nms("diou", 0.3))
    settings = Detector(card, runner=BrightSpot()).settings
    assert settings["score_threshold"] == 0.1
    assert (settings["nms"]["kind"], settings["nms"]["iou_threshold"]) == ("diou", 0.3)
    chosen = Detector(
        card,
        runner=BrightSpot(),
        score_threshold=0.0,
        nms_kind="none",
        iou_threshold=0.9,
        class_agnostic=True,
        multi_label=False,
        max_detections=7,
        classes=["b"],
        resize="stretch",
        interpolation="darknet",
        clip=False,
    ).settings
    assert chosen == {
        "input_size": [40, 40],
        "resize": "stretch",
        "interpolation": "darknet",
        "pad_value": 114,
        "score_threshold": 0.0,
        "nms": {
            "kind": "none",
            "iou_threshold": 0.9,
            "beta": 0.6,
            "class_agnostic": True,
            "multi_label": False,
        },
        "max_detections": 7,
        "max_candidates": 100_000,
        "classes": [1],
        "clip": False,
    }


def test_settings_reach_the_stages() -> None:
    image = picture(50, 20, 100, 60)
    assert len(Detector(CARD, runner=BrightSpot(), score_threshold=0.95)(image)) == 0
    assert len(Detector(CARD, runner=BrightSpot(), classes=["dark"])(image)) == 1
    assert len(Detector(CARD, runner=BrightSpot(), iou_threshold=1.0)(image)) == 3
    assert len(Detector(CARD, runner=BrightSpot(), max_detections=1)(image)) == 1
    stretched = Detector(CARD, runner=BrightSpot(), resize="stretch")(image)
    assert stretched.xyxy[0].tolist() == pytest.approx([50, 20, 100, 60], abs=3)


def test_closing() -> None:
    runner = BrightSpot()
    with Detector(CARD, runner=runner) as detector:
        pass
    detector.close()
    assert runner.closed == 1
    with pytest.raises(InputError, match="closed"):
        detector(picture(0, 0, 5, 5))


def test_runner_is_closed_when_it_does_not_fit() -> None:
    runner = BrightSpot(name="pixels")
    with pytest.raises(ModelError, match=r"input 'images', got \['pixels'\]"):
        Detector(CARD, runner=runner)
    assert runner.closed == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of 1 or more, got 0"),
        ({"score_threshold": 2.0}, "score_threshold"),
        ({"resize": "crop"}, "resize must be one of"),
        ({"classes": ["grey"]}, "unknown class 'grey'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Detector(CARD, runner=BrightSpot(), **arguments)


def test_numpys_numbers_are_numbers() -> None:
    numbers: dict[str, Any] = {
        "score_threshold": np.float32(0.5),
        "iou_threshold": np.float64(0.25),
        "beta": np.float32(0.5),
        "max_detections": np.int64(2),
        "batch_size": np.int64(2),
    }
    detector = Detector(CARD, runner=BrightSpot(), **numbers)
    assert detector.batch_size == 2
    assert json.loads(json.dumps(detector.settings)) == detector.settings
    assert detector.settings["max_detections"] == 2
    for name in numbers:
        wrong: Any
        for wrong in (True, np.True_, "1"):
            with pytest.raises(InputError, match=f"{name} must be"):
                Detector(CARD, runner=BrightSpot(), **{name: wrong})


def test_batch_larger_than_built_for() -> None:
    with pytest.raises(InputError, match="at most 2"):
        Detector(CARD, runner=BrightSpot(2), batch_size=3)


def test_wrong_images() -> None:
    detector = Detector(CARD, runner=BrightSpot(), max_pixels=1000)
    with pytest.raises(ImageError, match="limit"):
        detector(picture(0, 0, 5, 5))
    with pytest.raises(InputError, match="takes a list"):
        detector.detect_batch("dog.jpg")
    pixels = np.zeros((8, 8, 3), np.uint8)
    one: Any
    for one in (pixels, pixels[..., 0], Image.fromarray(pixels), bytearray(b"x"), memoryview(b"x")):
        with pytest.raises(InputError, match="takes a list"):
            detector.detect_batch(one)
    assert len(detector.detect_batch(np.stack([pixels, pixels]))) == 2


def test_wrong_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got int"):
        Detector(5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a model card alone cannot run"):
        Detector(CARD)
    classifier = ModelCard("lenet", ("0", "1"), (28, 28), task="classify")
    with pytest.raises(ModelError, match="lenet is a model to classify"):
        Detector(classifier, runner=BrightSpot())
    with pytest.raises(ModelError, match="cannot read"):
        Detector(tmp_path / "none.onnx")
    with pytest.raises(EngineError):
        Detector(tmp_path / "none.bw")


def test_foreign_onnx_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [other])
    onnx.save(helper.make_model(graph), tmp_path / "foreign.onnx")
    with pytest.raises(CardError, match="boxwright import"):
        Detector(tmp_path / "foreign.onnx")
