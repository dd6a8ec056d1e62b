"""QuantizeLinear and DequantizeLinear: types, zero points, scales."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from boxwright.graph.checks.seen import Seen
from boxwright.graph.targets import Target
from boxwright.graph.view import STANDARD, Place, View, attribute, input_name

if TYPE_CHECKING:
    import onnx

_WIDE = {TensorProto.INT16, TensorProto.UINT16}

# No network has as many scales in one place.
_MOST_SCALES = 1 << 24

# Types whose missing zero point is added; others are refused with one, too.
_ZERO_TYPES = {TensorProto.INT8, TensorProto.UINT8}


def linear(view: View, target: Target) -> Iterator[Seen]:
    """One finding for each kind and node; all of one network's are usually of one kind."""
    told: set[str] = set()
    for place in view.places:
        node = place.node
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.domain not in STANDARD:
            continue
        for seen in _of_node(view, place, told):
            if seen.code not in told:
                told.add(seen.code)
                yield seen


def _of_node(view: View, place: Place, told: set[str]) -> Iterator[Seen]:
    node = place.node
    scale = view.input_constant(node, 1)
    if scale is not None and scale.size and not np.all(scale.astype(np.float64) > 0):
        yield Seen("quantized-scale", f"the smallest is {float(scale.min()):g}", place)
    if not input_name(node, 2):
        code = "quantized" if node.op_type == "QuantizeLinear" else "dequantized"
        yield Seen(f"{code}-no-zero-point", "0 is meant", place,
                   curable=zero_point_shape(view, place) is not None)  # fmt: skip
    zero = view.input_constant(node, 2)
    kind = quantised_type(view, place)
    if kind == TensorProto.INT32:
        constant = node.input[0] in view.initializers
        yield Seen("quantized-int32", f"{node.input[0]!r}", place,
                   curable=constant and not place.depth)  # fmt: skip
        return
    if kind in _WIDE:
        yield Seen("quantized-wide", f"{node.op_type} of 16-bit integers", place)
        return
    whole = zero is not None and zero.dtype.kind in "iu"
    points = {int(z) for z in np.asarray(zero).reshape(-1)} if whole else set()
    if points - {0}:
        if kind == TensorProto.UINT8 and points == {128}:
            yield Seen("zero-point-128", "zero point 128", place,
                       curable=not place.depth and signable(view))  # fmt: skip
        else:
            shown = ", ".join(map(str, sorted(points)[:3]))
            # The whole graph is looked at for this, so not for every node of it.
            curable = "zero-point" not in told and floatable(view)
            yield Seen("zero-point", f"zero point {shown}", place, curable=curable)
    elif kind == TensorProto.UINT8:
        yield Seen("quantized-uint8", f"{node.op_type} to or from uint8", place)


def zero_point_shape(view: View, place: Place) -> tuple[int, ...] | None:
    """The shape of the zero point that a node has not: its scale's; ``None`` where unknown."""
    node = place.node
    shape = view.shapes.get(input_name(node, 1))
    known = node.op_type == "QuantizeLinear" or node.input[0] in view.types
    whole = quantised_type(view, place) in _ZERO_TYPES
    if shape is None or None in shape or not known or not whole or place.depth:
        return None
    # One a channel, or one a block of weights.
    extents = tuple(int(extent or 0) for extent in shape)
    small = min(extents, default=1) >= 1 and math.prod(extents) <= _MOST_SCALES
    return extents if small else None


def quantised_type(view: View, place: Place) -> int:
    """The integer type of a Q/DQ node: that of its zero point, or of what it reads."""
    return type_of_node(view, place.node)


def type_of_node(view: View, node: onnx.NodeProto) -> int:
    """As :func:`quantised_type`, wherever the node stands."""
    name = input_name(node, 2)
    if name and (kind := view.types.get(name)):
        return kind
    if node.op_type == "DequantizeLinear":
        return view.types.get(node.input[0], TensorProto.UINT8)
    return int(attribute(node, "output_dtype", 0)) or TensorProto.UINT8


def signable(view: View) -> bool:
    """Whether all uint8 with zero point 128 stays between Q and DQ, so that it may be shifted."""
    outputs = {value.name for value in view.graph.output}
    for place in view.places:
        node = place.node
        zero = view.input_constant(node, 2) if node.op_type.endswith("izeLinear") else None
        if zero is None or zero.dtype != np.uint8 or set(zero.reshape(-1).tolist()) != {128}:
            continue
        if place.depth:
            return False
        if node.op_type == "QuantizeLinear":
            readers = view.readers.get(node.output[0], [])
            if node.output[0] in outputs:
                return False
            if any(r.op_type != "DequantizeLinear" for r in readers):
                return False
        elif node.input[0] not in view.initializers:
            before = view.producers.get(node.input[0])
            if before is None or before.op_type != "QuantizeLinear":
                return False
    return True


def floatable(view: View) -> bool:
    """Whether every quantised value stays between Q and DQ of constant scales, or is constant.

    Then floats can be rounded and clipped instead (the pass ``fake-quantisation``).
    """
    linear = ("QuantizeLinear", "DequantizeLinear")
    return all(_floatable(view, p) for p in view.places if p.node.op_type in linear)


def _floatable(view: View, place: Place) -> bool:
    node, kind = place.node, type_of_node(view, place.node)
    if node.domain not in STANDARD or place.depth or attribute(node, "block_size", 0):
        return False
    scale, zero = view.tensor(node.input[1]), input_name(node, 2)
    if scale is None or scale.data_type != TensorProto.FLOAT:
        return False
    if zero and view.tensor(zero) is None:
        return False
    small = view.constant(node.input[1])
    if small is not None and not np.all(small > 0):
        return False
    one = math.prod(scale.dims) == 1
    constant = view.tensor(node.input[0]) is not None
    given_out = any(value.name == node.output[0] for value in view.graph.output)
    if node.op_type == "QuantizeLinear":
        readers = view.readers.get(node.output[0], [])
        inside = all(r.op_type == "DequantizeLinear" for r in readers) and not given_out
        floats = view.types.get(node.input[0], TensorProto.FLOAT) == TensorProto.FLOAT
        return inside and floats and kind in _ZERO_TYPES and (one or constant)
    if constant:
        return not given_out and kind in _ZERO_TYPES | {TensorProto.INT32}
    before = view.producers.get(node.input[0])
    if before is None or before.op_type != "QuantizeLinear":
        return False
    return not given_out if view.tensor(before.input[0]) is not None else one


CHECKS = (linear,)
