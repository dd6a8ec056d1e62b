"""What a float16 graph computes, on a processor that has no float16.

ONNX Runtime runs float16 operators on most processors in float32, with casts of its own
around each, and leaves out those between two such operators: nothing is rounded there, and
the result looks better than a GPU's. Casts that the graph itself holds it leaves alone. So
here is the same graph in float32, each of whose results is cast to float16 and back: to
nearest, with overflow to infinity and with subnormal numbers.

What this leaves out is how a kernel adds up: here in float32, as GPUs' matrix units do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.graph.precision.rules import FLOAT, FLOAT16
from boxwright.graph.session import plain_session
from boxwright.graph.view import View

if TYPE_CHECKING:
    import onnx


def emulated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 form of a graph with float16 in it, which rounds where that one does.

    Args:
        proto: As :func:`boxwright.graph.precision.to_half` makes it: its inputs and outputs
            are not float16, and its nodes hold no graphs that read float16.
    """
    from onnx import helper, numpy_helper

    types = View(proto).types
    copy = type(proto)()
    copy.CopyFrom(proto)
    graph = copy.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == FLOAT16:
            wide = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    nodes: list[onnx.NodeProto] = []
    for original in graph.node:
        node = type(original)()
        node.CopyFrom(original)
        nodes.append(node)
        to_half = node.op_type == "Cast" and node.attribute[0].i == FLOAT16
        if to_half:
            # The second of the two casts that follow; this one is the first.
            result, node.output[0] = node.output[0], f"{node.output[0]}/rounded"
            nodes.append(
                helper.make_node("Cast", [node.output[0]], [result], f"{result}/wide", to=FLOAT)
            )
            continue
        for at, name in enumerate(node.output):
            if types.get(name) != FLOAT16:
                continue
            exact, rounded = f"{name}/exact", f"{name}/rounded"
            node.output[at] = exact
            nodes += [
                helper.make_node("Cast", [exact], [rounded], rounded, to=FLOAT16),
                helper.make_node("Cast", [rounded], [name], f"{name}/wide", to=FLOAT),
            ]
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def measure_ranges(
    proto: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]]
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every float32 tensor that a node makes.

    Args:
        proto: A float32 graph, such as the one that is to become float16.
        feeds: Inputs to run it on, such as real images.

    Returns:
        By tensor; NaN counts as infinity.
    """
    view = View(proto)
    copy = type(proto)()
    copy.CopyFrom(proto)
    made = [n for node in proto.graph.node for n in node.output if view.types.get(n) == FLOAT]
    declared = {value.name for value in proto.graph.output}
    for name in made:
        if name not in declared:
            copy.graph.output.add(name=name).type.tensor_type.elem_type = FLOAT
    session = plain_session(copy)
    found: dict[str, tuple[float, float]] = {}
    for feed in feeds:
        for name, result in zip(made, session.run(made, dict(feed)), strict=True):
            if result.size:
                clean = np.nan_to_num(result, nan=np.inf, posinf=np.inf, neginf=-np.inf)
                low, high = found.get(name, (np.inf, -np.inf))
                found[name] = (min(low, float(clean.min())), max(high, float(clean.max())))
    return found
