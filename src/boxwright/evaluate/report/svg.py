"""Curves as SVG that takes its colours from the page, without a drawing library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from boxwright.evaluate.report.markup import Html, el, join

# Okabe and Ito's colours, those that read on white and on near-black alike.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 16, 14, 58


@dataclass(frozen=True)
class Curve:
    """Points of a line, x and y from 0 to 1.

    Attributes:
        label: For the key.
        y: Values at equal distances of x from 0 to 1.
        strong: Drawn on top and broad.
    """

    label: str
    y: Sequence[float]
    strong: bool = False


def unit_chart(curves: Sequence[Curve], x_label: str, y_label: str) -> Html:
    """Curves over the unit square, with a key below; up to as many as there are colours."""
    shown = list(zip(COLOURS, curves, strict=False))
    lines = [_line(curve, colour) for colour, curve in reversed(shown)]
    drawing = el(
        "svg",
        _grid(x_label, y_label),
        lines,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{y_label} over {x_label}",
    )
    key = [
        el("span", el("i", style=f"background:{colour}"), curve.label) for colour, curve in shown
    ]
    return el("figure", drawing, el("figcaption", key, class_="key"), class_="chart")


def _x(value: float) -> float:
    return _LEFT + value * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float) -> float:
    return _TOP + (1 - min(max(value, 0.0), 1.0)) * (_HEIGHT - _TOP - _BOTTOM)


def _line(curve: Curve, colour: str) -> Html:
    steps = max(len(curve.y) - 1, 1)
    points = " ".join(f"{_x(i / steps):.1f},{_y(value):.1f}" for i, value in enumerate(curve.y))
    return el(
        "polyline",
        points=points,
        fill="none",
        stroke=colour,
        stroke_width=3.2 if curve.strong else 1.8,
        stroke_linejoin="round",
    )


def _grid(x_label: str, y_label: str) -> Html:
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        for x1, y1, x2, y2 in (
            (_x(tick), _y(0), _x(tick), _y(1)),
            (_x(0), _y(tick), _x(1), _y(tick)),
        ):
            parts.append(
                el("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke="currentColor", stroke_opacity=0.16)
            )
        parts.append(_label(f"{tick:g}", _x(tick), _y(0) + 22, "middle"))
        parts.append(_label(f"{tick:g}", _LEFT - 8, _y(tick) + 6, "end"))
    parts.append(_label(x_label, _x(0.5), _HEIGHT - 8, "middle"))
    middle = _y(0.5)
    parts.append(_label(y_label, 18, middle, "middle", transform=f"rotate(-90 18 {middle:.0f})"))
    return join(parts)


def _label(content: str, x: float, y: float, anchor: str, transform: str | None = None) -> Html:
    return el(
        "text",
        content,
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        text_anchor=anchor,
        font_size=17,
        fill="currentColor",
        fill_opacity=0.7,
        transform=transform,
    )
