"""Passes on the file around the graph: opset, IR version, functions, values kept elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from boxwright.errors import NotCurableError
from boxwright.files import open_regular
from boxwright.graph.checks.container import signature_change
from boxwright.graph.checks.operators import exists_in
from boxwright.graph.external import place_of, tensors
from boxwright.graph.legalise.editing import Editor, legaliser
from boxwright.graph.view import STANDARD, all_places, attribute, opset_of
from boxwright.model import MAX_MODEL_BYTES

# The newest IR version that every target reads, and the opset that all of them take.
SAFE_IR = 8
SAFE_OPSET = 13

# ConvertVersion of ONNX knows how to come from here.
_OLDEST_CONVERTED = 6


@legaliser("opset", 1e-6, "operators may be written as others, which round otherwise")
def opset(edit: Editor, version: int = SAFE_OPSET) -> None:
    """Convert the standard operators to another opset, by ONNX's own converter."""
    old = opset_of(edit.proto)
    if old == version:
        return
    if any(node.domain not in ("", "ai.onnx") for node in edit.graph.node):
        raise NotCurableError("ONNX's converter does not know operators of other domains")
    if old < _OLDEST_CONVERTED:
        raise NotCurableError(f"ONNX's converter starts at opset {_OLDEST_CONVERTED}, got {old}")
    named = {node.name for node in edit.graph.node}
    if version < 18 <= old:
        lowered = _before_18(edit)
        if _fits_older(lowered, version):
            edit.proto.CopyFrom(lowered)
    if version < old and _fits_older(edit.proto, version):
        # Nothing is used that came since, so the number is all there is to change.
        _relabel(edit.proto, version)
    else:
        _convert(edit.proto, version)
    edit.note(None, f"opset {old} -> {version}")
    edit.nodes.extend(node.name for node in edit.graph.node if node.name not in named)
    edit.refresh()


def _convert(proto: onnx.ModelProto, version: int) -> None:
    properties = list(proto.metadata_props)
    try:
        converted = onnx.version_converter.convert_version(proto, version)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter's own errors share no base but Exception
        reason = " ".join(str(error).split())[:200]
        raise NotCurableError(f"ONNX's converter cannot: {reason}") from error
    if opset_of(converted) != version:
        raise NotCurableError(f"ONNX's converter stopped at opset {opset_of(converted)}")
    _keep_initializers_out(converted, proto)
    proto.CopyFrom(converted)
    if not proto.metadata_props:
        proto.metadata_props.extend(properties)


# Reductions whose axes became an input in opset 18; ReduceSum's was one before.
_REDUCTIONS = frozenset(
    f"Reduce{kind}"
    for kind in "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split()  # noqa: SIM905
)

# Operators that later opsets added inputs or attributes to, and left as they were without:
# the rest of what changed is left to ONNX's converter. (ONNX's changelog of operators.)
_ONLY_ADDED = {
    "Pad": 18,  # axes
    "Resize": 18,  # antialias, axes, keep_aspect_ratio_policy
    "Split": 18,  # num_outputs
    "Cast": 19,  # saturate, for 8-bit floats
    "AveragePool": 19,  # dilations
    **dict.fromkeys(_REDUCTIONS, 18),  # axes as an input, which _before_18 takes back
}


