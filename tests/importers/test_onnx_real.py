"""Real detectors that others exported: what they find, beside a decode written down here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from boxwright import datasets
from boxwright.backends import registry
from boxwright.backends.base import BuildSpec
from boxwright.detector import Detector
from boxwright.evaluate.accuracy import Accuracy
from boxwright.evaluate.coco import MAX_DETECTIONS, coco_accuracy, coco_results
from boxwright.evaluate.run import COCO_SCORE, evaluate
from boxwright.images import load_image
from boxwright.importers import choose, import_model, make_request
from boxwright.importers.onnx import IMPORTER
from boxwright.model import Model
from boxwright.postprocess import Postprocessor
from boxwright.preprocess import Preprocessor

Array = NDArray[Any]


@pytest.fixture(scope="module")
def coco_names(fixtures_dir: Path) -> Path:
    return fixtures_dir / "darknet" / "yolov4-tiny" / "coco.names"


@pytest.fixture(scope="module")
def yolox(fixtures_dir: Path, coco_names: Path) -> Model:
    return import_model(fixtures_dir / "onnx" / "yolox_nano.onnx", names=coco_names)


@pytest.fixture(scope="module")
def faces(fixtures_dir: Path) -> Model:
    return import_model(fixtures_dir / "onnx" / "version-RFB-320.onnx", names=("face",))


def prepared(model: Model, photo: Path) -> Array:
    return Preprocessor(model.card).prepare(load_image(photo))[0]


def run_source(path: Path, fed: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: fed.astype(np.float32)})
    return [np.asarray(value) for value in found]


def infer(model: Model, pixels: Array, backend: str = "onnxruntime") -> dict[str, Array]:
    with registry.get(backend).load(model, BuildSpec()) as runner:
        return runner.infer({"images": pixels})


def decoded(t: Array) -> tuple[Array, Array]:
    """YOLOX at 416, as its demo/ONNXRuntime describes it."""
    t = t.astype(np.float64)
    cells = [(x, y, s) for s in (8, 16, 32) for y in range(416 // s) for x in range(416 // s)]
    x, y, stride = np.array(cells, float).T
    cx, cy = (t[:, 0] + x) * stride, (t[:, 1] + y) * stride
    w, h = np.exp(t[:, 2]) * stride, np.exp(t[:, 3]) * stride
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    return boxes, t[:, 4:5] * t[:, 5:]


@pytest.mark.parametrize("photo", ["dog.jpg", "bus.jpg"])
def test_yolox_computes_what_its_source_does(yolox: Model, fixtures_dir: Path, photo: str) -> None:
    pixels = prepared(yolox, fixtures_dir / "photos" / photo)
    bgr = pixels[None, :, :, ::-1].transpose(0, 3, 1, 2)
    (t,) = run_source(fixtures_dir / "onnx" / "yolox_nano.onnx", bgr)
    boxes, scores = decoded(t[0])
    found = infer(yolox, pixels[None])
    # Float32 through a network of 113 convolutions, optimised otherwise.
    np.testing.assert_allclose(found["scores"][0], scores, atol=1e-5)
    np.testing.assert_allclose(found["boxes"][0], boxes, rtol=1e-4, atol=2e-2)


def test_yolox_detects_what_others_saw(yolox: Model, fixtures_dir: Path) -> None:
    """OpenCV saw a dog at .86 and a bus at .90, its letterbox not centred as ours is."""
    with Detector(yolox) as detector:
        dog = detector(fixtures_dir / "photos" / "dog.jpg")
        bus = detector(fixtures_dir / "photos" / "bus.jpg")

    def best(found: Any, name: str) -> float:
        chosen = [s for c, s in zip(found.class_id, found.score, strict=True)
                  if found.class_names[c] == name]  # fmt: skip
        return float(max(chosen, default=0))

    assert best(dog, "dog") == pytest.approx(0.86, abs=0.02)
    assert best(dog, "bicycle") > 0.7
    assert best(bus, "bus") == pytest.approx(0.90, abs=0.05)
    assert best(bus, "person") > 0.8


def test_faces_compute_what_their_source_does(faces: Model, fixtures_dir: Path) -> None:
    pixels = prepared(faces, fixtures_dir / "photos" / "zidane.jpg")
    fed = (pixels[None].transpose(0, 3, 1, 2) - 127.0) / 128.0
    scores, boxes = run_source(fixtures_dir / "onnx" / "version-RFB-320.onnx", fed)
    found = infer(faces, pixels[None])
    np.testing.assert_allclose(found["scores"], scores[..., 1:], atol=1e-5)
    np.testing.assert_allclose(found["boxes"], boxes * [320, 240, 320, 240], atol=1e-2)
    with Detector(faces) as detector:
        best = detector(fixtures_dir / "photos" / "zidane.jpg")
    assert best.score[0] > 0.99
    assert best.score[1] > 0.9


@pytest.mark.parametrize("name", ["yolox", "faces"])
def test_two_images_at_once_are_two_images(
    name: str, request: pytest.FixtureRequest, fixtures_dir: Path
) -> None:
    """Both files were exported for one image."""
    model: Model = request.getfixturevalue(name)
    photos = [prepared(model, fixtures_dir / "photos" / f"{p}.jpg") for p in ("dog", "zidane")]
    both = infer(model, np.stack(photos))
    for at, photo in enumerate(photos):
        single = infer(model, photo[None])
        np.testing.assert_allclose(both["scores"][at], single["scores"][0], atol=1e-5)
        np.testing.assert_allclose(both["boxes"][at], single["boxes"][0], atol=1e-2)


@pytest.mark.parametrize("name", ["yolox", "faces"])
def test_every_backend_agrees(
    name: str, request: pytest.FixtureRequest, fixtures_dir: Path
) -> None:
    model: Model = request.getfixturevalue(name)
    pixels = prepared(model, fixtures_dir / "photos" / "zidane.jpg")[None]
    expected = infer(model, pixels, "reference")
    for backend in ("onnxruntime", "openvino"):
        if registry.get(backend).unavailable() is not None:
            continue
        found = infer(model, pixels, backend)
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
        np.testing.assert_allclose(found["boxes"], expected["boxes"], rtol=1e-3, atol=0.05)


@pytest.mark.parametrize(("name", "file"), [("yolox", "yolox_nano"), ("faces", "version-RFB-320")])
def test_verified_against_the_raw_file(
    name: str, file: str, request: pytest.FixtureRequest, fixtures_dir: Path
) -> None:
    model: Model = request.getfixturevalue(name)
    asked = make_request(fixtures_dir / "onnx" / f"{file}.onnx")
    verification = choose(asked).verify(asked, model)  # type: ignore[attr-defined]
    assert verification.passed, verification
    assert len(verification.checks) >= 3


@pytest.mark.parametrize("name", ["yolox", "faces"])
def test_tensorrt_rtx_builds(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX: pip install tensorrt-rtx")
    model: Model = request.getfixturevalue(name)
    spec = BuildSpec(options={"compute_capabilities": "8.6"})
    engine = registry.get("tensorrt-rtx").build(model, spec, tmp_path / "engine.bw")
    assert engine.receipt is not None
    assert (tmp_path / "engine.bw").stat().st_size > 1_000_000


def test_ap_of_yolox_nano(yolox: Model, fixtures_dir: Path) -> None:
    """Its makers state 25.8 on all of val2017; these are 80 easier images of it.

    Beside it, what the file itself gives, decoded above, through the same suppression.
    """
    pytest.importorskip("faster_coco_eval", reason="AP: pip install boxwright[eval]")
    dataset = datasets.open(fixtures_dir / "coco-tiny")
    evaluation = evaluate(yolox, dataset)
    ours = evaluation.accuracy
    assert isinstance(ours, Accuracy)
    prepare = Preprocessor(yolox.card)
    finish = Postprocessor(yolox.card, score_threshold=COCO_SCORE, max_detections=MAX_DETECTIONS)
    path = fixtures_dir / "onnx" / "yolox_nano.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = []
    for image in dataset.images:
        pixels, geometry = prepare.prepare(load_image(image.path))
        fed = pixels[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        (t,) = session.run(None, {"images": fed})
        boxes, scores = decoded(np.asarray(t)[0])
        detections = finish(boxes.astype(np.float32), scores.astype(np.float32), geometry)
        found.append(evaluation.class_map.apply(detections))
    theirs = coco_accuracy(dataset, coco_results(dataset, found))
    # Float32 swaps neighbours in a ranking now and then.
    assert (theirs.ap, theirs.ap50) == pytest.approx((ours.ap, ours.ap50), abs=2e-4)
    assert (ours.ap, ours.ap50) == pytest.approx((0.298, 0.452), abs=2e-3)


def test_no_other_format_is_taken_for_onnx(fixtures_dir: Path) -> None:
    """Every real file that importers read, by whichever importer."""
    seen = 0
    for path in sorted(fixtures_dir.rglob("*")):
        if not path.is_file() or path.suffix in (".jpg", ".png", ".xml", ".txt", ".json", ".mp4"):
            continue
        found = IMPORTER.recognise(make_request(path))
        assert (found is not None) == (path.suffix == ".onnx"), path
        seen += found is not None
    assert seen >= 2
