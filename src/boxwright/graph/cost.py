"""What a graph costs: parameters and multiply-accumulates, layer by layer.

Counted are Conv, ConvTranspose, Gemm and MatMul, which is where a detector's arithmetic
is; one multiply-accumulate is two floating-point operations (FLOPs). Parameters are the
numbers of all float or 8-bit initializers outside ``pre/`` and ``decode/``, which hold
constants of the input and output contract and nothing that was trained.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boxwright.errors import ModelError
from boxwright.graph.view import View

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | None, ...]

_CONTRACT = ("pre/", "decode/")

# Larger initializers become inputs of the same shape before shape inference, which would
# otherwise copy every weight; small ones may be the shapes that Reshape and Resize read.
_KEEP_ELEMENTS = 1024


@dataclass(frozen=True)
class LayerCost:
    """One node of the graph.

    Attributes:
        name: The node's name, or its first output where it has none.
        operator: ONNX operator.
        shape: Shape of the first output; ``None`` where inference cannot tell.
        parameters: Trained numbers this node brings (shared ones count once, at their first use).
        macs: Multiply-accumulates; 0 for operators that are not counted.
        counted: Whether the operator is one of the counted ones but its shapes are unknown
            (``False``), or its cost is known (``True``).
    """

    name: str
    operator: str
    shape: Shape | None
    parameters: int
    macs: int
    counted: bool = True


@dataclass(frozen=True)
class ModelCost:
    """The cost of a whole graph at one batch size."""

    layers: tuple[LayerCost, ...]
    batch: int

    @property
    def parameters(self) -> int:
        """Trained numbers of the model."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one batch."""
        return sum(layer.macs for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations for one batch, two to a multiply-accumulate."""
        return 2 * self.macs

    @property
    def operators(self) -> dict[str, int]:
        """Number of nodes by operator, most frequent first."""
        return dict(Counter(layer.operator for layer in self.layers).most_common())

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Layers that should count but whose shapes could not be inferred."""
        return tuple(layer.name for layer in self.layers if not layer.counted)


def cost(proto: onnx.ModelProto, batch: int = 1) -> ModelCost:
    """Count the graph's parameters and multiply-accumulates.

    Args:
        proto: The model; it is not changed.
        batch: The extent to give the free leading dimension of the inputs.

    Raises:
        ModelError: Shape inference refuses the graph, or the graph is damaged in a way that
            inference is not to be trusted with.
    """
    fault = View(proto).fault
    if fault is not None:
        raise ModelError(f"the model's shapes cannot be inferred, for it is damaged: {fault}")
    shapes = _infer_shapes(proto, batch)
    parameters = _trained(proto)
    layers = []
    for node in proto.graph.node:
        name = node.name or next(iter(node.output), "")
        mine = [] if name.startswith(_CONTRACT) else node.input
        owned = sum(parameters.pop(tensor, 0) for tensor in mine)
        macs = _macs(node, shapes)
        layers.append(
            LayerCost(
                name,
                node.op_type,
                shapes.get(node.output[0]) if node.output else None,
                owned,
                macs or 0,
                counted=macs is not None,
            )
        )
    return ModelCost(tuple(layers), batch)


def _trained(proto: onnx.ModelProto) -> dict[str, int]:
    from onnx import TensorProto

    kinds = {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.UINT8,
    }
    return {
        tensor.name: math.prod(tensor.dims)
        for tensor in proto.graph.initializer
        if tensor.data_type in kinds
    }


def _infer_shapes(proto: onnx.ModelProto, batch: int) -> dict[str, Shape]:
    import onnx

    skeleton = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    graph = skeleton.graph
    graph.name = "skeleton"
    graph.node.extend(proto.graph.node)
    initializers = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name in initializers:
            continue
        dimensions = graph.input.add()
        dimensions.CopyFrom(value)
        shape = dimensions.type.tensor_type.shape.dim
        if shape and not shape[0].HasField("dim_value"):
            shape[0].dim_value = batch
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= _KEEP_ELEMENTS:
            graph.initializer.add().CopyFrom(tensor)
        else:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    # Outputs come without shapes: the declared batch is free, and inference merges the two.
    for value in proto.graph.output:
        graph.output.add().name = value.name
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"the model's shapes cannot be inferred: {reason}") from error
    shapes: dict[str, Shape] = dict(initializers)
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else None
                for d in value.type.tensor_type.shape.dim
            )
    return shapes


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Multiply-accumulates; 0 for operators not counted, ``None`` where a shape is missing."""
    count = _COUNTED.get(node.op_type)
    if count is None:
        return 0
    if len(node.input) < 2 or not node.output:
        return None
    first, second, output = (
        shapes.get(node.input[0]),
        shapes.get(node.input[1]),
        shapes.get(node.output[0]),
    )
    if first is None or second is None or output is None:
        return None
    if None in (*first, *second, *output):
        return None
    sizes = [[int(extent or 0) for extent in shape] for shape in (first, second, output)]
    return count(node, *sizes)


def _conv(node: onnx.NodeProto, _first: list[int], second: list[int], output: list[int]) -> int:
    # The weight is (output channels, input channels of a group, kernel...).
    return math.prod(output) * math.prod(second[1:])


def _conv_transpose(
    node: onnx.NodeProto, first: list[int], second: list[int], _output: list[int]
) -> int:
    # Each input pixel is spread over (output channels of a group, kernel...).
    return math.prod(first) * math.prod(second[1:])


def _gemm(node: onnx.NodeProto, first: list[int], _second: list[int], output: list[int]) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(output) * first[0 if transposed else 1]


def _matmul(node: onnx.NodeProto, first: list[int], _second: list[int], output: list[int]) -> int:
    return math.prod(output) * first[-1]


_Count = Callable[["onnx.NodeProto", list[int], list[int], list[int]], int]
_COUNTED: dict[str, _Count] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
