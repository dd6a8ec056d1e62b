"""Small graphs for tests of quantisation, made with the builder that imports use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from boxwright.graph.builder import GraphBuilder
from boxwright.graph.session import plain_session
from boxwright.quantize.insert import insert
from boxwright.quantize.placement import Placement, place
from boxwright.quantize.rules import Rules

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

SIZE = 8
ALL = Rules(first=True, min_channels=1, heads=True)
"""Every convolution, those that end a small graph included."""


class Net:
    """A graph from the float tensor ``x``, ``(N, channels, 8, 8)``."""

    def __init__(self, channels: int = 16, seed: int = 0) -> None:
        self.builder = GraphBuilder("test")
        self.random = np.random.default_rng(seed)
        self.x = self.builder.input("x", TensorProto.FLOAT, ["N", channels, SIZE, SIZE])

    @property
    def proto(self) -> onnx.ModelProto:
        return self.builder.model

    def op(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        return self.builder.add(operator, inputs, name, **attributes)

    def constant(self, name: str, value: Any, kind: Any = np.float32) -> str:
        return self.builder.constant(name, np.asarray(value, kind))

    def conv(
        self,
        x: str,
        name: str,
        channels: tuple[int, int] = (16, 16),
        *,
        size: int = 1,
        group: int = 1,
        weights: Floats | None = None,
        bias: Floats | None = None,
    ) -> str:
        into, out = channels
        if weights is None:
            spread = (out, into // group, size, size)
            weights = self.random.normal(0, 0.3 / size, spread).astype(np.float32)
        if bias is None:
            bias = self.random.normal(0, 0.2, out).astype(np.float32)
        inputs = [x, self.constant(f"{name}/weights", weights), self.constant(f"{name}/bias", bias)]
        pads = [size // 2] * 4
        return self.builder.add("Conv", inputs, name, pads=pads, group=group)

    def done(self, *outputs: str) -> onnx.ModelProto:
        for name in outputs:
            kind = self.proto.graph.output.add(name=name).type.tensor_type
            kind.elem_type = TensorProto.FLOAT
            if name == "loop":  # whose shape is not inferred
                kind.shape.CopyFrom(self.proto.graph.input[0].type.tensor_type.shape)
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(self.proto), full_check=True)
        return self.proto


def inputs(count: int = 2, channels: int = 16, seed: int = 1, spread: float = 2.0) -> Floats:
    shape = (count, channels, SIZE, SIZE)
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def run(proto: onnx.ModelProto, x: Floats, *more: str) -> dict[str, Floats]:
    """Outputs of a graph as it stands, and other tensors by name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    present = {value.name for value in copy.graph.output}
    for name in more:
        if name not in present:
            copy.graph.output.add(name=name)
    session = plain_session(copy)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def ranges_on(proto: onnx.ModelProto, x: Floats) -> dict[str, tuple[float, float]]:
    """What calibration would find: lowest and highest value of all float tensors."""
    names = [name for node in proto.graph.node for name in node.output if name]
    found = run(proto, x, *names)
    return {
        name: (float(value.min()), float(value.max()))
        for name, value in found.items()
        if value.dtype == np.float32
    }


def quantized(
    proto: onnx.ModelProto, x: Floats, rules: Rules = ALL, keep: Sequence[str] = ()
) -> tuple[onnx.ModelProto, Placement, dict[str, tuple[float, float]]]:
    """A graph with Q/DQ pairs, calibrated on `x`; its placement; and the ranges of `x`."""
    placement = place(proto, rules, keep)
    ranges = ranges_on(proto, x)
    groups: dict[int, float] = {}
    for tensor in placement.tensors:
        most = max(map(abs, ranges[tensor.name]))
        groups[tensor.group] = max(groups.get(tensor.group, 0.0), most)
    amax = {tensor.name: groups[tensor.group] for tensor in placement.tensors}
    return insert(proto, placement, amax), placement, ranges


def operators(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def reasons(proto: onnx.ModelProto, rules: Rules, keep: Sequence[str] = ()) -> dict[str, str]:
    """Why layers stay in float; ``""`` for those that do not."""
    return {layer.name: layer.reason or "" for layer in place(proto, rules, keep).layers}


def nrmse(got: Floats, expected: Floats) -> float:
    a, b = got.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# Activations by name: from a net and a tensor to the activated tensor.
ACTIVATIONS: Mapping[str, Callable[[Net, str], str]] = {
    "none": lambda net, x: x,
    "leaky": lambda net, x: net.op("LeakyRelu", x, name=f"{x}/leaky", alpha=0.1),
    "relu": lambda net, x: net.op("Relu", x, name=f"{x}/relu"),
    "relu6": lambda net, x: net.op(
        *("Clip", x, net.constant("zero", 0.0), net.constant("six", 6.0)), name=f"{x}/relu6"
    ),
    "silu": lambda net, x: net.op(
        *("Mul", x, net.op("Sigmoid", x, name=f"{x}/sigmoid")), name=f"{x}/silu"
    ),
    "mish": lambda net, x: net.op(
        *("Mul", x, net.op("Tanh", net.op("Softplus", x, name=f"{x}/sp"), name=f"{x}/tanh")),
        name=f"{x}/mish",
    ),
}
