"""INT8 on ONNX Runtime's CPU kernels: what is lowered, and that it computes the same."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from boxwright.backends.onnxruntime import _summarise as summarise
from boxwright.backends.onnxruntime import session
from boxwright.backends.onnxruntime.integers import IntegerWriter, Scale
from boxwright.backends.onnxruntime.lowering import lower_mish
from boxwright.backends.onnxruntime.quantized import lower_quantized
from boxwright.backends.onnxruntime.session import open_session, optimise, session_options
from boxwright.environment import cpu_architecture
from boxwright.quantize.calibration import Calibration
from boxwright.quantize.histogram import Accumulator
from boxwright.quantize.placement import place
from boxwright.quantize.preactivation import kept_ranges
from tests.quantize.graphs import (
    ACTIVATIONS,
    ALL,
    Net,
    inputs,
    nrmse,
    operators,
    quantized,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


def plan(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(optimise(proto.SerializeToString(), {}, "cpu"))


def run_plan(proto: onnx.ModelProto, x: Floats) -> dict[str, Floats]:
    runner = open_session(proto.SerializeToString(), session_options({}, optimise=False), "cpu")
    names = [value.name for value in runner.get_outputs()]
    return dict(zip(names, runner.run(names, {"x": x}), strict=True))


def lowered(net: Net, x: Floats, **more: Any) -> tuple[Counter[str], float, float]:
    """Operators of the plan; and how far it, and the portable graph, are from the float one."""
    proto, _, ranges = quantized(net.proto, x, **more)
    before = proto.SerializeToString(deterministic=True)
    lower = lower_quantized(lower_mish(proto)[0], ranges)
    assert proto.SerializeToString(deterministic=True) == before, "the graph is not changed"
    check(lower, net.proto)
    made = plan(lower)
    expected, portable, got = run(net.proto, x), run(proto, x), run_plan(made, x)
    # One output after another: they have their own sizes.
    far = max(nrmse(got[name], values) for name, values in expected.items())
    portable_far = max(nrmse(portable[name], values) for name, values in expected.items())
    return operators(made), far, portable_far


def check(lower: onnx.ModelProto, proto: onnx.ModelProto) -> None:
    """That a graph is sound; ONNX infers no shapes behind ONNX Runtime's own operators."""
    copy = onnx.ModelProto()
    copy.CopyFrom(lower)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.shape_inference.infer_shapes(proto).graph.output)
    onnx.checker.check_model(copy, full_check=True)


def two(net: Net, between: Callable[[Net, str], str], channels: int = 16) -> Net:
    """Two convolutions, of which the second stays in float, and `between` behind the first."""
    start = net.op("Relu", net.x, name="start")
    x = between(net, net.conv(start, "one", size=3))
    x = net.conv(x, "two", (channels, 16))
    net.done(net.conv(x, "end"))
    return net


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_convolutions_compute_in_int8_whatever_activates_them(activation: str) -> None:
    net = two(Net(), ACTIVATIONS[activation])
    found, far, portable = lowered(net, inputs(), keep=["end"])
    assert found["QLinearConv"] == 2
    assert not {"Relu", "LeakyRelu"} & set(found)
    # The oldest version that is supported, 1.18, has a Clip of UINT8 and no Max.
    assert found["Max"] == 0
    if activation == "silu":
        assert found["QuickGelu"] == 1
        assert not {"QLinearSigmoid", "QLinearMul", "Sigmoid", "Mul"} & set(found)
    if activation == "leaky":
        assert (found["Clip"], found["QLinearAdd"]) == (1, 1)
    else:
        assert found["Clip"] == 0
    # Roundings more than the portable graph has, each of at most its size.
    assert far < 3 * portable
    assert far < 0.03


@pytest.mark.parametrize("limit", [6.0, 5.9999995, 1.0, 0.3, 6.1])
def test_a_clip_is_dropped_whatever_its_upper_end(limit: float) -> None:
    def clip(net: Net, x: str) -> str:
        return net.op(
            *("Clip", x, net.constant("low", 0.0), net.constant("high", limit)), name="clipped"
        )

    found, far, _ = lowered(two(Net(), clip), inputs(spread=30.0), keep=["end"])
    assert found["QLinearConv"] == 2
    assert "Clip" not in found
    assert far < 0.05


def residual(net: Net, x: str) -> str:
    return net.op("Add", net.conv(x, "branch"), x, name="total")


def concatenation(net: Net, x: str) -> str:
    return net.op("Concat", x, net.conv(x, "branch"), name="joined", axis=1)


