"""Biases of convolutions in INT8 on ONNX Runtime, and the weight scales that they need."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from boxwright.backends.onnxruntime.integers import IntegerWriter
from boxwright.backends.onnxruntime.quantized import _scales_for_bias, lower_quantized
from boxwright.backends.onnxruntime.session import open_session, session_options
from boxwright.extras import import_onnxruntime
from tests.backends.test_onnxruntime_quantized import lowered, plan
from tests.quantize.graphs import Net, inputs, operators, quantized


def test_biases_are_integers_already() -> None:
    """ONNX Runtime rounds them itself from 1.21 on; before, it left the convolution in float."""
    net = Net()
    bias = np.linspace(-3, 3, 16).astype(np.float32)
    start = net.op("Relu", net.x, name="start")
    net.done(net.conv(net.conv(start, "one", size=3, bias=bias), "end"))
    proto, _, ranges = quantized(net.proto, inputs(), keep=["end"])
    lower = lower_quantized(proto, ranges)
    makers = {name: node for node in lower.graph.node for name in node.output}
    constants = {t.name: numpy_helper.to_array(t) for t in lower.graph.initializer}
    one = makers["one"]
    integers, steps = (constants[name] for name in makers[one.input[2]].input)
    x_scale, weight_scales = (constants[makers[name].input[1]] for name in one.input[:2])
    assert integers.dtype == np.int32
    np.testing.assert_array_equal(steps, x_scale * weight_scales)
    np.testing.assert_allclose(integers * steps.astype(float), bias, atol=0.5001 * steps.max())
    assert not any(np.array_equal(value, bias) for value in constants.values()), "is read no more"


def test_later_versions_round_a_bias_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    version = tuple(int(part) for part in import_onnxruntime().__version__.split(".")[:2])
    if version < (1, 21):
        pytest.skip("ONNX Runtime rounds no biases before 1.21")
    net = Net()
    bias = net.random.uniform(-3, 3, 64).astype(np.float32)
    weights = net.random.normal(0, 0.1, (64, 16, 3, 3)).astype(np.float32)
    start = net.op("Relu", net.x, name="start")
    net.done(net.conv(net.conv(start, "one", weights=weights, bias=bias), "end", (64, 16)))
    proto, _, ranges = quantized(net.proto, inputs(), keep=["end"])
    ours = plan(lower_quantized(proto, ranges))
    monkeypatch.setattr(
        IntegerWriter, "bias", lambda self, name, bias, steps: self._constant(name, bias)
    )
    theirs = plan(lower_quantized(proto, ranges))
    biases = [
        next(numpy_helper.to_array(t) for t in made.graph.initializer if t.name == node.input[8])
        for made in (ours, theirs)
        for node in made.graph.node
        if node.op_type == "QLinearConv"
    ]
    assert len(biases) == 2
    assert biases[0].dtype == np.int32
    np.testing.assert_array_equal(biases[0], biases[1])


def test_a_bias_that_is_an_input_too_stays_its_default() -> None:
    """As files of ONNX's first versions list all their weights."""
    proto, _, ranges = quantized(near_dead(1.0, 0.5).proto, inputs(), keep=["end"])
    value = helper.make_tensor_value_info("one/bias", TensorProto.FLOAT, [16])
    proto.graph.input.append(value)
    made = plan(lower_quantized(proto, ranges))
    assert operators(made)["QLinearConv"] == 1
    session = open_session(made.SerializeToString(), session_options({}, optimise=False), "cpu")
    (found,) = session.run(None, {"x": inputs()})
    assert np.isfinite(found).all()


