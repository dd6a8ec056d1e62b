"""What a parity check found."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

Reason = Literal["missing", "borderline", "tied", "suppressed"]


@dataclass(frozen=True)
class TensorParity:
    """How far one tensor is from its reference, over all images.

    Attributes:
        name: The subject's name for it.
        reference_name: The reference's name for it.
        kind: ``head`` (raw, before decoding) or ``output``.
        shape: The subject's shape for one image.
        reference_shape: The reference's shape for one image.
        compared: How many values were compared.
        nrmse: ``||a - b|| / ||b||`` over all finite values; 0 where both are all zero.
        max_abs: Largest ``|a - b|``.
        max_rel: Largest ``|a - b| / max(|b|, rms(b) / 1000)`` within one image; the floor
            keeps values that happen to lie next to zero from deciding it.
        where: Index of the largest ``|a - b|``, image first.
        value: The subject's value there.
        reference_value: The reference's value there.
        nonfinite: NaN and infinite values of the subject, and of the reference.
        nonfinite_differ: Places where one side is finite and the other is not, or both
            are not and differ.
        tolerance: Largest nrmse accepted.
        note: Why nothing was compared, else empty.
    """

    name: str
    reference_name: str
    kind: Literal["head", "output"]
    shape: tuple[int, ...]
    reference_shape: tuple[int, ...]
    compared: int
    nrmse: float
    max_abs: float
    max_rel: float
    where: tuple[int, ...]
    value: float
    reference_value: float
    nonfinite: tuple[int, int]
    nonfinite_differ: int
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Within tolerance, in the same shape, finite where the reference is."""
        return not self.note and not self.nonfinite_differ and self.nrmse <= self.tolerance


@dataclass(frozen=True)
class UnmatchedBox:
    """A box that only one side has.

    Attributes:
        image: Image number.
        side: ``subject`` or ``reference``: who has it.
        class_id: Its class.
        score: Its score.
        xyxy: Its corners in network input pixels.
        margin: How far its score is above the threshold.
        reason: ``missing``: nothing explains it; ``borderline``: its score is within the
            score tolerance of the threshold; ``tied``: the other side suppressed it in favour
            of a box whose score is equal within tolerance, so that rounding decides which
            of the two is kept; ``suppressed``: the other side suppressed it for another
            reason.
    """

    image: int
    side: Literal["subject", "reference"]
    class_id: int
    score: float
    xyxy: tuple[float, float, float, float]
    margin: float
    reason: Reason


@dataclass(frozen=True)
class BoxParity:
    """How the boxes of both sides pair up, over all images.

    Attributes:
        stage: ``candidates`` (before suppression) or ``detections`` (after it).
        threshold: Score threshold.
        count: Boxes of the subject.
        reference_count: Boxes of the reference.
        matched: Pairs.
        by_row: Paired by row and class; else by class and position.
        box_error: Largest corner error of a pair, relative to the image side (or to the
            box where that is larger).
        score_error: Largest score difference of a pair.
        min_iou: Smallest IoU of a pair; 1 where there is none.
        missing: Boxes only the reference has, not counting those explained.
        extra: Boxes only the subject has, not counting those explained.
        borderline: Boxes only one side has whose score is within tolerance of the
            threshold.
        tied: Boxes one side suppressed in favour of another of the same score.
        suppressed: Boxes one side shows and the other suppressed, ties not counted.
        truncated: The reference list was cut, so extra boxes were not judged.
        box_tolerance: Largest `box_error` accepted.
        score_tolerance: Largest `score_error` accepted.
        unmatched_share: Share of boxes that may be missing or suppressed.
        unmatched: The first few boxes without a partner, highest score first.
    """

    stage: Literal["candidates", "detections"]
    threshold: float
    count: int
    reference_count: int
    matched: int
    by_row: bool
    box_error: float
    score_error: float
    min_iou: float
    missing: int
    extra: int
    borderline: int
    tied: int
    suppressed: int
    truncated: bool
    box_tolerance: float
    score_tolerance: float
    unmatched_share: float
    unmatched: tuple[UnmatchedBox, ...] = ()

    @property
    def ok(self) -> bool:
        """The same boxes, each within tolerance."""
        allowed = self.unmatched_share * max(self.count, self.reference_count)
        return (
            self.missing + self.extra + self.suppressed <= allowed
            and self.box_error <= self.box_tolerance
            and self.score_error <= self.score_tolerance
        )


