"""Reading of TensorFlow's graphs, which frozen ``.pb`` files and SavedModels hold.

A node's input is ``name``, ``name:index`` or, inside of a function, ``name:output:index``;
``^name`` only orders and is left out. Calls of functions are replaced by what they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.files import printable
from boxwright.importers.tensorflow.network import (
    MAX_ELEMENTS,
    MAX_NODES,
    MAX_RANK,
    Array,
    Network,
    Node,
    Value,
    refusal,
    short,
    size_of,
)

# DataType of types.proto, without references and what no detector computes with. Quantised
# bytes (11 to 13, 15, 16) are the bytes.
TYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    11: "i1",
    12: "u1",
    13: "<i4",
    15: "<i2",
    16: "<u2",
    17: "<u2",
    19: "<f2",
}
_RESOURCE = 20
_STRING = 7
_VALUES = {
    "<f4": "float_val",
    "<f8": "double_val",
    "<i8": "int64_val",
    "?": "bool_val",
    "<f2": "half_val",
}
# Operations that run what a file cannot hold, or change what is outside of it.
_RUNS_CODE = ("PyFunc", "PyFuncStateless", "EagerPyFunc")


def network_of(
    graph: Any,
    path: Path,
    variables: Mapping[str, Array] | None = None,
    outputs: list[str] | None = None,
    inputs: list[str] | None = None,
) -> Network:
    """A network of a parsed graph.

    Args:
        graph: ``GraphDef``; calls are inlined already.
        path: The file, for messages.
        variables: Values of the variables, by their nodes' names.
        outputs: What is fetched, as ``name:index``; without it, what nothing else uses.
        inputs: Placeholders that are fed, as ``name:index``; without it, those there are.
    """
    reader = _Reader(path, variables or {})
    for node in graph.node:
        reader.add(node)
    network = Network(str(path), reader.sorted(), reader.values, reader.placeholders, [])
    if inputs is not None:
        network.inputs = [reader.resolve(name) for name in inputs]
    if outputs is not None:
        network.outputs = [reader.resolve(name) for name in outputs]
    else:
        used = {name for node in network.nodes for name in node.inputs}
        network.outputs = [
            node.outputs[0] for node in network.nodes if not used & set(node.outputs)
        ]
    return network


class _Reader:
    def __init__(self, path: Path, variables: Mapping[str, Array]) -> None:
        self.path = path
        self.variables = variables
        self.nodes: dict[str, Node] = {}
        self.values: dict[str, Value] = {}
        self.placeholders: list[str] = []

    def add(self, proto: Any) -> None:
        name = printable(proto.name)
        if name in self.nodes or len(self.nodes) > MAX_NODES:
            raise refusal(self.path, f"node {short(name)!r} is there twice, or there are too many")
        if proto.op in _RUNS_CODE:
            raise refusal(
                self.path,
                f"{proto.op} {short(name)!r} runs Python code that is not in the file; "
                "export the network without it",
            )
        inputs = tuple(plain_name(x) for x in proto.input if not x.startswith("^"))
        count = _outputs_of(proto)
        outputs = tuple(f"{name}:{i}" if i else name for i in range(count))
        kind = printable(proto.op)
        if kind == "Const":
            self._constant(name, proto.attr["value"].tensor)
        elif kind in ("Placeholder", "PlaceholderWithDefault"):
            self._placeholder(name, proto)
        elif kind in ("VarHandleOp", "VariableV2", "Variable") and name in self.variables:
            data = self.variables[name]
            self.values[name] = Value(name, data.dtype, data.shape, data)
        elif kind in ("ReadVariableOp", "Switch", "RefSwitch", "Merge"):
            kind = "Identity" if kind == "ReadVariableOp" else kind
        if kind == "PlaceholderWithDefault":
            # Fed or not, its default is no part of what is computed for images.
            inputs = ()
        self.nodes[name] = Node(kind, name, inputs, outputs, self._attributes(proto))

    def sorted(self) -> list[Node]:
        """All nodes that compute something, in an order in which they can be computed."""
        done: set[str] = set()
        order: list[Node] = []
        for root in self.nodes:
            stack = [(root, False)]
            open_nodes: set[str] = set()
            while stack:
                name, ready = stack.pop()
                if ready:
                    open_nodes.discard(name)
                    if name not in done:
                        done.add(name)
                        order.append(self.nodes[name])
                    continue
                if name in done or name not in self.nodes:
                    continue
                if name in open_nodes:
                    raise refusal(
                        self.path, f"node {short(name)!r} depends on itself (a loop): not supported"
                    )
                open_nodes.add(name)
                stack.append((name, True))
                stack.extend((node_of(x), False) for x in self.nodes[name].inputs)
        return [node for node in order if node.kind not in _NO_COMPUTATION]

    def resolve(self, name: str) -> str:
        """The name of a value that a signature names."""
        clean = plain_name(printable(name))
        if node_of(clean) not in self.nodes:
            raise refusal(self.path, f"its signature names {short(name)!r}, which is not there")
        return clean

    def _placeholder(self, name: str, proto: Any) -> None:
        self.placeholders.append(name)
        dtype = TYPES.get(proto.attr["dtype"].type)
        shape = proto.attr["shape"].shape
        known = "shape" in proto.attr and not shape.unknown_rank
        extents = tuple(int(dim.size) for dim in shape.dim) if known else None
        self.values[name] = Value(name, np.dtype(dtype or "V1"), extents or None)

    def _constant(self, name: str, tensor: Any) -> None:
        if tensor.dtype == _STRING:
            return
        data = tensor_of(tensor, f"constant {short(name)!r}", self.path)
        self.values[name] = Value(name, data.dtype, data.shape, data)

    def _attributes(self, proto: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in proto.attr.items():
            for field, content in value.ListFields():
                found[key] = _plain(field.name, content)
        if proto.op == "Cast" and "DstT" in found:
            found["DstT"] = TYPES.get(proto.attr["DstT"].type)
        if proto.op in ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"):
            # proto3 leaves out what is false; the operation's own default is true.
            present = "is_training" in proto.attr
            found["is_training"] = proto.attr["is_training"].b if present else True
        return found


_NO_COMPUTATION = ("Const", "Placeholder", "PlaceholderWithDefault", "NoOp", "VarHandleOp")


def plain_name(reference: str) -> str:
    """``name`` for a node's first output, ``name:index`` for the others."""
    name = printable(reference)
    return name.removesuffix(":0")


