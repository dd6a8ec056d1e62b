"""``boxwright import`` of files that others exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from boxwright.importers.onnx import OnnxImporter
from boxwright.importers.registry import Check, Verification
from boxwright.model import Model
from tests.cli.conftest import Run
from tests.importers.exports import yolov8


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return yolov8().save(tmp_path / "net.onnx")


def test_verified_in_json_and_in_text(run: Run, net: Path) -> None:
    done = run("import", net, "-o", "own.onnx", "--verify", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["verified"]["passed"] is True
    assert {"boxes", "scores"} <= {check["name"] for check in content["verified"]["checks"]}
    assert content["card"]["family"] == "yolov8"
    text = run("import", net, "-o", "own.onnx", "--verify", "--option", "pad_value=0")
    assert "told by" in text.stdout
    assert "verified" in text.stdout
    assert Model.load("own.onnx").card.pad_value == 0


def test_what_fails_its_verification_is_not_written(
    run: Run, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(self: Any, request: Any, model: Any) -> Verification:
        return Verification("its source", (Check("boxes", 7.0, 0.05, "pixels"),))

    monkeypatch.setattr(OnnxImporter, "verify", verify)
    done = run("import", net, "-o", "own.onnx", "--verify")
    assert done.exit_code == 1
    assert "boxes differs by 7" in done.output
    assert not Path("own.onnx").exists()


def test_simplified(run: Run, net: Path) -> None:
    pytest.importorskip("onnxslim")
    done = run("import", net, "-o", "own.onnx", "--simplify", "--json")
    assert done.exit_code == 0, done.output
    names = [item["name"] for item in json.loads(done.stdout)["card"]["transforms"]]
    assert names == ["import:onnx", "simplify"]
    assert "nodes, now" in run("import", net, "-o", "own.onnx", "--simplify").stdout


def test_faults_are_the_users(run: Run, net: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("--head", "yolo8"), "did you mean 'yolov8'"),
        (("--option", "chanels=bgr"), "did you mean 'channels'"),
        (("--format", "caffee"), "unknown format"),
        (("-o", net), "would destroy it"),
    ):
        done = run("import", net, *(arguments if "-o" in arguments else ("-o", "x", *arguments)))
        assert done.exit_code == 1, done.output
        assert message in done.output
    assert run("import", net, "-o", "x", "--option", "nonsense").exit_code == 2
    twice = run("import", net, "-o", "x", "--option", "scale=1", "--option", "scale=2")
    assert twice.exit_code == 2
