"""Which nodes may compute in float16 by themselves, and why the others may not.

What is not known to be safe stays in float32. Here is what a node is by itself; what follows
from its neighbours is in :mod:`boxwright.graph.precision.regions`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from boxwright.graph.precision import values
from boxwright.graph.precision.report import Weights
from boxwright.graph.view import STANDARD, View, attribute, definition, input_name, subgraphs

if TYPE_CHECKING:
    import onnx

FLOAT = 1
FLOAT16 = 10
HALF = "tensor(float16)"

# What float16 is for: matrix products, by far most of a detector's time.
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear"})
# They take any type, and what they make does not follow from it.
NEUTRAL = frozenset({"Cast", "Constant", "Shape", "Size"})
# They move values and compute none, so they follow their neighbours.
MOVES = frozenset(
    {"Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements",
     "GatherND", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "SpaceToDepth", "Split",
     "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)  # fmt: skip
# Their results are no larger than their inputs, or add few of them.
_POINTWISE = frozenset(
    {"Abs", "Add", "AveragePool", "Celu", "Clip", "Elu", "Erf", "Gelu", "GlobalAveragePool",
     "GlobalMaxPool", "HardSigmoid", "HardSwish", "LeakyRelu", "Max", "Min", "Mish", "Neg",
     "PRelu", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Resize", "Selu",
     "Shrink", "Sigmoid", "Softsign", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu",
     "Where"}
)  # fmt: skip
_EXACT = frozenset(
    {"And", "ArgMax", "ArgMin", "Ceil", "CumSum", "Equal", "Floor", "Greater",
     "GreaterOrEqual", "GridSample", "IsInf", "IsNaN", "Less", "LessOrEqual", "Mod",
     "NonMaxSuppression", "NonZero", "OneHot", "Range", "RoiAlign", "Round", "Sign", "TopK",
     "Upsample", "Cos", "Sin"}
)  # fmt: skip
_ACCUMULATE = frozenset(
    {"BatchNormalization", "GroupNormalization", "InstanceNormalization",
     "LayerNormalization", "LogSoftmax", "LpNormalization", "LpPool", "LRN",
     "MeanVarianceNormalization", "RMSNormalization", "ReduceL1", "ReduceL2",
     "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSumSquare", "Softmax"}
)  # fmt: skip
_OVERFLOW = frozenset({"Exp", "Log", "Pow", "Reciprocal", "Softplus"})
_SUMS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"})

# Inputs that stay in float32 in a float16 node: coordinates of Resize.
STAYS: Mapping[str, frozenset[int]] = {"Resize": frozenset({1, 2})}
# Constants that bound values or fill in: beyond 65504 they become that.
BOUNDS: Mapping[str, frozenset[int]] = {"Clip": frozenset({1, 2}), "Pad": frozenset({2})}
# A bias is added to what is far larger than the 3e-8 it can lose.
_BIASES: Mapping[str, int] = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}

# A sum of n equal values in float16 stops growing at n = 2048 and is half a percent off
# at 64; over so few, averages do no harm even where a kernel accumulates in float16.
MOST_SUMMED = 64

# Which share of 65504 measured values may reach. Other images than those measured reach
# more, so there has to be room.
SAFE_SHARE = 0.25


def takes_half(node: onnx.NodeProto, at: int, opset: int, *, output: bool = False) -> bool:
    """Whether a node's operator is defined for float16 at an input or output."""
    known = definition(node.op_type, opset) if node.domain in STANDARD else None
    if known is None:
        return False
    formal = known.outputs if output else known.inputs
    if not formal or (not output and at in STAYS.get(node.op_type, ())):
        return False
    return HALF in formal[min(at, len(formal) - 1)].types


