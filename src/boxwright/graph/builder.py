"""A small builder of ONNX graphs: nodes, constants, and nothing that is not standard.

It makes a graph from nothing, as the importers of weights do, or adds to one that is
there (:meth:`GraphBuilder.on`), as those of graphs do: names that are taken are then left
alone, and new nodes stand where their prefix says, ``pre/`` or ``decode/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.model import BOXES, IMAGES, SCORES

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

# Opset 17 is the highest that TensorRT 8.6's parser reads; IR 8 is the version that came
# with it, which every runtime of the last years loads.
OPSET = 17
IR_VERSION = 8

# What names may hold that go through every runtime's files and reports unchanged.
_UNCLEAN = re.compile(r"[^A-Za-z0-9_./:-]+")
_MAX_NAME = 200


class GraphBuilder:
    """Collects nodes and initializers in the order they are added.

    A node with one output bears its output's name, so that a tensor in a report leads
    to its node and, by what stands in front of the last slash, to its source.

    Args:
        name: Of the graph.

    Attributes:
        model: The model that is being made.
        graph: Its graph.
    """

    def __init__(self, name: str) -> None:
        from onnx import ModelProto

        from boxwright._version import __version__

        proto = ModelProto(
            ir_version=IR_VERSION, producer_name="boxwright", producer_version=__version__
        )
        proto.opset_import.add(domain="", version=OPSET)
        proto.graph.name = name
        self._take(proto)

    @classmethod
    def on(cls, proto: ModelProto) -> GraphBuilder:
        """A builder that adds to `proto`, which must be of opset 13 or newer, in place."""
        builder = cls.__new__(cls)
        builder._take(proto)
        return builder

    def _take(self, proto: ModelProto) -> None:
        self.model: ModelProto = proto
        self.graph: GraphProto = proto.graph
        self._constants: dict[str, str] = {}
        self._taken = set(_names(proto.graph))

    def unique(self, name: str) -> str:
        """`name` in clean letters, with a number behind it where it is taken; then it is taken.

        Names that a file brings may hold anything; in ours are letters, digits and ``_./:-``.
        """
        clean = _UNCLEAN.sub("_", name)[:_MAX_NAME] or "unnamed"
        candidate, count = clean, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{clean}_{count}"
        self._taken.add(candidate)
        return candidate

    def add(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        from onnx import helper

        self.graph.node.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        self._taken.add(name)
        return name

    def split(self, x: str, sizes: Sequence[int], axis: int, name: str) -> list[str]:
        """Cut `x` along `axis`; returns the parts' names."""
        from onnx import helper

        lengths = self.constant(f"{name}/sizes", _ints(sizes))
        parts = [f"{name}/{i}" for i in range(len(sizes))]
        self.graph.node.append(helper.make_node("Split", [x, lengths], parts, name=name, axis=axis))
        self._taken.update((name, *parts))
        return parts

    def reshape(self, x: str, shape: Sequence[int], name: str) -> str:
        """Reshape `x`; 0 keeps an extent and -1 is worked out."""
        return self.add("Reshape", [x, self.constant(f"{name}/shape", _ints(shape))], name)

    def slice(self, x: str, start: int, end: int, axis: int, name: str) -> str:
        """The part of `x` from `start` up to `end` along `axis`."""
        parts = {"starts": start, "ends": end, "axes": axis}
        inputs = [self.constant(f"{name}/{key}", _ints([value])) for key, value in parts.items()]
        return self.add("Slice", [x, *inputs], name)

    def concat(self, parts: Sequence[str], axis: int, name: str) -> str:
        """`parts` joined along `axis`; a single part is itself, and no node is added."""
        return self.add("Concat", parts, name, axis=axis) if len(parts) > 1 else parts[0]

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """An initializer; asked for again under the same name, it is the same one."""
        from onnx import helper

        if name not in self._constants:
            taken = name in self._taken
            self._constants[name] = self.unique(name) if taken else name
            tensor = self.graph.initializer.add(
                name=self._constants[name],
                data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
                dims=value.shape,
            )
            little = value.astype(value.dtype.newbyteorder("<"), copy=False)
            tensor.raw_data = little.tobytes()
            self._taken.add(name)
        return self._constants[name]

    def scalar(self, value: float) -> str:
        """A float32 scalar, kept once for each value."""
        return self.constant(f"scalar/{value!r}", np.array(value, np.float32))

    def input(self, name: str, element: int, shape: Sequence[int | str]) -> str:
        """Declare a graph input."""
        self.graph.input.append(_value(name, element, shape))
        self._taken.add(name)
        return name

    def output(self, name: str, element: int, shape: Sequence[int | str]) -> None:
        """Declare a graph output."""
        self.graph.output.append(_value(name, element, shape))

    def images(self, height: int, width: int, batch: int | str = "N") -> str:
        """Declare the contract's input: uint8 ``(batch, height, width, 3)``, RGB."""
        from onnx import TensorProto

        return self.input(IMAGES, TensorProto.UINT8, [batch, height, width, 3])

    def detections(
        self,
        boxes: Sequence[str],
        scores: Sequence[str],
        *,
        classes: int,
        rows: int | str = "A",
        batch: int | str = "N",
    ) -> None:
        """Join the heads' rows into the contract's outputs and declare these.

        Args:
            boxes: Tensors ``(N, rows of a head, 4)``, float32 `xyxy` in input pixels.
            scores: Tensors ``(N, rows of a head, classes)``, float32.
            classes: Number of classes.
            rows: Rows of all heads together, where they are known.
            batch: Images at a time, where they are fixed.
        """
        from onnx import TensorProto

        for name, parts, columns in ((BOXES, boxes, 4), (SCORES, scores, classes)):
            if len(parts) == 1:
                self.add("Identity", parts, name)
            else:
                self.add("Concat", parts, name, axis=1)
            self.output(name, TensorProto.FLOAT, [batch, rows, columns])


def _names(graph: GraphProto) -> Iterator[str]:
    """Every name of a node or a tensor, in the graph and the graphs inside its nodes."""
    pending = [graph]
    while pending:
        inner = pending.pop()
        for node in inner.node:
            yield node.name
            yield from node.input
            yield from node.output
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)
        for tensor in inner.initializer:
            yield tensor.name
        for value in (*inner.input, *inner.output, *inner.value_info):
            yield value.name


def _ints(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _value(name: str, element: int, shape: Sequence[int | str]) -> ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, element, shape)
