"""How one image's detections are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwright.cli.tables import table

if TYPE_CHECKING:
    from boxwright.runs import FileResult


def show_table(result: FileResult) -> None:
    """One image that could be read: its name, and a row for each detection."""
    if result.detections is None or result.size is None:
        return
    height, width = result.size
    print(f"\n{result.path} ({width} x {height}): {len(result.detections)} found")
    if not len(result.detections):
        return
    columns = ("class", "score", "left", "top", "right", "bottom")
    rows = [
        (r["class_name"], f"{r['score']:.3f}", *(f"{value:.1f}" for value in r["xyxy"]))
        for r in result.detections.to_records()
    ]
    table(columns, rows, right=columns[1:])