def test_steps_beyond_float32_leave_the_bias_in_float() -> None:
    net, most = Net(), 1e30
    start = net.op("Relu", net.x, name="start")
    weights = np.full((16, 16, 1, 1), 1e20, np.float32)
    bias = np.zeros(16, np.float32)
    net.done(net.conv(net.conv(start, "one", weights=weights, bias=bias), "end"))
    proto, _, _ = quantized(net.proto, inputs(), keep=["end"])
    for tensor in proto.graph.initializer:
        if tensor.name == "start/scale":
            tensor.CopyFrom(numpy_helper.from_array(np.array(most / 127, np.float32), tensor.name))
    made = lower_quantized(proto, {"start": (0.0, most)})
    (one,) = (node for node in made.graph.node if node.output[0] == "one")
    assert one.input[2] in {tensor.name for tensor in made.graph.initializer}


def near_dead(weight: float, bias: float) -> Net:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    weights = net.random.normal(0, 0.1, (16, 16, 1, 1)).astype(np.float32)
    weights[::2] *= np.float32(weight)
    biases = np.full(16, bias, np.float32)
    one = net.op("LeakyRelu", net.conv(start, "one", weights=weights, bias=biases), name="leaky")
    net.done(net.conv(one, "end"))
    return net


@pytest.mark.parametrize("bias", [0.0, 0.03, 10.0, -1e4])
@pytest.mark.parametrize("weight", [0.0, 1e-12, 1e-7, 1e-4])
def test_channels_with_next_to_no_weights_keep_their_bias(weight: float, bias: float) -> None:
    """Folding a batch normalisation leaves such channels: all they have is a bias.

    As an INT32 in steps of input and weight scale it would not fit (nrmse 0.9), or, with a
    scale of 1 for zero weights, be rounded away.
    """
    _, far, portable = lowered(near_dead(weight, bias), inputs(), keep=["end"])
    assert far < 3 * portable + 1e-3
    assert far < 0.02


def test_other_channels_keep_the_scales_of_the_portable_graph() -> None:
    proto, _, ranges = quantized(near_dead(1.0, 0.1).proto, inputs())
    made = lower_quantized(proto, ranges)
    assert "one/weights/scale" in {t.name for t in made.graph.initializer}
    assert not any("one/weights/uint8" in node.name for node in made.graph.node)
    assert sum(n.input[0] == "one/weights" for n in made.graph.node) == 1


def test_scales_for_biases_are_as_fine_as_they_can_be() -> None:
    weights = np.zeros((4, 2, 1, 1), np.float32)
    weights[0] = weights[1] = 0.5
    weights[3] = 1e-9
    scales = np.array([0.004, 0.004, 1.0, 2.0**-24], np.float32)
    bias = np.array([1e9, 1.0, 100.0, 100.0], np.float32)
    found = _scales_for_bias(weights, scales, bias, 0.01)
    steps = bias / (0.01 * found.astype(float))
    assert found[1] == scales[1]
    assert found.dtype == np.float32
    assert (np.abs(steps) <= 2**30 * (1 + 1e-6)).all()
    assert np.abs(steps[[0, 2, 3]]) == pytest.approx(2**30, rel=1e-6)


def test_weights_of_two_convolutions_get_scales_for_each_bias() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    weights = net.constant("w", net.random.normal(0, 1e-9, (16, 16, 1, 1)))
    one = net.op("Conv", start, weights, net.constant("b1", np.full(16, 10.0)), name="one")
    two = net.op("Conv", start, weights, net.constant("b2", np.full(16, -3.0)), name="two")
    joined = net.op("Concat", one, two, name="joined", axis=1)
    net.done(net.conv(joined, "end", (32, 16)))
    found, far, _ = lowered(net, inputs(), keep=["end"])
    assert found["QLinearConv"] == 2
    assert far < 0.01


def test_weights_that_no_pair_is_in_front_of_stay_as_they_are() -> None:
    proto, _, ranges = quantized(near_dead(0.0, 10.0).proto, inputs())
    conv = next(node for node in proto.graph.node if node.op_type == "Conv")
    values = numpy_helper.from_array(np.zeros((16, 16, 1, 1), np.float32), "given")
    conv.input[1] = "given"
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["given"], value=values))
    made = lower_quantized(proto, ranges)
    assert "given" in next(n for n in made.graph.node if n.name == conv.name).input


# What is left alone
