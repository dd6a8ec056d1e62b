"""Which kind of fault a failed parity check shows.

One fault shows in many checks: swapped classes change an output tensor, scores and
detections at once. So the particular kinds are asked before the general ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from boxwright.boxes import iou_xyxy

if TYPE_CHECKING:
    from boxwright.evaluate.parity_report import BoxParity, ParityReport, UnmatchedBox

_SAME_PLACE = 0.5


def diagnose(report: ParityReport) -> str | None:
    """The fault closest to the cause, in a few words; ``None`` where all is within tolerance.

    It is read off the report alone, which lists the first few boxes without a partner:
    classes are named as the fault where such boxes lie at one place under other classes.
    """
    if report.ok:
        return None
    for tensor in report.tensors:
        if tensor.note:
            return f"{tensor.name}: {tensor.note}"
    for tensor in report.tensors:
        if tensor.nonfinite_differ:
            return f"NaN or infinite values in {tensor.name}"
    for tensor in report.tensors:
        if tensor.kind == "head" and not tensor.ok:
            return f"the network: head {tensor.name}"
    return _of_boxes(report) or _of_outputs(report)


def _of_boxes(report: ParityReport) -> str | None:
    boxes = report.boxes
    renamed = max((_renamed(part) for part in boxes), default=0)
    if renamed:
        return f"classes: the same place, another class ({renamed} times)"
    if any(part.box_error > part.box_tolerance for part in boxes):
        return "box corners"
    if any(part.score_error > part.score_tolerance for part in boxes):
        return "scores"
    failed = next((part for part in boxes if not part.ok), None)
    if failed is None:
        return None
    lost, extra = failed.missing, failed.extra
    return f"{failed.stage}: {lost} missing, {extra} extra, {failed.suppressed} suppressed"


def _of_outputs(report: ParityReport) -> str:
    failed = report.first_divergence
    return "nothing was compared" if failed is None else f"output {failed.name}"


def _renamed(part: BoxParity) -> int:
    """Boxes of the subject alone that lie on boxes of the reference alone."""
    if part.ok:
        return 0
    own = [box for box in part.unmatched if box.side == "subject" and box.reason == "missing"]
    other = [box for box in part.unmatched if box.side == "reference" and box.reason == "missing"]
    return sum(any(_same_place(a, b) for b in other) for a in own)


def _same_place(first: UnmatchedBox, second: UnmatchedBox) -> bool:
    if first.image != second.image or first.class_id == second.class_id:
        return False
    corners = (np.array([box.xyxy], np.float64) for box in (first, second))
    return bool(iou_xyxy(*corners)[0, 0] >= _SAME_PLACE)
