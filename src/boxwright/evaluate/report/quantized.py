"""How INT8 was decided: the candidates, what each lost, and which layers are sensitive.

All of it is on the model's card, so a report has it from the engine alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from boxwright.evaluate.report.access import listing, mapping, mappings, real, whole
from boxwright.evaluate.report.layout import note, section
from boxwright.evaluate.report.markup import Html, el, fold, table
from boxwright.evaluate.report.svg import COLOURS

if TYPE_CHECKING:
    from boxwright.card import ModelCard, Transform

Json = Mapping[str, Any]

TITLE = "How INT8 was decided"

_STEPS = ("quantize", "quantize:refused")
# Rows of a chart; a bar is as tall as a line of text.
_ROW, _NAMES, _BARS, _VALUES = 24, 300, 300, 100


def render(card: ModelCard) -> Html | None:
    """The section; ``None`` where nothing was quantised."""
    step = _step(card)
    if step is None:
        return None
    effect = mapping(step.effect)
    budget, choice = mapping(effect.get("budget")), mapping(effect.get("choice"))
    look = mapping(effect.get("look"))
    return section(
        TITLE,
        "Ranges come from images, layers that INT8 hurts stay in float where a budget asks for "
        "it, and INT8 is handed out only where it was measured to be worth it.",
        el("p", str(budget["reason"])) if budget.get("reason") else None,
        el("p", str(choice["reason"])) if choice.get("reason") else None,
        _layers(step),
        _look(look),
        _candidates(budget),
        _precisions(choice),
        _sensitivity(budget),
        [note(str(remark)) for remark in listing(effect.get("notes"))],
    )


def _step(card: ModelCard) -> Transform | None:
    return next((step for step in reversed(card.transforms) if step.name in _STEPS), None)


def _layers(step: Transform) -> Html | None:
    layers = mapping(mapping(step.effect).get("layers"))
    if not layers:
        return None
    reasons = mapping(mapping(step.effect).get("kept_in_float"))
    rows = [
        ("INT8", whole(layers.get("int8")), ""),
        *(("float", whole(count), reason) for reason, count in reasons.items()),
    ]
    return table(("precision", "layers", "why"), rows, numbers=("layers",))


def _look(look: Json) -> list[Html]:
    forms = mappings(look.get("forms"))
    if not forms:
        return []
    rows = [
        (str(look.get("against")), "all", _or_dash(look.get("against_ms"), ".2f"), "1", ""),
        *(
            (
                str(item.get("form")),
                whole(item.get("layers_in_float")),
                _or_dash(item.get("median_ms"), ".2f"),
                _interval(mapping(item.get("times_as_fast"))),
                str(item.get("failed") or ""),
            )
            for item in forms
        ),
    ]
    return [
        el("h3", "Whether INT8 can be faster"),
        el("p", f"{look.get('reason')}."),
        table(
            ("form", "in float", "network, ms", "times as fast", ""),
            rows,
            numbers=("in float", "network, ms", "times as fast"),
        ),
    ]


def _interval(found: Json) -> str:
    if not found:
        return "–"
    median, low, high = (real(found.get(name)) for name in ("median", "low", "high"))
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _candidates(budget: Json) -> list[Html]:
    found = mappings(budget.get("candidates"))
    if not found:
        return []
    chosen = mapping(budget.get("chosen"))
    rows = [
        (
            str(item.get("step")),
            _ranges(item),
            "corrected" if item.get("bias_correction") else "",
            len(listing(item.get("keep"))),
            _or_dash(item.get("value"), ".2f"),
            _or_dash(item.get("drop"), "+.2f"),
            str(item.get("failed") or _verdict(item.get("ok"))),
            "chosen" if _same(item, chosen) else "",
        )
        for item in found
    ]
    return [
        el("h3", "What was measured"),
        el(
            "p",
            f"{budget.get('objective')}; {real(budget.get('float_value')):.2f} in float.",
        ),
        table(
            ("step", "ranges", "biases", "in float", "points", "lost", "budget", ""),
            rows,
            numbers=("in float", "points", "lost"),
        ),
    ]


def _verdict(ok: object) -> str:
    return {True: "met", False: "missed"}[ok] if isinstance(ok, bool) else ""


def _same(item: Json, chosen: Json) -> bool:
    names = ("method", "percentile", "keep", "bias_correction", "fine_tuning")
    return bool(chosen) and all(item.get(name) == chosen.get(name) for name in names)


def _ranges(item: Json) -> str:
    percentile = f" {real(item.get('percentile')):g}" if "percentile" in item else ""
    return f"{item.get('method')}{percentile}"


def _precisions(choice: Json) -> list[Html]:
    tried = mappings(choice.get("tried"))
    # Where nothing was searched, the look at speed has it all.
    if not tried or any(item.get("within_budget", 0) is None for item in tried):
        return []
    rows = [
        (
            str(item.get("precision")),
            _or_dash(item.get("median_ms"), ".2f"),
            _or_dash(item.get("drop"), "+.2f"),
            str(
                item.get("failed")
                or ("over the budget" if item.get("within_budget") is False else "")
            ),
            "chosen" if item.get("precision") == choice.get("precision") else "",
        )
        for item in tried
    ]
    return [
        el("h3", "Precisions on the target"),
        table(
            ("precision", "network, ms", "points lost", "", "chosen"),
            rows,
            numbers=("network, ms", "points lost"),
        ),
    ]


def _or_dash(value: object, form: str) -> str:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return format(real(value), form) if known else "–"


def _sensitivity(budget: Json) -> list[Html]:
    groups = mappings(budget.get("sensitivity"))
    if not groups:
        return []
    kept = set(map(str, listing(mapping(budget.get("chosen")).get("keep"))))
    return [
        el("h3", "Sensitivity of layers"),
        el(
            "p",
            "Error of the raw heads with only this group in INT8, as signal to noise in "
            "decibels: the shorter the bar, the more it hurts. Groups that stay in float, "
            "whole or in part, are in orange.",
        ),
        _chart(groups, kept),
        fold(
            "As a table",
            table(
                ("layers", "dB", "in float"),
                [
                    (
                        str(group.get("name")),
                        f"{real(group.get('sqnr_db')):.1f}",
                        f"{_kept(group, kept)} of {len(listing(group.get('layers')))}",
                    )
                    for group in groups
                ],
                numbers=("dB", "in float"),
            ),
        ),
    ]


def _kept(group: Json, kept: set[str]) -> int:
    return sum(str(name) in kept for name in listing(group.get("layers")))


def _chart(groups: Sequence[Json], kept: set[str]) -> Html:
    """A bar for each group, in the order of the graph."""
    most = max(max((real(group.get("sqnr_db")) for group in groups), default=0.0), 1.0)
    height = _ROW * len(groups)
    bars = [_bar(row, group, most, bool(_kept(group, kept))) for row, group in enumerate(groups)]
    drawing = el(
        "svg",
        bars,
        viewBox=f"0 0 {_NAMES + _BARS + _VALUES} {height}",
        role="img",
        aria_label="error of the heads by group of layers",
    )
    return el("figure", drawing, class_="chart")


def _bar(row: int, group: Json, most: float, kept: bool) -> list[Html]:
    value = real(group.get("sqnr_db"))
    width = _BARS * min(max(value / most, 0.0), 1.0)
    top = row * _ROW
    middle = top + 0.7 * _ROW
    return [
        _text(_short(str(group.get("name"))), _NAMES - 8, middle, "end"),
        el(
            "rect",
            x=_NAMES,
            y=top + 4,
            width=f"{max(width, 1.0):.1f}",
            height=_ROW - 8,
            fill=COLOURS[1] if kept else COLOURS[0],
        ),
        _text(f"{value:.1f} dB", f"{_NAMES + width + 8:.1f}", middle, "start"),
    ]


def _text(content: str, x: object, y: float, anchor: str) -> Html:
    return el(
        "text",
        content,
        x=x,
        y=f"{y:.1f}",
        text_anchor=anchor,
        font_size=14,
        fill="currentColor",
        fill_opacity=0.8,
    )


def _short(name: str, most: int = 40) -> str:
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"
