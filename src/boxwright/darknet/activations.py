"""Darknet's activations in standard ONNX operators (formulas: ``src/activations.h``).

Mish stays Softplus-Tanh-Mul and swish Sigmoid-Mul: TensorRT and OpenVINO recognise these
forms and fuse them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from boxwright.graph.builder import GraphBuilder


def apply(graph: GraphBuilder, activation: str, x: str, name: str) -> str:
    """Add `activation` after tensor `x`; the new tensor, or `x` itself for ``linear``."""
    return ACTIVATIONS[activation](graph, x, name)


def _linear(_graph: GraphBuilder, x: str, _name: str) -> str:
    return x


def _leaky(graph: GraphBuilder, x: str, name: str) -> str:
    return graph.add("LeakyRelu", [x], f"{name}/leaky", alpha=0.1)


def _logistic(graph: GraphBuilder, x: str, name: str) -> str:
    return graph.add("Sigmoid", [x], f"{name}/logistic")


def _loggy(graph: GraphBuilder, x: str, name: str) -> str:
    doubled = graph.add("Mul", [_logistic(graph, x, name), graph.scalar(2.0)], f"{name}/double")
    return graph.add("Sub", [doubled, graph.scalar(1.0)], f"{name}/loggy")


def _relu(graph: GraphBuilder, x: str, name: str) -> str:
    return graph.add("Relu", [x], f"{name}/relu")


def _relu6(graph: GraphBuilder, x: str, name: str) -> str:
    return graph.add("Clip", [x, graph.scalar(0.0), graph.scalar(6.0)], f"{name}/relu6")


def _relie(graph: GraphBuilder, x: str, name: str) -> str:
    return graph.add("LeakyRelu", [x], f"{name}/relie", alpha=0.01)


def _ramp(graph: GraphBuilder, x: str, name: str) -> str:
    slope = graph.add("Mul", [x, graph.scalar(0.1)], f"{name}/slope")
    return graph.add("Add", [_relu(graph, x, name), slope], f"{name}/ramp")


def _tanh(graph: GraphBuilder, x: str, name: str) -> str:
    return graph.add("Tanh", [x], f"{name}/tanh")


def _hardtan(graph: GraphBuilder, x: str, name: str) -> str:
    return graph.add("Clip", [x, graph.scalar(-1.0), graph.scalar(1.0)], f"{name}/hardtan")


def _lhtan(graph: GraphBuilder, x: str, name: str) -> str:
    """Slope 1 from 0 to 1 and 0.001 outside, as a clipped part and a slope."""
    clipped = graph.add("Clip", [x, graph.scalar(0.0), graph.scalar(1.0)], f"{name}/clip")
    steep = graph.add("Mul", [clipped, graph.scalar(0.999)], f"{name}/steep")
    slope = graph.add("Mul", [x, graph.scalar(0.001)], f"{name}/slope")
    return graph.add("Add", [steep, slope], f"{name}/lhtan")


def _plse(graph: GraphBuilder, x: str, name: str) -> str:
    """Slope 0.125 from -4 to 4 and 0.01 outside, as a clipped part, a slope and an offset."""
    clipped = graph.add("Clip", [x, graph.scalar(-4.0), graph.scalar(4.0)], f"{name}/clip")
    steep = graph.add("Mul", [clipped, graph.scalar(0.115)], f"{name}/steep")
    slope = graph.add("Mul", [x, graph.scalar(0.01)], f"{name}/slope")
    total = graph.add("Add", [steep, slope], f"{name}/sum")
    return graph.add("Add", [total, graph.scalar(0.5)], f"{name}/plse")


def _stair(graph: GraphBuilder, x: str, name: str) -> str:
    """Flat on even units, rising on odd ones: floor(x/2) + (x - floor x) * (floor x mod 2)."""
    floor = graph.add("Floor", [x], f"{name}/floor")
    halved = graph.add("Mul", [floor, graph.scalar(0.5)], f"{name}/half")
    steps = graph.add("Floor", [halved], f"{name}/steps")
    even = graph.add("Mul", [steps, graph.scalar(2.0)], f"{name}/even")
    odd = graph.add("Sub", [floor, even], f"{name}/odd")
    rest = graph.add("Sub", [x, floor], f"{name}/rest")
    rise = graph.add("Mul", [rest, odd], f"{name}/rise")
    return graph.add("Add", [steps, rise], f"{name}/stair")


def _elu(graph: GraphBuilder, x: str, name: str) -> str:
    return graph.add("Elu", [x], f"{name}/elu", alpha=1.0)


def _selu(graph: GraphBuilder, x: str, name: str) -> str:
    return graph.add("Selu", [x], f"{name}/selu", alpha=1.6732, gamma=1.0507)


def _gelu(graph: GraphBuilder, x: str, name: str) -> str:
    """0.5 x (1 + tanh(0.797885 x + 0.035677 x³)), as x (0.5 + 0.5 tanh(x (a + b x²)))."""
    square = graph.add("Mul", [x, x], f"{name}/square")
    cubic = graph.add("Mul", [square, graph.scalar(0.035677)], f"{name}/cubic")
    factor = graph.add("Add", [cubic, graph.scalar(0.797885)], f"{name}/factor")
    inner = graph.add("Mul", [x, factor], f"{name}/inner")
    tanh = graph.add("Tanh", [inner], f"{name}/tanh")
    half = graph.add("Mul", [tanh, graph.scalar(0.5)], f"{name}/half")
    gate = graph.add("Add", [half, graph.scalar(0.5)], f"{name}/gate")
    return graph.add("Mul", [x, gate], f"{name}/gelu")


def _swish(graph: GraphBuilder, x: str, name: str) -> str:
    gate = graph.add("Sigmoid", [x], f"{name}/sigmoid")
    return graph.add("Mul", [x, gate], f"{name}/swish")


def _mish(graph: GraphBuilder, x: str, name: str) -> str:
    softplus = graph.add("Softplus", [x], f"{name}/softplus")
    tanh = graph.add("Tanh", [softplus], f"{name}/tanh")
    return graph.add("Mul", [x, tanh], f"{name}/mish")


def _hard_mish(graph: GraphBuilder, x: str, name: str) -> str:
    """x²/2 + x between -2 and 0, x above, 0 below: x times a hard sigmoid."""
    gate = graph.add("HardSigmoid", [x], f"{name}/gate", alpha=0.5, beta=1.0)
    return graph.add("Mul", [x, gate], f"{name}/hard_mish")


# normalize_channels in src/activations.c adds this to every sum over channels.
_CHANNEL_SUM_EPSILON = 0.0001


def _norm_chan(graph: GraphBuilder, x: str, name: str) -> str:
    return _share_of_channels(graph, _relu(graph, x, name), name)


def _norm_chan_softmax(graph: GraphBuilder, x: str, name: str) -> str:
    return _share_of_channels(graph, graph.add("Exp", [x], f"{name}/exp"), name)


def _norm_chan_softmax_maxval(graph: GraphBuilder, x: str, name: str) -> str:
    peak = graph.add("ReduceMax", [x], f"{name}/max", axes=[1], keepdims=1)
    shifted = graph.add("Sub", [x, peak], f"{name}/shifted")
    return _norm_chan_softmax(graph, shifted, name)


def _share_of_channels(graph: GraphBuilder, x: str, name: str) -> str:
    axis = graph.constant("channel_axis", np.array([1], np.int64))
    total = graph.add("ReduceSum", [x, axis], f"{name}/sum", keepdims=1)
    safe = graph.add("Add", [total, graph.scalar(_CHANNEL_SUM_EPSILON)], f"{name}/safe")
    return graph.add("Div", [x, safe], f"{name}/share")


ACTIVATIONS: dict[str, Callable[[GraphBuilder, str, str], str]] = {
    "linear": _linear,
    "leaky": _leaky,
    "logistic": _logistic,
    "loggy": _loggy,
    "relu": _relu,
    "relu6": _relu6,
    "relie": _relie,
    "ramp": _ramp,
    "tanh": _tanh,
    "hardtan": _hardtan,
    "lhtan": _lhtan,
    "plse": _plse,
    "stair": _stair,
    "elu": _elu,
    "selu": _selu,
    "gelu": _gelu,
    "swish": _swish,
    "mish": _mish,
    "hard_mish": _hard_mish,
    "normalize_channels": _norm_chan,
    "norm_chan": _norm_chan,
    "norm_chan_softmax": _norm_chan_softmax,
    "norm_chan_softmax_maxval": _norm_chan_softmax_maxval,
}
