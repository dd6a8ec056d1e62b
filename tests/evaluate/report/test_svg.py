"""Curves: inside their frame, with a key that names each."""

from __future__ import annotations

import re

from boxwright.evaluate.report.svg import COLOURS, Curve, unit_chart


def _points(chart: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'points="([^"]*)"', chart)
    return [
        [(float(x), float(y)) for x, y in (p.split(",") for p in line.split())] for line in lines
    ]


def test_values_lie_inside_the_frame_and_upwards() -> None:
    chart = unit_chart([Curve("a", [0.0, 0.5, 1.0, 7.0, -7.0])], "recall", "precision")
    (line,) = _points(chart)
    xs, ys = zip(*line, strict=True)
    assert list(xs) == sorted(xs)
    assert ys[0] > ys[1] > ys[2] == ys[3]
    assert ys[4] == ys[0]
    assert "recall" in chart
    assert "precision" in chart


def test_the_first_is_on_top_and_the_key_in_order() -> None:
    curves = [Curve(f"<{i}>", [0, 1], strong=not i) for i in range(9)]
    chart = unit_chart(curves, "x", "y")
    strokes = re.findall(r'<polyline[^>]*stroke="([^"]+)"', chart)
    assert strokes == list(reversed(COLOURS))
    assert re.findall(r"&lt;(\d)&gt;", chart) == [str(i) for i in range(len(COLOURS))]


def test_a_single_point_is_no_error() -> None:
    assert _points(unit_chart([Curve("a", [0.5])], "x", "y")) != []