def resize(net: Net, x: str) -> str:
    return net.op("Resize", x, "", net.constant("scales", [1, 1, 2, 2]), name="r", mode="nearest")


def squeeze(net: Net, x: str) -> str:
    pooled = net.op("GlobalAveragePool", x, name="pooled")
    inner = net.op("Relu", net.conv(pooled, "down", (16, 4)), name="inner")
    gate = net.op("Sigmoid", net.conv(inner, "up", (4, 16)), name="gate")
    return net.op("Mul", x, gate, name="scaled")


def halves(net: Net, x: str) -> str:
    left, right = net.builder.split(x, [8, 8], 1, "halves")
    return net.op("Concat", right, left, name="joined", axis=1)


# What stands between convolutions: channels behind it, QLinearConvs, operators in the plan.
BLOCKS: dict[str, tuple[Callable[[Net, str], str], int, int, dict[str, int]]] = {
    "residual": (residual, 16, 3, {"QLinearAdd": 1}),
    "concatenation": (concatenation, 32, 3, {"QLinearConcat": 1}),
    "max pooling": (
        lambda net, x: net.op("MaxPool", x, name="m", kernel_shape=[2, 2], strides=[2, 2]),
        *(16, 2, {"NhwcMaxPool": 1}),
    ),
    "average pooling": (
        lambda net, x: net.op("AveragePool", x, name="m", kernel_shape=[2, 2], strides=[2, 2]),
        *(16, 2, {"QLinearAveragePool": 1}),
    ),
    "nearest": (resize, 16, 2, {"Resize": 1}),
    "slice": (lambda net, x: net.builder.slice(x, 8, 16, 1, "half"), 8, 2, {"Slice": 1}),
    "split": (halves, 16, 2, {"Split": 1, "QLinearConcat": 1}),
    "squeeze and excitation": (
        *(squeeze, 16, 4),
        {"QLinearGlobalAveragePool": 1, "QLinearSigmoid": 1, "QLinearMul": 1},
    ),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_between_convolutions_compute_in_int8(block: str) -> None:
    make, channels, convolutions, expected = BLOCKS[block]
    found, far, portable = lowered(two(Net(), make, channels), inputs(), keep=["end"])
    assert found["QLinearConv"] == convolutions
    assert {name: found[name] for name in expected} == expected
    # In and out, and nothing in between.
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)
    assert far < 3 * portable + 0.005
    assert far < 0.03


def test_the_receipt_counts_what_moves_integers_as_int8() -> None:
    net = two(Net(), BLOCKS["max pooling"][0])
    proto, _, ranges = quantized(net.proto, inputs(), keep=["end"])
    found = summarise(plan(lower_quantized(proto, ranges)).SerializeToString())
    # The two transpositions are around the three, from and to channels first.
    assert found["int8"] == {"NhwcMaxPool": 1, "QLinearConv": 2, "Transpose": 2}
    assert {"Conv", "QuantizeLinear", "DequantizeLinear"} <= set(found["float32"])


# The grid


def test_where_no_pair_is_added_the_grid_is_within_the_portable_one() -> None:
    """A tensor that has a pair keeps to its range, and to what was seen of it."""
    net = Net()
    start = net.op("Identity", net.x, name="start")
    net.done(net.conv(start, "conv"))
    x = inputs()
    proto, _, _ = quantized(net.proto, x)
    scale = next(t for t in proto.graph.initializer if t.name == "start/scale")
    most = 127 * float(numpy_helper.to_array(scale))
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (-9e9, 9e9), (2.0, 3.0), (-3.0, -2.0), (0.0, 0.0)):
        made = lower_quantized(proto, {"start": (low, high)})
        constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
        step, zero = float(constants["start/uint8/scale"]), int(constants["start/uint8/zero"])
        if low == high:
            assert (step, zero) == (1.0, 0)
            continue
        bottom, top = max(min(low, 0.0), -most), min(max(high, 0.0), most)
        # The zero point is rounded, so that the grid may be off by half a step.
        assert step * (0 - zero) == pytest.approx(bottom, abs=step * 0.51)
        assert step * (255 - zero) == pytest.approx(top, abs=step * 0.51)
        assert step <= 2 * most / 255 + 1e-9


