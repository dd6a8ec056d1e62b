"""The graph doctor: what a target would refuse in a graph, and which pass cures it.

Works on any ONNX model, whoever wrote it, and changes nothing. Nothing is run: the verdict
is that of the table in :mod:`boxwright.graph.rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.graph.checks import CHECKS
from boxwright.graph.rules import RULES, Severity, Stage
from boxwright.graph.view import View

if TYPE_CHECKING:
    import onnx

    from boxwright.graph.checks.seen import Seen
    from boxwright.graph.targets import Target

_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """One thing that a target minds.

    Attributes:
        severity: ``error``: refused, or something else is computed. ``warning``: accepted
            with a condition, or the sources do not say. ``note``: accepted, worth knowing.
        stage: Where an error shows: while parsing (``parse``), while building (``build``), in
            the result alone (``result``), or as the end of the process (``crash``).
        code: The rule, by its name in the reference.
        node: The node's name; ``""`` where it is about the whole graph.
        operator: The node's operator; ``""`` likewise.
        what: What was seen.
        why: Why the target minds.
        cure: The pass that removes it; ``None`` where none can in this case.
        advice: What to do where there is no cure.
    """

    severity: Severity
    stage: Stage
    code: str
    node: str
    operator: str
    what: str
    why: str
    cure: str | None
    advice: str

    def to_json(self) -> dict[str, Any]:
        """All fields, for ``--json``."""
        return dict(vars(self))


def diagnose(
    proto: onnx.ModelProto, target: Target, folder: str | Path | None = None
) -> list[Finding]:
    """What `target` would make of a graph, worst first.

    Args:
        proto: Any ONNX model; it is not changed.
        target: From :func:`boxwright.graph.targets.find_target`.
        folder: Where the model's file is, to look for values kept in other files; without
            it they count as missing.
    """
    view = View(proto)
    findings = []
    for check in CHECKS:
        for seen in check(view, target):
            findings += _judged(seen, target)
    missing = _missing_files(proto, folder)
    if missing:
        from boxwright.graph.checks.seen import Seen

        findings += _judged(Seen("external-missing", f"no file {missing}"), target)
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


def is_accepted(findings: list[Finding]) -> bool:
    """Whether nothing among the findings is an error."""
    return all(finding.severity != "error" for finding in findings)


def _judged(seen: Seen, target: Target) -> list[Finding]:
    rule = RULES[seen.code]
    verdict = rule.verdicts.get(target.column)
    if verdict is None:
        return []
    cure = rule.cure if seen.curable else None
    return [
        Finding(
            verdict.severity,
            verdict.stage,
            rule.code,
            seen.place.name if seen.place else "",
            seen.place.node.op_type if seen.place else "",
            seen.what,
            rule.why,
            cure,
            "" if cure else rule.advice,
        )
    ]


def _missing_files(proto: onnx.ModelProto, folder: str | Path | None) -> str | None:
    """The first file that tensors are kept in and that is not in the model's folder."""
    from boxwright.graph.external import locations

    for location in locations(proto):
        if folder is None:
            return repr(location)
        path = Path(folder) / location
        inside = path.resolve().is_relative_to(Path(folder).resolve())
        if not inside or not path.is_file():
            return repr(location) if inside else f"{location!r} within the model's folder"
    return None
