"""Writes a symbol's operators into an ONNX graph, one after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import ImportFailedError
from boxwright.graph.builder import OPSET, GraphBuilder
from boxwright.importers.mxnet.symbol import Entry, Node, Symbol
from boxwright.importers.mxnet.values import (
    OMITTED,
    Shape,
    Value,
    broadcast,
    count,
    described,
    has_batch,
)
from boxwright.progress import ProgressCallback, silent

# No tensor of a detector comes near these; a damaged setting would.
_MAX_ELEMENTS = 1 << 29
_MAX_CONSTANT = 1 << 24
# All constants that are worked out may together hold this many numbers, and twice the
# weights: a few short lines of a symbol could otherwise ask for any amount of memory.
_MAX_COMPUTED = 1 << 26

Operator = Callable[["Writer", Node, list[Value]], Value | list[Value]]
OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Registers a function as the writer of MXNet's operators of these names."""

    def register(function: Operator) -> Operator:
        for name in names:
            if name in OPERATORS:
                raise AssertionError(f"{name} is registered twice")
            OPERATORS[name] = function
        return function

    return register


class Writer:
    """The graph so far, and the tensor that each of the symbol's outputs became.

    Args:
        symbol: What is written.
        weights: Its parameters by name.
        reserved: Names that no tensor of the network may take.
    """

    def __init__(
        self,
        symbol: Symbol,
        weights: Mapping[str, NDArray[Any]],
        reserved: Sequence[str] = (),
    ) -> None:
        self.symbol = symbol
        self.weights = weights
        self._room = _MAX_COMPUTED + 2 * sum(array.size for array in weights.values())
        self.graph = GraphBuilder("mxnet")
        self.values: dict[Entry, Value] = {}
        self.folded: dict[int, Value] = {}
        for name in reserved:
            self.graph.unique(name)
        self.readers: dict[Entry, list[Node]] = {}
        self._constants: dict[int, tuple[str, NDArray[Any]]] = {}
        self._constant_names: set[str] = set()

    def write(
        self,
        inputs: Mapping[str, Value],
        heads: tuple[Entry, ...],
        progress: ProgressCallback = silent,
    ) -> list[Value]:
        """Add every node that `heads` are computed from.

        Args:
            inputs: The network's inputs by name.
            heads: The outputs wanted.
            progress: Told about each node.

        Returns:
            The tensors of `heads`.

        Raises:
            ImportFailedError: An operator is unknown or asks for what ONNX cannot do
                exactly, a weight is missing, or shapes do not fit.
        """
        nodes = self.symbol.needed(heads)
        self._refuse_unknown(nodes)
        self.readers = {}
        for node in nodes:
            for entry in node.inputs:
                self.readers.setdefault(entry, []).append(node)
        # What is an output must be there as it is.
        for entry in heads:
            self.readers.setdefault(entry, []).append(self.symbol.nodes[entry.node])
        for done, node in enumerate(nodes, start=1):
            self._write_node(node, inputs)
            progress("import", done, len(nodes))
        return [self._find(self.symbol.nodes[entry.node], entry) for entry in heads]

    def _refuse_unknown(self, nodes: list[Node]) -> None:
        unknown = [n for n in nodes if not n.is_variable and n.operator not in OPERATORS]
        if unknown:
            kinds = Counter(node.operator for node in unknown)
            raise self.symbol.error(
                f"{unknown[0]}: this operator cannot be imported; in all: "
                + ", ".join(f"{kind} ({times})" for kind, times in kinds.most_common(8))
            )

    def _write_node(self, node: Node, inputs: Mapping[str, Value]) -> None:
        if node.is_variable:
            self.values[Entry(node.index, 0)] = self._variable(node, inputs)
            return
        read = [self._find(node, entry) for entry in node.inputs]
        try:
            result = OPERATORS[node.operator](self, node, read)
        except ImportFailedError:
            raise
        except (IndexError, ValueError, ZeroDivisionError) as error:
            # An operator that trusts its inputs' number or rank was given too few.
            shapes = ", ".join(described(value.shape) for value in read)
            raise node.settings.error(f"its inputs do not fit it: {shapes or 'none'}") from error
        for number, value in enumerate(result if isinstance(result, list) else [result]):
            self.values[Entry(node.index, number)] = value

    def _variable(self, node: Node, inputs: Mapping[str, Value]) -> Value:
        if node.name in inputs:
            return inputs[node.name]
        if node.name not in self.weights:
            # Only an error where somebody reads it: labels of a loss are never read.
            return Value("", ())
        # Whole numbers among the weights (an offset, a mask) are computed with as floats.
        array = self.weights[node.name].astype(np.float32, copy=False)
        return Value(node.name, array.shape, array)

    def _find(self, node: Node, entry: Entry) -> Value:
        value = self.values.get(entry)
        if value is None:
            raise node.settings.error(
                f"it reads output {entry.output} of {self.symbol.nodes[entry.node]}, "
                "which has no such output"
            )
        return value

    def parameter(self, node: Node, inputs: list[Value], position: int, name: str) -> Value:
        """A weight of a node; files before 0.9 do not list moving statistics.

        Raises:
            ImportFailedError: It is not in the parameters, or is not a constant.
        """
        wanted = f"{node.name}_{name}"
        if position < len(inputs):
            value = inputs[position]
            wanted = self.symbol.nodes[node.inputs[position].node].name
        elif wanted in self.weights:
            value = Value(wanted, self.weights[wanted].shape, self.weights[wanted])
        else:
            value = Value("", ())
        if value.array is None:
            missing = "is not in the parameters" if not value.name else "is computed by the network"
            raise node.settings.error(
                f"its {name} {wanted!r} {missing}; are the parameters those of this symbol?"
            )
        return value

    def unique(self, name: str) -> str:
        """A name for a tensor, near `name`, that none has yet."""
        return self.graph.unique(name)

    def constant(self, name: str, array: NDArray[Any]) -> Value:
        """A constant; it enters the graph when a node reads it."""
        if array.dtype.kind == "f" and array.dtype != np.float32:
            array = array.astype(np.float32)
        self._room -= array.size
        if self._room < 0:
            raise self.symbol.error(
                f"with {name!r}, its constants hold more numbers than those of any detector; "
                "it is damaged"
            )
        return Value(name, array.shape, array)

    def floats(self, name: str, values: Any) -> Value:
        """A float32 constant."""
        return self.constant(name, np.asarray(values, np.float32))

    def integers(self, name: str, values: Sequence[int]) -> Value:
        """A list of int64, as ONNX takes shapes, axes and the like."""
        return self.constant(name, np.asarray(values, np.int64))

    def op(
        self, kind: str, inputs: Sequence[Value], name: str, shape: Shape, **attributes: Any
    ) -> Value:
        """Add an ONNX node of one output; of constants alone, it is computed at once."""
        return self.ops(kind, inputs, [name], [shape], **attributes)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[Value],
        names: Sequence[str],
        shapes: Sequence[Shape],
        **attributes: Any,
    ) -> list[Value]:
        """As :meth:`op`, for a node of several outputs."""
        constant = all(v.array is not None for v in inputs if v is not OMITTED)
        for shape in shapes:
            limit = _MAX_CONSTANT if constant else _MAX_ELEMENTS
            if count(shape) > limit or 0 in shape or sum(n < 0 for n in shape) > 1:
                raise self.symbol.error(
                    f"{names[0]!r} would have the shape {described(shape)}; a tensor holds 1 "
                    f"to {limit} numbers: is a setting damaged, or the input size wrong?"
                )
        unread = [v for v in inputs if not v.name and v is not OMITTED]
        if unread:
            raise self.symbol.error(
                f"{names[0]!r} reads a variable that is neither an input nor a parameter; "
                "are the parameters those of this symbol?"
            )
        if constant:
            arrays = _compute(kind, [value.array for value in inputs], len(names), attributes)
            results = zip(names, arrays, strict=True)
            return [self.constant(name, array) for name, array in results]
        unique = [self.unique(name) for name in names]
        self._add(kind, [self.read(value) for value in inputs], unique, attributes)
        return [Value(name, shape) for name, shape in zip(unique, shapes, strict=True)]

    def _add(
        self, kind: str, inputs: list[str], outputs: list[str], attributes: dict[str, Any]
    ) -> None:
        from onnx import helper

        node = helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes)
        self.graph.graph.node.append(node)

    def read(self, value: Value) -> str:
        """The name to read a tensor by; a constant enters the graph now."""
        if value.array is None:
            return value.name
        key = id(value.array)
        if key not in self._constants:
            # Two that a file gives one name are two.
            name, times = value.name, 1
            while name in self._constant_names:
                times += 1
                name = f"{value.name}_{times}"
            self._constant_names.add(name)
            # The array is kept, so that no other takes its identity.
            self._constants[key] = (self.graph.constant(name, value.array), value.array)
        return self._constants[key][0]

    def binary(self, kind: str, a: Value, b: Value, name: str) -> Value:
        """An element-wise operator of two tensors, broadcast as NumPy does."""
        shape = broadcast(a.shape, b.shape)
        if shape is None:
            raise self.symbol.error(
                f"{name!r}: {described(a.shape)} and {described(b.shape)} do not fit each other; "
                "is the input size one that the network can take?"
            )
        return self.op(kind, [a, b], name, shape)

    def scaled(self, kind: str, a: Value, number: float, name: str) -> Value:
        """An element-wise operator of a tensor and a number."""
        return self.op(kind, [a, self.floats(f"{name}/number", number)], name, a.shape)

    def reshape(self, x: Value, shape: Shape, name: str) -> Value:
        """Another shape of as many elements."""
        if x.shape == shape:
            return x
        if count(x.shape) != count(shape) or has_batch(x.shape) != has_batch(shape):
            raise self.symbol.error(
                f"{name!r}: {described(x.shape)} cannot become {described(shape)}"
            )
        target = self.integers(f"{name}/shape", [-1 if n < 0 else n for n in shape])
        return self.op("Reshape", [x, target], name, shape)

    def transpose(self, x: Value, axes: Sequence[int], name: str) -> Value:
        """Axes in another order."""
        shape = tuple(x.shape[axis] for axis in axes)
        return self.op("Transpose", [x], name, shape, perm=list(axes))

    def slice(self, x: Value, axis: int, start: int, end: int, name: str, step: int = 1) -> Value:
        """The part from `start` up to `end` along `axis`, as Python slices (all resolved)."""
        length = len(range(start, end, step))
        if step == 1 and length == x.shape[axis]:
            return x
        if x.shape[axis] < 0:
            raise self.symbol.error(f"{name!r} cuts the batch, whose size is open")
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        # Down to the first element, ONNX needs an end before it that is no wrapped index.
        stop = end if end >= 0 else -(1 << 31)
        parts = [
            self.integers(f"{name}/{key}", [value])
            for key, value in (("start", start), ("end", stop), ("axis", axis), ("step", step))
        ]
        return self.op("Slice", [x, *parts], name, shape)

    def concat(self, parts: Sequence[Value], axis: int, name: str) -> Value:
        """Parts one after another along `axis`."""
        first = parts[0].shape
        others = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}
        if len(others) != 1 or any(part.shape[axis] < 0 for part in parts):
            shapes = ", ".join(described(part.shape) for part in parts)
            raise self.symbol.error(f"{name!r} cannot join {shapes} along axis {axis}")
        total = sum(part.shape[axis] for part in parts)
        shape = (*first[:axis], total, *first[axis + 1 :])
        return self.op("Concat", parts, name, shape, axis=axis)


def axis_of(node: Node, axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        ImportFailedError: The tensor has no such axis.
    """
    if not -rank <= axis < rank:
        raise node.settings.error(f"axis {axis} is not there: the tensor has {rank} axes")
    return axis % rank


def _compute(
    kind: str, arrays: Sequence[NDArray[Any] | None], outputs: int, attributes: dict[str, Any]
) -> list[NDArray[Any]]:
    """What a node gives for constants, by the operator's definition."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    names = ["" if array is None else f"i{i}" for i, array in enumerate(arrays)]
    given = {name: array for name, array in zip(names, arrays, strict=True) if name}
    results = [f"o{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(kind, names, results, **attributes)],
        "constant",
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in given],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in results],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    with np.errstate(all="ignore"):
        values = ReferenceEvaluator(model).run(None, given)
    return [np.ascontiguousarray(value).reshape(np.shape(value)) for value in values]
