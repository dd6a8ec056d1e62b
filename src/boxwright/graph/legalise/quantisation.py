"""Quantisation that a target cannot read, computed in floats instead, step for step."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from boxwright.errors import NotCurableError
from boxwright.graph.legalise.container import at_least
from boxwright.graph.legalise.editing import Chain, Editor, legaliser
from boxwright.graph.view import attribute, count_uses, input_name, opset_of

# Clip has its bounds as inputs, and Round exists, from here on.
_CLIP_INPUTS = 11


@legaliser("fake-quantisation")
def fake_quantisation(edit: Editor) -> None:
    """Round and clip floats as QuantizeLinear does, and dequantise constants here.

    Of x by scale s, zero point z and range [lo, hi], QuantizeLinear and DequantizeLinear make
    s * (clip(round(x / s) + z, lo, hi) - z), both rounding halves to even (ONNX's operators).
    That is s * clip(round(x / s), lo - z, hi - z), for integers as small as these the same to
    the bit in float32. So nothing is gained in speed; the target takes it, and computes what
    the file says.
    """
    from boxwright.graph.checks.quantized import floatable

    if not floatable(edit.view):
        raise NotCurableError(
            "quantised values are read by other nodes than DequantizeLinear, or not by one "
            "float32 scale each"
        )
    pairs = [n for n in edit.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    if not any(_zero_point(edit, node).any() for node in pairs):
        return  # symmetric: the targets that read quantised networks read this
    if opset_of(edit.proto) < _CLIP_INPUTS:
        at_least(edit, _CLIP_INPUTS)
    kept: dict[str, NDArray[Any]] = {}
    edit.rewrite(lambda node: _in_float(edit, node, kept))
    uses = count_uses(edit.graph)
    for tensor in [t for t in edit.graph.initializer if not uses[t.name]]:
        edit.graph.initializer.remove(tensor)
    # What was an integer there is a float now.
    del edit.graph.value_info[:]


def _in_float(
    edit: Editor, node: onnx.NodeProto, kept: dict[str, NDArray[Any]]
) -> list[onnx.NodeProto] | None:
    """What takes the place of a node; `kept` has the quantised constants met so far."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    constant = edit.view.tensor(node.input[0])
    if node.op_type == "QuantizeLinear":
        if constant is None:
            return _rounded(edit, node)
        kept[node.output[0]] = _quantised(edit, node, numpy_helper.to_array(constant))
        edit.note(node, "quantised here")
        return []
    stored = kept.get(node.input[0]) if constant is None else numpy_helper.to_array(constant)
    if stored is None:
        return _scaled(edit, node)
    values = _dequantised(edit, node, stored)
    edit.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    edit.note(node, f"{values.size} value(s) in float now")
    return []


def _rounded(edit: Editor, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The steps above the zero point, as floats: what DequantizeLinear multiplies."""
    zero = _zero_point(edit, node)
    limits, z = np.iinfo(zero.dtype), int(zero.reshape(-1)[0])
    chain = Chain(edit, node)
    steps = chain.op("Round", chain.op("Div", node.input[0], _scale(chain, node)))
    low, high = (chain.constant(limit - z, np.float32) for limit in (limits.min, limits.max))
    chain.op("Clip", steps, low, high, output=node.output[0])
    edit.note(node, f"rounds and clips floats: {limits.min - z} to {limits.max - z} steps")
    return chain.nodes


def _scaled(edit: Editor, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Steps times scale; the two nodes of a pair may have zero points of their own."""
    chain, steps = Chain(edit, node), node.input[0]
    zeros = [_zero_point(edit, n) for n in (edit.view.producers[node.input[0]], node)]
    shift = int(zeros[0].reshape(-1)[0]) - int(zeros[1].reshape(-1)[0])
    if shift:
        steps = chain.op("Add", steps, chain.constant(shift, np.float32))
    chain.op("Mul", steps, _scale(chain, node), output=node.output[0])
    edit.note(node, "multiplies floats")
    return chain.nodes


def _scale(chain: Chain, node: onnx.NodeProto) -> str:
    return chain.constant(_constant(chain.edit, node, 1).reshape(()), np.float32)


def _quantised(edit: Editor, node: onnx.NodeProto, values: NDArray[Any]) -> NDArray[Any]:
    scale, zero = _along(edit, node, values.ndim)
    limits = np.iinfo(zero.dtype)
    steps = np.rint(values / scale) + zero.astype(np.float32)
    return np.asarray(np.clip(steps, limits.min, limits.max), zero.dtype)


def _dequantised(edit: Editor, node: onnx.NodeProto, stored: NDArray[Any]) -> NDArray[np.float32]:
    scale, zero = _along(edit, node, stored.ndim)
    steps = stored.astype(np.int64) - zero.astype(np.int64)
    return np.asarray(steps.astype(np.float32) * scale, np.float32)


def _along(edit: Editor, node: onnx.NodeProto, rank: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scale and zero point as constants of that rank are met by them: along the node's axis."""

    def shaped(value: NDArray[Any]) -> NDArray[Any]:
        shape = [1] * rank
        if value.size > 1:
            shape[int(attribute(node, "axis", 1))] = value.size
        return value.reshape(shape)

    return shaped(_constant(edit, node, 1)), shaped(_zero_point(edit, node))


def _zero_point(edit: Editor, node: onnx.NodeProto) -> NDArray[Any]:
    """Zero points with their type, which is that of the quantised values; 0 where left out."""
    from boxwright.graph.checks.quantized import type_of_node

    if input_name(node, 2):
        return _constant(edit, node, 2)
    kind = onnx.helper.tensor_dtype_to_np_dtype(type_of_node(edit.view, node))
    return np.zeros((), kind)


def _constant(edit: Editor, node: onnx.NodeProto, at: int) -> NDArray[Any]:
    tensor = edit.view.tensor(node.input[at])
    if tensor is None:
        raise NotCurableError(f"{node.input[at]!r} is no constant")
    return numpy_helper.to_array(tensor)
