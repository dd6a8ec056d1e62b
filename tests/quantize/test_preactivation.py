"""Ranges between a convolution and its activation: the best that eight bits can do behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from boxwright.graph.view import View
from boxwright.quantize.histogram import Accumulator, TensorStatistics
from boxwright.quantize.legacy_ranges import _statistics
from boxwright.quantize.placement import place
from boxwright.quantize.preactivation import (
    Function,
    best_range,
    find_activated,
    rounded,
)
from boxwright.quantize.rules import Rules
from tests.quantize.graphs import ACTIVATIONS, ALL, Net

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

RANDOM = np.random.default_rng(0)
FUNCTIONS: dict[str, Function] = {
    "leaky": lambda x: np.where(x < 0, 0.1 * x, x),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)),
}
# As convolutions give them: around zero, mostly below it, and with far outliers below.
VALUES = {
    "even": RANDOM.normal(0, 3, 20_000),
    "below": RANDOM.normal(-8, 6, 20_000),
    "outliers": np.concatenate([RANDOM.normal(-1, 2, 20_000), RANDOM.uniform(-120, -60, 5)]),
}


def gather(values: Doubles) -> TensorStatistics:
    accumulator = Accumulator()
    assert accumulator.add(values.astype(np.float32))
    return accumulator.result()


def loss(values: Doubles, function: Function, ends: tuple[float, float]) -> float:
    """What two roundings leave, on the values themselves."""
    wanted = function(values)
    activated = function(rounded(values, ends))
    after = max(float(wanted.min()), float(activated.min())), float(wanted.max())
    return float(np.square(rounded(activated, after) - wanted).mean())


@pytest.mark.parametrize("spread", VALUES)
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_no_other_range_is_better(activation: str, spread: str) -> None:
    values, function = VALUES[spread], FUNCTIONS[activation]
    wanted = function(values)
    low, high = best_range(gather(values), function, (float(wanted.min()), float(wanted.max())))
    assert values.min() - 1e-4 <= low <= 0
    assert 0 < high <= values.max() + 1e-4
    found = loss(values, function, (low, high))
    others = [
        loss(values, function, (bottom, top))
        for bottom in np.linspace(values.min(), 0, 80)
        for top in np.linspace(0.5, 1.0, 11) * values.max()
    ]
    # The histogram's bins are not the values, and fewer ends are tried.
    assert found <= 1.1 * min(others)
    seen = loss(values, function, (float(values.min()), float(values.max())))
    assert found < {"even": 0.9, "below": 0.95, "outliers": 0.7}[spread] * seen


def test_what_the_activation_s_own_range_clips_is_clipped_in_front_of_it() -> None:
    """A percentile or the entropy method ends the activated tensor at 5."""
    statistics = gather(VALUES["even"])
    for function in FUNCTIONS.values():
        _, high = best_range(statistics, function, (-0.3, 5.0))
        assert 4.5 < function(np.array([high]))[0] <= 5.02
        _, high = best_range(statistics, function, (-0.3, 500.0))
        assert 0.8 * statistics.maximum < high <= statistics.maximum


@pytest.mark.parametrize("values", [[], [0.0], [1.0, 2.0], [-1.0, -2.0], [0.0, -3.0], [1e-30]])
def test_a_tensor_on_one_side_of_zero_keeps_its_range(values: list[float]) -> None:
    found = best_range(gather(np.array(values)), FUNCTIONS["leaky"], (-1.0, 2.0))
    assert found == pytest.approx((min([0.0, *values]), max([0.0, *values])))


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_a_range_without_a_histogram_is_kept(activation: str) -> None:
    """A calibration cache has the end of a range alone; what is below zero is not known."""
    statistics = _statistics(10.0)
    assert best_range(statistics, FUNCTIONS[activation], (-10.0, 10.0)) == (-10.0, 10.0)


def test_rounding_is_that_of_a_pair() -> None:
    """``QuantizeLinear`` and ``DequantizeLinear``, as ONNX Runtime computes them."""
    from onnx import TensorProto, helper

    from boxwright.graph.session import plain_session

    x = RANDOM.uniform(-3, 4, 5000)
    low, high = -1.0, 3.0
    step = (high - low) / 255
    make = helper.make_node
    graph = helper.make_graph(
        [
            make("QuantizeLinear", ["x", "s", "z"], ["q"]),
            make("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor("s", TensorProto.FLOAT, [], [step]),
            helper.make_tensor("z", TensorProto.UINT8, [], [round(-low / step)]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    expected = plain_session(model).run(None, {"x": x.astype(np.float32)})[0]
    far = np.abs(rounded(x, (low, high)) - expected)
    # Halves may fall either way in float32.
    assert (far < 1e-5).mean() > 0.999
    assert far.max() < step + 1e-5


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_found(activation: str) -> None:
    net = Net()
    one = net.conv(net.op("Relu", net.x, name="start"), "one")
    net.done(net.conv(ACTIVATIONS[activation](net, one), "end"))
    found = list(find_activated(View(net.proto), {"one", "end"}))
    if activation not in FUNCTIONS:
        assert not found
        return
    (item,) = found
    assert item.tensor == "one"
    end = next(node for node in net.proto.graph.node if node.name == "end")
    assert item.result == end.input[0]
    x = np.linspace(-900, 900, 4001)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(item.function(x), FUNCTIONS[activation](x), atol=1e-12)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_what_anything_else_reads_keeps_the_range_that_was_seen(activation: str) -> None:
    net = Net()
    one = net.conv(net.op("Relu", net.x, name="start"), "one")
    activated = ACTIVATIONS[activation](net, one)
    net.done(net.conv(activated, "end"), net.op("Neg", one, name="other"))
    assert not list(find_activated(View(net.proto), {"one", "end"}))


def test_a_product_of_another_factor_is_no_swish() -> None:
    net = Net()
    one = net.conv(net.op("Relu", net.x, name="start"), "one")
    gate = net.op("Sigmoid", one, name="gate")
    other = net.op("Mul", one, net.op("Abs", gate, name="abs"), name="other")
    net.done(net.conv(other, "end"))
    assert not list(find_activated(View(net.proto), {"one", "end"}))


def test_the_scale_groups_have_tensors_without_a_pair() -> None:
    """A concatenation's branches have the scale of what comes out of it."""
    net = Net()
    start = net.op("Relu", net.x, name="start")
    left = net.op("LeakyRelu", net.conv(start, "one"), name="left", alpha=0.1)
    right = net.op("LeakyRelu", net.conv(start, "two"), name="right", alpha=0.1)
    joined = net.op("Concat", left, right, name="joined", axis=1)
    net.done(net.conv(joined, "end", (32, 16)))
    placement = place(net.proto, ALL)
    assert {tensor.name for tensor in placement.tensors} == {"start", "joined"}
    limits = placement.limits({"start": 2.0, "joined": 5.0})
    assert limits == {"start": 2.0, "joined": 5.0, "left": 5.0, "right": 5.0}
    own = place(net.proto, Rules(first=True, min_channels=1, heads=True, shared_scales=False))
    assert own.limits({"start": 2.0, "joined": 5.0}) == {"start": 2.0, "joined": 5.0}
