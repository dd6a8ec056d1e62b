"""``boxwright inspect --for``: the graph doctor's findings, and the cured graph."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import Settings, show
from boxwright.cli.progress import progress

if TYPE_CHECKING:
    import onnx

    from boxwright.graph.diagnose import Finding
    from boxwright.graph.doctor import Cured
    from boxwright.graph.targets import Target


@dataclass(frozen=True)
class Wish:
    """What was asked for beside the file."""

    target: str
    cured: Path | None
    size: tuple[int, int] | None
    batch: int | None
    tidy: bool


def consult(settings: Settings, file: Path, cfg: Path | None, wish: Wish) -> bool:
    """Show the findings, write the cured graph if wanted; whether the target accepts.

    Raises:
        InputError: The file cannot be read, or the target is not known.
    """
    from boxwright.files import refuse_overwriting
    from boxwright.graph.diagnose import diagnose, is_accepted
    from boxwright.graph.doctor import cure, write_graph
    from boxwright.graph.targets import find_target

    target = find_target(wish.target)
    if wish.cured is not None:
        refuse_overwriting(wish.cured, file, cfg)
    elif wish.size is not None or wish.batch is not None or wish.tidy:
        raise click.UsageError("--size, --batch and --tidy change the graph: give --cured OUT.onnx")
    with progress(settings) as report:
        proto = _graph_of(file, cfg, report)
    findings = diagnose(proto, target, file.parent)
    cured = None
    if wish.cured is not None:
        cured = cure(proto, target, size=wish.size, batch=wish.batch, folder=file.parent,
                     tidy=wish.tidy, seed=settings.seed)  # fmt: skip
        write_graph(cured.proto, wish.cured)
    accepted = is_accepted(findings if cured is None else cured.left)
    content = _content(file, target, findings, cured, wish, accepted)
    show(settings, content, lambda: _render(file, target, findings, cured, wish))
    return accepted


def _graph_of(file: Path, cfg: Path | None, report: Any) -> onnx.ModelProto:
    """The graph of any ONNX file, or the one inside of an engine or made of weights."""
    from boxwright.cli.inspect.content import open_subject
    from boxwright.engine import is_engine_file
    from boxwright.graph.doctor import read_graph

    if file.suffix.lower() == ".onnx" and not is_engine_file(file):
        return read_graph(file)
    return open_subject(file, cfg, report).model.proto


def _content(
    file: Path,
    target: Target,
    findings: list[Finding],
    cured: Cured | None,
    wish: Wish,
    accepted: bool,
) -> dict[str, Any]:
    from boxwright.graph.diagnose import is_accepted

    content: dict[str, Any] = {
        "file": str(file),
        "target": target.name,
        "remark": target.remark,
        "sources": list(target.sources),
        "accepted": is_accepted(findings),
        "findings": [finding.to_json() for finding in findings],
    }
    if cured is not None:
        content["cured"] = {
            "output": str(wish.cured),
            "accepted": accepted,
            "passes": [step.to_json() for step in cured.steps],
            "difference": cured.measured.difference,
            "not_compared": cured.measured.reason,
            "findings": [finding.to_json() for finding in cured.left],
        }
    return content


def _render(
    file: Path, target: Target, findings: list[Finding], cured: Cured | None, wish: Wish
) -> None:
    from boxwright.cli.tables import heading, table
    from boxwright.graph.diagnose import is_accepted

    click.echo(f"{file} for {target.name}: {_verdict(findings)}")
    if target.remark:
        click.echo(f"({target.remark})")
    _findings(findings)
    if cured is None:
        if not is_accepted(findings) and any(f.cure for f in findings):
            click.echo("\nTo have what has a cure cured: --cured OUT.onnx")
        return
    heading("Cured")
    rows = [(s.report.name, _changes(s.report.changes), _measured(s.measured)) for s in cured.steps]
    if rows:
        table(("pass", "what changed", "difference"), rows)
    else:
        click.echo("nothing that a pass could cure")
    left = [finding for finding in cured.left if finding.severity != "note"]
    click.echo(f"\n{wish.cured} for {target.name}: {_verdict(cured.left)}")
    click.echo(f"compared with the original: {_measured(cured.measured)}")
    _findings(left)


def _verdict(findings: list[Finding]) -> str:
    count = Counter(finding.severity for finding in findings)
    parts = [f"{n} {word}{'s' if n > 1 else ''}" for word in ("error", "warning", "note")
             if (n := count[word])]  # fmt: skip
    shown = f" ({', '.join(parts)})" if parts else ""
    return ("refused" if count["error"] else "accepted") + shown


def _findings(findings: list[Finding]) -> None:
    """One row for all findings that say the same of several nodes."""
    from boxwright.cli.tables import table

    groups: dict[tuple[str, ...], list[Finding]] = {}
    for item in findings:
        todo = f"cure: {item.cure}" if item.cure else item.advice
        groups.setdefault((item.severity, item.code, item.why, todo), []).append(item)
    if not groups:
        return
    click.echo()
    table(
        ("", "finding", "where", "what", "why", "what to do"),
        [
            (severity, code, _where(some), _several([f.what for f in some]), why, todo)
            for (severity, code, why, todo), some in groups.items()
        ],
    )


def _where(findings: list[Finding]) -> str:
    places = [f"{f.operator} {f.node}".strip() for f in findings]
    return _several(places, most=2) if any(places) else "the graph"


def _several(texts: list[str], most: int = 1) -> str:
    different = list(dict.fromkeys(texts))
    more = len(different) - most
    return "; ".join(different[:most]) + (f"; and {more} more" if more > 0 else "")


def _changes(changes: tuple[str, ...]) -> str:
    return _several(list(changes), most=2)


def _measured(measured: Any) -> str:
    if measured.difference is None:
        return f"not compared: {measured.reason}"
    if measured.difference == 0:
        return "identical"
    return f"at most {measured.difference:.2g} of the largest value"
