"""Q/DQ pairs in a graph: their form, and what they do to the numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from boxwright.errors import InputError
from boxwright.quantize.insert import activation_scale, insert, weight_scales
from boxwright.quantize.placement import place
from boxwright.quantize.rules import Rules
from tests.quantize.graphs import (
    ACTIVATIONS,
    ALL,
    Net,
    inputs,
    nrmse,
    operators,
    quantized,
    ranges_on,
    run,
)


def residual_net(activation: str = "leaky") -> Net:
    net = Net()
    skip = net.op("Relu", net.x, name="skip")
    branch = ACTIVATIONS[activation](net, net.conv(skip, "one", size=3))
    total = net.op("Add", net.conv(branch, "two"), skip, name="total")
    pooled = net.op("MaxPool", total, name="pooled", kernel_shape=[2, 2])
    joined = net.op("Concat", pooled, net.conv(pooled, "three"), name="joined", axis=1)
    net.done(net.conv(joined, "four", (32, 16)))
    return net


def assert_canonical(proto: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """The form that TensorRT 8.6's parser takes."""
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(proto), full_check=True)
    assert [(e.domain, e.version) for e in proto.opset_import] == [("", 17)]
    constants = {t.name: t for t in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in proto.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        assert len(node.input) == 3
        scale, zero = (constants[name] for name in node.input[1:])
        assert scale.data_type == TensorProto.FLOAT
        assert (numpy_helper.to_array(scale) > 0).all()
        assert zero.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(zero).any()
        assert list(scale.dims) == list(zero.dims)
        attributes = {a.name: a.i for a in node.attribute}
        source = node if node.op_type == "QuantizeLinear" else makers[node.input[0]]
        if source.input[0] in constants:
            weights = constants[source.input[0]]
            assert weights.data_type == TensorProto.FLOAT, "weights stay in float32"
            assert list(scale.dims) == [weights.dims[0]]
            assert attributes == {"axis": 0}
        else:
            assert list(scale.dims) == []
            assert attributes == {}
        if node.op_type == "QuantizeLinear":
            (behind,) = readers[node.output[0]]
            assert behind.op_type == "DequantizeLinear"
            assert behind.input[1:] == node.input[1:]
    for node in proto.graph.node:
        if node.op_type == "Conv":
            kinds = [makers[n].op_type if n in makers else "" for n in node.input[:2]]
            assert kinds.count("DequantizeLinear") in (0, 2), "both or none"
            assert node.input[2] in constants, "the bias has no pair"
            for reader in readers.get(node.output[0], ()):
                if reader.op_type == "QuantizeLinear":
                    assert not any(
                        n.op_type in ("LeakyRelu", "Relu", "Sigmoid", "Softplus", "Clip")
                        for n in readers[node.output[0]]
                    ), "none between a convolution and its activation"
    # Without the pairs it is the graph that it was made from.
    assert operators(proto) - operators(original) == {
        kind: count
        for kind, count in operators(proto).items()
        if kind in ("QuantizeLinear", "DequantizeLinear")
    }


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "rules", [ALL, Rules(first=True), Rules(first=True, residual=False, shared_scales=False)]
)
def test_the_form_is_the_canonical_one(activation: str, rules: Rules) -> None:
    net = residual_net(activation)
    x = inputs()
    proto, placement, _ = quantized(net.proto, x, rules)
    assert_canonical(proto, net.proto)
    layers, tensors = len(placement.quantized), len(placement.tensors)
    assert layers >= 3
    assert tensors >= 3
    assert operators(proto)["QuantizeLinear"] == layers + tensors


