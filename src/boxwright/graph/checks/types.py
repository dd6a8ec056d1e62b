"""Element types: what is wider, narrower or another kind than the target computes with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from boxwright.graph.checks.seen import Seen
from boxwright.graph.targets import Target
from boxwright.graph.view import View, small_values, tensor_of_constant

_INT32 = np.iinfo(np.int32)
_SMALLEST_NORMAL_HALF = float(np.finfo(np.float16).tiny)

# Beyond 32 bits, these only say "to the end": clamped they say the same.
_TO_THE_END = {"Slice", "DynamicSlice"}

# Types that NVIDIA's parsers have no word for. 8-bit and 4-bit floats and integers are
# known to newer ones, between QuantizeLinear and DequantizeLinear.
_FOREIGN: dict[int, str] = {
    TensorProto.INT16: "int16",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
    TensorProto.COMPLEX64: "complex64",
    TensorProto.COMPLEX128: "complex128",
}

_PAIRS = ("QuantizeLinear", "DequantizeLinear")

# Nodes that may take or give uint8 in NVIDIA's parsers.
_CAST_LIKE = {"Cast", "CastLike", "Identity", "Constant", "QuantizeLinear", "DequantizeLinear"}


def wide_floats(view: View, target: Target) -> Iterator[Seen]:
    """64-bit floats, wherever they are."""
    names = [name for name, kind in view.types.items() if kind == TensorProto.DOUBLE]
    if names:
        yield Seen("double", f"{len(names)} tensor(s), such as {names[0]!r}", subject=names[0])


def wide_integers(view: View, target: Target) -> Iterator[Seen]:
    """64-bit integers among constants, inputs and outputs."""
    harmless = {
        name
        for place in view.places
        if place.node.op_type in _TO_THE_END
        for name in place.node.input[1:]
    }
    fitting = 0
    for name, tensor in _constants(view):
        if tensor.data_type != TensorProto.INT64:
            continue
        beyond = _beyond_int32(tensor)
        if beyond is None or name in harmless:
            fitting += 1
        else:
            yield Seen("int64-out-of-range", f"{name!r} holds {beyond}",
                       subject=name)  # fmt: skip
    if fitting:
        yield Seen("int64-constant", f"{fitting} of them")
    for value in (*view.inputs, *view.graph.output):
        if _kind(view, value) == TensorProto.INT64:
            yield Seen("int64-io", f"{value.name!r}", subject=value.name)


def narrow_types(view: View, target: Target) -> Iterator[Seen]:
    """uint8 that is computed with, bfloat16, and types no parser of NVIDIA's has."""
    for place in view.places:
        node = place.node
        if node.op_type in _CAST_LIKE or node.op_type.startswith(("QLinear", "Sequence")):
            continue
        if node.op_type in ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"):
            continue  # refused as operators already
        if any(view.types.get(name) == TensorProto.UINT8 for name in (*node.input, *node.output)):
            moves = node.op_type in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten",
                                     "Slice", "Concat", "Gather")  # fmt: skip
            yield Seen("uint8-inside" if moves else "uint8-arithmetic", f"{node.op_type} of uint8",
                       place, curable=not place.depth)  # fmt: skip
    for value in (*view.inputs, *view.graph.output):
        if _kind(view, value) == TensorProto.UINT8:
            yield Seen("uint8-io", f"{value.name!r}", subject=value.name)
    brain = [n for n, kind in view.types.items() if kind == TensorProto.BFLOAT16]
    if brain:
        yield Seen("bfloat16", f"{len(brain)} tensor(s), such as {brain[0]!r}", subject=brain[0])
    # 16-bit quantisation has a finding of its own.
    pairs = (p.node for p in view.places if p.node.op_type in _PAIRS)
    quantised = {name for node in pairs for name in (*node.input, *node.output)}
    for name, kind in view.types.items():
        if kind in _FOREIGN and name not in quantised:
            yield Seen("type", f"{name!r} is {_FOREIGN[kind]}", subject=name)
            break


def halves(view: View, target: Target) -> Iterator[Seen]:
    """float16 constants that are next to nothing."""
    for name, tensor in _constants(view):
        if tensor.data_type != TensorProto.FLOAT16:
            continue
        values = small_values(tensor)
        if values is None:
            continue
        sizes = np.abs(values.astype(np.float32))
        tiny = int(np.count_nonzero((sizes > 0) & (sizes < _SMALLEST_NORMAL_HALF)))
        if tiny:
            yield Seen("half-underflow", f"{tiny} of {values.size} values of {name!r}",
                       subject=name)  # fmt: skip


def other_kinds(view: View, target: Target) -> Iterator[Seen]:
    """Text, sequences and optional values among inputs, outputs and operators."""
    text = [name for name, kind in view.types.items() if kind == TensorProto.STRING]
    if text:
        yield Seen("string", f"{text[0]!r} is text", subject=text[0])
    values = (*view.graph.input, *view.graph.output, *view.graph.value_info)
    kinds = ("sequence_type", "optional_type", "map_type")
    named = [v.name for v in values if v.type.WhichOneof("value") in kinds]
    places = [
        place
        for place in view.places
        if place.node.op_type.startswith(("Sequence", "Optional"))
        or place.node.op_type in ("SplitToSequence", "ConcatFromSequence")
    ]
    if places:
        yield Seen("sequence", f"{places[0].node.op_type}, {len(places)} node(s)", places[0])
    elif named:
        yield Seen("sequence", f"{named[0]!r}", subject=named[0])


def _constants(view: View) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from view.initializers.items()
    for place in view.places:
        tensor = tensor_of_constant(place.node)
        if tensor is not None:
            yield place.node.output[0], tensor


def _beyond_int32(tensor: onnx.TensorProto) -> int | None:
    values = small_values(tensor)
    if values is None or values.size == 0:
        return None
    low, high = int(values.min()), int(values.max())
    if low < _INT32.min:
        return low
    return high if high > _INT32.max else None


def _kind(view: View, value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type or view.types.get(value.name, 0)


CHECKS = (wide_floats, wide_integers, narrow_types, halves, other_kinds)
