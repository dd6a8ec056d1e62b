"""Reading the Q/DQ pairs of a graph, and writing them as the CPU's runtimes want them.

The portable form has signed INT8 throughout (`boxwright.quantize.insert`). On a CPU,
activations are better unsigned: the multiply-accumulate instructions of x86 take unsigned
times signed, and OpenVINO 2026.4 computes something else when a signed tensor was
concatenated (the tests keep the smallest graph that shows it). With the zero point moved by
128 the unsigned values stand for exactly the same numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

Constants = Mapping[str, onnx.TensorProto]

_INT8 = onnx.TensorProto.INT8
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Pair:
    """A Q/DQ pair on an activation, which nothing else has to do with.

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
    """The pairs on what is computed; those on weights are not among them.

    Nor are those whose integers go anywhere else: into another operator that computes with
    them, into a branch or a loop's body, or out of the graph. Whoever made the graph counts
    on their values, so these pairs stay as they are.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    fixed = set(constants)
    readers: dict[str, list[onnx.NodeProto]] = {}
    elsewhere = read_elsewhere(proto)
    for node in proto.graph.node:
        if node.op_type == "Constant":
            fixed.update(node.output)
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in proto.graph.node:
        if node.op_type != _Q or len(node.input) < 2 or node.input[0] in fixed:
            continue
        behind = tuple(readers.get(node.output[0], ()))
        if node.output[0] not in elsewhere and all(_undoes(n, node, constants) for n in behind):
            yield Pair(node.input[0], node, behind, _scale(node, constants))


def read_elsewhere(proto: onnx.ModelProto) -> set[str]:
    """Tensors that leave the graph, or that the graphs inside its nodes read."""
    found = {value.name for value in proto.graph.output}
    for node in proto.graph.node:
        found.update(_read_inside(node))
    return found


def count_reads(proto: onnx.ModelProto) -> Counter[str]:
    """How often each tensor is read: by nodes, inside of them, and as an output."""
    reads = Counter(value.name for value in proto.graph.output)
    for node in proto.graph.node:
        reads.update(node.input)
        reads.update(_read_inside(node))
    return reads


def _read_inside(node: onnx.NodeProto) -> Iterator[str]:
    """What the graphs inside a node read, their own tensors included."""
    for attribute in node.attribute:
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
            yield from (value.name for value in inner.output)
            for child in inner.node:
                yield from child.input
                yield from _read_inside(child)


def _undoes(node: onnx.NodeProto, quantize: onnx.NodeProto, constants: Constants) -> bool:
    """Whether a node is a DequantizeLinear of the scale and zero point of the first."""
    if node.op_type != _DQ or len(node.input) < 2 or node.input[0] != quantize.output[0]:
        return False
    return all(_same(*names, constants) for names in zip(_of(node), _of(quantize), strict=True))


def _of(node: onnx.NodeProto) -> tuple[str, str]:
    """The names of scale and zero point; a zero point that is left out is ``""``."""
    return node.input[1], node.input[2] if len(node.input) > 2 else ""


def _same(first: str, second: str, constants: Constants) -> bool:
    if first == second:
        return True
    a, b = constants.get(first), constants.get(second)
    if a is None or b is None or a.data_type != b.data_type:
        return False
    return np.array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


def _scale(node: onnx.NodeProto, constants: Constants) -> float:
    scale, zero = (constants.get(name) for name in _of(node))
    if scale is None or scale.dims or zero is None or zero.data_type != _INT8:
        return 0.0
    value = float(numpy_helper.to_array(scale))
    sound = math.isfinite(value) and value > 0 and not numpy_helper.to_array(zero).any()
    return value if sound else 0.0


def with_unsigned_activations(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which activations are UINT8 around 128 where they were INT8 around 0.

    The numbers that they stand for are the same. Weights stay signed.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    added: dict[str, str] = {}
    for pair in list(activation_pairs(copy)):
        zero = constants.get(_of(pair.quantize)[1])
        # From opset 21 on, the type may also be an attribute, which would contradict.
        stated = any(a.name == "output_dtype" and a.i for a in pair.quantize.attribute)
        if zero is None or zero.data_type != _INT8 or stated:
            continue
        if zero.name not in added:
            moved = numpy_helper.to_array(zero).astype(np.int16) + 128
            added[zero.name] = _unused(f"{zero.name}/unsigned", constants)
            tensor = numpy_helper.from_array(moved.astype(np.uint8), added[zero.name])
            copy.graph.initializer.append(tensor)
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


def _unused(name: str, taken: Container[str]) -> str:
    while name in taken:
        name += "_"
    return name