def test_the_pairs_compute_what_symmetric_rounding_says() -> None:
    """Against the definition in NumPy: round half to even, at most 127 steps either way."""
    net = Net()
    net.done(net.conv(net.op("Neg", net.x, name="start"), "conv"))
    x = inputs(spread=3.0)
    proto, _, ranges = quantized(net.proto, x)
    step = np.float32(max(map(abs, ranges["start"])) / 127)
    rounded = np.clip(np.rint(-x / step), -128, 127) * step
    weights = numpy_helper.to_array(
        next(t for t in net.proto.graph.initializer if t.name == "conv/weights")
    )
    steps = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / np.float32(127)
    exact = np.einsum(
        "oi,nihw->nohw", (np.rint(weights / steps) * steps)[:, :, 0, 0].astype(float), rounded
    )
    bias = numpy_helper.to_array(
        next(t for t in net.proto.graph.initializer if t.name == "conv/bias")
    )
    np.testing.assert_allclose(
        run(proto, x)["conv"], exact + bias[:, None, None], rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("size", [1, 3])
def test_the_error_is_within_what_rounding_can_make(size: int) -> None:
    """For ``y = sum(w * x) + b`` with x off by half a step s and each w by half a step t::

    |error| <= sum(|w| * s / 2 + |x| * t / 2 + s * t / 4)

    Both sums are convolutions themselves: of |w| with s / 2, of |x| with t / 2.
    """
    net = Net()
    net.done(net.conv(net.op("Identity", net.x, name="start"), "conv", size=size))
    x = inputs()
    proto, _, ranges = quantized(net.proto, x)
    weights = numpy_helper.to_array(
        next(t for t in net.proto.graph.initializer if t.name == "conv/weights")
    )
    s = float(activation_scale(max(map(abs, ranges["start"]))))
    t = weight_scales(weights).astype(float)
    count = weights[0].size
    bound_net = Net()
    ones = np.ones_like(weights)
    bound_net.done(
        bound_net.conv(bound_net.x, "conv", size=size, weights=ones, bias=np.zeros(16, np.float32))
    )
    sum_of_x = run(bound_net.proto, np.abs(x))["conv"].astype(float)
    per_channel = (np.abs(weights).sum(axis=(1, 2, 3)) * s / 2 + count * s * t / 4)[:, None, None]
    bound = per_channel + sum_of_x * t[:, None, None] / 2
    error = np.abs(run(proto, x)["conv"].astype(float) - run(net.proto, x)["conv"])
    assert (error <= bound + 1e-5).all()
    # The bound is of the worst case; what is seen is not nothing either.
    assert error.max() > bound.min() / 50


def test_values_that_a_pooling_picks_are_those_that_were_rounded() -> None:
    """With one scale, pooling before or behind the pair is the same: TensorRT moves it so."""
    net = Net()
    start = net.op("Identity", net.x, name="start")
    pooled = net.op("MaxPool", start, name="pooled", kernel_shape=[2, 2])
    net.conv(start, "a"), net.conv(pooled, "b")
    net.done("a", "b")
    x = inputs()
    proto, placement, _ = quantized(net.proto, x)
    assert len({t.group for t in placement.tensors}) == 1
    names = {node.input[0]: node.output[0] for node in proto.graph.node if node.op_type[:1] == "Q"}
    found = run(proto, x, "start/dequantize", "pooled/dequantize")
    assert {"start", "pooled"} < set(names)
    before = found["start/dequantize"].reshape(2, 16, 4, 2, 4, 2).max(axis=(3, 5))
    # MaxPool has stride 1 here: compare where windows do not overlap.
    np.testing.assert_array_equal(found["pooled/dequantize"][:, :, ::2, ::2], before)


def test_weights_of_two_convolutions_get_one_pair() -> None:
    net = Net()
    weights = net.constant("w", net.random.normal(0, 1, (16, 16, 1, 1)))
    first = net.op("Conv", net.x, weights, net.constant("b", np.zeros(16)), name="first")
    net.done(net.op("Conv", net.op("Relu", first, name="r"), weights, "b", name="second"))
    start = inputs()
    placement = place(net.proto, ALL, keep=["first"])
    proto = insert(net.proto, placement, {"r": 1.0})
    nodes = {node.name: node for node in proto.graph.node}
    assert nodes["first"].input[1] == "w", "the kept one has its own weights"
    assert nodes["second"].input[1] == "w/dequantize"
    assert operators(proto)["QuantizeLinear"] == 2
    assert np.isfinite(run(proto, start)["second"]).all()


def test_a_tensor_that_is_an_output_too_leaves_as_it_is() -> None:
    net = Net()
    middle = net.op("Relu", net.conv(net.op("Neg", net.x, name="start"), "one"), name="middle")
    net.done(net.conv(middle, "two"), middle)
    x = inputs()
    proto, placement, _ = quantized(net.proto, x, keep=["one"])
    assert [t.name for t in placement.tensors] == ["middle"]
    np.testing.assert_array_equal(run(proto, x)["middle"], run(net.proto, x)["middle"])
    assert_canonical(proto, net.proto)


def test_branches_and_bodies_read_the_tensor_in_front_of_the_pair() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    conv = net.conv(start, "conv")
    value = helper.make_tensor_value_info
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["start"], [f"in_{kind}"], name=f"start/quantize_{kind}")],
            *("branch", [], [value(f"in_{kind}", TensorProto.FLOAT, None)]),
        )
        for kind in ("Abs", "Neg")
    ]
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "start"], ["next"]),
            # A name that the pair's nodes would have had.
            helper.make_node("Identity", ["go"], ["start/dequantize"]),
        ],
        "body",
        [
            *(value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, [])),
            value("state", TensorProto.FLOAT, None),
        ],
        [value("start/dequantize", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, None)],
    )
    yes = net.constant("yes", np.array(True), bool)
    chosen = net.builder.add("If", [yes], "if", then_branch=branches[0], else_branch=branches[1])
    trips = net.constant("trips", np.array(2), np.int64)
    looped = net.builder.add("Loop", [trips, yes, chosen], "loop", body=body)
    net.done(conv, looped)
    net.proto.ir_version = 8
    x = inputs()
    proto, _, _ = quantized(net.proto, x)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(proto), full_check=True)
    before, after = run(net.proto, x), run(proto, x)
    np.testing.assert_array_equal(after["loop"], before["loop"])
    assert 1e-4 < nrmse(after["conv"], before["conv"]) < 0.02