@dataclass(frozen=True)
class ParityReport:
    """How far a subject is from its reference on the same pixels.

    Attributes:
        subject: Name of what was judged.
        reference: Name of what it was compared with.
        images: How many images.
        tensors: Tensor by tensor, heads first: the order in which the graph computes them.
        boxes: Box by box, candidates first.
        notes: What could not be compared and why.
    """

    subject: str
    reference: str
    images: int
    tensors: tuple[TensorParity, ...]
    boxes: tuple[BoxParity, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Something was compared, and all of it is within tolerance."""
        checks: list[TensorParity | BoxParity] = [*self.tensors, *self.boxes]
        return bool(checks) and all(check.ok for check in checks)

    @property
    def first_divergence(self) -> TensorParity | None:
        """The first tensor outside its tolerance, or ``None``."""
        return next((tensor for tensor in self.tensors if not tensor.ok), None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; numbers that JSON lacks (NaN, infinity) are None."""
        content = dataclasses.asdict(self)
        for entry, tensor in zip(content["tensors"], self.tensors, strict=True):
            entry["ok"] = tensor.ok
        for entry, boxes in zip(content["boxes"], self.boxes, strict=True):
            entry["ok"] = boxes.ok
        diverges = self.first_divergence
        content["ok"] = self.ok
        content["first_divergence"] = None if diverges is None else diverges.name
        cleaned: dict[str, Any] = _json_ready(content)
        return cleaned

    def to_json(self, indent: int | None = None) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def rows(self) -> list[dict[str, str]]:
        """One row per check for a table: ``check``, ``measured``, ``tolerance``, ``verdict``."""
        rows = [
            {
                "check": f"{tensor.kind} {tensor.name}",
                "measured": tensor.note or f"nrmse {tensor.nrmse:.1e}, max {tensor.max_abs:.1e}",
                "tolerance": f"nrmse {tensor.tolerance:.0e}",
                "verdict": "ok" if tensor.ok else "FAILED",
            }
            for tensor in self.tensors
        ]
        rows += [
            {
                "check": f"{boxes.stage} over {boxes.threshold:g}",
                "measured": _measured(boxes),
                "tolerance": f"box {boxes.box_tolerance:.0e}, score {boxes.score_tolerance:.0e}",
                "verdict": "ok" if boxes.ok else "FAILED",
            }
            for boxes in self.boxes
        ]
        return rows

    def summary(self) -> str:
        """The verdict in one line, then one line per check."""
        verdict = "agrees with" if self.ok else "DIFFERS from"
        lines = [f"{self.subject} {verdict} {self.reference} on {self.images} image(s)"]
        diverges = self.first_divergence
        if diverges is not None:
            lines.append(f"first to diverge: {_divergence(diverges)}")
        lines += [
            f"  {row['check']}: {row['measured']} (tolerance {row['tolerance']}): {row['verdict']}"
            for row in self.rows()
        ]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def _divergence(tensor: TensorParity) -> str:
    if tensor.note:
        return f"{tensor.name}: {tensor.note}"
    if tensor.nonfinite_differ:
        return (
            f"{tensor.name}: {tensor.nonfinite_differ} values are NaN or infinite on one side "
            f"only (subject {tensor.nonfinite[0]}, reference {tensor.nonfinite[1]})"
        )
    return (
        f"{tensor.name}: nrmse {tensor.nrmse:.1e}; largest difference at {list(tensor.where)}: "
        f"{tensor.value:.6g}, reference {tensor.reference_value:.6g}"
    )


def _measured(boxes: BoxParity) -> str:
    text = f"{boxes.matched} of {boxes.reference_count} matched"
    if boxes.matched:
        text += f", box {boxes.box_error:.1e}, score {boxes.score_error:.1e}"
    counts = {
        "missing": boxes.missing,
        "extra": boxes.extra,
        "suppressed by one side": boxes.suppressed,
        "tied": boxes.tied,
        "borderline": boxes.borderline,
    }
    text += "".join(f", {count} {what}" for what, count in counts.items() if count)
    return text + (" (list cut)" if boxes.truncated else "")


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
