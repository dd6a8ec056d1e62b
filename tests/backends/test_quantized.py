"""Q/DQ pairs as backends read them, and the unsigned form that stands for the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from boxwright.backends.quantized import activation_pairs, with_unsigned_activations
from tests.quantize.graphs import ACTIVATIONS, Net, inputs, nrmse, quantized, run


def pair(
    net: Net,
    x: str,
    name: str,
    *,
    scale: Any = 0.02,
    zero: Any = 0,
    kind: Any = np.int8,
    second: tuple[Any, Any] | None = None,
) -> str:
    """A Q/DQ pair as somebody else may write it; returns what comes out."""
    scales = net.constant(f"{name}/scale", scale)
    zeros = [] if zero is None else [net.constant(f"{name}/zero", zero, kind)]
    quantized = net.op("QuantizeLinear", x, scales, *zeros, name=f"{name}/q")
    if second is not None:
        scales, zeros = net.constant(f"{name}/scale2", second[0]), []
        if second[1] is not None:
            zeros = [net.constant(f"{name}/zero2", second[1], kind)]
    return net.op("DequantizeLinear", quantized, scales, *zeros, name=name)


def kinds(proto: onnx.ModelProto) -> dict[str, int]:
    """The element type of each QuantizeLinear's zero point."""
    constants = {t.name: t.data_type for t in proto.graph.initializer}
    return {
        node.name: constants.get(node.input[2], 0)
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear" and len(node.input) > 2
    }


def same_bits(proto: onnx.ModelProto, spread: float = 2.0) -> onnx.ModelProto:
    """The unsigned form, once it is seen to compute the same to the bit."""
    x = inputs(spread=spread)
    before = proto.SerializeToString(deterministic=True)
    unsigned = with_unsigned_activations(proto)
    assert proto.SerializeToString(deterministic=True) == before, "the graph is not changed"
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(unsigned), full_check=True)
    expected, got = run(proto, x), run(unsigned, x)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values)
    return unsigned


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_unsigned_form_computes_the_same_to_the_bit(activation: str) -> None:
    net = Net()
    skip = net.op("Relu", net.x, name="skip")
    branch = ACTIVATIONS[activation](net, net.conv(skip, "one", size=3))
    total = net.op("Add", net.conv(branch, "two"), skip, name="total")
    pooled = net.op("MaxPool", total, name="pooled", kernel_shape=[2, 2])
    joined = net.op("Concat", pooled, net.conv(pooled, "three"), name="joined", axis=1)
    net.done(net.conv(joined, "four", (32, 16)))
    proto, placement, _ = quantized(net.proto, inputs())
    found = kinds(same_bits(proto))
    for tensor in placement.tensors:
        assert found[f"{tensor.name}/quantize"] == TensorProto.UINT8
    weights = [kind for name, kind in found.items() if "weights" in name]
    assert weights == [TensorProto.INT8] * 4


def test_values_beyond_the_range_saturate_where_they_did() -> None:
    net = Net()
    net.done(net.conv(net.op("Identity", net.x, name="start"), "conv"))
    proto, _, _ = quantized(net.proto, inputs(spread=0.5))
    same_bits(proto, spread=100.0)


def test_pairs_of_others_are_converted_where_that_is_exact() -> None:
    net = Net()
    asymmetric = pair(net, net.x, "asymmetric", zero=-100)
    own_zero = pair(net, net.x, "own", second=(0.02, 0))
    unsigned = pair(net, net.x, "unsigned", zero=3, kind=np.uint8)
    plain = pair(net, net.x, "plain", zero=None)
    net.done(net.op("Concat", asymmetric, own_zero, unsigned, plain, name="end", axis=1))
    found = kinds(same_bits(net.proto))
    assert found == dict.fromkeys(("asymmetric/q", "own/q", "unsigned/q"), TensorProto.UINT8)


def test_integers_that_something_else_reads_stay_as_they_are() -> None:
    """Their zero point is that of every node that computes with them."""
    net = Net()
    pooled = pair(net, net.x, "pooled")
    # MaxPool takes INT8 itself: its result is undone with the zero point that it had.
    integers = net.op("MaxPool", "pooled/q", name="integers", kernel_shape=[2, 2])
    undone = net.op("DequantizeLinear", integers, "pooled/scale", "pooled/zero", name="undone")
    cast = pair(net, net.x, "cast")
    net.op("Cast", "cast/q", name="as_float", to=TensorProto.FLOAT)
    coarse = pair(net, net.x, "coarse", second=(0.04, 0))
    moved = pair(net, net.x, "moved", second=(0.02, 1))
    without = pair(net, net.x, "without", second=(0.02, None))
    branches = [
        helper.make_graph(
            [
                helper.make_node(
                    "DequantizeLinear", ["inside/q", "inside/scale", "inside/zero"], [n]
                )
            ],
            *("branch", [], [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4)]),
        )
        for n in ("in_a", "in_b")
    ]
    inside = pair(net, net.x, "inside")
    yes = net.constant("yes", np.array(True), bool)
    net.builder.add("If", [yes], "if", then_branch=branches[0], else_branch=branches[1])
    ends = [pooled, "as_float", cast, coarse, moved, without, inside, "if"]
    joined = net.op("Concat", *ends, name="end", axis=1)
    net.done(joined, undone)
    assert not list(activation_pairs(net.proto))
    found = kinds(same_bits(net.proto))
    assert set(found.values()) == {TensorProto.INT8}