@pytest.mark.parametrize("activation", ["silu", "mish"])
def test_what_an_activation_makes_nothing_of_takes_no_part_of_the_grid(activation: str) -> None:
    """Of a convolution's -300 to 12, a Swish leaves 0 to 12."""
    net = Net()
    start = net.op("Relu", net.x, name="start")
    bias = np.linspace(-300, 4, 16).astype(np.float32)
    x = ACTIVATIONS[activation](net, net.conv(start, "one", bias=bias))
    net.done(net.conv(x, "end"))
    proto, _, ranges = quantized(net.proto, inputs())
    assert ranges["one"][0] < -300
    made = lower_quantized(lower_mish(proto)[0], ranges)
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    step, zero = float(constants["one/uint8/scale"]), int(constants["one/uint8/zero"])
    low, high = -zero * step, (255 - zero) * step
    assert -10 < low < -3
    assert high == pytest.approx(ranges["one"][1], abs=step)
    # What is left out is less than half a step.
    assert -low * np.exp(low) < step / 2 + 1e-3 * step
    # With the whole range in the grid it would be ten times as much.
    _, far, _ = lowered(net, inputs(), keep=["end"])
    assert far < 0.03


@pytest.mark.parametrize("other", ["Neg", "Exp"])
def test_a_grid_is_whole_where_anything_else_reads_the_tensor(other: str) -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    one = net.conv(start, "one", bias=np.linspace(-80, 4, 16).astype(np.float32))
    activated = ACTIVATIONS["silu"](net, one)
    net.done(net.conv(activated, "end"), net.op(other, one, name="other"))
    proto, _, ranges = quantized(net.proto, inputs())
    made = lower_quantized(proto, ranges)
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    step, zero = float(constants["one/uint8/scale"]), int(constants["one/uint8/zero"])
    assert -zero * step == pytest.approx(ranges["one"][0], abs=step)


def test_values_that_are_moved_keep_their_grid() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    pooled = net.op("MaxPool", net.conv(start, "one"), name="pooled", kernel_shape=[2, 2])
    net.done(net.conv(pooled, "two"))
    proto, _, ranges = quantized(net.proto, inputs())
    made = lower_quantized(proto, ranges)
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for part in ("scale", "zero"):
        assert constants[f"pooled/uint8/{part}"] == constants[f"one/uint8/{part}"]


def grids(made: onnx.ModelProto) -> dict[str, tuple[float, int]]:
    """Scale and zero point by what is quantised, under the name that the tensor has in float."""
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    return {
        node.output[0].removesuffix("/uint8/float"): (
            float(constants[node.input[1]]),
            int(constants[node.input[2]]),
        )
        for node in made.graph.node
        if node.op_type == "DequantizeLinear" and constants[node.input[1]].ndim == 0
    }


def branches(net: Net, left: str, right: str) -> str:
    start = net.op("Relu", net.x, name="start")
    parts = [
        ACTIVATIONS[kind](net, net.conv(start, name, bias=np.full(16, bias, np.float32)))
        for kind, name, bias in ((left, "left", -1.0), (right, "right", 3.0))
    ]
    joined = net.op("Concat", *parts, name="joined", axis=1)
    net.done(net.conv(joined, "end", (32, 16)))
    return joined


@pytest.mark.parametrize(
    ("left", "right", "shared"),
    [
        ("leaky", "leaky", True),
        ("relu", "relu", True),
        ("leaky", "silu", True),
        ("leaky", "none", True),
        # A common range would begin below 0, and the Relu would be lost.
        ("leaky", "relu", False),
        # And this one would end above 6.
        ("relu6", "relu", False),
    ],
)
def test_what_is_concatenated_has_one_scale(left: str, right: str, shared: bool) -> None:
    net = Net()
    branches(net, left, right)
    x = inputs(spread=4.0)
    found, far, portable = lowered(net, x, rules=ALL)
    # The last one's results leave the graph in float.
    assert (found["QLinearConcat"], found["QLinearConv"]) == (1, 2)
    assert far < 3 * portable
    assert found["Relu"] == 0
    assert found["Clip"] == (left, right).count("leaky")
    proto, _, ranges = quantized(net.proto, x)
    made = lower_quantized(proto, ranges)
    joined = next(node for node in made.graph.node if node.op_type == "Concat")
    scales = {grids(made)[name.removesuffix("/uint8/float")] for name in joined.input}
    assert (scales == {grids(made)["joined"]}) is shared


def uneven(net: Net) -> tuple[str, str]:
    """A concatenation of a small and a large tensor, of which a convolution reads the small."""
    start = net.op("Relu", net.x, name="start")
    weights = net.random.normal(0, 0.01, (16, 16, 1, 1)).astype(np.float32)
    small = net.conv(start, "small", weights=weights, bias=np.zeros(16, np.float32))
    return small, net.op("Concat", small, net.conv(start, "large"), name="joined", axis=1)


