"""Asymmetric quantisation in floats: to the bit what ONNX Runtime makes of the pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from boxwright.errors import NotCurableError
from boxwright.graph.compare import compare, run_both
from boxwright.graph.diagnose import diagnose, is_accepted
from boxwright.graph.doctor import cure
from boxwright.graph.legalise import PASSES
from boxwright.graph.targets import find_target
from boxwright.importers import import_model
from tests.graph import zoo

PASS = PASSES["fake-quantisation"]
TARGETS = ("tensorrt@8.6", "tensorrt@10", "tensorrt@11", "tensorrt-rtx")
GOLDEN = Path(__file__).parents[1] / "importers" / "tensorflow" / "golden" / "int8.tflite"

PAIR = (
    "g (float[1,4096] x) => (float[1,4096] y) <float s = {%s}, %s z = {%d}, float t = {%s}, "
    "%s w = {%d}> { a = QuantizeLinear(x, s, z) y = DequantizeLinear(a, t, w) }"
)


def kinds(proto: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in proto.graph.node}


@pytest.mark.parametrize(
    ("kind", "zeros", "scales"),
    [
        ("int8", (-128, -128), (0.1, 0.1)),
        ("int8", (127, 127), (0.0235, 0.0235)),
        ("uint8", (3, 3), (0.5, 0.5)),
        ("uint8", (255, 255), (1e-6, 1e-6)),
        # The two nodes of a pair need not agree.
        ("int8", (5, -7), (0.25, 3.0)),
        ("uint8", (0, 9), (2.0, 2.0)),
    ],
)
def test_a_pair_is_the_same_to_the_bit(
    kind: str, zeros: tuple[int, int], scales: tuple[float, float]
) -> None:
    proto = zoo.model(PAIR % (scales[0], kind, zeros[0], scales[1], kind, zeros[1]))
    cured, report = PASS(proto)
    assert not {"QuantizeLinear", "DequantizeLinear"} & kinds(cured)
    assert len(report.changes) == 2
    assert report.tolerance == 0
    random = np.random.default_rng(0)
    # Halves between two steps, both ends and beyond, and anything.
    steps = np.concatenate([np.arange(-400, 400) / 2, random.uniform(-300, 300, 3296)])
    x = (steps * np.float32(scales[0])).astype(np.float32)[None]
    measured = run_both(proto, cured, {"x": x})
    assert measured.difference == 0, measured


CONV = """
g (float[1,2,6,6] x) => (float[1,3,6,6] y) <float s = {0.02}, int8 z = {-11}, float[3] ws =
{0.01, 0.02, 0.004}, int8[3] wz = {0, 0, 0}, float[3] bs = {0.0002, 0.0004, 0.00008}, int32[3] b =
{1000, -2000, 3}, float u = {0.03}, int8 v = {-128}> {
  a = QuantizeLinear(x, s, z) d = DequantizeLinear(a, s, z)
  w = DequantizeLinear<axis=0>(k, ws, wz) c = DequantizeLinear<axis=0>(b, bs)
  o = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(d, w, c)
  p = QuantizeLinear(o, u, v) y = DequantizeLinear(p, u, v)
}"""


def conv() -> onnx.ModelProto:
    proto = zoo.model(CONV)
    values = np.random.default_rng(1).integers(-127, 128, (3, 2, 3, 3), np.int8)
    proto.graph.initializer.append(numpy_helper.from_array(values, "k"))
    return proto


def test_a_convolution_with_a_scale_for_each_filter() -> None:
    proto = conv()
    cured, _ = PASS(proto)
    assert kinds(cured) == {"Div", "Round", "Clip", "Mul", "Conv"}
    assert compare(proto, cured).difference == 0
    # Nothing of the integers is left in the file.
    assert {t.data_type for t in cured.graph.initializer} == {onnx.TensorProto.FLOAT}


def test_weights_that_the_file_keeps_in_float() -> None:
    """As ONNX Runtime's quantiser writes them for TensorRT: constant, Q, DQ, per filter."""
    proto = zoo.model(CONV.replace("w = Deq", "k = QuantizeLinear<axis=0>(f, ws, wz) w = Deq"))
    # Some beyond the range, some between two steps.
    steps = np.random.default_rng(2).integers(-300, 301, (3, 2, 3, 3)) / 2
    values = steps * np.array([0.01, 0.02, 0.004]).reshape(3, 1, 1, 1)
    proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), "f"))
    cured, _ = PASS(proto)
    assert kinds(cured) == {"Div", "Round", "Clip", "Mul", "Conv"}
    assert compare(proto, cured).difference == 0
    assert "f" not in {t.name for t in cured.graph.initializer}


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_refused_is_cured(name: str) -> None:
    target = find_target(name)
    assert "zero-point" in {f.code for f in diagnose(conv(), target) if f.severity == "error"}
    cured = cure(conv(), target)
    assert "fake-quantisation" in [step.report.name for step in cured.steps]
    assert is_accepted(cured.left)
    assert cured.measured.difference == 0


