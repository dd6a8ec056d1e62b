"""``boxwright inspect --precision fp16``: what would stay in float32, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boxwright.graph.precision import to_half
from tests.cli.conftest import Run
from tests.models import make_model

USAGE = 2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    make_model().save(path)
    return path


def test_json_has_every_node(run: Run, model: Path) -> None:
    done = run("inspect", model, "--precision", "fp16", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    _, report = to_half(make_model())
    assert found["precision"] == "fp16"
    assert found["converted"] == report.converted
    assert [part["count"] for part in found["kept"].values()] == [
        len(part["nodes"]) for part in found["kept"].values()
    ]
    named = {item["node"] for part in found["kept"].values() for item in part["nodes"]}
    assert named == {item.node for item in report.kept}


def test_people_see_a_table(run: Run, model: Path) -> None:
    before = model.read_bytes()
    done = run("inspect", model, "--precision", "fp16")
    assert done.exit_code == 0, done.output
    assert "Kept in float32" in done.stdout
    assert "after the last convolution" in done.stdout
    assert "opset" in done.stdout
    assert model.read_bytes() == before


def test_more_can_be_kept(run: Run, model: Path) -> None:
    done = run("inspect", model, "--precision", "fp16", "--keep", "node/conv_3", "--json")
    found = json.loads(done.stdout)
    assert [item["node"] for item in found["kept"]["asked"]["nodes"]] == ["node/conv_3"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep", "decode/"], "give --precision fp16"),
        (["--precision", "fp16", "--layers"], "leave --layers, --for away"),
        (["--precision", "fp16", "--for", "tensorrt"], "leave --layers, --for away"),
        (["--precision", "fp8"], "fp16"),
    ],
)
def test_what_does_not_go_together(run: Run, model: Path, options: list[str], words: str) -> None:
    done = run("inspect", model, *options)
    assert done.exit_code == USAGE
    assert words in done.output


def test_a_file_that_is_no_model(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"not a model")
    done = run("inspect", path, "--precision", "fp16")
    assert done.exit_code == 1
    assert "Traceback" not in done.output
