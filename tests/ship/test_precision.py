"""The stage of a ship that chooses the precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from boxwright.engine import Engine
from boxwright.errors import BudgetMissedError, InputError
from boxwright.model import Model
from boxwright.progress import silent
from boxwright.quantize import comparison
from boxwright.quantize.latency import Choice, Latency
from boxwright.quantize.objective import LabelledObjective
from boxwright.ship import pipeline
from boxwright.ship.pipeline import ship
from boxwright.ship.settings import Budgets, ShipSettings
from boxwright.ship.stages import key_of
from boxwright.ship.work import Work
from tests.quantize.looks import saw
from tests.quantize.test_calibration import write_images
from tests.ship.material import make_settings, write_material


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("material")
    write_images(folder / "calibration", 4, seed=7)
    return {**write_material(folder), "calibration": folder / "calibration"}


def settings_of(material: dict[str, Path], output: Path, **changes: Any) -> ShipSettings:
    values: dict[str, Any] = {
        "calibration": (str(material["calibration"]),),
        "target": "onnxruntime",
        "budgets": Budgets(max_drop=100),
        **changes,
    }
    return make_settings(material, output, **values)


def chosen(
    monkeypatch: pytest.MonkeyPatch, precision: str, reason: str, *, allowed: bool = True
) -> None:
    """Let this precision be the fastest, whatever this machine says; is INT8 allowed?"""

    def choose(latency: Latency, *_: object, **__: object) -> Choice:
        row = {"drop": 0.1, "median_ms": 1.0}
        return Choice(
            precision,
            reason,
            [
                {"precision": precision, "within_budget": True, **row},
                {"precision": "int8", "within_budget": allowed, **row},
            ],
        )

    saw(monkeypatch)
    monkeypatch.setattr(comparison, "choose_precision", choose)


def test_int8_that_was_faster_is_built(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(monkeypatch, "int8", "INT8 is the fastest: so it was said")
    result = ship(settings_of(material, tmp_path))
    assert [stage.name for stage in result.stages][:3] == ["import", "precision", "build"]
    assert result.summary["precision"] == "int8"
    assert result.summary["precision_reason"] == "INT8 is the fastest: so it was said"
    engine = Engine.open(tmp_path / "tiny.bw")
    assert engine.receipt["build"]["precision"] == "int8"
    assert engine.model().quantized
    assert not Model.load(tmp_path / "tiny.onnx").quantized
    assert "How INT8 was decided" in (tmp_path / "report.html").read_text()
    again = ship(settings_of(material, tmp_path))
    assert all(stage.skipped for stage in again.stages)


def test_int8_that_was_not_faster_is_not_built(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(monkeypatch, "fp32", "INT8 is not faster: so it was said")
    result = ship(settings_of(material, tmp_path))
    assert result.summary["precision"] == "fp32"
    engine = Engine.open(tmp_path / "tiny.bw")
    assert engine.receipt["build"]["precision"] == "fp32"
    assert not engine.model().quantized
    assert any("INT8 is not faster" in remark for remark in result.remarks)
    assert "INT8 is not faster: so it was said" in (tmp_path / "report.html").read_text()


def test_int8_that_cannot_be_faster_is_not_searched_for(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saw(monkeypatch, fp32=1.0, int8=1.25)
    monkeypatch.setattr("boxwright.quantize.job.search", None)
    result = ship(settings_of(material, tmp_path))
    assert result.summary["precision"] == "fp32"
    assert "no layers were searched" in result.summary["precision_reason"]
    assert {row["precision"] for row in result.summary["precisions_tried"]} >= {"fp32", "int8"}
    html = (tmp_path / "report.html").read_text()
    assert "Whether INT8 can be faster" in html
    again = ship(settings_of(material, tmp_path))
    assert all(stage.skipped for stage in again.stages)


def test_no_int8_within_the_budget_is_said(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([80.0])
    monkeypatch.setattr(LabelledObjective, "measure", lambda *_, **__: next(answers, 10.0))
    chosen(monkeypatch, "fp32", "FP32 is the fastest")
    result = ship(settings_of(material, tmp_path, budgets=Budgets(max_drop=1)))
    assert result.summary["precision"] == "fp32"
    assert any(remark.startswith("no INT8: ") for remark in result.remarks)


def test_int8_by_name_is_built_or_refused(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(monkeypatch, "fp32", "INT8 is not faster")
    result = ship(settings_of(material, tmp_path / "a", precision="int8"))
    assert Engine.open(tmp_path / "a" / "tiny.bw").receipt["build"]["precision"] == "int8"
    assert result.summary["precision"] == "int8"
    assert result.summary["precision_reason"] == "INT8 was asked for. INT8 is not faster"
    assert not any("handed out is the float one" in remark for remark in result.remarks)
    assert "handed out is the float one" not in (tmp_path / "a" / "report.html").read_text()
    answers = iter([80.0])
    monkeypatch.setattr(LabelledObjective, "measure", lambda *_, **__: next(answers, 10.0))
    tight = settings_of(material, tmp_path / "b", precision="int8", budgets=Budgets(max_drop=1))
    with pytest.raises(BudgetMissedError, match="INT8 was asked for"):
        ship(tight)


def test_int8_by_name_that_loses_too_much_on_the_target_is_refused(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a compiler gets a layer wrong that its graph has right."""
    chosen(monkeypatch, "fp32", "INT8 loses 29.00 points on it, 0.5 are allowed", allowed=False)
    with pytest.raises(BudgetMissedError, match="INT8 was asked for, and INT8 loses 29"):
        ship(settings_of(material, tmp_path, precision="int8"))
    assert not (tmp_path / "tiny.bw").exists()


