"""Reading the Q/DQ pairs of a graph, and writing them as the CPU's runtimes want them.

The portable form has signed INT8 throughout (`boxwright.quantize.insert`). On a CPU,
activations are better unsigned: the multiply-accumulate instructions of x86 take unsigned
times signed, and OpenVINO 2026.4 computes something else when a signed tensor was
concatenated (seen on yolov4-tiny: nrmse 0.067 where the graph has 0.005). With the zero
point moved by 128 the unsigned values stand for exactly the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

_INT8 = onnx.TensorProto.INT8
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Pair:
    """A Q/DQ pair on an activation.

    Attributes:
        tensor: What is quantised.
        quantize: The first node.
        dequantize: The nodes that read it.
        scale: Its scale; 0 where it has one for each channel, or is not symmetric.
    """

    tensor: str
    quantize: onnx.NodeProto
    dequantize: tuple[onnx.NodeProto, ...]
    scale: float


def activation_pairs(proto: onnx.ModelProto) -> Iterator[Pair]:
    """The pairs on what is computed; those on weights are not among them."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in proto.graph.node:
        if node.op_type != _Q or node.input[0] in constants:
            continue
        value = _symmetric_scale(*(constants.get(name) for name in node.input[1:3]))
        behind = tuple(n for n in readers.get(node.output[0], ()) if n.op_type == _DQ)
        yield Pair(node.input[0], node, behind, value)


def _symmetric_scale(
    scale: onnx.TensorProto | None = None, zero: onnx.TensorProto | None = None
) -> float:
    """The scale of a pair for the whole of a tensor, around 0 in INT8; else 0."""
    if scale is None or scale.dims or zero is None or zero.data_type != _INT8:
        return 0.0
    return 0.0 if numpy_helper.to_array(zero).any() else float(numpy_helper.to_array(scale))


def with_unsigned_activations(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which activations are UINT8 around 128 where they were INT8 around 0.

    The numbers that they stand for are the same. Weights stay signed.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    added: dict[str, str] = {}
    for pair in activation_pairs(copy):
        if len(pair.quantize.input) < 3:
            continue
        zero = constants.get(pair.quantize.input[2])
        if zero is None or zero.data_type != _INT8:
            continue
        if zero.name not in added:
            moved = numpy_helper.to_array(zero).astype(np.int16) + 128
            name = f"{zero.name}/unsigned"
            tensor = numpy_helper.from_array(moved.astype(np.uint8), name)
            copy.graph.initializer.append(tensor)
            added[zero.name] = name
        for node in (pair.quantize, *pair.dequantize):
            node.input[2] = added[zero.name]
    # Nothing reads the signed ones any more, unless a weight's pair does.
    used = {name for node in copy.graph.node for name in node.input}
    kept = [t for t in copy.graph.initializer if t.name in used or t.name not in added]
    if len(kept) < len(copy.graph.initializer):
        del copy.graph.initializer[:]
        copy.graph.initializer.extend(kept)
    return copy


def without_pairs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that rounds nowhere: the float graph that was quantised.

    Its weights are what the pairs had in front of them, which in our graphs are the float
    ones.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    behind = {
        node.output[0]: node.input[0] for node in copy.graph.node if node.op_type in (_Q, _DQ)
    }
    nodes = [node for node in copy.graph.node if node.op_type not in (_Q, _DQ)]
    for node in nodes:
        for number, name in enumerate(node.input):
            while name in behind:
                name = behind[name]
            node.input[number] = name
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy
