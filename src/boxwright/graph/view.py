"""A graph made ready for questions: nodes of all depths, constants, producers, shapes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

Shape = tuple[int | None, ...]

# Constants of more elements are not decoded: shapes, scales and axes are shorter.
_SMALL = 1024
# Deeper nesting is not followed; protobuf itself parses no message deeper than this.
_MAX_DEPTH = 32

STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class Place:
    """A node and where it stands.

    Attributes:
        node: The node.
        depth: 0 in the main graph, 1 in a branch or loop body of one of its nodes, ...
    """

    node: onnx.NodeProto
    depth: int

    @property
    def name(self) -> str:
        """The node's name, or its first output's where it has none."""
        return self.node.name or next(iter(self.node.output), "") or self.node.op_type


class View:
    """What the checks ask of a model. The model must not change meanwhile."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.graph = proto.graph
        self._settled: set[str] = set()

    @cached_property
    def opset(self) -> int:
        """The version of the standard operators; 1 where none is declared."""
        return opset_of(self.proto)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """All well-formed nodes, those inside of others after them."""
        return tuple(p for p in all_places(self.graph) if fault_of(p.node, self.opset) is None)

    @cached_property
    def malformed(self) -> tuple[tuple[Place, str], ...]:
        """Nodes that are not what their operator's definition asks for, and why."""
        found = ((place, fault_of(place.node, self.opset)) for place in all_places(self.graph))
        return tuple((place, fault) for place, fault in found if fault is not None)

    @cached_property
    def broken_tensors(self) -> tuple[tuple[str, str], ...]:
        """Initializers whose values are not what their type and shape ask for, and why."""
        found = ((name, fault_of_tensor(tensor)) for name, tensor in self.initializers.items())
        return tuple((name, fault) for name, fault in found if fault is not None)

    @cached_property
    def fault(self) -> str | None:
        """Why ONNX's inference must not see the model, or ``None`` where it may.

        It is native code and trusts what it is given: damaged, a model may end the process.
        """
        for place, fault in self.malformed:
            return f"{place.node.op_type} {place.name!r}: {fault}"
        for name, fault in self.broken_tensors:
            return f"{name!r}: {fault}"
        for item in self.proto.functions:
            for node in item.node:
                if inside := fault_of(node, self.opset):
                    return f"{node.op_type} in the function {item.name!r}: {inside}"
        return None

    @cached_property
    def readers(self) -> Mapping[str, list[onnx.NodeProto]]:
        """Which well-formed nodes of any depth read a tensor."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for place in self.places:
            for name in set(place.node.input):
                found.setdefault(name, []).append(place.node)
        return found

    @cached_property
    def initializers(self) -> Mapping[str, onnx.TensorProto]:
        """Initializers of the main graph by name."""
        return {tensor.name: tensor for tensor in self.graph.initializer}

    @cached_property
    def inputs(self) -> tuple[onnx.ValueInfoProto, ...]:
        """The graph's inputs that are no initializers."""
        return tuple(value for value in self.graph.input if value.name not in self.initializers)

    @cached_property
    def producers(self) -> Mapping[str, onnx.NodeProto]:
        """Which node of the main graph makes a tensor."""
        return {name: node for node in self.graph.node for name in node.output if name}

    @cached_property
    def uses(self) -> Counter[str]:
        """How often a tensor is read, by nodes of any depth and as an output."""
        return count_uses(self.graph)

    @cached_property
    def _inferred(self) -> tuple[dict[str, Shape], dict[str, int]]:
        # Where there is a fault, what is declared has to do.
        return declared(self.proto, self.graph) if self.fault else infer(self.proto)

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shapes of the tensors of the main graph; unknown ones are missing."""
        return self._inferred[0]

    @property
    def types(self) -> Mapping[str, int]:
        """Element types of the tensors of the main graph; unknown ones are missing."""
        return self._inferred[1]

    def tensor(self, name: str) -> onnx.TensorProto | None:
        """The constant called `name`: an initializer, or the value of a Constant node."""
        if name in self.initializers:
            return self.initializers[name]
        node = self.producers.get(name)
        return None if node is None else tensor_of_constant(node)

    def constant(self, name: str) -> NDArray[Any] | None:
        """A small constant's values; ``None`` where it is none, or is large."""
        tensor = self.tensor(name)
        return None if tensor is None else small_values(tensor)

    def input_constant(self, node: onnx.NodeProto, at: int) -> NDArray[Any] | None:
        """As :meth:`constant`, for the input of a node at a position."""
        name = input_name(node, at)
        return self.constant(name) if name else None

    def is_known_from_shapes(self, name: str) -> bool:
        """Whether a tensor follows from constants and the inputs' shapes alone."""
        seen: set[str] = set()
        stack = [name]
        while stack:
            current = stack.pop()
            known = not current or current in self.initializers or current in self._settled
            if known or current in seen:
                continue
            seen.add(current)
            node = self.producers.get(current)
            if node is None:
                return False
            if node.op_type in ("Constant", "Shape", "Size"):
                continue
            if not node.input:
                return False
            stack.extend(node.input)
        # What this one follows from is settled too; asked again, it is not walked again.
        self._settled.update(seen)
        return True


def opset_of(proto: onnx.ModelProto) -> int:
    """The version of the standard operators that a model declares; 1 without one."""
    return max((e.version for e in proto.opset_import if e.domain in STANDARD), default=1)


@lru_cache(maxsize=4096)
def definition(operator: str, opset: int) -> onnx.defs.OpSchema | None:
    """An operator of the standard domain as an opset has it; ``None`` where it has not."""
    from onnx import defs

    try:
        return defs.get_schema(operator, min(opset, defs.onnx_opset_version()), "")
    except defs.SchemaError:
        return None


def fault_of(node: onnx.NodeProto, opset: int) -> str | None:
    """What a node of the standard domain lacks by its operator's definition, or ``None``.

    Checked are the numbers of inputs and outputs, and that attributes are there and of
    their type. Operators that the opset does not have are judged elsewhere.
    """
    import onnx

    if not node.op_type:
        return "it has no operator"
    if not node.output:
        return "it has no outputs"
    if not node.input and node.op_type not in _SOURCES and onnx.defs.has(node.op_type):
        return "it has no inputs"
    known = definition(node.op_type, opset) if node.domain in STANDARD else None
    if known is None:
        return None
    needed = [name for name in node.input[: known.min_input] if name]
    if len(needed) < known.min_input:
        return f"it has {len(node.input)} inputs, and needs {known.min_input}"
    if len(node.input) > known.max_input:
        return f"it has {len(node.input)} inputs, and takes {known.max_input}"
    if not known.min_output <= len(node.output) <= known.max_output:
        return f"it has {len(node.output)} outputs"
    unnamed = [at for at, name in enumerate(node.output) if not name and _is_needed(known, at)]
    if unnamed:
        return f"its output {unnamed[0]} has no name, and may not be left out"
    present = {item.name: item for item in node.attribute}
    for name, wanted in known.attributes.items():
        if name not in present:
            if wanted.required:
                return f"it lacks the attribute {name!r}"
        elif int(present[name].type) != int(wanted.type.value):  # type: ignore[attr-defined]
            return f"its attribute {name!r} is of another type"
        elif name in _AXES:
            # ONNX's own inference reads beyond its arrays where an axis is not one.
            beyond = [n for n in (*present[name].ints, present[name].i) if abs(n) > _MOST_AXES]
            if beyond:
                return f"its {name} is {beyond[0]}, and no tensor has as many dimensions"
    return None


def _is_needed(known: onnx.defs.OpSchema, at: int) -> bool:
    """Whether an output must have a name. All of Split's: ONNX Runtime crashes without."""
    import onnx

    kind = known.outputs[min(at, len(known.outputs) - 1)].option
    return kind == onnx.defs.OpSchema.FormalParameterOption.Single or known.name == "Split"


_AXES = ("axis", "axes", "perm", "batch_dims")
_MOST_AXES = 64

# Operators that make something of nothing.
_SOURCES = {"Constant", "RandomNormal", "RandomUniform", "SequenceEmpty", "Optional"}


def fault_of_tensor(tensor: onnx.TensorProto) -> str | None:
    """Why a tensor's values are not those of its type and shape, or ``None`` where they are."""
    from onnx import TensorProto, helper

    if any(extent < 0 for extent in tensor.dims):
        return f"its shape is {list(tensor.dims)}"
    if tensor.data_type == TensorProto.STRING or tensor.data_location == TensorProto.EXTERNAL:
        return None
    if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
        return f"its type is {tensor.data_type}, which is none"
    if not tensor.HasField("raw_data"):
        held = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
        # Complex numbers take two places each; 4-bit ones share theirs.
        most = 2 * count(tensor)
        exact = tensor.data_type in _ONE_EACH
        fits = held == count(tensor) if exact else held <= most
        return None if fits else f"it holds {held} values, and its shape is {list(tensor.dims)}"
    if tensor.data_type in _ONE_EACH:
        size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * count(tensor)
        if len(tensor.raw_data) != size:
            return f"it holds {len(tensor.raw_data)} bytes, and its shape needs {size}"
    return None


