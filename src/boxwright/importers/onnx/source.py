"""Reading a foreign ONNX file, and bringing it to one sound form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.errors import ImportFailedError, InputError, ModelError
from boxwright.graph.builder import IR_VERSION, OPSET
from boxwright.graph.compare import compare
from boxwright.graph.diagnose import diagnose
from boxwright.graph.doctor import read_graph
from boxwright.graph.external import locations
from boxwright.graph.legalise import PASSES
from boxwright.graph.targets import find_target
from boxwright.graph.view import View, all_places, opset_of
from boxwright.importers.onnx.probe import check_extents

if TYPE_CHECKING:
    import onnx

# A detector has a few bodies at most, such as a loop that suppresses.
_MOST_INSIDE = 2_000
_DEEPEST = 8

# What the sum of these passes may change, relative to an output's largest value. Rounding in
# another place is amplified by a hundred layers, on some processors beyond 1e-5; a pass that
# computes something else shows in the first digit or two.
_SAME = 1e-3

# In this order, whatever the graph is: what makes it sound, then old operators, then the
# versions that the rest of Boxwright writes. A pass that finds nothing changes nothing.
_CURES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("inline", {}),
    ("initializer-inputs", {}),
    ("sort", {}),
    ("constant-if", {}),
    ("names", {}),
    ("outputs", {}),
    ("empty-outputs", {}),
    ("upsample", {}),
    ("scatter", {}),
    ("double", {}),
    ("resize-antialias", {}),
    ("opset", {"version": OPSET}),
    ("constants", {}),
    ("ir-version", {"version": IR_VERSION}),
)


def read_source(path: Path) -> tuple[onnx.ModelProto, list[Path]]:
    """The graph, with all its values in it, and the files it was read from.

    Raises:
        ImportFailedError: It is damaged, contradicts itself, or names files outside its folder.
    """
    try:
        proto = read_graph(path)
        _check_structure(proto, path)
        beside = [path.parent / location for location in locations(proto)]
        if beside:
            proto, _ = PASSES["embed"](proto, folder=path.parent)
        findings = diagnose(proto, find_target("onnxruntime"))
    except ImportFailedError:
        raise
    except InputError as error:
        raise ImportFailedError(_with(path, error)) from error
    broken = next((f for f in findings if f.code == "malformed"), None)
    if broken is not None:
        raise ImportFailedError(
            f"{path} is no sound ONNX model: {broken.node or 'the graph'}: {broken.what}"
        )
    check_extents(proto, str(path))
    return proto, [path, *dict.fromkeys(beside)]


def _check_structure(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse versions nobody knows, and bodies within bodies beyond any detector's.

    Raises:
        ModelError: With what there is, and what there may be.
    """
    import onnx as library

    newest = library.defs.onnx_opset_version()
    if opset_of(proto) > newest:
        raise ModelError(
            f"{path} is of opset {opset_of(proto)}, and the installed onnx "
            f"{library.__version__} knows up to {newest}; export it at {OPSET}"
        )
    inside = 0
    for place in all_places(proto.graph):
        inside += place.depth > 0
        if inside > _MOST_INSIDE or place.depth > _DEEPEST:
            raise ModelError(
                f"{path}: bodies of If, Loop and Scan hold more than {_MOST_INSIDE} nodes or "
                f"stand {_DEEPEST} deep in each other; no detector is made like that"
            )
    domains = sorted({n.domain for n in proto.graph.node} - {"", "ai.onnx"} - _own_domains(proto))
    if unknown := [name for name in domains if name != "TRT"]:
        kinds = sorted({n.op_type for n in proto.graph.node if n.domain in unknown})[:8]
        raise ModelError(
            f"{path}: operators {', '.join(kinds)} of {', '.join(unknown)[:200]} are no part of "
            "ONNX's standard; export it with standard operators"
        )


def _own_domains(proto: onnx.ModelProto) -> set[str]:
    """Domains that the file defines itself."""
    return {function.domain for function in proto.functions}


def cured(proto: onnx.ModelProto, origin: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The same graph in the opset that Boxwright writes, with what was changed for it.

    Raises:
        ImportFailedError: It cannot be, or would compute something else.
    """
    _declare_shapes(proto)
    original, done, tolerance = proto, [], 0.0
    for name, parameters in _CURES:
        try:
            proto, report = PASSES[name](proto, **parameters)
        except InputError as error:
            raise ImportFailedError(f"{origin}: {error}") from error
        if report.changes:
            done.append(name)
            tolerance += report.tolerance
    if not done:
        return proto, {}
    measured = compare(original, proto)
    if measured.difference is not None and measured.difference > max(tolerance, _SAME):
        raise ImportFailedError(
            f"{origin}: brought to opset {OPSET} ({', '.join(done)}), output {measured.worst!r} "
            f"differs by {measured.difference:.3g} of its largest value; please report this file"
        )
    return proto, {"cures": done, "difference": measured.difference}


def _declare_shapes(proto: onnx.ModelProto) -> None:
    """Give outputs without a declared shape, in place, the one that inference finds.

    ONNX's checker, which a change of opset asks, wants one.
    """
    from onnx import helper

    view = View(proto)
    for value in proto.graph.output:
        kind = value.type.tensor_type
        shape = view.shapes.get(value.name)
        if kind.HasField("shape") or shape is None:
            continue
        element = kind.elem_type or view.types.get(value.name, 0)
        dims = [extent if isinstance(extent, int) else None for extent in shape]
        value.CopyFrom(helper.make_tensor_value_info(value.name, element, dims))


def _with(path: Path, error: Exception) -> str:
    return str(error) if str(path) in str(error) else f"{path}: {error}"
