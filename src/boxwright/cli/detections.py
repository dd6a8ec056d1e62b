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
    shown = [
        name
        for name, column in result.detections.attributes.items()
        if column.ndim == 1 and not name.endswith("_score")
    ]
    rows = [
        (r["class_name"], f"{r['score']:.3f}", *(f"{value:.1f}" for value in r["xyxy"]), *texts)
        for r, texts in zip(
            result.detections.to_records(), result.detections.attribute_texts(), strict=True
        )
    ]
    table((*columns, *shown), rows, right=columns[1:])
