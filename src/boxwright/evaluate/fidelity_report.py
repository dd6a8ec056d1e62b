"""What a fidelity run found: each check by name, agreement, AP, and the worst images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from boxwright.evaluate.bootstrap import ApDifference, Interval
from boxwright.evaluate.parity_report import BoxParity, ParityReport, TensorParity


@dataclass(frozen=True)
class Check:
    """One line of evidence.

    Attributes:
        name: What was checked.
        ok: The outcome; ``None`` where it could not be checked.
        detail: The numbers, or why it could not be checked.
    """

    name: str
    ok: bool | None
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Agreement:
    """The detections of both sides at the score threshold, in pixels of the source images.

    Attributes:
        threshold: Score threshold.
        f1: ``2 pairs / (2 pairs + only_subject + only_reference + 2 renamed)`` with its
            bootstrap interval over images.
        pairs: Same class, overlap of at least 0.5.
        renamed: Same place, another class.
        only_subject: Extra: no partner among the reference's.
        only_reference: Missing: no partner among the subject's.
        borderline: Without a partner, their score within tolerance of the threshold;
            counted nowhere else.
        min_iou: Smallest overlap of a pair; 1 where there is none.
        mean_iou: Mean overlap of the pairs; 1 where there is none.
        max_score_delta: Largest score difference of a pair.
    """

    threshold: float
    f1: Interval
    pairs: int
    renamed: int
    only_subject: int
    only_reference: int
    borderline: int
    min_iou: float
    mean_iou: float
    max_score_delta: float


@dataclass(frozen=True)
class WorstImage:
    """One of the images that the two sides disagree about most.

    Attributes:
        name: File name, without its folder; or the number of an array.
        badness: See :class:`~boxwright.evaluate.disagreement.ImageDisagreement`.
        pairs: Detections both have.
        renamed: At the same place, of another class.
        only_subject: Extra detections.
        only_reference: Missing detections.
        picture: Path of the drawing, where one was asked for.
    """

    name: str
    badness: float
    pairs: int
    renamed: int
    only_subject: int
    only_reference: int
    picture: str | None = None


@dataclass(frozen=True)
class FidelityReport:
    """How faithful a subject is to its reference over many images.

    Attributes:
        subject: Name of what was judged.
        reference: Name of what it was compared with.
        images: How many images both saw.
        pixels_sha256: Over the pixels at network size, in order: equal hashes, equal input.
        not_finite: Scores and corners of the subject's candidates that are no numbers.
        parity: Tensors, candidates and detections at network size; ``None`` where the
            two take different pixels.
        position: The candidates paired by position where pairing by row failed.
        agreement: Of detections in source pixels; ``None`` where a side gives none.
        accuracy: AP of both sides and the difference; ``None`` without labels.
        dataset: The labels' ``to_dict``; empty without labels.
        class_map: How classes were matched with the labels'; empty without labels.
        worst: Worst first; none that agree in full.
        unreadable: Images that could not be read, and why.
        notes: What could not be compared and why.
    """

    subject: str
    reference: str
    images: int
    pixels_sha256: str
    not_finite: int
    parity: ParityReport | None
    position: BoxParity | None
    agreement: Agreement | None
    accuracy: ApDifference | None = None
    dataset: Mapping[str, Any] = field(default_factory=dict)
    class_map: Mapping[str, Any] = field(default_factory=dict)
    worst: tuple[WorstImage, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def checks(self) -> tuple[Check, ...]:
        """In the order in which a fault spreads, so that the first failure names the cause."""
        return tuple(_checks(self))

    @property
    def ok(self) -> bool:
        """Something was checked, and nothing failed."""
        outcomes = [check.ok for check in self.checks if check.ok is not None]
        return bool(outcomes) and all(outcomes)

    @property
    def diagnosis(self) -> Check | None:
        """The failed check that is closest to the cause, or ``None``.

        A fault shows in every check behind it: swapped classes also change the output
        tensor. So the specific checks are asked before the general ones.
        """
        failed = {check.name: check for check in self.checks if check.ok is False}
        order = ("finite", "heads", "row order", "classes", "boxes", "scores")
        return next(
            (failed[name] for name in order if name in failed), next(iter(failed.values()), None)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values; numbers that JSON lacks are None."""
        diagnosis = self.diagnosis
        return {
            "subject": self.subject,
            "reference": self.reference,
            "images": self.images,
            "ok": self.ok,
            "diagnosis": None if diagnosis is None else diagnosis.name,
            "checks": [check.to_dict() for check in self.checks],
            "pixels_sha256": self.pixels_sha256,
            "not_finite": self.not_finite,
            "tensors": [] if self.parity is None else self.parity.to_dict()["tensors"],
            "boxes": [] if self.parity is None else self.parity.to_dict()["boxes"],
            "first_divergence": (
                None if self.parity is None else self.parity.to_dict()["first_divergence"]
            ),
            "agreement": None if self.agreement is None else dataclasses.asdict(self.agreement),
            "worst": [dataclasses.asdict(item) for item in self.worst],
            "unreadable": dict(self.unreadable),
            "notes": list(self.notes),
        }

    def accuracy_dict(self) -> dict[str, Any] | None:
        """What a receipt keeps as ``accuracy``; ``None`` without labels."""
        if self.accuracy is None:
            return None
        found = self.accuracy
        return {
            "accuracy": {
                "metric": "coco",
                "ap": found.subject_ap,
                "ap50": found.subject_ap50,
                "images": found.images,
                "objects": found.objects,
                "classes": [
                    {"name": item.name, "ap": item.subject, "objects": item.objects}
                    for item in found.classes
                ],
            },
            "source": {"name": self.reference, "ap": found.reference_ap,
                       "ap50": found.reference_ap50},
            "drop": {
                "value": found.ap.value,
                "low": found.ap.low,
                "high": found.ap.high,
                "ap50": dataclasses.asdict(found.ap50),
                "confidence": found.confidence,
                "resamples": found.resamples,
                "seed": found.seed,
                "classes": [
                    {"name": item.name, **dataclasses.asdict(item.difference)}
                    for item in found.classes
                ],
            },
            "dataset": dict(self.dataset),
            "class_map": dict(self.class_map),
        }  # fmt: skip


