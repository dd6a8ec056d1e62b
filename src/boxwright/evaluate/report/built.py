"""What was built, and from what."""

from __future__ import annotations

from typing import Any

from boxwright.builds import builds
from boxwright.evaluate.report.access import mapping, real, whole
from boxwright.evaluate.report.evidence import Evidence
from boxwright.evaluate.report.layout import section
from boxwright.evaluate.report.markup import Html, el, facts, fold, table
from boxwright.evaluate.report.numbers import duration
from boxwright.files import human_size
from boxwright.receipt import SECTIONS

# Of a quantisation: what was measured on the way.
_TABLES = ("budget", "latency", "choice", "notes")


def render(evidence: Evidence) -> Html:
    """The section."""
    return section(
        "What was built",
        "The files it was made from and the files that were made, each with its SHA-256, so "
        "that both can be told from others of the same name.",
        _facts(evidence),
        el("h3", "Made from"),
        _files([(f.name, f.size, f.sha256) for f in evidence.card.source_files]),
        _made(evidence),
        _layers(evidence.receipt),
        _plans(evidence.receipt),
        _transforms(evidence),
        _classes(evidence.card.class_names),
    )


def _facts(evidence: Evidence) -> Html:
    card, build = evidence.card, mapping(evidence.receipt.get("build"))
    nms = card.nms
    height, width = card.input_size
    seconds = build.get("seconds")
    return facts(
        [
            ("network", card.family),
            ("source format", card.source_format),
            ("input", f"{width} × {height} pixels, {card.resize}"),
            ("candidates", sum(head.rows for head in card.heads) or None),
            ("score threshold", f"{card.score_threshold:g}"),
            ("suppression", f"{nms.kind}, {nms.iou_threshold:g}"),
            ("backend", build.get("backend")),
            ("precision", build.get("precision")),
            ("plan", build.get("fingerprint")),
            ("building took", duration(real(seconds)) if real(seconds) else None),
            ("licence", card.licence or "not stated"),
        ]
    )


def _files(rows: list[tuple[str, int, str]]) -> Html:
    if not rows:
        return el("p", "The card names no source files.", class_="soft")
    cells = [(n, human_size(s), el("span", h, class_="hash")) for n, s, h in rows]
    return table(("file", "size", "SHA-256"), cells, numbers=("size",))


def _made(evidence: Evidence) -> list[Html]:
    if not evidence.files:
        return []
    rows = [(file.name, file.size, file.sha256) for file in evidence.files]
    return [el("h3", "Made"), _files(rows)]


def _layers(receipt: Any) -> Html | None:
    layers = mapping(receipt.get("layers"))
    rows = [
        (kind, operator, count)
        for kind, counts in layers.items()
        for operator, count in sorted(
            mapping(counts).items(), key=lambda item: (-whole(item[1]), item[0])
        )
    ]
    if not rows:
        return None
    totals = ", ".join(
        f"{sum(map(whole, mapping(counts).values()))} in {kind}" for kind, counts in layers.items()
    )
    return fold(
        f"What each layer really runs in: {totals}",
        table(("precision", "operator", "nodes"), rows, numbers=("nodes",)),
    )


def _plans(receipt: Any) -> Html | None:
    """Where there are several plans, each: what stands above is about one of them."""
    found = [build for build in builds(receipt) if build.fingerprint]
    if len(found) < 2:
        return None
    rows = [
        (
            build.fingerprint,
            build.record.get("created"),
            ", ".join(name for name in SECTIONS if name in build.record) or "–",
            "this page" if build.key is None else "",
        )
        for build in reversed(found)
    ]
    return fold(f"All {len(found)} plans", table(("plan", "built", "measured", "about"), rows))


def _transforms(evidence: Evidence) -> Html | None:
    rows = [
        (
            step.name,
            _pairs(step.parameters) or "–",
            _pairs(step.effect) or "–",
            _pairs(step.versions),
        )
        for step in evidence.card.transforms
    ]
    if not rows:
        return None
    return fold("Steps on the way", table(("step", "settings", "effect", "versions"), rows))


def _classes(names: tuple[str, ...]) -> Html:
    return fold(f"All {len(names)} classes", el("p", ", ".join(names)))


def _pairs(content: dict[str, Any]) -> str:
    """Names and values; tables, which have a section of their own, are left out."""
    return ", ".join(f"{name} {value}" for name, value in content.items() if name not in _TABLES)
