"""Passes on Resize and Pad: forms and modes that a target lacks, in ones it has."""

from __future__ import annotations

import numpy as np
import onnx

from boxwright.errors import NotCurableError
from boxwright.graph.checks.operators import (
    aspect_sizes,
    cut,
    full_pads,
    plain_coordinates,
    resize_factors,
)
from boxwright.graph.legalise.editing import Chain, Editor, legaliser
from boxwright.graph.view import attribute, input_name


def _resizes(edit: Editor) -> list[onnx.NodeProto]:
    return [node for node in edit.graph.node if node.op_type == "Resize" and not node.domain]


def _drop(node: onnx.NodeProto, name: str) -> None:
    for item in list(node.attribute):
        if item.name == name:
            node.attribute.remove(item)


def _set(node: onnx.NodeProto, name: str, value: object) -> None:
    _drop(node, name)
    node.attribute.append(onnx.helper.make_attribute(name, value))


@legaliser("resize-coordinates", 1e-6, "coordinates are computed in another order")
def resize_coordinates(edit: Editor) -> None:
    """Write coordinates that few have as ordinary ones, where both mean the same."""
    for node in _resizes(edit):
        kind = attribute(node, "coordinate_transformation_mode", "half_pixel")
        if kind not in ("tf_crop_and_resize", "half_pixel_symmetric"):
            continue
        same = plain_coordinates(edit.view, node)
        if same is None:
            raise NotCurableError(f"{kind} is no other mode with these sizes")
        _set(node, "coordinate_transformation_mode", same)
        if kind == "tf_crop_and_resize":
            _drop(node, "extrapolation_value")
            node.input[1] = ""
        edit.note(node, f"{kind} -> {same}")


@legaliser("resize-antialias", 1e-6, "the filter's weights are computed, and round")
def resize_antialias(edit: Editor) -> None:
    """Take off antialias where nothing is made smaller: it does nothing there."""
    for node in _resizes(edit):
        factors = resize_factors(edit.view, node)
        if attribute(node, "antialias", 0) and factors and all(f >= 1 for f in factors):
            _drop(node, "antialias")
            edit.note(node, "antialias taken off; it only enlarges")


@legaliser("resize-aspect", 1e-6, "the factor is computed again from the sizes, and rounds")
def resize_aspect(edit: Editor) -> None:
    """Ask for the sizes that keeping the aspect ratio comes to, where these are whole."""
    for node in _resizes(edit):
        policy = attribute(node, "keep_aspect_ratio_policy", "stretch")
        if policy == "stretch":
            continue
        sizes = aspect_sizes(edit.view, node)
        if sizes is None:
            raise NotCurableError("the sizes that come out are rounded, or not known")
        node.input[3] = edit.constant(sizes, f"{node.name or node.output[0]}/sizes", np.int64)
        _drop(node, "keep_aspect_ratio_policy")
        _drop(node, "axes")
        edit.note(node, f"{policy} -> sizes {sizes}")


@legaliser("resize-axes")
def resize_axes(edit: Editor) -> None:
    """Give scales or sizes for every axis instead of some."""
    for node in _resizes(edit):
        axes = attribute(node, "axes")
        shape = edit.view.shapes.get(node.input[0])
        if axes is None or shape is None:
            continue
        if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            continue
        axes = [axis % len(shape) for axis in axes]
        scales, sizes = edit.view.input_constant(node, 2), edit.view.input_constant(node, 3)
        name = node.name or node.output[0]
        if scales is not None and scales.size:
            full = np.ones(len(shape), np.float32)
            full[axes] = scales
            node.input[2] = edit.constant(full, f"{name}/scales")
        elif sizes is not None and None not in shape:
            whole = np.asarray(shape, np.int64)
            whole[axes] = sizes
            node.input[3] = edit.constant(whole, f"{name}/sizes")
        else:
            continue
        _drop(node, "axes")
        edit.note(node, f"axes {axes} -> all {len(shape)}")


@legaliser("pad-axes")
def pad_axes(edit: Editor) -> None:
    """Give pads for every axis instead of some."""
    for node in edit.graph.node:
        if node.op_type != "Pad" or not input_name(node, 3):
            continue
        shape = edit.view.shapes.get(node.input[0])
        axes, full = edit.view.input_constant(node, 3), full_pads(edit.view, node)
        if shape is None or axes is None or full is None:
            continue
        rank = len(shape)
        node.input[1] = edit.constant(full, f"{node.name or node.output[0]}/pads", np.int64)
        del node.input[3]
        if not node.input[2]:
            del node.input[2]
        edit.note(node, f"axes {[int(axis) for axis in axes]} -> all {rank}")


@legaliser("pad-negative")
def pad_negative(edit: Editor) -> None:
    """Write a Pad that cuts off as a Slice, and a Pad where something is added, too."""

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        pads = cut(edit.view, node) if node.op_type == "Pad" and not node.domain else None
        if pads is None or min(pads, default=0) >= 0:
            return None
        chain, rank = Chain(edit, node), len(pads) // 2
        adds = [max(amount, 0) for amount in pads]
        axes = [axis for axis in range(rank) if min(pads[axis], pads[axis + rank]) < 0]
        starts = [max(-pads[axis], 0) for axis in axes]
        # Counted from the end, so that the extent need not be known; past it where none is cut.
        ends = [min(pads[axis + rank], 0) or np.iinfo(np.int32).max for axis in axes]
        numbers = [chain.constant(values, np.int64) for values in (starts, ends, axes)]
        x = chain.op("Slice", node.input[0], *numbers,
                     output="" if any(adds) else node.output[0])  # fmt: skip
        if any(adds):
            value = [node.input[2]] if input_name(node, 2) else []
            chain.op("Pad", x, chain.constant(adds, np.int64), *value, output=node.output[0])
        edit.note(node, f"cuts axes {axes} by a Slice" + (", then pads" if any(adds) else ""))
        return chain.nodes

    if edit.view.opset >= 11:  # before, pads are an attribute
        edit.rewrite(replace)


@legaliser("pad-wrap")
def pad_wrap(edit: Editor) -> None:
    """Write a wrapping Pad as a Concat of what comes round, the middle, and what comes round."""

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        pads = edit.view.input_constant(node, 1) if node.op_type == "Pad" else None
        shape = edit.view.shapes.get(node.input[0]) if node.input else None
        if attribute(node, "mode", "constant") != "wrap" or pads is None or shape is None:
            return None
        chain, rank = Chain(edit, node), len(shape)
        x = node.input[0]
        touched = [axis for axis in range(rank) if pads[axis] or pads[axis + rank]]
        for axis in touched:
            before, after = int(pads[axis]), int(pads[axis + rank])
            extent = shape[axis]
            if min(before, after) < 0 or extent is None or max(before, after) > extent:
                raise NotCurableError("a pad is negative, or longer than what it wraps")
            parts = [x]
            if before:
                parts.insert(0, _slice(chain, x, axis, extent - before, extent))
            if after:
                parts.append(_slice(chain, x, axis, 0, after))
            last = axis == touched[-1]
            x = chain.op("Concat", *parts, axis=axis, output=node.output[0] if last else "")
        if not touched:
            return None
        edit.note(node, f"a Concat along {touched}")
        return chain.nodes

    edit.rewrite(replace)


def _slice(chain: Chain, x: str, axis: int, start: int, end: int) -> str:
    numbers = (chain.constant([value], np.int64) for value in (start, end, axis))
    return chain.op("Slice", x, *numbers)
