"""``ship`` and ``report`` as users call them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import click
import pytest

from boxwright.importers import import_model
from boxwright.model import Model
from boxwright.ship import settings as ship_settings
from tests.cli.conftest import Run
from tests.importers.exports import yolov8
from tests.ship.material import write_material


@pytest.fixture
def material(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    # A benchmark of seconds proves nothing here.
    original = ship_settings.ShipSettings

    def quick(**values: Any) -> ship_settings.ShipSettings:
        return original(**{**values, "bench_seconds": 0.05, "batches": (1,)})

    monkeypatch.setattr(ship_settings, "ShipSettings", quick)
    return write_material(tmp_path / "material")


def _arguments(material: dict[str, Path], *more: str) -> list[str]:
    names = str(material["weights"].with_suffix(".names"))
    return ["ship", str(material["weights"]), names, "--images", str(material["images"]), *more]


def test_ship_ends_with_a_summary(run: Run, material: dict[str, Path]) -> None:
    done = run(*_arguments(material, "--annotations", str(material["labels"]), "-o", "out"))
    assert done.exit_code == 0, done.output
    for piece in ("Proven", "AP", "latency p90", "images/s", "Agrees with itself", "report.html"):
        assert piece in done.stdout
    assert done.stderr.splitlines()[:3] == ["import", "build", "verify"]
    again = run(*_arguments(material, "--annotations", str(material["labels"]), "-o", "out"))
    assert "8 stages were done before" in again.stdout
    assert again.stderr == ""


def test_without_labels_agreement_is_said(run: Run, material: dict[str, Path]) -> None:
    done = run(*_arguments(material, "-o", "out"))
    assert "detections that agree (no labels)" in done.stdout
    assert "OpenCV" not in done.stdout
    second = run(*_arguments(material, "--second-opinion", "-o", "out"))
    assert second.stderr.splitlines()[0] == "verify: again, because second opinion changed"
    assert "OpenCV" in second.stdout


def test_missed_budgets_are_3_and_all_are_named(run: Run, material: dict[str, Path]) -> None:
    budgets = ("--min-fps", "1e9", "--max-latency", "1e-6", "-o", "out")
    done = run(*_arguments(material, *budgets))
    assert done.exit_code == 3
    assert "NOT proven" in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last == "not met: Budget min-fps, Budget max-latency: exit code 3"
    as_json = run(*_arguments(material, *budgets), "--json")
    assert as_json.exit_code == 3
    content = json.loads(as_json.stdout)
    assert content["ok"] is False
    assert [budget["ok"] for budget in content["budgets"]] == [False, False]
    # Only the page names the budgets, so nothing is measured for one that is looser.
    loose = run(*_arguments(material, "--min-fps", "0.001", "-o", "out"))
    assert loose.exit_code == 0
    assert loose.stderr == "report: again, because budgets, command changed\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--target", "onnxruntime", "--precision", "fp16"),
            "error: target onnxruntime does not build precision fp16 here",
        ),
        (
            ("--target", "onnxruntime", "--precision", "int8"),
            "error: INT8 needs images to calibrate on",
        ),
        (("--target", "tensorrt"), "error: target tensorrt cannot work here"),
        (("--max-drop", "1"), "error: a drop of AP can only be measured on labelled images"),
    ],
)
def test_what_is_not_there_is_one_line(
    more: tuple[str, ...], message: str, run: Run, material: dict[str, Path]
) -> None:
    done = run(*_arguments(material, *more, "-o", "out"))
    assert done.exit_code == 1
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert not Path("out").exists()


def test_restart_is_passed_on(run: Run, material: dict[str, Path]) -> None:
    run(*_arguments(material, "-o", "out"))
    done = run(*_arguments(material, "--restart", "-o", "out"))
    assert done.stderr.split() == ["import", "build", "verify", "bench", "report"]


def test_head_and_options_reach_the_import(run: Run, material: dict[str, Path]) -> None:
    net = yolov8().save(Path("net.onnx"))
    images = ("--images", str(material["images"]), "-o", "out")
    done = run("ship", net, *images, "--option", "pad_value=7", "--head", "yolov8")
    assert done.exit_code == 0, done.output
    assert Model.load("out/net.onnx").card.pad_value == 7
    page = Path("out/report.html").read_text()
    assert "--head yolov8 --option pad_value=7" in page
    again = run("ship", net, *images, "--option", "pad_value=8", "--head", "yolov8")
    assert again.stderr.splitlines()[0] == "import: again, because import options changed"
    assert Model.load("out/net.onnx").card.pad_value == 8


@pytest.mark.parametrize(
    "arguments",
    [
        ("--head", "yolo8"),
        ("--option", "colour=red"),
        ("--option", "channels"),
        ("--option", "scale=1", "--option", "scale=2"),
    ],
)
def test_ship_refuses_them_as_import_does(
    arguments: tuple[str, ...], run: Run, material: dict[str, Path]
) -> None:
    net = yolov8().save(Path("net.onnx"))
    alone = run("import", net, "-o", "own.onnx", *arguments)
    shipped = run("ship", net, "--images", str(material["images"]), "-o", "out", *arguments)
    assert shipped.exit_code == alone.exit_code != 0
    assert shipped.stderr.splitlines()[-1] == alone.stderr.splitlines()[-1]


def test_import_and_ship_take_the_same_about_weights() -> None:
    from boxwright.cli.import_ import command as importing
    from boxwright.cli.ship import command as shipping

    def described(command: click.Command) -> dict[str, object]:
        return {str(p.name): p.to_info_dict() for p in command.params}

    one, other = described(importing), described(shipping)
    arguments = set(inspect.signature(import_model).parameters) - {"weights", "progress", "format"}
    for name in {*arguments, "format_"}:
        assert one[name] == other[name], name


def test_a_report_of_an_engine_alone(run: Run, material: dict[str, Path]) -> None:
    run(*_arguments(material, "-o", "out"))
    done = run("report", "out/tiny.bw")
    assert done.exit_code == 0, done.output
    assert "Agrees with itself" in done.stdout
    page = Path("tiny.html").read_text()
    assert "All 2 checks passed" in page
    content = json.loads(run("report", "out/tiny.bw", "-o", "b.html", "--json").stdout)
    assert content["output"] == "b.html"
    assert content["ok"] is True
    assert Path("b.html").stat().st_size == content["bytes"]


def test_a_report_of_no_engine_is_one_line(run: Run) -> None:
    Path("a.bw").write_text("no engine")
    done = run("report", "a.bw")
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
