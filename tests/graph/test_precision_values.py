"""The float16 form of quantised graphs, its emulation, and trained models in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from boxwright.errors import ModelError
from boxwright.graph.compare import compare
from boxwright.graph.legalise import PASSES
from boxwright.graph.precision import convert, to_half
from boxwright.graph.precision.emulate import emulated
from boxwright.graph.precision.values import quantised, scale_to_float16
from boxwright.graph.session import plain_session
from tests.graph.test_precision import (
    FLOAT,
    FLOAT16,
    Graph,
    chains,
    reason_of,
    types_of,
    values_of,
)
from tests.importers.catalogue import ENTRIES, Sources, load

# Quantised graphs


def quantised_graph(
    scale: float = 0.02, weight_scale: float = 0.01, spread: float = 0.4
) -> onnx.ModelProto:
    """Two convolutions between QuantizeLinear and DequantizeLinear, as TensorRT wants them."""
    graph = Graph()

    def pair(x: str, scale: Any, name: str, **more: Any) -> str:
        factor = graph.constant(scale)
        zero = graph.constant(np.zeros(np.shape(scale)), np.int8)
        integers = graph.op("QuantizeLinear", x, factor, zero, name=f"{name}/q", **more)
        return graph.op("DequantizeLinear", integers, factor, zero, name=f"{name}/dq", **more)

    x = "x"
    for name in ("one", "two"):
        weights = graph.constant(graph.random.normal(0, spread, (4, 4, 1, 1)))
        kernel = pair(weights, np.full(4, weight_scale), f"{name}/weights", axis=0)
        x = graph.op("Relu", graph.op("Conv", pair(x, scale, name), kernel, name=name))
    return graph.model(x)


def test_scales_become_float16_and_weights_integers() -> None:
    proto = quantised_graph()
    half, report = convert(proto)
    onnx.checker.check_model(half, full_check=True)
    assert report.opset == (17, 19)
    assert report.differences == {"opset": 0.0}
    types = types_of(half)
    for node in half.graph.node:
        if node.op_type == "DequantizeLinear":
            assert types[node.input[1]] == types[node.output[0]] == FLOAT16
    # Only what is computed is quantised in the graph; weights are integers already.
    assert sum(n.op_type == "QuantizeLinear" for n in half.graph.node) == 2
    assert values_of(half, "one/weights/q").dtype == np.int8
    found = compare(proto, half)
    assert found.difference is not None
    assert found.difference < 0.02
    assert report.scales_raised == 0


def test_a_last_bit_may_become_a_step_where_the_opset_is_raised(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """ONNX Runtime averages otherwise in opset 19, by 6e-8, and rounds to integers behind it."""
    (entry,) = [e for e in ENTRIES if e.name == "tensorflow-lite-int8"]
    _, report = to_half(load(entry, Sources(request, tmp_path)))
    assert report.opset[1] == 19
    assert 0 <= (report.differences["opset"] or 0) < 0.02


def test_a_raised_opset_that_computes_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(proto: onnx.ModelProto, **parameters: Any) -> Any:
        changed, report = original(proto, **parameters)
        for tensor in changed.graph.initializer:
            if tensor.data_type == FLOAT and len(tensor.dims) == 4:
                values = numpy_helper.to_array(tensor) * np.float32(1.5)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return changed, report

    original = PASSES["opset"]
    monkeypatch.setitem(PASSES, "opset", spoilt)
    with pytest.raises(ModelError, match="the pass 'opset' changes what the graph computes"):
        convert(quantised_graph())


def test_weights_are_quantised_by_the_scale_that_float16_has() -> None:
    """Below 6.1e-5 it is another number, and by that the integers are dequantised."""
    proto = quantised_graph(weight_scale=5.5e-7, spread=2e-5)
    half, _ = convert(proto)
    (kernel,) = [n for n in proto.graph.node if n.name == "one/weights/q"]
    (reader,) = [n for n in half.graph.node if n.name == "one/weights/dq"]
    exact = values_of(proto, kernel.input[0]).astype(np.float64)
    scale = values_of(half, reader.input[1]).astype(np.float64)[0]
    integers = values_of(half, "one/weights/q")
    np.testing.assert_array_equal(integers, np.clip(np.rint(exact / scale), -128, 127))
    assert (integers != np.rint(exact / 5.5e-7)).any()


def test_integers_are_what_quantize_linear_makes() -> None:
    """Against ONNX's own evaluator, with the same float16 scales."""
    random = np.random.default_rng(0)
    values = random.normal(0, 1, (6, 5)).astype(np.float32)
    scale = random.uniform(0.003, 0.02, 6).astype(np.float16)
    zero = np.zeros(6, np.int8)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], axis=0)
    shapes = [helper.make_tensor_value_info("x", FLOAT, [6, 5]),
              helper.make_tensor_value_info("s", FLOAT, [6]),
              helper.make_tensor_value_info("z", TensorProto.INT8, [6])]  # fmt: skip
    result = [helper.make_tensor_value_info("y", TensorProto.INT8, [6, 5])]
    graph = helper.make_graph([node], "g", shapes, result)
    opset = helper.make_opsetid("", 19)
    proto = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    feed = {"x": values, "s": scale.astype(np.float32), "z": zero}
    (want,) = plain_session(proto).run(None, feed)
    np.testing.assert_array_equal(quantised(values, scale, zero, 0), want)
    assert np.abs(want.astype(int)).max() == 128  # some are saturated