def test_integers_that_leave_the_graph_stay_as_they_are() -> None:
    net = Net()
    x = pair(net, net.x, "pair")
    net.op("Identity", x, name="end")
    net.done("end")
    net.proto.graph.output.add(name="pair/q").type.tensor_type.elem_type = TensorProto.INT8
    assert not list(activation_pairs(net.proto))
    assert kinds(same_bits(net.proto)) == {"pair/q": TensorProto.INT8}


def test_one_zero_point_for_weights_and_activations_stays_signed_for_weights() -> None:
    net = Net()
    start = pair(net, net.x, "start")
    weights = net.constant("w", net.random.normal(0, 1, (16, 16, 1, 1)))
    rounded = pair(net, weights, "rounded")
    net.done(net.op("Conv", start, rounded, name="conv"))
    for node in net.proto.graph.node:
        if node.op_type.endswith("QuantizeLinear") or node.op_type == "DequantizeLinear":
            node.input[2] = "start/zero"
    found = kinds(same_bits(net.proto))
    assert found == {"start/q": TensorProto.UINT8, "rounded/q": TensorProto.INT8}


def test_weights_in_constant_nodes_are_weights() -> None:
    net = Net()
    weights = net.random.normal(0, 1, (16, 16, 1, 1)).astype(np.float32)
    tensor = numpy_helper.from_array(weights, "value")
    net.builder.graph.node.append(helper.make_node("Constant", [], ["w"], name="w", value=tensor))
    rounded = pair(net, "w", "rounded")
    net.done(net.op("Conv", pair(net, net.x, "start"), rounded, name="conv"))
    assert [p.tensor for p in activation_pairs(net.proto)] == ["x"]
    assert kinds(same_bits(net.proto))["rounded/q"] == TensorProto.INT8


def test_zero_points_that_nothing_reads_any_more_are_gone() -> None:
    net = Net()
    net.done(pair(net, net.x, "pair"))
    names = {t.name for t in with_unsigned_activations(net.proto).graph.initializer}
    assert names == {"pair/scale", "pair/zero/unsigned"}


@pytest.mark.parametrize(
    ("scale", "zero", "expected"),
    [
        (0.02, 0, 0.02),
        (0.02, 1, 0.0),
        (np.full(16, 0.02), np.zeros(16), 0.0),
        (np.nan, 0, 0.0),
        (np.inf, 0, 0.0),
        (0.0, 0, 0.0),
        (-0.02, 0, 0.0),
    ],
)
def test_only_a_symmetric_pair_has_a_scale(scale: Any, zero: Any, expected: float) -> None:
    net = Net()
    net.done(pair(net, net.x, "pair", scale=scale, zero=zero))
    (found,) = activation_pairs(net.proto)
    assert found.scale == pytest.approx(expected)
    assert (found.tensor, found.quantize.name) == ("x", "pair/q")
    assert [node.name for node in found.dequantize] == ["pair"]


@pytest.mark.parametrize("inputs_left", [0, 1])
def test_a_damaged_pair_is_left_alone(inputs_left: int) -> None:
    net = Net()
    net.done(pair(net, net.x, "pair"))
    for number in (0, 1):
        proto = onnx.ModelProto()
        proto.CopyFrom(net.proto)
        del proto.graph.node[number].input[inputs_left:]
        assert not any(pair.dequantize for pair in activation_pairs(proto))
        with_unsigned_activations(proto)


# OpenVINO


def openvino_error(proto: onnx.ModelProto, x: Any) -> float:
    """How far OpenVINO's CPU is from what the graph says."""
    core = pytest.importorskip("openvino", reason="OpenVINO is not installed").Core()
    compiled = core.compile_model(
        core.read_model(proto.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    (expected,) = run(proto, x).values()
    return nrmse(next(iter(compiled([x]).values())), expected)


def signed_concatenation() -> onnx.ModelProto:
    """The smallest graph that OpenVINO 2026.4 was seen to compute wrongly, of seven nodes."""
    net = Net(1)
    joined = net.op("Concat", net.x, net.op("Neg", net.x, name="neg"), name="joined", axis=1)
    weights = net.constant("w", net.random.normal(0, 0.3, (4, 2, 1, 1)))
    rounded = pair(net, weights, "rounded", scale=np.full(4, 0.01), zero=np.zeros(4))
    for node in net.proto.graph.node[-2:]:
        node.attribute.append(helper.make_attribute("axis", 0))
    net.done(net.op("Conv", pair(net, joined, "pair"), rounded, name="conv"))
    return net.proto


def test_openvino_needs_the_unsigned_form_for_a_concatenation() -> None:
    """Should the first assertion fail one day, OpenVINO reads the portable form rightly."""
    x = inputs(count=1, channels=1, spread=1.0)
    proto = signed_concatenation()
    assert openvino_error(proto, x) > 0.1
    assert openvino_error(with_unsigned_activations(proto), x) < 1e-5


@pytest.mark.parametrize("activation", ["leaky", "relu", "silu", "none"])
def test_openvino_computes_what_the_unsigned_form_says(activation: str) -> None:
    """Concatenations of signed values that convolutions read, as CSP networks have them."""
    net = Net()
    start = net.op("Identity", net.x, name="start")
    left = ACTIVATIONS[activation](net, net.conv(start, "left", size=3))
    right = ACTIVATIONS[activation](net, net.conv(left, "right", size=3))
    joined = net.op("Concat", right, left, name="joined", axis=1)
    end = ACTIVATIONS[activation](net, net.conv(joined, "behind", (32, 16)))
    again = net.op("Concat", start, end, name="again", axis=1)
    net.done(net.conv(again, "last", (32, 16)))
    x = inputs(count=1, spread=1.0)
    proto, _, _ = quantized(net.proto, x)
    assert openvino_error(with_unsigned_activations(proto), x) < 0.01
