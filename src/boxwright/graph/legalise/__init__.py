"""Passes that make a graph acceptable: one for each cure, each a copy and a report.

``PASSES[name](proto)`` runs one. :func:`legalise` runs those that a target's findings ask
for, until none is left that a pass can cure. A pass never changes the model it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.errors import InputError
from boxwright.graph.diagnose import Finding, diagnose
from boxwright.graph.legalise import (
    container,
    numbers,
    operators,
    quantisation,
    resize_pad,
    shapes,
    structure,
)
from boxwright.graph.legalise.editing import PASSES, ChangeReport
from boxwright.graph.view import opset_of

if TYPE_CHECKING:
    import onnx

    from boxwright.graph.targets import Target

Watch = Callable[["onnx.ModelProto", "onnx.ModelProto", ChangeReport], None]

__all__ = ["ORDER", "PASSES", "ChangeReport", "Watch", "legalise"]

# First what makes the graph sound, then operators as others, then numbers, then the file,
# and last what tidies up. A pass may leave work for an earlier one, so there are rounds.
ORDER = (
    "embed", "inline", "initializer-inputs", "names", "sort", "constant-if", "outputs",
    "empty-outputs", "shapes", "fix-shapes", "decompose", "upsample", "scatter",
    "resize-antialias", "resize-coordinates", "resize-aspect", "resize-axes", "pad-axes",
    "pad-negative", "pad-wrap",
    "pool-dilation", "einsum", "explicit-padding", "uint8", "signed-quantisation",
    "fake-quantisation", "float-bias", "zero-points", "double", "opset", "ir-version",
    "constants", "no-ops", "cast-chains", "batchnorm", "int32",
)  # fmt: skip

_MODULES = (container, numbers, operators, quantisation, resize_pad, shapes, structure)
_ROUNDS = 4


def legalise(
    proto: onnx.ModelProto,
    target: Target,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    folder: str | Path | None = None,
    tidy: bool = False,
    watch: Watch | None = None,
) -> tuple[onnx.ModelProto, list[ChangeReport]]:
    """Cure what a target minds, as far as passes can.

    Args:
        proto: Any ONNX model; it is not changed.
        target: What to cure it for.
        size: (height, width) for free extents; without it they stay free.
        batch: For the free first extents; without it they stay free.
        folder: Where the model's other files are, if it has any.
        tidy: Also cure what the target would merely note.
        watch: Called with the graph before and after each pass that changed something, and
            its report; what it raises goes through.

    Returns:
        The cured model, and a report for each pass that changed something. What is left is
        what :func:`~boxwright.graph.diagnose.diagnose` finds in the result.
    """
    parameters: dict[str, Mapping[str, Any]] = {
        "embed": {"folder": folder},
        "fix-shapes": {"size": size, "batch": batch},
        "ir-version": {"version": min(target.ir_version or container.SAFE_IR, 10)},
    }
    reports: list[ChangeReport] = []
    given_up: set[str] = set()
    for _ in range(_ROUNDS):
        findings = diagnose(proto, target, folder)
        if any(finding.code == "malformed" for finding in findings):
            break  # what means nothing cannot be written another way
        wanted = {f.cure for f in findings if f.cure and (tidy or f.severity != "note")}
        if size is not None or batch is not None:
            wanted.add("fix-shapes")
        done = []
        for name in ORDER:
            if name not in wanted or name in given_up:
                continue
            extra = dict(parameters.get(name, {})) | _asked_for(name, proto, target, findings)
            try:
                changed, report = PASSES[name](proto, **extra)
            except InputError:
                given_up.add(name)
                continue
            if report.changes:
                if watch is not None:
                    watch(proto, changed, report)
                done.append(report)
            proto = changed
        reports += done
        if not done:
            break
    return proto, reports


def _asked_for(
    name: str, proto: onnx.ModelProto, target: Target, findings: list[Finding]
) -> dict[str, Any]:
    """Parameters of a pass that depend on the graph at hand."""
    if name == "opset":
        return {"version": _opset_for(proto, target)}
    return {"only": _minded(findings)} if name == "decompose" else {}


def _opset_for(proto: onnx.ModelProto, target: Target) -> int:
    """Down to the newest that the target documents, or up to what all of them take."""
    if opset_of(proto) > target.opsets[1]:
        return target.opsets[1]
    return max(opset_of(proto), container.SAFE_OPSET)


def _minded(findings: list[Finding]) -> frozenset[str]:
    return frozenset(finding.operator for finding in findings if finding.cure == "decompose")