# By their numbers in onnx.proto: float, the integers of 8 to 64 bits, bool, float16, double.
_ONE_EACH = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13})


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value; text as `str`, lists as `list`; `default` where it is missing."""
    import onnx

    for item in node.attribute:
        if item.name == name:
            value = onnx.helper.get_attribute_value(item)
            if isinstance(value, bytes):
                return value.decode("utf-8", "replace")
            return (
                list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value
            )
    return default


def input_name(node: onnx.NodeProto, at: int) -> str:
    """The name of the input at a position; ``""`` where it is left out."""
    return str(node.input[at]) if at < len(node.input) else ""


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Branches and bodies that a node holds."""
    for item in node.attribute:
        if item.HasField("g"):
            yield item.g
        yield from item.graphs


def tensor_of_constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node as a tensor; ``None`` for other nodes and sparse values."""
    from onnx import helper, numpy_helper

    if node.op_type != "Constant" or node.domain not in STANDARD:
        return None
    for item in node.attribute:
        if item.name == "value" and item.HasField("t"):
            return item.t
        if item.name in ("value_float", "value_floats", "value_int", "value_ints"):
            kind = np.float32 if "float" in item.name else np.int64
            try:
                return numpy_helper.from_array(np.asarray(helper.get_attribute_value(item), kind))
            except (TypeError, ValueError):  # the attribute is of another type than its name says
                return None
    return None


def small_values(tensor: onnx.TensorProto) -> NDArray[Any] | None:
    """A tensor's values, where it is small, kept here and whole."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_location == TensorProto.EXTERNAL or count(tensor) > _SMALL:
        return None
    try:
        values: NDArray[Any] = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, RuntimeError):
        return None
    return values


def count(tensor: onnx.TensorProto) -> int:
    """How many elements a tensor says it has."""
    return math.prod(tensor.dims)


def dims_of(value: onnx.ValueInfoProto) -> Shape | None:
    """The declared shape; ``None`` where not even the rank is."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)


def count_uses(graph: onnx.GraphProto) -> Counter[str]:
    """How often each tensor is read, by nodes of any depth and as an output."""
    uses: Counter[str] = Counter()
    for place in all_places(graph):
        uses.update(place.node.input)
        for inner in subgraphs(place.node):
            uses.update(value.name for value in inner.output)
    uses.update(value.name for value in graph.output)
    return uses


def infer(proto: onnx.ModelProto) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shapes and element types of the main graph, as far as ONNX's inference gets.

    Large initializers become inputs before, for inference would copy every weight. A graph
    that inference refuses has what it declares itself.
    """
    import onnx

    skeleton = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    skeleton.functions.extend(proto.functions)
    graph = skeleton.graph
    graph.name = "skeleton"
    graph.node.extend(proto.graph.node)
    names = {tensor.name for tensor in proto.graph.initializer}
    graph.input.extend(value for value in proto.graph.input if value.name not in names)
    graph.value_info.extend(proto.graph.value_info)
    for tensor in proto.graph.initializer:
        if count(tensor) <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.add().CopyFrom(tensor)
        else:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    for value in proto.graph.output:
        graph.output.add().name = value.name
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except (
        *(onnx.shape_inference.InferenceError, onnx.checker.ValidationError),
        *(RuntimeError, ValueError, TypeError),
    ):
        inferred = proto.graph
    return declared(proto, inferred)


def declared(
    proto: onnx.ModelProto, graph: onnx.GraphProto
) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shapes and element types that `graph` states, and those of the model's initializers."""
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    types: dict[str, int] = {t.name: t.data_type for t in proto.graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = dims_of(value)
        if shape is not None:
            shapes[value.name] = shape
        if value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
    return shapes, types


def all_places(graph: onnx.GraphProto, depth: int = 0) -> Iterator[Place]:
    """Nodes of a graph, and after each those inside of it."""
    for node in graph.node:
        yield Place(node, depth)
        if depth < _MAX_DEPTH:
            for inner in subgraphs(node):
                yield from all_places(inner, depth + 1)