def _checks(report: FidelityReport) -> list[Check]:
    parity = report.parity
    checks = [_finite(report)]
    if parity is None:
        checks.append(Check("heads", None, "the two take different pixels"))
        checks.append(Check("outputs", None, "the two take different pixels"))
    else:
        checks.append(_tensors("heads", [t for t in parity.tensors if t.kind == "head"]))
        checks.append(_tensors("outputs", [t for t in parity.tensors if t.kind == "output"]))
        checks.append(_row_order(report))
    checks.append(_classes(report))
    if parity is not None:
        boxes = list(parity.boxes)
        # Rows that changed places say nothing about boxes: position does.
        if checks[3].ok is False and report.position is not None:
            boxes = [report.position, *(b for b in boxes if b.stage == "detections")]
        checks.append(_error("boxes", boxes, "box"))
        checks.append(_error("scores", boxes, "score"))
        checks += [_count(b) for b in boxes]
    if parity is None:
        checks.append(_agreement(report))
    return checks


def _finite(report: FidelityReport) -> Check:
    tensors = () if report.parity is None else report.parity.tensors
    differ = {t.name: t.nonfinite_differ for t in tensors if t.nonfinite_differ}
    if not differ and not report.not_finite:
        return Check("finite", True, "no NaN, and no infinity that the reference has not")
    places = ", ".join(f"{count} in {name}" for name, count in differ.items())
    return Check(
        "finite",
        False,
        f"NaN or infinite values: {places or f'{report.not_finite} in the candidates'}",
    )


def _tensors(name: str, tensors: list[TensorParity]) -> Check:
    if not tensors:
        return Check(name, None, "not compared: a side does not give them")
    bad = [t for t in tensors if t.note or not t.nrmse <= t.tolerance]
    worst = max(tensors, key=lambda t: t.nrmse)
    if bad and bad[0].note:
        return Check(name, False, f"{bad[0].name}: {bad[0].note}")
    shown = bad[0] if bad else worst
    return Check(
        name, not bad, f"nrmse {shown.nrmse:.1e} at most {shown.tolerance:.0e} ({shown.name})"
    )


def _row_order(report: FidelityReport) -> Check:
    rows = next((b for b in report.parity.boxes if b.by_row), None) if report.parity else None
    if rows is None or report.position is None:
        return Check("row order", None, "not compared: a side does not number its candidates")
    if rows.ok or not _same(report.position):
        return Check("row order", True, "candidates stand in the reference's rows or differ")
    return Check("row order", False, "the same candidates stand in other rows")


def _same(boxes: BoxParity) -> bool:
    """The same boxes: not merely none on both sides."""
    return boxes.ok and boxes.reference_count > 0


def _classes(report: FidelityReport) -> Check:
    found = report.agreement
    if found is None:
        return Check("classes", None, "not compared: a side gives no detections")
    total = max(1, found.pairs + found.renamed)
    share = 0.0
    if report.parity is not None:
        share = max((b.unmatched_share for b in report.parity.boxes), default=0.0)
    return Check(
        "classes",
        found.renamed <= share * total,
        f"{found.renamed} of {found.pairs + found.renamed} detections have another class",
    )


def _error(name: str, boxes: list[BoxParity], kind: str) -> Check:
    if not boxes:
        return Check(name, None, "not compared")
    worst = max(boxes, key=lambda b: float(getattr(b, f"{kind}_error")))
    value = float(getattr(worst, f"{kind}_error"))
    limit = float(getattr(worst, f"{kind}_tolerance"))
    unit = " of the image side" if kind == "box" else ""
    return Check(name, value <= limit, f"differ by up to {value:.1e}{unit}, at most {limit:.0e}")


def _count(boxes: BoxParity) -> Check:
    lone = boxes.missing + boxes.extra + boxes.suppressed
    allowed = boxes.unmatched_share * max(boxes.count, boxes.reference_count)
    parts = [f"{boxes.matched} of {boxes.reference_count} matched"]
    for word, count in (
        ("missing", boxes.missing),
        ("extra", boxes.extra),
        ("suppressed by one side", boxes.suppressed),
        ("tied", boxes.tied),
        ("borderline", boxes.borderline),
    ):
        if count:
            parts.append(f"{count} {word}")
    return Check(f"{boxes.stage} over {boxes.threshold:g}", lone <= allowed, ", ".join(parts))


def _agreement(report: FidelityReport) -> Check:
    found = report.agreement
    if found is None:
        return Check("agreement", None, "a side gives no detections")
    # Two networks of different input see different things; half is not the same detector.
    return Check("agreement", found.f1.value >= 0.5, f"F1 {found.f1.value:.3f}, at least 0.5")