@pytest.mark.parametrize("end", ["conv", "abs"])
def test_what_is_concatenated_for_float_keeps_its_own_range(end: str) -> None:
    """No pair is behind the concatenation, so nothing is clipped there, and nothing copied."""
    net = Net()
    small, joined = uneven(net)
    two = net.conv(small, "two")
    last = {
        "conv": lambda: net.conv(joined, "end", (32, 16)),
        "abs": lambda: net.op("Abs", joined, name="end"),
    }
    net.done(two, last[end]())
    keep = ["end"] if end == "conv" else []
    _, far, portable = lowered(net, inputs(), keep=keep)
    assert far < 3 * portable
    assert far < 0.03
    proto, placement, ranges = quantized(net.proto, inputs(), keep=keep)
    found = grids(lower_quantized(proto, ranges))
    assert found["large"][0] > 5 * found["small"][0]
    assert "large" not in placement.limits(dict.fromkeys(["start", "small"], 1.0))


def test_a_part_that_is_rounded_does_not_clip_the_whole() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    bias = np.repeat(np.array([0.0, 30.0], np.float32), 8)
    whole = net.op("LeakyRelu", net.conv(start, "one", bias=bias), name="whole", alpha=0.1)
    part = net.builder.slice(whole, 0, 8, 1, "part")
    joined = net.op("Concat", part, part, name="joined", axis=1)
    net.done(net.conv(joined, "end"), net.op("Abs", whole, name="all"))
    _, far, _ = lowered(net, inputs())
    assert far < 0.1
    placement = place(net.proto, ALL)
    assert set(placement.limits({"start": 1.0, "joined": 2.0})) == {"start", "joined", part}


def test_a_leaky_relu_s_grid_ends_where_that_in_front_of_it_does() -> None:
    net = two(Net(), ACTIVATIONS["leaky"])
    proto, _, ranges = quantized(net.proto, inputs(), keep=["end"])
    ranges["one/leaky"] = -9.0, ranges["one/leaky"][1]
    ranges["one"] = -2.0, ranges["one"][1]
    scale, zero = grids(lower_quantized(proto, ranges))["one/leaky"]
    assert -zero * scale == pytest.approx(-0.2, abs=scale)


# Activations


