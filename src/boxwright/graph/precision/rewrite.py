"""The graph with some of its nodes in float16, and casts where the two types meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from boxwright.graph.legalise.editing import Editor, rename
from boxwright.graph.precision import values
from boxwright.graph.precision.rules import (
    FLOAT,
    FLOAT16,
    NEUTRAL,
    PRODUCTS,
    QUANTISED,
    takes_half,
)
from boxwright.graph.view import View, all_places, attribute, count_uses, input_name, subgraphs

if TYPE_CHECKING:
    from boxwright.graph.precision.regions import Decision


class Rewriter:
    """Converts a copy of a graph.

    Args:
        proto: The copy, which is changed.
        decision: What to convert, of the same graph.

    Attributes:
        casts: How many were inserted.
        scales_raised: How many scales float16 would have made 0.
    """

    def __init__(self, proto: onnx.ModelProto, decision: Decision) -> None:
        self.casts = 0
        self.scales_raised = 0
        self._edit = Editor(proto)
        self._view: View = decision.view
        self._decision = decision
        self._outputs = {value.name for value in proto.graph.output}
        self._half: dict[str, str] = {}  # tensor -> its float16 form
        self._float: dict[str, str] = {}  # tensor made in float16 -> its float32 form
        self._scales: dict[str, NDArray[np.float16]] = {}
        self._limits: list[str] = []
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        """Convert."""
        graph = self._edit.graph
        originals = list(graph.node)
        # What a node in float32 scales by must be what its counterpart in float16 scales by.
        self._collect_scales(originals)
        for index, original in enumerate(originals):
            node = onnx.NodeProto()
            node.CopyFrom(original)
            if index in self._decision.half:
                self._convert(node)
            else:
                self._keep(node)
        del graph.node[:]
        graph.node.extend(self._nodes)
        for value in graph.value_info:
            if self._half.get(value.name) == value.name:
                value.type.tensor_type.elem_type = FLOAT16
        _drop_unread(graph)

    def _collect_scales(self, nodes: list[onnx.NodeProto]) -> None:
        for index, node in enumerate(nodes):
            if index not in self._decision.half or node.op_type not in QUANTISED:
                continue
            name = node.input[1]
            tensor = self._view.tensor(name)
            if tensor is not None and name not in self._scales:
                exact = values.floats(tensor)
                self._scales[name] = values.scale_to_float16(exact)
                self.scales_raised += int((exact.astype(np.float16) == 0).sum())

    def _convert(self, node: onnx.NodeProto) -> None:
        if node.op_type == "QuantizeLinear" and self._fold(node):
            return
        opset = self._view.opset
        kinds = self._view.types
        for at, name in enumerate(node.input):
            if not name or kinds.get(name) != FLOAT:
                continue
            if not takes_half(node, at, opset):
                node.input[at] = self._as_float32(name)
            else:
                node.input[at] = self._as_half(name)
        declared: list[onnx.NodeProto] = []
        for at, name in enumerate(node.output):
            if not name or kinds.get(name) != FLOAT or not takes_half(node, at, opset, output=True):
                continue
            self._half[name] = name
            if name in self._outputs:
                # What the graph gives out keeps its name and type.
                self._half[name] = node.output[at] = self._edit.fresh(f"{name}/float16")
                self._float[name] = name
                declared.append(self._cast(node.output[at], name, FLOAT))
        self._nodes += [node, *declared]

    def _keep(self, node: onnx.NodeProto) -> None:
        for at, name in enumerate(node.input):
            if name in self._half and self._is_made_half(name):
                either = node.op_type in NEUTRAL
                node.input[at] = self._half[name] if either else self._as_float32(name)
            elif name in self._scales and node.op_type in QUANTISED and at == 1:
                node.input[at] = self._rounded_scale(name)
        for inner in subgraphs(node):
            inside = {n for place in all_places(inner) for n in place.node.input}
            inside |= {value.name for value in inner.output}
            seen = sorted(name for name in inside if self._is_made_half(name))
            rename(inner, {name: self._as_float32(name) for name in seen})
        self._nodes.append(node)

    def _is_made_half(self, name: str) -> bool:
        """Whether a tensor's own node makes it in float16."""
        return self._decision.maker(name) in self._decision.half and name in self._half

    def _as_half(self, name: str) -> str:
        if name not in self._half:
            tensor = self._view.tensor(name)
            if name in self._scales:
                self._half[name] = self._edit.constant(self._scales[name], f"{name}/float16")
            elif tensor is not None:
                exact = values.floats(tensor)
                converted = values.to_float16(exact)
                self._half[name] = self._edit.constant(converted, f"{name}/float16")
            else:
                self._half[name] = self._cast_to_half(name)
        return self._half[name]

    def _cast_to_half(self, name: str) -> str:
        source, maker = name, self._view.producers.get(name)
        if maker is not None and maker.op_type == "Cast":
            # One cast instead of two: integers are rounded once, and pixels not at all.
            source = maker.input[0]
            if self._is_made_half(source):
                return self._half[source]
        elif maker is not None and maker.op_type in PRODUCTS:
            source = self._bounded(name)
        result = self._edit.fresh(f"{name}/float16")
        self._nodes.append(self._cast(source, result, FLOAT16))
        return result

    def _bounded(self, name: str) -> str:
        """A result of a product that stays in float32, limited to what float16 holds.

        Between two casts and nothing else, TensorRT-RTX 1.7 computes a product in float16
        after all, its weights rounded or infinite. This keeps it from that.
        """
        if not self._limits:
            limits = (-values.LARGEST, values.LARGEST)
            self._limits = [
                self._edit.constant(limit, "float16/limit", np.float32) for limit in limits
            ]
        bounded = self._edit.fresh(f"{name}/bounded")
        inputs = [name, *self._limits]
        self._nodes.append(helper.make_node("Clip", inputs, [bounded], name=bounded))
        return bounded

    def _as_float32(self, name: str) -> str:
        if not self._is_made_half(name):
            return name
        if name not in self._float:
            self._float[name] = self._edit.fresh(f"{name}/float32")
            self._nodes.append(self._cast(self._half[name], self._float[name], FLOAT))
        return self._float[name]

    def _rounded_scale(self, name: str) -> str:
        key = f"{name} rounded"
        if key not in self._float:
            wide = self._scales[name].astype(np.float32)
            self._float[key] = self._edit.constant(wide, f"{name}/rounded")
        return self._float[key]

    def _cast(self, source: str, result: str, kind: int) -> onnx.NodeProto:
        self.casts += 1
        name = self._edit.fresh(f"{result}/cast")
        return helper.make_node("Cast", [source], [result], name=name, to=kind)

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Quantise a constant here, by the scale that float16 has; whether it is one."""
        tensor = self._view.tensor(node.input[0])
        zero = self._view.tensor(input_name(node, 2))
        if tensor is None or node.output[0] in self._outputs:
            return False
        kind = np.uint8 if zero is None else helper.tensor_dtype_to_np_dtype(zero.data_type)
        if np.dtype(kind) not in (np.dtype(np.int8), np.dtype(np.uint8)):
            return False
        offset: NDArray[Any] = np.zeros((), kind) if zero is None else numpy_helper.to_array(zero)
        scale = self._scales[node.input[1]]
        axis = int(attribute(node, "axis", 1))
        integers = values.quantised(values.floats(tensor), scale, offset, axis)
        self._edit.graph.initializer.append(numpy_helper.from_array(integers, node.output[0]))
        return True


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Constants and casts whose readers read their float16 form now."""
    while True:
        uses = count_uses(graph)
        dead = [
            at
            for at, node in enumerate(graph.node)
            if node.op_type in ("Cast", "Constant") and not uses[node.output[0]]
        ]
        for at in reversed(dead):
            del graph.node[at]
        if not dead:
            break
    listed = {value.name for value in graph.input}
    for at in range(len(graph.initializer) - 1, -1, -1):
        name = graph.initializer[at].name
        if not uses[name] and name not in listed:
            del graph.initializer[at]
