"""Darknet's activations as TensorRT layers (formulas: ``src/activations.h``).

TensorRT has neither Mish nor Swish of its own; it recognises these forms and fuses them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from boxwright.darknet.tensorrt.graph import NetworkGraph


def activate(graph: NetworkGraph, activation: str, x: Any, name: str) -> Any:
    """Add `activation` after tensor `x` of four dimensions.

    Raises:
        KeyError: The activation is none of :data:`ACTIVATIONS`.
    """
    return ACTIVATIONS[activation](graph, x, name)


def _linear(_graph: NetworkGraph, x: Any, _name: str) -> Any:
    return x


def _leaky(graph: NetworkGraph, x: Any, name: str) -> Any:
    return graph.activation("LEAKY_RELU", x, f"{name}/leaky", alpha=0.1)


def _relie(graph: NetworkGraph, x: Any, name: str) -> Any:
    return graph.activation("LEAKY_RELU", x, f"{name}/relie", alpha=0.01)


def _logistic(graph: NetworkGraph, x: Any, name: str) -> Any:
    return graph.activation("SIGMOID", x, f"{name}/logistic")


def _relu(graph: NetworkGraph, x: Any, name: str) -> Any:
    return graph.activation("RELU", x, f"{name}/relu")


def _relu6(graph: NetworkGraph, x: Any, name: str) -> Any:
    return graph.activation("CLIP", x, f"{name}/relu6", alpha=0.0, beta=6.0)


def _hardtan(graph: NetworkGraph, x: Any, name: str) -> Any:
    return graph.activation("CLIP", x, f"{name}/hardtan", alpha=-1.0, beta=1.0)


def _tanh(graph: NetworkGraph, x: Any, name: str) -> Any:
    return graph.activation("TANH", x, f"{name}/tanh")


def _elu(graph: NetworkGraph, x: Any, name: str) -> Any:
    return graph.activation("ELU", x, f"{name}/elu", alpha=1.0)


def _selu(graph: NetworkGraph, x: Any, name: str) -> Any:
    """TensorRT's alpha is the exponential's factor, its beta scales the whole."""
    return graph.activation("SELU", x, f"{name}/selu", alpha=1.6732, beta=1.0507)


def _swish(graph: NetworkGraph, x: Any, name: str) -> Any:
    gate = graph.activation("SIGMOID", x, f"{name}/sigmoid")
    return graph.elementwise("PROD", x, gate, f"{name}/swish")


def _mish(graph: NetworkGraph, x: Any, name: str) -> Any:
    """TensorRT's softplus is ``alpha * log(exp(beta * x) + 1)``."""
    softplus = graph.activation("SOFTPLUS", x, f"{name}/softplus", alpha=1.0, beta=1.0)
    tanh = graph.activation("TANH", softplus, f"{name}/tanh")
    return graph.elementwise("PROD", x, tanh, f"{name}/mish")


def _hard_mish(graph: NetworkGraph, x: Any, name: str) -> Any:
    """``max(0, min(1, x / 2 + 1))`` times x."""
    gate = graph.activation("HARD_SIGMOID", x, f"{name}/gate", alpha=0.5, beta=1.0)
    return graph.elementwise("PROD", x, gate, f"{name}/hard_mish")


ACTIVATIONS: dict[str, Callable[[NetworkGraph, Any, str], Any]] = {
    "linear": _linear,
    "leaky": _leaky,
    "relie": _relie,
    "logistic": _logistic,
    "relu": _relu,
    "relu6": _relu6,
    "hardtan": _hardtan,
    "tanh": _tanh,
    "elu": _elu,
    "selu": _selu,
    "swish": _swish,
    "mish": _mish,
    "hard_mish": _hard_mish,
}
