"""Trained networks of every family in INT8, on the backends that compute in it on a CPU.

Calibrated on four photos only, so the limits are wide; what they are for is noticing that a
backend computes something else, or that a layer's range is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from boxwright import backends
from boxwright.engine import Engine
from boxwright.errors import BuildError
from boxwright.evaluate.proof import prove
from boxwright.images import load_image
from boxwright.importers import import_model
from boxwright.model import Model
from boxwright.preprocess import Preprocessor
from boxwright.quantize.calibration import Calibration, calibrate
from boxwright.quantize.quantizer import quantize
from boxwright.quantize.rules import Rules
from tests.quantize.graphs import nrmse, operators
from tests.quantize.test_insert import assert_canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

PHOTOS = ("bus", "dog", "eagle", "giraffe")


@dataclass(frozen=True)
class Case:
    """A trained network.

    Attributes:
        path: Below the folder of fixtures.
        layers: How many convolutions become INT8, and how many stay in float.
        scores: Largest nrmse of the scores to the float model's.
        boxes: Largest nrmse of boxes, and of landmarks.
        depthwise: Whether its depthwise convolutions are quantised.
        quick: Runs by default.
    """

    path: str
    layers: tuple[int, int]
    scores: float
    boxes: float = 0.05
    depthwise: bool = True
    quick: bool = False


CASES = {
    "yolov4-tiny": Case("darknet/yolov4-tiny/yolov4-tiny.weights", (19, 2), 0.25, quick=True),
    "yolo-fastest-xl": Case("darknet/yolo-fastest/yolo-fastest-1.1-xl.weights", (82, 2), 0.6),
    "nano-voc": Case(
        "darknet/mobilenetv2-yolov3-nano-voc/MobileNetV2-YOLOv3-Nano-voc.weights", (57, 2), 0.4
    ),
    # With its depthwise convolutions in INT8, nothing is left of it: nrmse 1.0.
    "yolox-nano": Case("onnx/yolox_nano.onnx", (74, 39), 0.6, 0.15, depthwise=False),
    "mobilenet-ssd": Case("caffe/mobilenet-ssd/MobileNetSSD_deploy.caffemodel", (35, 12), 0.5),
    "yolov5n": Case("pytorch/yolov5n.pt", (57, 3), 0.25),
    "retinaface": Case("mxnet/retinaface-mnet25/mnet.25-0000.params", (47, 9), 0.35, quick=True),
}


@dataclass(frozen=True)
class Subject:
    """What the tests of one network share."""

    case: Case
    model: Model
    calibration: Calibration
    pixels: NDArray[np.uint8]
    expected: dict[str, NDArray[np.float32]]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if case.quick else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)
def subject(request: pytest.FixtureRequest, fixtures_dir: Path) -> Subject:
    case = CASES[request.param]
    if case.path.startswith("pytorch"):
        pytest.importorskip("torch", reason="PyTorch is not installed")
    if not (fixtures_dir / case.path).exists():
        pytest.skip(f"no {case.path} in {fixtures_dir}")
    model = import_model(fixtures_dir / case.path)
    photos = [fixtures_dir / "photos" / f"{name}.jpg" for name in PHOTOS]
    preprocessor = Preprocessor(model.card)
    pixels = np.stack([preprocessor.prepare(load_image(path))[0] for path in photos])
    with backends.load(model, backend="onnxruntime") as runner:
        expected = runner.infer({"images": pixels})
    return Subject(case, model, calibrate(model, photos), pixels, expected)


def quantized_for(target: str, subject: Subject) -> Model:
    rules = Rules.of_target(target)
    if not subject.case.depthwise:
        rules = Rules(first=True, min_channels=rules.min_channels, depthwise=False)
    found = quantize(subject.model, subject.calibration, rules=rules)
    kept = len(found.placement.layers) - len(found.placement.quantized)
    if rules.min_channels == 1:
        assert (len(found.placement.quantized), kept) == subject.case.layers
    return found.model


def usable(backend: str) -> None:
    if (reason := backends.available()[backend]) is not None:
        pytest.skip(f"{backend} cannot work here: {reason}")


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_the_graph_is_of_the_canonical_form(subject: Subject, target: str) -> None:
    assert_canonical(quantized_for(target, subject).proto, subject.model.proto)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_it_detects_in_int8_what_it_detected(
    subject: Subject, backend: str, tmp_path: Path
) -> None:
    usable(backend)
    model = quantized_for(backend, subject)
    engine = backends.build(model, backend=backend, output=tmp_path / "int8.bw")
    assert engine.receipt["build"]["precision"] == "int8"
    with backends.load(engine) as runner:
        got = runner.infer({"images": subject.pixels})
    assert set(got) == set(subject.expected)
    for name, values in subject.expected.items():
        limit = subject.case.scores if name == "scores" else subject.case.boxes
        assert nrmse(got[name], values) < limit, name
    if backend == "onnxruntime":
        plan = onnx.ModelProto.FromString(engine.plan_bytes(engine.plans[0]))
        assert operators(plan)["QLinearConv"] == subject.case.layers[0]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_verify_accepts_what_int8_explains(subject: Subject, backend: str, tmp_path: Path) -> None:
    usable(backend)
    if subject.case.scores > 0.3 and subject.case.path[:5] != "mxnet":
        pytest.skip("calibrated on four photos, INT8 costs this network more than is accepted")
    model = quantized_for(backend, subject)
    engine: Engine = backends.build(model, backend=backend, output=tmp_path / "int8.bw")
    pixels = subject.pixels[:2]
    for reference, by in ((model, "reference"), (subject.model, "onnxruntime")):
        proof = prove(engine, reference, pixels, reference_backend=by)
        assert proof.ok, proof.parity.to_dict()
        assert all(check.identical for check in proof.consistency)


@pytest.mark.slow
def test_tensorrt_rtx_builds_it(subject: Subject, tmp_path: Path) -> None:
    usable("tensorrt-rtx")
    model = quantized_for("tensorrt-rtx", subject)
    try:
        engine = backends.build(model, backend="tensorrt-rtx", output=tmp_path / "rtx.bw")
    except BuildError as error:
        if "builds precision fp32" not in str(error):
            raise
        pytest.skip("this backend takes no quantised model yet")
    assert engine.receipt["build"]["precision"] == "int8"