@pytest.mark.parametrize("slope", [0.1, 0.01, 0.999])
@pytest.mark.parametrize("after", [(-1.2, 12.0), (-0.3, 9.0), (-12.0, 12.0)])
def test_a_leaky_relu_of_integers_is_rounded_once(slope: float, after: tuple[float, float]) -> None:
    """All 256 values, beside numpy and ONNX Runtime's own table."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [], "leaky", [value("x", TensorProto.UINT8, [256])], [value("y", TensorProto.UINT8, [256])]
    )
    opsets = [helper.make_opsetid("", 17)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    before, result = Scale.of(-11.0, 12.0), Scale.of(*after)
    numbers = {
        "s": np.float32(before.scale),
        "z": np.uint8(before.zero),
        "t": np.float32(result.scale),
        "w": np.uint8(result.zero),
    }
    graph_ = proto.graph
    graph_.initializer.extend(
        numpy_helper.from_array(np.array(number), name) for name, number in numbers.items()
    )
    undone = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["float"])
    IntegerWriter(proto, ["x", "y", *numbers]).leaky(undone, "leaky", slope, before, result)
    total = next(node for node in graph_.node if node.op_type == "QLinearAdd")
    del graph_.node[-1]  # the DequantizeLinear
    graph_.node.append(helper.make_node("Identity", total.output, ["y"]))
    graph_.node.append(
        helper.make_node(
            *("QLinearLeakyRelu", [*"xsztw"], ["table"], "table"),
            domain="com.microsoft",
            alpha=slope,
        )
    )
    graph_.output.append(value("table", TensorProto.UINT8, [256]))
    session = open_session(proto.SerializeToString(), session_options({}, optimise=False), "cpu")
    x = np.arange(256, dtype=np.uint8)
    got, table = (v.astype(int) for v in session.run(["y", "table"], {"x": x}))
    real = (x.astype(np.float64) - before.zero) * before.scale
    exact = np.where(real < 0, slope * real, real) / result.scale + result.zero
    exact = np.clip(exact, 0, 255)
    assert np.abs(got - exact).max() <= 0.5 + 1e-3
    # The table rounds twice, where it is further off.
    assert np.abs(got - exact).mean() <= np.abs(table - exact).mean() + 1e-6
    assert np.abs(got - table).max() <= 1


@pytest.mark.parametrize("slope", [0.0, -0.2, 1.0, 1.5])
def test_other_slopes_are_left_to_the_table(slope: float) -> None:
    net = two(Net(), lambda net, x: net.op("LeakyRelu", x, name="leaky", alpha=slope))
    found, far, portable = lowered(net, inputs(), keep=["end"])
    assert (found["QLinearLeakyRelu"], found["QLinearAdd"], found["Clip"]) == (1, 0, 0)
    assert far < 3 * portable


def test_a_gate_that_something_else_reads_is_there() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    one = net.conv(start, "one")
    gate = net.op("Sigmoid", one, name="gate")
    end = net.conv(net.op("Mul", one, gate, name="silu"), "end")
    net.done(end, net.op("Neg", gate, name="other"))
    _, far, portable = lowered(net, inputs(), keep=["end"])
    assert far < 3 * portable + 0.01


def long_tailed(activation: str) -> Net:
    """A network whose convolutions give some values far below zero, and none far above."""
    net = Net()
    x = net.op("Relu", net.x, name="start")
    for name in ("one", "two"):
        weights = -np.abs(net.random.normal(0, 0.1, (16, 16, 1, 1))).astype(np.float32)
        bias = net.random.uniform(1, 4, 16).astype(np.float32)
        x = ACTIVATIONS[activation](net, net.conv(x, name, weights=weights, bias=bias))
    net.done(net.conv(x, "end"))
    return net


@pytest.mark.parametrize(
    ("activation", "better"),
    # Without ranges of its own a Swish or Mish has what is next to nothing left out as well.
    [("leaky", 0.85), ("silu", 1.05), ("mish", 1.05)],
)
def test_it_is_as_near_to_float_as_the_portable_graph(activation: str, better: float) -> None:
    """With the ranges that a model keeps, and not with those that were merely seen."""
    net = long_tailed(activation)
    x = inputs(32)
    x[0, :, 0, 0] = 60.0
    proto, placement, seen = quantized(net.proto, x, keep=["end"])
    statistics = {}
    for name, values in run(net.proto, x, *seen).items():
        accumulator = Accumulator()
        accumulator.add(values)
        statistics[name] = accumulator.result()
    amax = {tensor.name: statistics[tensor.name].amax for tensor in placement.tensors}
    kept = kept_ranges(net.proto, placement, Calibration(statistics, 8, "", ""), amax)
    assert kept["one"][0] > 0.8 * seen["one"][0]
    # What one odd pixel is worth is not what the others lose by it.
    expected = run(net.proto, x)["end"][1:]
    errors = {}
    for name, ranges in (("kept", kept), ("seen", seen)):
        made = plan(lower_quantized(lower_mish(proto)[0], ranges))
        errors[name] = nrmse(run_plan(made, x)["end"][1:], expected)
    portable = nrmse(run(proto, x)["end"][1:], expected)
    assert errors["kept"] < 1.2 * portable
    assert errors["kept"] < better * errors["seen"]


# Biases


def test_without_ranges_only_pairs_that_were_there_are_there() -> None:
    net = two(Net(), ACTIVATIONS["leaky"])
    x = inputs()
    proto, placement, _ = quantized(net.proto, x)
    made = lower_quantized(proto, {})
    count = operators(proto)["QuantizeLinear"]
    assert operators(made)["QuantizeLinear"] == count
    quantised = {n.input[0] for n in made.graph.node if n.op_type == "QuantizeLinear"}
    assert {t.name for t in placement.tensors} < quantised
    assert nrmse(run(made, x)["end"], run(proto, x)["end"]) < 0.03


def test_a_tensor_that_is_an_output_too_leaves_the_graph_in_float() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    middle = ACTIVATIONS["leaky"](net, net.conv(start, "one"))
    net.done(net.conv(middle, "end"), middle, start)
    x = inputs()
    found, far, _ = lowered(net, x)
    assert found["QLinearConv"] >= 1
    assert far < 0.03
    proto, _, ranges = quantized(net.proto, x)
    np.testing.assert_array_equal(
        run(lower_quantized(proto, ranges), x)["start"], run(net.proto, x)["start"]
    )


def test_a_dequantised_tensor_that_leaves_the_graph_keeps_its_pair() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    net.done(net.conv(start, "end"))
    x = inputs()
    proto, _, ranges = quantized(net.proto, x)
    value = helper.make_tensor_value_info("start/dequantize", TensorProto.FLOAT, [None] * 4)
    proto.graph.output.append(value)
    expected = run(proto, x)
    got = run(lower_quantized(proto, ranges), x)
    np.testing.assert_array_equal(got["start/dequantize"], expected["start/dequantize"])


def test_branches_read_what_they_read() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    conv = net.conv(start, "conv")
    branches = [
        helper.make_graph(
            [helper.make_node(kind, [source], [f"in_{kind}"])],
            *(
                "b",
                [],
                [helper.make_tensor_value_info(f"in_{kind}", TensorProto.FLOAT, [None] * 4)],
            ),
        )
        # One of them what the pair gives, as somebody who simplifies the graph may write it.
        for kind, source in (("Abs", "start/dequantize"), ("Neg", "start"))
    ]
    yes = net.constant("yes", np.array(True), bool)
    x = inputs()
    net.done(conv)
    proto, _, ranges = quantized(net.proto, x)
    node = helper.make_node("If", [yes], ["if"], then_branch=branches[0], else_branch=branches[1])
    proto.graph.node.append(node)
    proto.graph.output.append(helper.make_tensor_value_info("if", TensorProto.FLOAT, [None] * 4))
    made = lower_quantized(proto, ranges)
    np.testing.assert_array_equal(run(made, x)["if"], run(proto, x)["if"])


def test_indices_of_a_pooling_are_not_quantised() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    one = net.conv(start, "one")
    pool = helper.make_node("MaxPool", [one], ["pooled", "indices"], "pool", kernel_shape=[2, 2])
    net.proto.graph.node.append(pool)
    two_ = net.conv("pooled", "two")
    where = net.op("Cast", "indices", name="where", to=TensorProto.FLOAT)
    net.done(net.conv(two_, "end"), where)
    proto, _, ranges = quantized(net.proto, inputs())
    made = plan(lower_quantized(proto, ranges))
    assert np.isfinite(run_plan(made, inputs())["end"]).all()


def test_names_that_are_taken_are_left_alone() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    taken = net.op("Neg", start, name="start/uint8")
    other = net.op("Mul", taken, net.constant("start/uint8/scale", 3.0), name="start/uint8/float")
    net.done(net.op("Add", net.conv(start, "one"), other, name="end"))
    _, far, portable = lowered(net, inputs(), rules=ALL)
    assert far < 3 * portable


@pytest.mark.parametrize("scale", [np.nan, np.inf, 0.0, -1.0])
def test_a_pair_without_a_sound_scale_stays_as_it_is(scale: float) -> None:
    net = two(Net(), ACTIVATIONS["leaky"])
    proto, _, ranges = quantized(net.proto, inputs())
    for tensor in proto.graph.initializer:
        if tensor.name == "start/scale":
            tensor.CopyFrom(numpy_helper.from_array(np.array(scale, np.float32), tensor.name))
    made = lower_quantized(proto, ranges)
    assert "start/quantize" in {node.name for node in made.graph.node}


def test_ranges_as_wide_as_float32_overflow_nothing() -> None:
    most = float(np.finfo(np.float32).max)
    net = two(Net(), ACTIVATIONS["leaky"])
    proto, _, ranges = quantized(net.proto, inputs())
    made = lower_quantized(proto, dict.fromkeys(ranges, (-most, most)))
    assert np.isfinite(run_plan(plan(made), inputs())["end"]).all()


def test_the_same_graph_is_lowered_to_the_same_bytes() -> None:
    proto, _, ranges = quantized(two(Net(), squeeze).proto, inputs())
    first, second = (lower_quantized(proto, ranges).SerializeToString() for _ in range(2))
    assert first == second


# Processors


@pytest.mark.parametrize("features", [("avx2",), ("avx2", "avx512f", "avx512vnni")])
def test_without_vnni_weights_become_unsigned(
    features: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels for UINT8 times INT8 saturate at 16 bits there."""
    monkeypatch.setattr(session, "cpu_features", lambda: features)
    proto, _, ranges = quantized(two(Net(), ACTIVATIONS["leaky"]).proto, inputs())
    made = plan(lower_quantized(proto, ranges))
    kinds = {t.name: t.data_type for t in made.graph.initializer}
    weights = {kinds[n.input[3]] for n in made.graph.node if n.op_type == "QLinearConv"}
    vnni = "avx512vnni" in features or cpu_architecture() != "x86-64"
    assert weights == {TensorProto.INT8 if vnni else TensorProto.UINT8}
