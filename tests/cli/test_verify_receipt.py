"""What ``verify`` keeps in an engine, and what it says when asked again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from boxwright.backends.runner import CheckedRunner
from boxwright.engine import Engine
from tests.cli.conftest import Run
from tests.cli.material import write_darknet, write_image

Outputs = dict[str, NDArray[Any]]


@pytest.fixture
def engine(run: Run, tmp_path: Path) -> Path:
    weights = write_darknet(tmp_path)
    for number in range(3):
        write_image(tmp_path / "photos" / f"{number}.png", seed=number)
    assert run("import", weights, "-o", "tiny.onnx").exit_code == 0
    assert run("build", "tiny.onnx", "-o", "tiny.bw").exit_code == 0
    return tmp_path / "tiny.bw"


def test_the_evidence_goes_into_the_engine(run: Run, engine: Path) -> None:
    result = run("verify", engine, "--images", "photos", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "identical to the bit" in result.stdout
    assert "written into the engine's receipt" in result.stdout
    receipt = Engine.open(engine).receipt
    assert receipt["verified"][0]["ok"]
    assert len(receipt["consistency"]) == 4
    assert receipt["measured"]["verified"]["command"].startswith("boxwright ")
    assert len(list((engine.parent / "out" / "worst").glob("*.jpg"))) == 6
    shown = run("inspect", engine)
    assert "Agrees with itself" in shown.stdout
    assert "here" in shown.stdout


def test_no_receipt_leaves_the_engine_as_it_was(run: Run, engine: Path) -> None:
    before = engine.read_bytes()
    assert run("verify", engine, "--images", "photos", "--no-receipt").exit_code == 0
    assert engine.read_bytes() == before


def test_again_says_the_same_and_writes_nothing(run: Run, engine: Path) -> None:
    nothing = run("verify", engine, "--images", "photos", "--again")
    assert nothing.exit_code == 1
    assert "nothing to verify again" in nothing.stderr
    run("verify", engine, "--images", "photos")
    before = engine.read_bytes()
    again = run("verify", engine, "--images", "photos", "--again")
    assert again.exit_code == 0, again.output
    assert "the receipt says the same" in again.stdout
    assert engine.read_bytes() == before
    write_image(engine.parent / "photos" / "0.png", seed=9)
    other = run("verify", engine, "--images", "photos", "--again")
    assert other.exit_code == 1
    assert "measured on other images" in other.stderr


def test_again_is_3_when_the_receipt_says_otherwise(run: Run, engine: Path) -> None:
    run("verify", engine, "--images", "photos")
    opened = Engine.open(engine)
    receipt = json.loads(json.dumps(opened.receipt))
    receipt["consistency"][0]["ok"] = False
    opened.with_receipt(receipt, engine)
    result = run("verify", engine, "--images", "photos", "--again")
    assert result.exit_code == 3
    assert "consistency[0].ok: False before, True now" in result.stdout
    assert "the receipt says otherwise" in result.stderr


def permuted(outputs: Outputs) -> None:
    for name in outputs:
        outputs[name] = outputs[name][::-1]


def swapped(outputs: Outputs) -> None:
    outputs["scores"] = outputs["scores"][..., ::-1]


def scaled(outputs: Outputs) -> None:
    outputs["boxes"] = outputs["boxes"] * np.float32(1.1)


def not_a_number(outputs: Outputs) -> None:
    outputs["scores"] = outputs["scores"].copy()
    outputs["scores"][0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (permuted, "DISAGREES WITH ITSELF"),
        (swapped, "outside tolerance"),
        (scaled, "outside tolerance (box corners)"),
        (not_a_number, "outside tolerance (NaN or infinite values in scores)"),
    ],
)
def test_a_broken_engine_is_told(
    run: Run,
    engine: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Outputs], None],
    said: str,
) -> None:
    """Only the engine's backend is broken; the reference runs on another one."""
    sound = CheckedRunner.infer

    def broken(self: CheckedRunner, feed: Mapping[str, NDArray[Any]]) -> Outputs:
        outputs = sound(self, feed)
        if "onnxruntime" in type(self).__module__:
            fault(outputs)
        return outputs

    monkeypatch.setattr(CheckedRunner, "infer", broken)
    result = run("verify", engine, "--images", "photos")
    assert result.exit_code == 3
    assert said in result.stderr


def test_max_drop_needs_labels(run: Run, engine: Path) -> None:
    result = run("verify", engine, "--images", "photos", "--max-drop", "1")
    assert result.exit_code == 2
    assert "--max-drop needs --annotations" in result.stderr