# Scales


def test_dead_channels_and_tensors_are_zero_and_finite() -> None:
    net = Net()
    weights = net.random.normal(0, 0.1, (16, 16, 1, 1)).astype(np.float32)
    weights[3] = 0
    weights[5] = 1e-45
    weights[7] = -1e-30
    x = net.op("Mul", net.x, net.constant("nought", 0.0), name="dead")
    net.done(net.conv(x, "conv", weights=weights))
    proto, _, ranges = quantized(net.proto, inputs())
    assert list(ranges["dead"]) == [0, 0]
    assert_canonical(proto, net.proto)
    np.testing.assert_array_equal(run(proto, inputs())["conv"], run(net.proto, inputs())["conv"])


@pytest.mark.parametrize("amax", [0.0, 1e-45, 1e-38, 1e-9, 1e-5, 1.0, 6.0, 1e30, 3.4e38])
def test_every_scale_is_one_that_float16_can_hold_or_large(amax: float) -> None:
    """One that is 0 in float16 is refused by TensorRT; small values become 0 instead."""
    scale = activation_scale(amax)
    assert scale.dtype == np.float32
    assert scale.ndim == 0
    assert scale.astype(np.float64) > 0
    with np.errstate(over="ignore"):
        assert np.float16(scale) > 0
    if amax > 1e-5:
        assert scale * 127 == pytest.approx(amax, rel=1e-6)
    else:
        assert scale * 127 >= amax


def test_weight_scales_are_one_for_each_output_channel() -> None:
    weights = np.zeros((5, 2, 3, 3), np.float32)
    weights[0, 1, 2, 2], weights[1, 0], weights[2, 0, 0, 0] = -1.27, 2.54, 1e-45
    weights[4] = np.float32(3e38)
    scales = weight_scales(weights)
    np.testing.assert_allclose(scales[[0, 1, 3]], [0.01, 0.02, 1.0], rtol=1e-6)
    assert scales[2] == 2.0**-24
    assert np.rint(weights[4] / scales[4]).max() == 127
    assert weight_scales(np.zeros((3, 0, 1, 1), np.float32)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    net = Net()
    weights = np.ones((16, 16, 1, 1), np.float32)
    weights[2, 2] = value
    net.done(net.conv(net.op("Relu", net.x, name="r"), "conv", weights=weights))
    with pytest.raises(InputError, match="'conv/weights' are not all finite"):
        insert(net.proto, place(net.proto, ALL), {"r": 1.0})


def test_the_same_graph_gives_the_same_bytes() -> None:
    net = residual_net()
    x = inputs()
    before = net.proto.SerializeToString(deterministic=True)
    first, second = (quantized(net.proto, x)[0] for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
    assert net.proto.SerializeToString(deterministic=True) == before, "the model is not changed"


def test_names_that_are_taken_are_left_alone() -> None:
    """A model may have tensors called as the pairs' would be."""
    net = Net()
    start = net.op("Relu", net.x, name="start")
    taken = net.op("Neg", start, name="start/quantize")
    scale = net.op("Mul", taken, net.constant("start/scale", 3.0), name="start/dequantize")
    net.done(net.op("Add", net.conv(start, "conv"), scale, name="end"))
    x = inputs()
    proto, _, _ = quantized(net.proto, x)
    assert_canonical(proto, net.proto)
    assert nrmse(run(proto, x)["end"], run(net.proto, x)["end"]) < 0.02


def test_ranges_are_those_that_calibration_finds() -> None:
    net = residual_net()
    x = inputs()
    found = ranges_on(net.proto, x)
    assert found["skip"] == (0, float(x.max()))
