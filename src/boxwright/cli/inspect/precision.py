"""``boxwright inspect --precision fp16``: what would stay in float32, and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from boxwright.cli.common import Settings, show
from boxwright.cli.progress import progress

if TYPE_CHECKING:
    from boxwright.graph.precision import HalfReport

_MOST_WEIGHTS = 10


def foresee(settings: Settings, file: Path, cfg: Path | None, keep: tuple[str, ...]) -> None:
    """Derive the float16 form of a model, and show its report; nothing is written.

    Raises:
        InputError: The file cannot be read.
        ModelError: It has no float16 form.
    """
    from boxwright.cli.inspect.content import open_subject
    from boxwright.graph.precision import to_half

    with progress(settings) as report:
        subject = open_subject(file, cfg, report)
    _, found = to_half(subject.model, keep=keep)
    content = {"file": str(file), "precision": "fp16", **found.to_dict(most=None)}
    show(settings, content, lambda: _render(file, found))


def _render(file: Path, report: HalfReport) -> None:
    from boxwright.cli.tables import facts, heading, table
    from boxwright.files import human_size

    before, after = map(human_size, report.bytes)
    rows: list[tuple[str, object]] = [
        ("file", file),
        ("float16", f"{report.converted} nodes"),
        ("float32", f"{len(report.kept)} nodes"),
        ("casts", report.casts),
        ("size", f"{before} -> {after}"),
        ("opset", " -> ".join(map(str, dict.fromkeys(report.opset)))),
        ("first", ", ".join(report.differences) or "-"),
        ("scales raised", report.scales_raised or "-"),
    ]
    facts(rows)
    if report.kept:
        heading("Kept in float32")
        table(
            ("reason", "nodes", "operators", "why", "which"),
            [
                (
                    reason,
                    len(some),
                    ", ".join(f"{n} {name}" for name, n in
                              sorted(Counter(item.operator for item in some).items())),
                    some[0].why,
                    _which([f"{item.node} ({item.detail})" if item.detail else item.node
                            for item in some]),
                )
                for reason, some in report.reasons().items()
            ],
            right=("nodes",),
        )  # fmt: skip
    if report.weights:
        heading("Weights that lose values")
        worst = sorted(report.weights, key=lambda item: item.share, reverse=True)
        table(
            ("constant", "values", "largest", "above 65504", "become 0", "below 6.1e-5", "lost"),
            [
                (w.name, w.count, f"{w.largest:.3g}", w.overflowing, w.lost, w.subnormal,
                 f"{w.share:.1e} of its norm")
                for w in worst[:_MOST_WEIGHTS]
            ],
            right=("values", "largest", "above 65504", "become 0", "below 6.1e-5"),
        )  # fmt: skip
        if len(worst) > _MOST_WEIGHTS:
            click.echo(f"and {len(worst) - _MOST_WEIGHTS} more")


def _which(names: list[str]) -> str:
    more = len(names) - 2
    return "; ".join(names[:2]) + (f"; and {more} more" if more > 0 else "")