def _before_18(original: Editor) -> onnx.ModelProto:
    """A copy with axes and numbers of parts as opset 17 has them, where they are constants.

    ONNX's converter cannot take Split down, which PyTorch's exporter writes at opset 18.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(original.proto)
    edit = Editor(copy)
    for node in (place.node for place in all_places(edit.graph)):
        if node.op_type in _REDUCTIONS and len(node.input) <= 2:
            _axes_to_attribute(edit, node)
        elif node.op_type == "Split" and any(a.name == "num_outputs" for a in node.attribute):
            _parts_to_sizes(edit, node)
    return copy


def _axes_to_attribute(edit: Editor, node: onnx.NodeProto) -> None:
    axes = edit.view.input_constant(node, 1)
    kept = [item for item in node.attribute if item.name != "noop_with_empty_axes"]
    named = len(node.input) == 2 and node.input[1]
    if (named and axes is None) or (axes is not None and axes.ndim != 1):
        return
    empty = axes is None or not len(axes)
    if empty and attribute(node, "noop_with_empty_axes", 0):
        return  # nothing is reduced; opset 17 has no word for that
    copies = [onnx.AttributeProto.FromString(item.SerializeToString()) for item in kept]
    del node.attribute[:], node.input[1:]
    node.attribute.extend(copies)
    if not empty and axes is not None:
        node.attribute.append(onnx.helper.make_attribute("axes", [int(x) for x in axes]))


def _parts_to_sizes(edit: Editor, node: onnx.NodeProto) -> None:
    """Equal parts need no sizes; of others, the last is smaller (ONNX's Split, version 18)."""
    shape = edit.view.shapes.get(node.input[0])
    axis, parts = attribute(node, "axis", 0), len(node.output)
    if shape is None or not -len(shape) <= axis < len(shape) or not parts:
        return
    extent = shape[axis]
    if not isinstance(extent, int) or extent < parts:
        return
    rest = [item for item in node.attribute if item.name != "num_outputs"]
    copies = [onnx.AttributeProto.FromString(item.SerializeToString()) for item in rest]
    if extent % parts:
        size = -(-extent // parts)
        last = extent - size * (parts - 1)
        if last <= 0:
            return
        sizes = [size] * (parts - 1) + [last]
        node.input[1:] = [edit.constant(sizes, f"{node.output[0]}/sizes", np.int64)]
    del node.attribute[:]
    node.attribute.extend(copies)


def _fits_older(proto: onnx.ModelProto, version: int) -> bool:
    """Whether all nodes mean the same by the older opset's definitions."""
    new = opset_of(proto)
    if new > onnx.defs.onnx_opset_version():
        return False
    changed = False
    for place in all_places(proto.graph):
        node = place.node
        since = signature_change(node.op_type, version, new)
        if since is None:
            if not exists_in(node.op_type, version):
                return False
            continue
        if node.op_type not in _ONLY_ADDED or since < _ONLY_ADDED[node.op_type]:
            return False
        known = onnx.defs.get_schema(node.op_type, version, "")
        if len([name for name in node.input if name]) > len(known.inputs):
            return False
        if any(item.name not in known.attributes for item in node.attribute):
            return False
        changed = True
    return changed


def _relabel(proto: onnx.ModelProto, version: int) -> None:
    for item in proto.opset_import:
        if item.domain in STANDARD:
            item.version = version
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())[:200]
        raise NotCurableError(f"the graph is not one of opset {version}: {reason}") from error


def at_least(edit: Editor, version: int) -> None:
    """Raise the opset for a pass that writes operators of `version`."""
    if opset_of(edit.proto) >= version:
        return
    raised, report = opset(edit.proto, version=max(version, SAFE_OPSET))
    edit.proto.CopyFrom(raised)
    edit.changes.extend(report.changes)
    edit.refresh()


def _keep_initializers_out(converted: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """The converter may list weights as inputs; those that were none are taken out again."""
    given = {value.name for value in original.graph.input}
    inputs = [value for value in converted.graph.input if value.name in given]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
    del converted.graph.input[:]
    converted.graph.input.extend(copies)


@legaliser("ir-version")
def ir_version(edit: Editor, version: int = SAFE_IR) -> None:
    """Write an older version number of the file format; nothing in the graph changes."""
    old = edit.proto.ir_version
    if old <= version:
        return
    edit.proto.ir_version = version
    edit.note(None, f"IR version {old} -> {version}")


@legaliser("inline")
def inline(edit: Editor) -> None:
    """Put the nodes of model-local functions where they are called."""
    if not edit.proto.functions:
        return
    from onnx import inliner

    number = len(edit.proto.functions)
    try:
        edit.proto.CopyFrom(inliner.inline_local_functions(edit.proto))
    except Exception as error:  # as the converter's
        reason = " ".join(str(error).split())[:200]
        raise NotCurableError(f"the functions cannot be inlined: {reason}") from error
    edit.refresh()
    edit.note(None, f"{number} function(s) inlined")


@legaliser("embed")
def embed(edit: Editor, folder: str | Path | None = None) -> None:
    """Read values that are kept in other files of the model's folder into the model.

    Raises:
        NotCurableError: A file is missing, shorter than the model says, or outside the folder;
            or the whole would exceed what one ONNX file can hold.
    """
    kept = list(tensors(edit.proto))
    if not kept:
        return
    if folder is None:
        raise NotCurableError("it is not known in which folder the other files are")
    total = 0
    for tensor in kept:
        place = place_of(tensor)
        total += place.length
        if total > MAX_MODEL_BYTES:
            raise NotCurableError("with all values in it the file would exceed ONNX's 2 GiB")
        path = Path(folder) / place.location
        if not path.resolve().is_relative_to(Path(folder).resolve()):
            raise NotCurableError(f"{place.location!r} is outside of the model's folder")
        try:
            with open_regular(path) as stream:
                stream.seek(place.offset)
                data = stream.read(place.length)
        except OSError as error:
            raise NotCurableError(f"cannot read {path}: {error.strerror or error}") from error
        if len(data) != place.length:
            raise NotCurableError(
                f"{path} is too short for {tensor.name!r}: expected {place.length} bytes from "
                f"{place.offset}, got {len(data)}"
            )
        tensor.raw_data = data
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    edit.note(None, f"{len(kept)} tensor(s) read in, {total} bytes")