@dataclass
class Judge:
    """Asked about each node by itself.

    Attributes:
        view: The graph.
        keep: Prefixes of names that stay.
        ranges: Smallest and largest value of tensors, measured.
        weights: What was found of each constant that was looked at.
    """

    view: View
    keep: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]
    weights: dict[str, Weights] = field(default_factory=dict)

    def is_float(self, name: str) -> bool:
        """Whether a tensor is float32."""
        return bool(name) and self.view.types.get(name) == FLOAT

    def deals_in_floats(self, node: onnx.NodeProto) -> bool:
        """Whether it computes with float32, or may."""
        if node.op_type in NEUTRAL and node.domain in STANDARD:
            return False
        names = [name for name in (*node.input, *node.output) if name]
        kinds = self.view.types
        return any(kinds.get(n) in (None, FLOAT) for n in names) or any(subgraphs(node))

    def verdict(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        """Why a node stays in float32 whatever its neighbours do."""
        name = node.name or node.output[0]
        for reason, prefixes in (("pre", "pre/"), ("decode", "decode/"), ("asked", self.keep)):
            if prefixes and name.startswith(prefixes):
                return reason, ""
        return self._by_operator(node) or self._by_range(node) or self._by_weights(node)

    def _by_operator(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        operator = node.op_type
        if node.domain not in STANDARD or any(subgraphs(node)):
            return "unknown", "of another domain" if node.domain else "it holds graphs"
        if any(self.view.types.get(n) is None for n in (*node.input, *node.output) if n):
            return "unknown", "types of its tensors cannot be inferred"
        if all(map(self.view.is_known_from_shapes, node.output)) and operator not in QUANTISED:
            return "shapes", ""
        for group, reason in ((_EXACT, "exact"), (_ACCUMULATE, "accumulates")):
            if operator in group:
                return reason, ""
        if operator in _OVERFLOW or self._squares(node):
            return None if self._cannot_overflow(node) else ("overflow", "")
        if operator == "Div":
            constant = self.view.tensor(input_name(node, 1))
            return None if constant is not None else ("divides", "")
        known = (PRODUCTS, QUANTISED, MOVES, _POINTWISE, {"Mul"})
        if not any(operator in group for group in known):
            return "unknown", ""
        return self._by_sum(node) or self._by_definition(node)

    def _by_definition(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        opset = self.view.opset
        first = next((at for at, n in enumerate(node.input) if self.is_float(n)), None)
        if first is not None and not takes_half(node, first, opset):
            return "no float16", f"opset {opset}"
        if node.op_type in PRODUCTS and self._is_expectation(node):
            return "expectation", ""
        return None

    def _by_sum(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        if node.op_type not in _SUMS:
            return None
        count = self._summed(node)
        if count is not None and count <= MOST_SUMMED:
            return None
        return "accumulates", "" if count is None else f"{count} numbers"

    def _summed(self, node: onnx.NodeProto) -> int | None:
        """How many numbers make one of the result; ``None`` where that is not known."""
        if node.op_type == "AveragePool":
            return int(math.prod(attribute(node, "kernel_shape", [])))
        shape = self.view.shapes.get(node.input[0])
        if shape is None:
            return None
        axes: Iterable[int] = range(2, len(shape))
        if node.op_type.startswith("Reduce"):
            given = attribute(node, "axes") or self.view.input_constant(node, 1)
            axes = range(len(shape)) if given is None else [int(axis) for axis in given]
        extents = [shape[axis] for axis in axes]
        return None if None in extents else math.prod(e for e in extents if e is not None)

    def _squares(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Mul" and len(set(node.input)) == 1

    def _cannot_overflow(self, node: onnx.NodeProto) -> bool:
        """Where the values were measured, or overflow is made good by what follows.

        Mish is x tanh(softplus(x)): where exp(x) overflows, tanh gives 1 all the same.
        """
        if node.op_type == "Softplus":
            readers = self.view.readers.get(node.output[0], [])
            if readers and all(reader.op_type == "Tanh" for reader in readers):
                return True
        names = [n for n in (*node.input, *node.output) if self.view.tensor(n) is None]
        # What comes out small may be as wrong as what comes out large.
        if node.op_type in ("Log", "Reciprocal"):
            return False
        return all(name in self.ranges and self._largest(name) <= _safe() for name in names)

    def _largest(self, name: str) -> float:
        return max(map(abs, self.ranges[name]))

    def _is_expectation(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in ("Conv", "ConvTranspose"):
            return False
        source = self.view.producers.get(node.input[0])
        while source is not None and source.op_type in MOVES:
            source = self.view.producers.get(source.input[0])
        return source is not None and source.op_type == "Softmax"

    def _by_range(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        for name in (*node.output, *node.input):
            if name in self.ranges and not self._largest(name) <= _safe():
                return "measured", f"{name} reaches {self._largest(name):.4g}"
        return None

    def _by_weights(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        if node.op_type in QUANTISED:
            return self._by_scale(node)
        for at, name in enumerate(node.input):
            tensor = self.view.tensor(name) if self.is_float(name) else None
            if (
                tensor is None
                or not takes_half(node, at, self.view.opset)
                or at in BOUNDS.get(node.op_type, ())
            ):
                continue
            found = self._judged(name, tensor)
            if found.overflowing:
                return "weights overflow", (
                    f"{name}: {found.overflowing} of {found.count}, up to {found.largest:.4g}"
                )
            if found.share > values.MOST_UNDERFLOW and _BIASES.get(node.op_type) != at:
                return "weights underflow", (
                    f"{name}: {found.subnormal} of {found.count} too small, which are "
                    f"{found.share:.2g} of its norm"
                )
        return None

    def _judged(self, name: str, tensor: onnx.TensorProto) -> Weights:
        if name not in self.weights:
            self.weights[name] = values.judge(name, values.floats(tensor))
        return self.weights[name]

    def _by_scale(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        tensor = self.view.tensor(input_name(node, 1))
        if tensor is None or not values.holds_scale(values.floats(tensor)):
            return "scale", ""
        return None


def _safe() -> float:
    return SAFE_SHARE * values.LARGEST
