"""The last stage: evidence into the engine's receipt, the report, and the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.engine import Engine
from boxwright.errors import InputError
from boxwright.evaluate.drop import without_curves
from boxwright.evaluate.report import pictures
from boxwright.evaluate.report.evidence import BuiltFile, Evidence
from boxwright.evaluate.report.html import write_report
from boxwright.files import read_regular, sha256_file, write_text
from boxwright.receipt import SECTIONS, add_evidence
from boxwright.ship.summary import ShipResult, judge_budgets, judge_evidence, summarise

if TYPE_CHECKING:
    from boxwright.ship.stages import StageRecord
    from boxwright.ship.work import Work

EVIDENCE = ("precision", "verify", "accuracy", "bench", "charts")


def seal(work: Work) -> None:
    """Complete the receipt, write the report and the summary."""
    found = _evidence(work)
    engine = _complete_receipt(work, found)
    evidence = _for_report(work, engine, found)
    write_report(evidence, work.report)
    summary = _summary(work, found)
    write_text(work.folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def result(work: Work, stages: tuple[StageRecord, ...]) -> ShipResult:
    """What came out, from the files of the stages."""
    found = _evidence(work)
    summary = _summary(work, found)
    return ShipResult(
        summary,
        tuple(judge_evidence(found["verify"])),
        tuple(judge_budgets(work.settings.budgets, summary)),
        {
            "report": str(work.report),
            "engine": str(work.engine),
            "model": str(work.model),
            "evidence": str(work.folder / "evidence"),
        },
        stages,
        _remarks(work, found),
    )


def unreadable(path: Path, error: Exception) -> InputError:
    """An output of a stage that is not what the stage wrote."""
    return InputError(f"cannot read {path}: {error}")


def _evidence(work: Work) -> dict[str, dict[str, Any]]:
    without = {"accuracy"} if work.dataset is None else set()
    without |= {"precision"} if work.settings.fixed_precision is not None else set()
    names = [name for name in EVIDENCE if name not in without]
    return {name: json.loads(read_regular(work.evidence(name))) for name in names}


def _summary(work: Work, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return summarise(
        model_bytes=work.model.stat().st_size,
        engine_bytes=work.engine.stat().st_size,
        source_bytes=work.settings.trained().stat().st_size,
        evidence=found,
    )


def _complete_receipt(work: Work, found: dict[str, dict[str, Any]]) -> Engine:
    """The build's receipt, and under a key of its own what each later stage found."""
    sections = {
        "verified": found["verify"]["parity"],
        "consistency": found["verify"]["consistency"],
        "speed": found["bench"]["for_receipt"],
    }
    if "accuracy" in found:
        sections["accuracy"] = without_curves(found["accuracy"]["engine"])
        sections["accuracy_drop"] = found["accuracy"]["difference"]
    engine = Engine.open(work.engine)
    # A section of an earlier ship that this one did not measure is not this one's.
    kept = {name: value for name, value in engine.receipt.items() if name not in SECTIONS}
    engine = engine.with_receipt(kept, work.engine)
    return add_evidence(engine, sections, work.settings.command())


def _for_report(work: Work, engine: Engine, found: dict[str, dict[str, Any]]) -> Evidence:
    accuracy = found.get("accuracy")
    folder = work.folder / "evidence"
    shown = [*pictures.read(folder / "faithful")]
    if accuracy is not None:
        shown += pictures.read(folder / "accurate")
    bench = {name: value for name, value in found["bench"].items() if name != "for_receipt"}
    return Evidence(
        card=engine.card,
        receipt=engine.receipt,
        engine=work.engine.name,
        files=tuple(
            BuiltFile(path.name, path.stat().st_size, sha256_file(path))
            for path in (work.engine, work.model)
        ),
        parity=tuple(found["verify"]["parity"]),
        consistency=tuple(found["verify"]["consistency"]),
        accuracy=None if accuracy is None else accuracy["engine"],
        source_accuracy=None if accuracy is None else accuracy["source"],
        drop=None if accuracy is None else accuracy["difference"]["ap"],
        confusion=None if accuracy is None else accuracy["confusion"],
        speed=bench,
        charts=found["charts"]["svg"],
        pictures=tuple(pictures.within_budget(shown)),
        budgets=tuple(judge_budgets(work.settings.budgets, _summary(work, found))),
        commands=(work.settings.command(),),
        remarks=_remarks(work, found),
    )


def _remarks(work: Work, found: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    return tuple(work.settings.remarks) + tuple(
        note
        for name in ("precision", "verify", "charts")
        for note in found.get(name, {}).get("notes", ())
    )
