"""How faithful: parity with the source, and agreement with itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boxwright.evaluate.report.access import listing, mappings, real
from boxwright.evaluate.report.evidence import Evidence
from boxwright.evaluate.report.layout import absent, mark, note, section
from boxwright.evaluate.report.markup import Html, el, table
from boxwright.evaluate.report.numbers import power
from boxwright.evaluate.report.pictures import Picture, data_uri

Json = Mapping[str, Any]
_COUNTS = ("missing", "extra", "suppressed", "tied", "borderline")


def render(evidence: Evidence) -> Html:
    """The section."""
    parts: list[object] = []
    for report in evidence.parity:
        parts += _parity(report)
    if not evidence.parity:
        command = f"boxwright verify {evidence.engine} --images YOUR_IMAGES/"
        parts.append(absent("The engine was not compared with its source.", command))
    if evidence.consistency:
        parts += [el("h3", "Does it agree with itself?"), _consistency(evidence.consistency)]
    shown = pictures(evidence, "faithful")
    if shown:
        parts += [el("h3", "Source and engine, side by side"), *shown]
    return section(
        "How faithful",
        "The same pixels go through the engine and through what it was made from. Compared "
        "are the raw heads, boxes and scores, and the detections that remain.",
        parts,
    )


def headline(reports: Sequence[Json]) -> str:
    """The largest nrmse of the first report."""
    worst = max((real(t.get("nrmse")) for t in mappings(reports[0].get("tensors"))), default=0.0)
    return power(worst)


def pictures(evidence: Evidence, topic: str) -> list[Html]:
    """The pictures of a section, each with its sides next to each other."""
    return [_picture(picture) for picture in evidence.pictures if picture.topic == topic]


def _picture(picture: Picture) -> Html:
    sides = [
        el(
            "div",
            el("span", title),
            el("img", src=data_uri(content), alt=f"{picture.name}: {title}", loading="lazy"),
        )
        for title, content in picture.sides
    ]
    return el(
        "figure",
        el("div", sides, class_="sides") if len(sides) > 1 else sides,
        el("figcaption", el("b", picture.name), ": ", picture.caption),
    )


def _parity(report: Json) -> list[Html]:
    verdict = "agrees with" if report.get("ok") else "DIFFERS from"
    images = report.get("images", 0)
    title = f"{report.get('subject')} {verdict} {report.get('reference')}"
    rows = [_tensor(tensor) for tensor in mappings(report.get("tensors"))]
    rows += [_boxes(boxes) for boxes in mappings(report.get("boxes"))]
    parts = [
        el("h3", title),
        table(
            ("check", "verdict", "measured", "accepted"),
            rows,
            caption=f"on {images} image{'' if images == 1 else 's'}",
        ),
    ]
    return parts + [note(str(text)) for text in listing(report.get("notes"))]


def _tensor(tensor: Json) -> tuple[object, ...]:
    measured = str(
        tensor.get("note")
        or f"nrmse {power(tensor.get('nrmse'))}, largest difference {power(tensor.get('max_abs'))}"
    )
    differ = tensor.get("nonfinite_differ")
    if differ:
        measured += f", {differ} values NaN or infinite on one side only"
    return (
        f"{tensor.get('kind')} {tensor.get('name')}",
        mark(bool(tensor.get("ok"))),
        measured,
        f"nrmse {power(tensor.get('tolerance'))}",
    )


def _boxes(boxes: Json) -> tuple[object, ...]:
    matched = f"{boxes.get('matched')} of {boxes.get('reference_count')} matched"
    if boxes.get("matched"):
        matched += f", box {power(boxes.get('box_error'))}, score {power(boxes.get('score_error'))}"
    for name in _COUNTS:
        if boxes.get(name):
            matched += f", {boxes[name]} {name}"
    return (
        f"{boxes.get('stage')} over {boxes.get('threshold')}",
        mark(bool(boxes.get("ok"))),
        matched,
        f"box {power(boxes.get('box_tolerance'))}, score {power(boxes.get('score_tolerance'))}",
    )


def _consistency(checks: Sequence[Json]) -> Html:
    rows = []
    for check in checks:
        skipped = check.get("skipped")
        if skipped:
            measured = f"skipped: {skipped}"
        elif check.get("identical"):
            measured = "identical to the bit"
        else:
            measured = (
                f"scores differ by {power(check.get('score_difference'))}, boxes by "
                f"{power(check.get('box_difference'))} of the side"
            )
        ok = None if skipped else bool(check.get("ok"))
        rows.append((check.get("name"), mark(ok), measured, power(check.get("tolerance"))))
    return table(("check", "verdict", "measured", "accepted"), rows)
