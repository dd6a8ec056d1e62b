"""What a ship came to: the numbers, the budgets, the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boxwright.evaluate.report.evidence import Check, consistency_check, parity_check
from boxwright.ship.settings import Budgets
from boxwright.ship.stages import StageRecord

Json = Mapping[str, Any]


@dataclass(frozen=True)
class ShipResult:
    """The end of a ship.

    Attributes:
        summary: The numbers, as JSON values.
        checks: What was checked besides budgets.
        budgets: Every stated budget.
        files: What was written, by purpose.
        stages: What was done and what had been done before.
        remarks: What could not be done, and why.
    """

    summary: Json
    checks: tuple[Check, ...]
    budgets: tuple[Check, ...]
    files: Mapping[str, str]
    stages: tuple[StageRecord, ...]
    remarks: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Every check passed and every budget was met."""
        return not any(check.ok is False for check in (*self.checks, *self.budgets))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "ok": self.ok,
            "summary": dict(self.summary),
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "budgets": [dataclasses.asdict(check) for check in self.budgets],
            "files": dict(self.files),
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "notes": list(self.remarks),
        }


def summarise(
    *, model_bytes: int, engine_bytes: int, source_bytes: int, evidence: Mapping[str, Json]
) -> dict[str, Any]:
    """The numbers that stand for everything; ``None`` where nothing was measured."""
    verify, accuracy, bench = (evidence.get(name, {}) for name in ("verify", "accuracy", "bench"))
    batches = [
        item
        for item in bench.get("measurements", ())
        if item.get("contender") == bench.get("subject")
    ]
    first = min(batches, key=lambda item: item["batch"], default=None)
    best = max((item["end_to_end_images_per_second"] for item in batches), default=None)
    parity = verify.get("parity", ())
    worst = [t["nrmse"] for t in (parity[0]["tensors"] if parity else ()) if t["nrmse"] is not None]
    return {
        "precision": evidence.get("precision", {}).get("precision"),
        "precision_reason": _why(evidence.get("precision", {})),
        "precisions_tried": list(
            (evidence.get("precision", {}).get("choice") or {}).get("tried", ())
        ),
        "metric": accuracy.get("metric"),
        "ap_source": accuracy.get("ap_source"),
        "ap_engine": accuracy.get("ap_engine"),
        "ap_drop_points": drop_points(accuracy),
        "latency_p50_ms": None if first is None else first["end_to_end_ms"]["p50"],
        "latency_p90_ms": None if first is None else first["end_to_end_ms"]["p90"],
        "network_p50_ms": None if first is None else first["network_ms"]["p50"],
        "images_per_second": best,
        "parity_ok": all(report["ok"] for report in parity) if parity else None,
        "parity_worst_nrmse": max(worst, default=None),
        "detections_matched": _matched(parity),
        "consistent": consistency_check(verify.get("consistency", ())).ok,
        "source_bytes": source_bytes,
        "model_bytes": model_bytes,
        "engine_bytes": engine_bytes,
    }


def _why(precision: Json) -> str | None:
    """Why a precision was chosen, where it had to be."""
    choice, budget = precision.get("choice") or {}, precision.get("budget") or {}
    return choice.get("reason") or budget.get("reason")


def _matched(parity: Sequence[Json]) -> list[int] | None:
    """How many detections of the source the engine has, and how many there are."""
    found = [b for b in (parity[0]["boxes"] if parity else ()) if b["stage"] == "detections"]
    if not found:
        return None
    return [sum(b["matched"] for b in found), sum(b["reference_count"] for b in found)]


def drop_points(accuracy: Json) -> float | None:
    """AP lost from source to engine, in points of 100; below 0 where the engine is better."""
    source, engine = accuracy.get("ap_source"), accuracy.get("ap_engine")
    if source is None or engine is None:
        return None
    return 100.0 * (float(source) - float(engine))


def judge_evidence(verify: Json) -> list[Check]:
    """The checks of the verify stage."""
    return [
        *map(parity_check, verify.get("parity", ())),
        consistency_check(verify.get("consistency", ())),
    ]


def judge_budgets(budgets: Budgets, summary: Json) -> list[Check]:
    """Every stated budget, met or missed; one that could not be measured is missed."""
    found = []
    if budgets.max_drop is not None:
        drop = summary["ap_drop_points"]
        measured = "could not be measured" if drop is None else f"{drop:.2f} points of AP lost"
        ok = drop is not None and drop <= budgets.max_drop
        found.append(_budget("max-drop", ok, measured, f"at most {budgets.max_drop:g}"))
    if budgets.min_fps is not None:
        rate = summary["images_per_second"]
        measured = "not measured" if rate is None else f"{rate:.1f} images/s, file to boxes"
        ok = rate is not None and rate >= budgets.min_fps
        found.append(_budget("min-fps", ok, measured, f"at least {budgets.min_fps:g}"))
    if budgets.max_latency is not None:
        time = summary["latency_p90_ms"]
        measured = "not measured" if time is None else f"{time:.2f} ms, file to boxes (p90)"
        ok = time is not None and time <= budgets.max_latency
        found.append(_budget("max-latency", ok, measured, f"at most {budgets.max_latency:g}"))
    return found


def _budget(name: str, ok: bool, measured: str, wanted: str) -> Check:
    return Check(f"Budget {name}", ok, f"{measured}; {wanted} wanted")
