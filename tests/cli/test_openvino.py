"""The verbs on OpenVINO, from weights to evidence."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.material import write_darknet, write_image

if importlib.util.find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)


def _json(run: Run, *arguments: str | Path, code: int = 0) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_image(tmp_path / "photos" / "noise.png")
    return write_darknet(tmp_path)


def test_from_weights_to_evidence(run: Run, weights: Path) -> None:
    _json(run, "import", weights)
    options = ("--option", "inference_num_threads=1", "--option", "performance_hint=latency")
    built = _json(run, "build", "tiny.onnx", "--backend", "openvino", *options)
    assert built["options"] == {"inference_num_threads": 1, "performance_hint": "latency"}
    found = _json(run, "detect", "tiny.bw", "photos", "--score", "0.01")
    assert found["summary"]["detections"] > 0
    other = _json(run, "detect", "tiny.bw", "photos", "--score", "0.01", "--backend", "onnxruntime")
    assert other["summary"]["detections"] == found["summary"]["detections"]
    verified = _json(run, "verify", "tiny.bw", "--images", "photos")
    assert verified["ok"] is True
    content = _json(run, "inspect", "tiny.bw")
    assert content["plans"][0]["fits"] is True
    assert content["receipt"]["openvino"]["runs"]["inference_num_threads"] == 1
    quick = ("--images", "photos", "--batch", "1,3", "--rounds", "4", "--seconds", "0")
    peers = ("--against", "bare", "--against", "onnxruntime")
    measured = _json(run, "bench", "tiny.bw", *peers, *quick, "--threads", "2")
    who = [(p["kind"], p["backend"].split()[0], p["threads"]) for p in measured["participants"]]
    assert who == [("engine", "openvino", 2), ("bare", "openvino", 2), ("model", "onnxruntime", 2)]
    agreements = [p["agreement"] for p in measured["participants"] if p["agreement"]]
    assert [a["agrees"] for a in agreements] == [True, True], agreements


def test_ship_builds_for_openvino(run: Run, weights: Path) -> None:
    done = run("ship", weights, "--images", "photos", "--target", "openvino", "-o", "out")
    assert done.exit_code == 0, done.output
    receipt = _json(run, "inspect", "out/tiny.bw")["receipt"]
    assert receipt["build"]["backend"] == "openvino"
    assert "speed" in receipt


def test_ship_says_at_once_where_it_cannot_work(
    run: Run, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "boxwright.backends.openvino.OpenVinoBackend.unavailable", lambda _: "no such library"
    )
    done = run("ship", weights, "--images", "photos", "--target", "openvino", "-o", "out")
    assert done.exit_code == 1
    assert done.stderr == "error: target openvino cannot work here: no such library\n"
    assert not Path("out").exists()


def test_a_setting_it_does_not_have_is_one_line(run: Run, weights: Path) -> None:
    _json(run, "import", weights)
    bad = ("--option", "inference_precision=fp8")
    done = run("build", "tiny.onnx", "--backend", "openvino", *bad)
    assert done.exit_code == 1
    assert done.stderr == "error: inference_precision must be 'f32' or 'bf16', got 'fp8'\n"
