"""Rewriting Mish so that ONNX Runtime's CPU kernels run it fast.

The portable graph writes Mish as ``x * Tanh(Softplus(x))``, which TensorRT and OpenVINO
recognise. ONNX Runtime has no kernel for it, and its Softplus and Tanh take half of a
YOLOv4's time; ``benchmarks/mish.py`` compares the ways to write it. The one used here has
``e = exp(min(x, 20))`` and ``n = e * (e + 2)``::

    tanh(log(1 + e)) = ((1 + e)² - 1) / ((1 + e)² + 1) = n / (n + 2)

which no step of cancels or overflows: the relative error stays below 1e-6 for every x,
and above 20 the quotient is 1 in float32, as is tanh(softplus(x)).

Swish needs nothing: ONNX Runtime fuses ``x * Sigmoid(x)`` itself (QuickGelu).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OTHER_FLOATS = {
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
}
_LIMIT, _TWO = "boxwright.mish.limit", "boxwright.mish.two"


def lower_mish(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A copy of the model with every Mish rewritten, and how many there were.

    Returned as it is, uncopied, where there is none or where the graph also computes in
    other floating-point types: the constants would have to follow the type.
    """
    found = _find_mish(proto.graph)
    if not found or _has_other_floats(proto.graph):
        return proto, 0
    # The caller's graph stays as it is: it goes into the engine file.
    lowered = onnx.ModelProto()
    lowered.CopyFrom(proto)
    removed = {name for tanh, softplus, _ in found.values() for name in (tanh, softplus)}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        output = node.output[0] if node.output else ""
        if output in found:
            nodes.extend(_mish_nodes(found[output][2], output, node.name or output))
        elif output not in removed:
            nodes.append(node)
    del lowered.graph.node[:]
    lowered.graph.node.extend(nodes)
    for name, value in ((_LIMIT, 20.0), (_TWO, 2.0)):
        lowered.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return lowered, len(found)


def _find_mish(graph: onnx.GraphProto) -> dict[str, tuple[str, str, str]]:
    """For the output of each ``Mul`` that ends a Mish: its tanh, softplus and x tensors."""
    producers: Mapping[str, onnx.NodeProto] = {
        name: node for node in graph.node for name in node.output if name
    }
    uses = Counter(name for node in _all_nodes(graph) for name in node.input)
    uses.update(value.name for value in graph.output)
    found = {}
    for node in graph.node:
        if node.op_type != "Mul" or node.domain or len(node.input) != 2:
            continue
        for x, tanh in (tuple(node.input), tuple(reversed(node.input))):
            softplus = _only_input(producers, uses, tanh, "Tanh")
            source = softplus and _only_input(producers, uses, softplus, "Softplus")
            if softplus and source == x:
                found[node.output[0]] = (tanh, softplus, x)
                break
    return found


def _only_input(
    producers: Mapping[str, onnx.NodeProto], uses: Mapping[str, int], name: str, operator: str
) -> str | None:
    """The input of `name`'s producer, where that is `operator` and `name` is used once."""
    node = producers.get(name)
    if node is None or node.op_type != operator or node.domain or uses[name] != 1:
        return None
    return str(node.input[0])


def _mish_nodes(x: str, output: str, name: str) -> Iterator[onnx.NodeProto]:
    def tensor(step: str) -> str:
        return f"{output}/mish/{step}"

    steps = (
        ("Min", [x, _LIMIT], tensor("min")),
        ("Exp", [tensor("min")], tensor("e")),
        ("Add", [tensor("e"), _TWO], tensor("e_plus_2")),
        ("Mul", [tensor("e"), tensor("e_plus_2")], tensor("n")),
        ("Add", [tensor("n"), _TWO], tensor("n_plus_2")),
        ("Div", [tensor("n"), tensor("n_plus_2")], tensor("tanh")),
        ("Mul", [x, tensor("tanh")], output),
    )
    for operator, inputs, result in steps:
        step = result.rsplit("/", 1)[-1]
        yield helper.make_node(operator, inputs, [result], name=f"{name}/mish/{step}")


def _has_other_floats(graph: onnx.GraphProto) -> bool:
    """Whether any tensor is of a floating-point type but float32."""
    if any(tensor.data_type in _OTHER_FLOATS for tensor in graph.initializer):
        return True
    if any(value.type.tensor_type.elem_type in _OTHER_FLOATS for value in graph.input):
        return True
    for node in _all_nodes(graph):
        for attribute in node.attribute:
            if attribute.t.data_type in _OTHER_FLOATS:
                return True
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _OTHER_FLOATS:
                return True
    return False


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _all_nodes(inner)