def test_int8_by_name_needs_images(material: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give --calibration"):
        ship(settings_of(material, tmp_path, precision="int8", calibration=()))


def test_without_calibration_there_is_nothing_to_choose_on_a_processor(
    material: dict[str, Path], tmp_path: Path
) -> None:
    settings = settings_of(material, tmp_path, calibration=())
    assert settings.fixed_precision == "fp32"
    assert settings_of(material, tmp_path).fixed_precision is None
    assert settings_of(material, tmp_path, precision="fp32").fixed_precision == "fp32"


def test_the_command_repeats_it(material: dict[str, Path], tmp_path: Path) -> None:
    command = settings_of(material, tmp_path).command()
    assert f"--calibration {material['calibration']}" in command


def test_without_labels_agreement_is_measured(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxwright.quantize.objective import AgreementObjective

    seen: list[int] = []
    monkeypatch.setattr(AgreementObjective, "__init__", _stand_in(seen))
    monkeypatch.setattr(AgreementObjective, "measure", lambda *_, **__: 100.0)
    chosen(monkeypatch, "int8", "INT8 is the fastest")
    result = ship(settings_of(material, tmp_path, annotations=None, budgets=Budgets()))
    assert seen == [5]
    assert result.summary["precision"] == "int8"
    kept = json.loads((tmp_path / "evidence" / "precision.json").read_text())
    assert kept["budget"]["max_drop"] == 5.0
    assert kept["budget"]["objective"].startswith("agreement with the float model")


def _stand_in(seen: list[int]) -> Any:
    def make(self: Any, model: Model, images: list[Path], *_: object) -> None:
        from boxwright.quantize.objective import _as_labels

        seen.append(len(images))
        self._paths = list(images)
        self._dataset = _as_labels(model, [], [])

    return make


def test_a_backend_of_several_precisions_is_asked_which_is_faster(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TensorRT, which has FP16 without any calibration."""
    settings = settings_of(material, tmp_path, calibration=())
    settings.__dict__["precisions"] = ("fp32", "fp16")
    assert settings.fixed_precision is None
    chosen(monkeypatch, "fp32", "FP32 is the fastest")
    result = ship(settings)
    assert [stage.name for stage in result.stages][1] == "precision"
    assert result.summary["precision_reason"] == "FP32 is the fastest"
    assert "How INT8 was decided" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("precision", "word"),
    [
        ("auto", "target onnxruntime builds no INT8 here, only fp32"),
        ("fp32", "precision fp32 was asked for"),
    ],
)
def test_images_to_calibrate_on_that_nothing_is_done_with_are_told(
    material: dict[str, Path], tmp_path: Path, precision: str, word: str
) -> None:
    settings = settings_of(material, tmp_path, precision=precision)
    settings.__dict__["precisions"] = ("fp32",)
    result = ship(settings)
    assert result.remarks == (f"--calibration had no effect: {word}",)
    assert word in (tmp_path / "report.html").read_text()
    without = settings_of(material, tmp_path, precision=precision, calibration=())
    assert without.remarks == []


def test_another_runtime_that_judges_is_another_choice(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates are measured by ONNX Runtime whatever the target is."""
    chosen(monkeypatch, "fp32", "INT8 is not faster")
    settings = settings_of(material, tmp_path)
    ship(settings)

    def key() -> str:
        return key_of(pipeline.make_stages(Work(settings, silent))[1].inputs())

    before = key()
    assert key() == before
    monkeypatch.setattr(pipeline, "canonical_key", lambda: {"onnxruntime": "another"})
    assert key() != before
