"""Real detectors beside what TensorFlow Lite's interpreter and OpenCV detect with them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import boxwright
from boxwright import backends
from boxwright.boxes import cxcywh_to_xyxy, iou_xyxy
from boxwright.card import Nms
from boxwright.importers import import_model
from boxwright.importers.tensorflow.detection import OpenCvText
from boxwright.model import Model

# What TensorFlow Lite's interpreter (2.21, reference kernels) detected in photos that
# cv2.resize stretched to 320x320: class, score, and box as fractions. Its optimised kernels
# differ from these by up to 0.015; a rounding at one layer is a step, and steps add up.
INTERPRETER: dict[str, list[tuple[str, float, tuple[float, float, float, float]]]] = {
    "dog": [
        ("dog", 0.586, (0.168, 0.357, 0.430, 0.943)),
        ("car", 0.543, (0.600, 0.139, 0.901, 0.293)),
        ("bicycle", 0.500, (0.139, 0.222, 0.707, 0.800)),
    ],
    "zidane": [
        ("person", 0.738, (0.536, 0.075, 0.895, 0.987)),
        ("person", 0.606, (0.088, 0.260, 0.706, 1.002)),
    ],
    "bus": [
        ("person", 0.801, (0.063, 0.376, 0.291, 0.832)),
        ("bus", 0.773, (0.009, 0.199, 0.991, 0.708)),
        ("person", 0.723, (0.286, 0.375, 0.434, 0.787)),
        ("person", 0.586, (0.848, 0.338, 1.002, 0.798)),
    ],
}
SCORE, OVERLAP = 0.05, 0.8

FACES = {"channels": "bgr", "mean": "104,177,123"}


def stretched(fixtures_dir: Path, photo: str, side: int) -> NDArray[np.uint8]:
    """A photo in RGB, made square without keeping its proportions."""
    read = cv2.imread(str(fixtures_dir / "photos" / f"{photo}.jpg"))
    assert read is not None
    image = cv2.resize(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), (side, side))
    return np.asarray(image, np.uint8)


@pytest.fixture(scope="module", params=["keep", "drop"])
def lite(request: pytest.FixtureRequest, fixtures_dir: Path) -> Model:
    path = fixtures_dir / "tensorflow" / "efficientdet-lite0.tflite"
    return import_model(path, options={"quantization": request.param})


@pytest.fixture(scope="module")
def faces(fixtures_dir: Path) -> Model:
    folder = fixtures_dir / "tensorflow" / "opencv_face_detector"
    return import_model(
        folder / "opencv_face_detector_uint8.pb", size=300, names=["face"], options=FACES
    )


@pytest.mark.parametrize("photo", INTERPRETER)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_efficientdet_detects_what_the_interpreter_does(
    lite: Model, photo: str, backend: str, fixtures_dir: Path
) -> None:
    if (reason := backends.available()[backend]) is not None:
        pytest.skip(reason)
    image = stretched(fixtures_dir, photo, 320)
    with boxwright.Detector(lite, backend=backend) as detector:
        found = detector(image)
    found = found[found.score > 0.45]
    left = [
        (lite.card.class_names[class_id], float(score), box / 320)
        for class_id, score, box in zip(found.class_id, found.score, found.xyxy, strict=True)
    ]
    assert len(left) == len(INTERPRETER[photo])
    for name, score, box in INTERPRETER[photo]:
        near = [
            other
            for other in left
            if other[0] == name
            and abs(other[1] - score) < SCORE
            and iou_xyxy(other[2][None], np.array([box], np.float32)).item() > OVERLAP
        ]
        assert len(near) == 1, (name, score, left)


def test_the_card_of_efficientdet(lite: Model) -> None:
    card = lite.card
    # The label map has 90 lines, ten of which name nothing.
    assert len(card.class_names) == 80
    assert card.class_names[:3] == ("person", "bicycle", "car")
    assert card.class_names[-1] == "toothbrush"
    assert "???" not in card.class_names
    assert card.nms == Nms(iou_threshold=0.5, class_agnostic=True, multi_label=False)
    assert card.licence is not None
    assert card.licence.startswith("Apache")
    assert card.resize == "stretch"
    assert card.heads[0].rows == 19_206


def test_faces_are_those_of_opencv(faces: Model, fixtures_dir: Path) -> None:
    folder = fixtures_dir / "tensorflow" / "opencv_face_detector"
    network = cv2.dnn.readNetFromTensorflow(
        str(folder / "opencv_face_detector_uint8.pb"), str(folder / "opencv_face_detector.pbtxt")
    )
    image = stretched(fixtures_dir, "zidane", 300)
    network.setInput(
        cv2.dnn.blobFromImage(image[..., ::-1].copy(), 1.0, (300, 300), (104, 177, 123))
    )
    theirs = network.forward()[0, 0]
    theirs = theirs[theirs[:, 2] > 0.5]
    with boxwright.Detector(faces) as detector:
        found = detector(image)
    found = found[found.score > 0.5]
    assert len(found) == len(theirs) == 2
    # float32 sums in another order; in pixels of the 300.
    np.testing.assert_allclose(found.score, theirs[:, 2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.xyxy, theirs[:, 3:] * 300, rtol=0, atol=0.01)


def test_faces_with_two_images_at_once(faces: Model, fixtures_dir: Path) -> None:
    images = np.stack([stretched(fixtures_dir, photo, 300) for photo in ("dog", "zidane")])
    with backends.load(faces) as runner:
        both = runner.infer({"images": images})
        one = runner.infer({"images": images[1:]})
    np.testing.assert_allclose(both["scores"][1], one["scores"][0], rtol=0, atol=1e-5)
    assert both["scores"][1].max() > 0.99


def test_a_size_is_asked_for_where_the_file_has_none(fixtures_dir: Path) -> None:
    path = fixtures_dir / "tensorflow" / "opencv_face_detector" / "opencv_face_detector_uint8.pb"
    with pytest.raises(boxwright.BoxwrightError, match="say which with --size"):
        import_model(path, options=FACES)


def test_prior_boxes_are_those_of_opencv(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "tensorflow" / "opencv_face_detector"
    network = cv2.dnn.readNetFromTensorflow(
        str(folder / "opencv_face_detector_uint8.pb"), str(folder / "opencv_face_detector.pbtxt")
    )
    network.setInput(np.zeros((1, 3, 300, 300), np.float32))
    theirs = network.forward("mbox_priorbox")[0, 0].reshape(-1, 4) * 300
    text = OpenCvText(folder / "opencv_face_detector.pbtxt")
    grids = [(side, side) for side in (38, 19, 10, 5, 5, 5)]
    ours = cxcywh_to_xyxy(text.priors(grids, (300, 300)).astype(np.float32))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
