"""What a report is about, gathered from an engine's receipt and from finer records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from boxwright.engine import Engine
from boxwright.evaluate.report.access import mappings, real, whole
from boxwright.files import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

    from boxwright.card import ModelCard
    from boxwright.evaluate.report.pictures import Picture

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One line of the verdict.

    Attributes:
        name: What was checked.
        ok: The outcome; ``None`` where it was not measured.
        detail: The numbers, or why it was not measured.
    """

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class BuiltFile:
    """A file that was made."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Evidence:
    """Everything a report shows. What is ``None`` or empty was not measured.

    Attributes:
        card: The model's card.
        receipt: The engine's receipt.
        engine: The engine's file name, for commands.
        files: What was made.
        parity: As ``ParityReport.to_dict`` has them.
        consistency: As ``ConsistencyCheck.to_dict`` has them.
        accuracy: The engine's, as ``Evaluation.to_dict`` has it.
        source_accuracy: The source's, likewise.
        drop: The difference of the two, with an interval where there is one.
        confusion: As ``Confusion.to_dict`` has it.
        speed: As ``BenchmarkResult.to_dict`` or the receipt has it.
        charts: SVG drawings of our own, by name.
        pictures: To be shown.
        budgets: Those that were stated.
        commands: How to repeat it, one command each.
        remarks: What a reader has to know besides.
    """

    card: ModelCard
    receipt: Json
    engine: str
    files: tuple[BuiltFile, ...] = ()
    parity: tuple[Json, ...] = ()
    consistency: tuple[Json, ...] = ()
    accuracy: Json | None = None
    source_accuracy: Json | None = None
    drop: Json | None = None
    confusion: Json | None = None
    speed: Json | None = None
    charts: Mapping[str, str] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()
    budgets: tuple[Check, ...] = ()
    commands: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def checks(self) -> list[Check]:
        """All checks, budgets first."""
        return [*self.budgets, *map(parity_check, self.parity), *self._without_parity()]

    def _without_parity(self) -> list[Check]:
        found = []
        if not self.parity:
            found.append(Check("Parity with the source", None, "not measured"))
        found.append(consistency_check(self.consistency))
        if self.accuracy is None:
            found.append(Check("Accuracy on labelled images", None, "not measured"))
        if self.speed is None:
            found.append(Check("Speed", None, "not measured"))
        return found

    @property
    def ok(self) -> bool:
        """Something was checked, and all that was checked passed."""
        outcomes = [check.ok for check in self.checks() if check.ok is not None]
        return bool(outcomes) and all(outcomes)


def parity_check(report: Json) -> Check:
    """A parity report in one line."""
    images = report.get("images", 0)
    worst = max((real(t.get("nrmse")) for t in mappings(report.get("tensors"))), default=0.0)
    boxes = [b for b in mappings(report.get("boxes")) if b.get("stage") == "detections"]
    parts = [f"{images} image{'' if images == 1 else 's'}"]
    if report.get("tensors"):
        parts.append(f"tensors within {worst:.1e} (nrmse)")
    if boxes:
        matched = sum(whole(b.get("matched")) for b in boxes)
        expected = sum(whole(b.get("reference_count")) for b in boxes)
        parts.append(f"{matched} of {expected} detections matched")
    name = f"Agrees with {report.get('reference', 'the reference')}"
    return Check(name, bool(report.get("ok")), ", ".join(parts))


def consistency_check(checks: Sequence[Json]) -> Check:
    """All checks of self-consistency in one line."""
    name = "Agrees with itself"
    ran = [check for check in checks if not check.get("skipped")]
    if not ran:
        return Check(name, None, "not measured")
    failed = [str(check.get("name")) for check in ran if not check.get("ok")]
    if failed:
        return Check(name, False, f"failed: {', '.join(failed)}")
    same = sum(bool(check.get("identical")) for check in ran)
    return Check(name, True, f"{len(ran)} checks, {same} of them identical to the bit")


def of_engine(path: Path) -> Evidence:
    """The evidence that an engine's own receipt holds.

    Raises:
        EngineError: The file is missing, or its model is damaged.
    """
    engine = Engine.open(path)
    # A page of evidence must not be about a file whose model is no longer the one proven.
    engine.verify_model()
    built = BuiltFile(path.name, path.stat().st_size, sha256_file(path))
    return of_receipt(Evidence(engine.card, {}, path.name, (built,)), engine.receipt)


def of_receipt(evidence: Evidence, receipt: Json) -> Evidence:
    """The evidence with what a receipt says; whatever is not as we write it is left out."""
    accuracy = receipt.get("accuracy")
    return replace(
        evidence,
        receipt=receipt,
        parity=tuple(_reports(receipt)),
        consistency=tuple(mappings(receipt.get("consistency"))),
        accuracy=accuracy if isinstance(accuracy, dict) and "accuracy" in accuracy else None,
        speed=receipt["speed"] if isinstance(receipt.get("speed"), dict) else None,
    )


def _reports(receipt: Json) -> list[Json]:
    return [
        item for item in mappings(receipt.get("verified")) if "tensors" in item or "boxes" in item
    ]