def test_no_scale_becomes_zero() -> None:
    given = np.array([1e-9, 2e-8, 5e-7, 3e-5, 0.01], np.float32)
    assert (given.astype(np.float16) == 0).sum() == 2
    made = scale_to_float16(given).astype(np.float32)
    assert made.min() == np.float32(2**-24)
    # Small ones are not rounded down: what they scale would be clipped.
    assert (made[:4] >= given[:4]).all()
    assert made[4] == np.float32(np.float16(0.01))
    half, report = convert(quantised_graph(weight_scale=1e-9))
    assert report.scales_raised == 8
    scales = [t for t in half.graph.initializer if t.data_type == FLOAT16]
    assert all((numpy_helper.to_array(t) > 0).all() for t in scales)


def test_a_scale_that_float16_cannot_hold_stays() -> None:
    _, report = convert(quantised_graph(scale=1e5))
    assert reason_of(report, "one/q") == reason_of(report, "one/dq") == "scale"


def test_both_sides_of_a_border_scale_alike() -> None:
    """QuantizeLinear in float32, DequantizeLinear in float16: one number for both."""
    proto = quantised_graph(scale=0.0123)
    half, _ = convert(proto, keep=("one/q",))
    (node,) = [n for n in half.graph.node if n.name == "one/q"]
    kept = values_of(half, node.input[1])
    (other,) = [n for n in half.graph.node if n.name == "one/dq"]
    assert kept.dtype == np.float32
    assert kept == values_of(half, other.input[1]).astype(np.float32)


def test_biases_of_integers_are_dequantised_beforehand() -> None:
    """Their scale is a product of two, which float16 would make 0."""
    proto = quantised_graph()
    graph = proto.graph
    (conv,) = [n for n in graph.node if n.name == "one"]
    for name, value in (("b", np.array([5, -7, 100, 0], np.int32)), ("s", np.float32(1e-8))):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    graph.node.insert(0, helper.make_node("DequantizeLinear", ["b", "s"], ["bias"], name="bias"))
    conv.input.append("bias")
    half, report = convert(proto)
    assert "float-bias" in report.differences
    assert not any(n.name == "bias" for n in half.graph.node)


# Emulation


def test_emulation_is_numpys_float16() -> None:
    """To the bit, overflow and subnormal numbers included, against ONNX's own evaluator."""
    graph = Graph(64)
    first = graph.op("Cast", "x", to=FLOAT16)
    factor = graph.constant(1.001, np.float16)
    for _ in range(3):
        first = graph.op("Mul", first, factor)
    proto = graph.model(graph.op("Cast", first, to=FLOAT))
    feed = {"x": np.r_[np.linspace(0.1, 3, 60), 1e-7, 7e4, 65000, 1e-5].astype(np.float32)}
    with np.errstate(over="ignore"):
        (want,) = ReferenceEvaluator(proto).run(None, feed)
    (have,) = plain_session(emulated(proto)).run(None, feed)
    np.testing.assert_array_equal(have, want)
    # ONNX Runtime itself rounds nothing between, which is why there is an emulation.
    (loose,) = plain_session(proto).run(None, feed)
    assert (loose != want).any()


# Trained models


@pytest.mark.parametrize(
    ("file", "score", "pixels"),
    [
        # As measured by benchmarks/float16_graph.py, with some room.
        ("darknet/yolo-fastest/yolo-fastest-1.1-xl.weights", 0.02, 0.5),
        ("darknet/yolov4-tiny/yolov4-tiny.weights", 0.01, 0.5),
        ("onnx/version-RFB-320.onnx", 0.01, 0.5),
        ("mxnet/retinaface-mnet25/mnet.25-0000.params", 0.01, 1.0),
    ],
)
def test_a_trained_model_finds_the_same(
    fixtures_dir: Path, file: str, score: float, pixels: float
) -> None:
    from boxwright.images import load_image
    from boxwright.importers import import_model
    from boxwright.preprocess import Preprocessor

    model = import_model(fixtures_dir / file)
    half, _ = to_half(model)
    assert chains(half.proto) == []
    types = types_of(half.proto)
    for node in half.proto.graph.node:
        if node.op_type == "Conv":
            assert types[node.output[0]] == FLOAT16
        elif node.name.startswith("decode/"):
            assert FLOAT16 not in {types.get(name) for name in (*node.input, *node.output)}
    session, own = plain_session(emulated(half.proto)), plain_session(model.proto)
    for photo in ("dog.jpg", "zidane.jpg"):
        picture = load_image(fixtures_dir / "photos" / photo)
        feed = {"images": Preprocessor(model.card).prepare_batch([picture])[0]}
        boxes, scores = own.run(["boxes", "scores"], feed)
        half_boxes, half_scores = session.run(["boxes", "scores"], feed)
        found = scores.max(axis=2) > 0.25
        if photo == "zidane.jpg":
            assert found.any()
        assert np.abs(half_scores - scores)[found].max(initial=0) < score
        assert np.abs(half_boxes - boxes)[found].max(initial=0) < pixels
