"""Trained networks: what they detect, and beside whom their tensors were held."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import boxwright
from boxwright import backends
from boxwright.boxes import iou_xyxy
from boxwright.importers import import_model, make_request, running
from boxwright.importers.caffe import IMPORTER
from boxwright.importers.caffe.verify import feed_of, gap
from boxwright.model import Model
from tests.importers.caffe.nets import Array

VOC = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]
NANO = "MobileNetV2-YOLOv3-Nano-voc"


@pytest.fixture(scope="module")
def caffe(fixtures_dir: Path) -> Path:
    return fixtures_dir / "caffe"


@pytest.fixture(scope="module")
def ssd(caffe: Path) -> Model:
    weights = caffe / "mobilenet-ssd" / "MobileNetSSD_deploy.caffemodel"
    return import_model(weights, names=VOC)


@pytest.fixture(scope="module")
def nano(caffe: Path) -> Model:
    folder = caffe / NANO.lower()
    weights = folder / f"{NANO}.caffemodel"
    options = {"darknet_cfg": str(folder / f"{NANO}.cfg")}
    return import_model(weights, names=VOC, options=options)


def photo(fixtures_dir: Path, size: tuple[int, int], name: str = "dog.jpg") -> Array:
    image = cv2.imread(str(fixtures_dir / "photos" / name))
    assert image is not None
    return np.ascontiguousarray(cv2.resize(image, size[::-1])[..., ::-1])


def test_mobilenet_ssd_detects_what_opencv_does(
    ssd: Model, caffe: Path, fixtures_dir: Path
) -> None:
    folder = caffe / "mobilenet-ssd"
    net = cv2.dnn.readNetFromCaffe(
        str(folder / "MobileNetSSD_deploy.prototxt.txt"),
        str(folder / "MobileNetSSD_deploy.caffemodel"),
    )
    small = photo(fixtures_dir, (300, 300))
    net.setInput(feed_of(small, ssd.card.transforms[0].parameters["pixels"]))
    rows = net.forward()[0, 0]
    with boxwright.Detector(ssd) as detector:
        found = detector(small)
    expected = {VOC[int(row[1]) - 1]: row for row in rows if row[2] > 0.5}
    assert set(expected) == {"dog", "bicycle", "car"}
    found = found[found.score > 0.5]
    assert len(found) == 3
    for box, score, number in zip(found.xyxy, found.score, found.class_id, strict=True):
        row = expected[VOC[number]]
        assert score == pytest.approx(row[2], abs=1e-4)
        assert score > 0.99
        # Ours are cut at the image's edges.
        np.testing.assert_allclose(box, (row[3:] * 300).clip(0, 300), atol=0.05)


def test_mobilenet_ssd_beside_opencv(ssd: Model, caffe: Path) -> None:
    request = make_request(caffe / "mobilenet-ssd" / "MobileNetSSD_deploy.caffemodel")
    verification = IMPORTER.verify(request, ssd)
    assert len(verification.checks) == 2
    assert verification.passed, verification
    assert ssd.card.nms.iou_threshold == pytest.approx(0.45)
    assert ssd.card.score_threshold == 0.25


def test_lenet(caffe: Path) -> None:
    request = make_request(caffe / "mnist-lenet" / "deploy.caffemodel", names=list("0123456789"))
    model = IMPORTER.load(request)
    assert model.card.task == "classify"
    assert model.card.input_size == (28, 28)
    assert model.card.transforms[0].parameters["pixels"]["origin"] == "the prototxt"
    assert IMPORTER.verify(request, model).passed
    # A one, drawn by hand: a white stroke on black.
    image = np.zeros((1, 28, 28, 3), np.uint8)
    image[0, 4:24, 13:16] = 255
    prob = running.run(model.proto, {"images": image}, ["prob"])["prob"]
    assert prob[0].argmax() == 1
    assert prob[0, 1] > 0.9


def test_yolo_nano_beside_its_darknet_twin(nano: Model, fixtures_dir: Path) -> None:
    """Boxes and scores, decoded by another module: raw heads of the two files differ by .019."""
    folder = fixtures_dir / "darknet" / NANO.lower()
    weights = next(folder.glob("*.weights"))
    twin = import_model(weights, names=VOC)
    image = photo(fixtures_dir, (320, 320))[None]
    tensors = list(nano.card.transforms[0].parameters["tensors"].values())
    ours = running.run(nano.proto, {"images": image}, tensors)
    names = [head.tensor for head in twin.card.heads]
    theirs = running.run(twin.proto, {"images": image}, names)
    for mine, other in zip(tensors, names, strict=True):
        assert ours[mine].shape == theirs[other].shape
        assert np.abs(ours[mine] - theirs[other]).max() < 0.03
    with boxwright.Detector(nano) as one, boxwright.Detector(twin) as two:
        a, b = one(image[0]), two(image[0])
    assert len(a) == len(b) > 0
    assert a.class_id.tolist() == b.class_id.tolist()
    np.testing.assert_allclose(a.score, b.score, atol=0.01)
    assert (iou_xyxy(a.xyxy, b.xyxy).diagonal() > 0.97).all()
    assert nano.card.nms == twin.card.nms


def test_yolo_nano_beside_opencv_as_far_as_it_reads(
    nano: Model, caffe: Path, tmp_path: Path, fixtures_dir: Path
) -> None:
    """OpenCV knows no Upsample: what stands in front of it, the first head among it."""
    folder = caffe / NANO.lower()
    text = (folder / f"{NANO}.prototxt").read_text()
    at = text.index('"layer72-upsample"')
    cut = tmp_path / "cut.prototxt"
    cut.write_text(text[: text.rindex("layer {", 0, at)])
    net = cv2.dnn.readNetFromCaffe(str(cut), str(folder / f"{NANO}.caffemodel"))
    image = photo(fixtures_dir, (320, 320))
    parameters = nano.card.transforms[0].parameters
    net.setInput(feed_of(image, parameters["pixels"]))
    (expected,) = net.forward(["layer69-conv"])
    tensor = parameters["tensors"]["layer69-conv"]
    found = running.run(nano.proto, {"images": image[None]}, [tensor])[tensor]
    # Of the largest value: batch norm is folded in ours, float32 sums in another order.
    assert gap(found, expected) < 1e-4


@pytest.mark.parametrize("name", ["ssd", "nano"])
@pytest.mark.parametrize("backend", ["openvino", "reference"])
def test_other_backends(
    name: str, backend: str, request: pytest.FixtureRequest, fixtures_dir: Path
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    model: Model = request.getfixturevalue(name)
    images = photo(fixtures_dir, model.card.input_size)[None]
    results = []
    for one in ("onnxruntime", backend):
        with backends.load(model, backend=one) as runner:
            results.append(runner.infer({"images": images}))
    np.testing.assert_allclose(results[1]["scores"], results[0]["scores"], atol=1e-4)
    np.testing.assert_allclose(results[1]["boxes"], results[0]["boxes"], atol=0.05)
