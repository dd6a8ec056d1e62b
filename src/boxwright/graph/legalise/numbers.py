"""Passes on numbers: their types, and weights that others can take in."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from boxwright.errors import NotCurableError
from boxwright.graph.external import tensors
from boxwright.graph.legalise.editing import Editor, legaliser
from boxwright.graph.view import Place, attribute, count_uses, input_name

_INT32 = np.iinfo(np.int32)

# Nodes that only move values about: they do the same to float as to uint8.
_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Concat", "Gather"}


@legaliser("double", 1e-5, "64-bit floats have nine decimal digits more than 32-bit floats")
def double(edit: Editor) -> None:
    """Make 32-bit floats of 64-bit ones: weights, casts, inputs and outputs."""
    if any(True for _ in tensors(edit.proto)):
        raise NotCurableError("values are kept in other files; read them in first (embed)")
    _narrow(edit, edit.graph)
    if edit.changes:
        del edit.graph.value_info[:]


def _narrow(edit: Editor, graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            _as_float(tensor)
            edit.note(None, f"initializer {tensor.name!r}: double -> float")
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            edit.note(None, f"{value.name!r}: double -> float")
    for node in graph.node:
        for item in node.attribute:
            if item.HasField("t") and item.t.data_type == TensorProto.DOUBLE:
                _as_float(item.t)
                edit.note(node, f"{item.name}: double -> float")
            if item.name in ("to", "dtype") and item.i == TensorProto.DOUBLE:
                item.i = TensorProto.FLOAT
                edit.note(node, f"{item.name}: double -> float")
            if item.HasField("g"):
                _narrow(edit, item.g)


def _as_float(tensor: onnx.TensorProto) -> None:
    with np.errstate(over="ignore"):
        values = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@legaliser("int32")
def int32(edit: Editor) -> None:
    """Narrow 64-bit constants to 32 bits, where they fit and their readers take either.

    Readers are the indices of Gather and its kin, and Slice, whose ends may lie beyond 32
    bits and are clamped: past the end is past the end.
    """
    uses = count_uses(edit.graph)
    for node in edit.graph.node:
        if node.op_type in ("Gather", "GatherElements", "ScatterElements"):
            names = [node.input[1]]
        elif node.op_type == "Slice":
            names = [name for name in node.input[1:] if name]
        else:
            continue
        found = [edit.view.initializers.get(name) for name in names]
        if any(t is None or t.data_type != TensorProto.INT64 for t in found):
            continue
        if any(uses[name] > names.count(name) for name in names):
            continue
        for tensor in found:
            if tensor is None or tensor.data_type != TensorProto.INT64:
                continue
            values = numpy_helper.to_array(tensor)
            if node.op_type == "Slice":
                values = np.clip(values, _INT32.min, _INT32.max)
            elif values.size and (values.min() < _INT32.min or values.max() > _INT32.max):
                continue
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.int32), tensor.name))
            edit.note(node, f"{tensor.name!r}: int64 -> int32")


@legaliser("uint8")
def uint8(edit: Editor) -> None:
    """Cast uint8 to float before it is moved about; the values 0 to 255 are the same in both."""
    twins: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    kinds = edit.view.types

    def as_float(name: str) -> str:
        if name not in twins:
            twins[name] = edit.fresh(f"{name}/float")
            nodes.append(
                helper.make_node(
                    "Cast", [name], [twins[name]], edit.fresh(f"{name}/cast"), to=TensorProto.FLOAT
                )
            )
        return twins[name]

    for node in list(edit.graph.node):
        if node.op_type == "Cast" and node.input[0] in twins:
            node.input[0] = twins[node.input[0]]
        moved = [at for at, name in enumerate(node.input) if kinds.get(name) == TensorProto.UINT8]
        if node.op_type in _MOVES and moved and kinds.get(node.output[0]) == TensorProto.UINT8:
            for at in moved:
                node.input[at] = as_float(node.input[at])
            result = node.output[0]
            twins[result] = node.output[0] = edit.fresh(f"{result}/float")
            nodes.append(node)
            edit.note(node, "moves floats now")
            if _read_as_uint8(edit, result):
                nodes.append(
                    helper.make_node(
                        "Cast",
                        [twins[result]],
                        [result],
                        edit.fresh(f"{result}/cast"),
                        to=TensorProto.UINT8,
                    )
                )
        else:
            nodes.append(node)
    if not edit.changes:
        return
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del edit.graph.node[:]
    edit.graph.node.extend(copies)
    del edit.graph.value_info[:]


def _read_as_uint8(edit: Editor, name: str) -> bool:
    """Whether somebody but a cast or a further move needs the tensor in uint8."""
    readers = edit.view.readers.get(name, [])
    if edit.view.uses[name] > sum(list(node.input).count(name) for node in readers):
        return True
    return any(node.op_type != "Cast" and node.op_type not in _MOVES for node in readers)


@legaliser("batchnorm", 1e-5, "weights are multiplied beforehand, which rounds in another place")
def batchnorm(edit: Editor) -> None:
    """Fold batch normalisation into the convolution before it.

    W' = W s / sqrt(v + e) and b' = (b - m) s / sqrt(v + e) + beta, computed in 64 bits.
    """
    uses, weights = edit.view.uses, edit.view.initializers

    def values(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.asarray(numpy_helper.to_array(weights[name]), np.float64)

    folded: dict[str, str] = {}
    dropped: set[str] = set()
    for node in edit.graph.node:
        conv = edit.view.producers.get(node.input[0]) if node.input else None
        if (
            node.op_type != "BatchNormalization"
            or conv is None
            or conv.op_type != "Conv"
            or uses[node.input[0]] != 1
            or any(node.output[1:])
            or attribute(node, "training_mode", 0)
            or not all(n in weights for n in (*conv.input[1:], *node.input[1:5]) if n)
        ):
            continue
        scale, shift, mean, variance = (values(name) for name in node.input[1:5])
        kernel = weights[conv.input[1]]
        shape = (-1, *[1] * (len(kernel.dims) - 1))
        bias = values(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else 0.0
        with np.errstate(all="ignore"):
            factor = scale / np.sqrt(variance + float(attribute(node, "epsilon", 1e-5)))
            product = (values(conv.input[1]) * factor.reshape(shape)).astype(np.float32)
            constant = ((bias - mean) * factor + shift).astype(np.float32)
        finite = np.all(np.isfinite(product)) and np.all(np.isfinite(constant))
        if kernel.data_type != TensorProto.FLOAT or not finite:
            continue
        name = edit.constant(product, f"{conv.input[1]}/folded")
        offset = edit.constant(constant, f"{name}/bias")
        del conv.input[1:]
        conv.input.extend([name, offset])
        folded[conv.output[0]] = node.output[0]
        dropped.add(node.output[0])
        edit.note(node, f"folded into {conv.name or conv.output[0]!r}")
    if not folded:
        return
    kept = [n for n in edit.graph.node
            if not (n.op_type == "BatchNormalization" and n.output[0] in dropped)]  # fmt: skip
    for node in kept:
        if node.output[0] in folded:
            node.output[0] = folded[node.output[0]]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del edit.graph.node[:]
    edit.graph.node.extend(copies)
    used = count_uses(edit.graph)
    unused = [t for t in edit.graph.initializer if not used[t.name]]
    for tensor in unused:
        edit.graph.initializer.remove(tensor)


@legaliser("float-bias", 1e-6, "the product of integer and scale is rounded once more or less")
def float_bias(edit: Editor) -> None:
    """Dequantise constants of 32-bit integers here instead of in the graph."""
    kept = []
    for node in edit.graph.node:
        source = edit.view.initializers.get(node.input[0]) if node.input else None
        scale = edit.view.input_constant(node, 1)
        zero = edit.view.input_constant(node, 2)
        if (
            node.op_type != "DequantizeLinear"
            or source is None
            or source.data_type != TensorProto.INT32
            or scale is None
            or (zero is not None and np.any(zero))
        ):
            kept.append(node)
            continue
        integers = numpy_helper.to_array(source)
        axis = int(attribute(node, "axis", 1))
        if scale.ndim and scale.size > 1:
            shape = [1] * integers.ndim
            shape[axis] = scale.size
            scale = scale.reshape(shape)
        factor = scale.astype(np.float32).reshape(scale.shape if scale.size > 1 else ())
        with np.errstate(all="ignore"):
            values = (integers.astype(np.float32) * factor).astype(scale.dtype)
        edit.note(node, f"{integers.size} value(s) in float now")
        edit.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    if edit.changes:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del edit.graph.node[:]
        edit.graph.node.extend(copies)


@legaliser("signed-quantisation")
def signed_quantisation(edit: Editor) -> None:
    """Shift uint8 with zero point 128 to int8 with zero point 0: the same steps, 128 lower."""
    from boxwright.graph.checks.quantized import signable

    if not signable(edit.view):
        raise NotCurableError("quantised values are read by other nodes than DequantizeLinear")
    shifted: dict[str, str] = {}

    def signed(name: str) -> str:
        if name not in shifted:
            values = numpy_helper.to_array(edit.view.initializers[name]).astype(np.int16) - 128
            shifted[name] = edit.constant(values, f"{name}/signed", np.int8)
        return shifted[name]

    for node in edit.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        zero = edit.view.initializers.get(node.input[2])
        if zero is None or zero.data_type != TensorProto.UINT8:
            continue
        if set(numpy_helper.to_array(zero).reshape(-1).tolist()) != {128}:
            continue
        node.input[2] = signed(node.input[2])
        if node.op_type == "DequantizeLinear" and node.input[0] in edit.view.initializers:
            node.input[0] = signed(node.input[0])
        edit.note(node, "uint8, zero point 128 -> int8, zero point 0")
    if edit.changes:
        del edit.graph.value_info[:]


@legaliser("zero-points")
def zero_points(edit: Editor) -> None:
    """Give QuantizeLinear and DequantizeLinear the zero point 0 that they leave out."""
    from boxwright.graph.checks.quantized import quantised_type, zero_point_shape

    for node in edit.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.domain:
            continue
        place = Place(node, 0)
        shape = None if input_name(node, 2) else zero_point_shape(edit.view, place)
        if shape is None:
            continue
        kind = helper.tensor_dtype_to_np_dtype(quantised_type(edit.view, place))
        del node.input[2:]
        node.input.append(edit.constant(np.zeros(shape, kind), f"{node.output[0]}/zero_point"))
        edit.note(node, f"zero point 0 of {kind} said")