def test_a_symmetric_graph_stays_quantised() -> None:
    proto = zoo.model(PAIR % (0.1, "int8", 0, 0.1, "int8", 0))
    same, report = PASS(proto)
    assert same is proto
    assert report.changes == ()


@pytest.mark.parametrize(
    "body",
    [
        # read by something else, between the pair
        "g (float[1,4] x) => (float[4,1] y) <float s = {0.1}, int8 z = {3}> { a = "
        "QuantizeLinear(x, s, z) b = Transpose(a) y = DequantizeLinear(b, s, z) }",
        # given out
        "g (float[1,4] x) => (int8[1,4] a) <float s = {0.1}, int8 z = {3}> { a = "
        "QuantizeLinear(x, s, z) }",
        # given in
        "g (uint8[1,4] x) => (float[1,4] y) <float s = {0.1}, uint8 z = {3}> { y = "
        "DequantizeLinear(x, s, z) }",
        # a scale that is computed
        "g (float[1,4] x, float s) => (float[1,4] y) <int8 z = {3}> { a = "
        "QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }",
        # a scale that leaves nothing
        "g (float[1,4] x) => (float[1,4] y) <float s = {0.0}, int8 z = {3}> { a = "
        "QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }",
        # one scale a channel
        "g (float[1,2] x) => (float[1,2] y) <float[2] s = {0.1, 0.2}, int8[2] z = {3, 4}> { a = "
        "QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }",
    ],
)
def test_what_the_pass_cannot_do_is_not_promised(body: str) -> None:
    proto = zoo.model(body)
    with pytest.raises(NotCurableError, match="quantised values are read by"):
        PASS(proto)
    found = [f for f in diagnose(proto, find_target("tensorrt-rtx")) if f.code == "zero-point"]
    assert [f.cure for f in found] == [None]
    assert found[0].advice


def test_an_older_opset_is_raised() -> None:
    proto = zoo.model(PAIR % (0.1, "int8", 3, 0.1, "int8", 3), 10, 5)
    cured, _ = PASS(proto)
    assert cured.opset_import[0].version == 13
    assert compare(proto, cured).difference == 0


def quantised_detector() -> Any:
    options = {"box": "yxyx", "normalised": True, "activation": "none", "background": "none"}
    return import_model(GOLDEN, head="ssd", names=["a", "b", "c"], options=options)


def test_a_detector_that_tensorflow_quantised() -> None:
    cured = cure(quantised_detector().proto, find_target("tensorrt-rtx"))
    assert is_accepted(cured.left)
    assert cured.measured.difference == 0
    assert not {"QuantizeLinear", "DequantizeLinear"} & kinds(cured.proto)
    # Its card goes with it.
    assert [p.key for p in cured.proto.metadata_props] == [
        p.key for p in quantised_detector().proto.metadata_props
    ]