def node_of(value: str) -> str:
    """The node that makes a value."""
    return value.partition(":")[0]


def _outputs_of(proto: Any) -> int:
    for key in ("num_split", "num"):
        if proto.op in ("Split", "SplitV", "Unpack") and key in proto.attr:
            return max(1, min(int(proto.attr[key].i), 4096))
    if proto.op == "IdentityN":
        return max(1, min(len(proto.attr["T"].list.type), 4096))
    return 6 if proto.op.startswith("FusedBatchNorm") else 1


def _plain(field: str, content: Any) -> Any:
    """An attribute's value as Python's own."""
    if field == "s":
        return content.decode("utf-8", "replace")
    if field == "list":
        for inner, values in content.ListFields():
            if inner.name in ("i", "f", "b"):
                return list(values)
            if inner.name == "s":
                return [value.decode("utf-8", "replace") for value in values]
        return []
    if field in ("i", "f", "b", "type"):
        return content
    return None


def tensor_of(tensor: Any, what: str, path: object) -> Array:
    """A ``TensorProto`` as an array.

    Raises:
        ImportFailedError: Its type is unknown, or its values do not fill its shape.
    """
    code = TYPES.get(tensor.dtype)
    if code is None:
        raise refusal(path, f"{what} is of type {tensor.dtype}, which is not supported")
    dtype = np.dtype(code)
    shape = tuple(int(dim.size) for dim in tensor.tensor_shape.dim)
    if len(shape) > MAX_RANK or any(e < 0 for e in shape) or size_of(shape) > MAX_ELEMENTS:
        raise refusal(path, f"{what} has the shape {list(shape)[:9]}")
    total = size_of(shape)
    if tensor.tensor_content:
        if len(tensor.tensor_content) != total * dtype.itemsize:
            raise refusal(
                path,
                f"{what} of shape {list(shape)} needs {total * dtype.itemsize} bytes, "
                f"got {len(tensor.tensor_content)}",
            )
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = getattr(tensor, _VALUES.get(code, "int_val"))
    if len(values) > total:
        raise refusal(path, f"{what} of shape {list(shape)} has {len(values)} values")
    given = np.array(values, "<u2").view(dtype) if code == "<f2" else np.array(values).astype(dtype)
    if not len(given):
        # A tensor of zeros may be written as nothing; the array takes no memory.
        return np.broadcast_to(np.zeros(1, dtype), (total,)).reshape(shape)
    # The last value counts for all that follow.
    filled = np.concatenate([given, np.broadcast_to(given[-1:], (total - len(given),))])
    return filled.reshape(shape)
