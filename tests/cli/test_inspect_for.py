"""``boxwright inspect --for``: any ONNX file, its findings, the cured graph, the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import boxwright
from boxwright.graph.compare import compare
from tests.cli.conftest import Run
from tests.cli.material import write_darknet
from tests.graph import zoo
from tests.models import make_model

CASES = {case.name: case for case in zoo.cases()}
REFUSED, ACCEPTED, USAGE = 3, 0, 2


def _write(name: str, path: Path) -> Path:
    onnx.save(CASES[name].make(), path)
    return path


def _json(run: Run, code: int, *arguments: str | Path) -> Any:
    done = run("inspect", *arguments, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_a_graph_that_is_refused(run: Run, tmp_path: Path) -> None:
    path = _write("mish", tmp_path / "theirs.onnx")
    found = _json(run, REFUSED, path, "--for", "tensorrt@8.6")
    assert found["target"] == "tensorrt@8.6"
    assert found["accepted"] is False
    assert found["sources"]
    first = found["findings"][0]
    assert (first["severity"], first["code"]) == ("error", "operator-decomposed")
    assert (first["operator"], first["cure"]) == ("Mish", "decompose")
    shown = run("inspect", path, "--for", "tensorrt@8.6")
    assert shown.exit_code == REFUSED
    assert "refused (1 error, 1 warning)" in shown.stdout
    assert "cure: decompose" in shown.stdout
    assert "--cured OUT.onnx" in shown.stdout
    # Another target takes it as it is.
    assert _json(run, ACCEPTED, path, "--for", "onnxruntime")["findings"] == []


def test_the_cured_graph_is_accepted_and_computes_the_same(run: Run, tmp_path: Path) -> None:
    path = _write("mish", tmp_path / "theirs.onnx")
    found = _json(run, ACCEPTED, path, "--for", "tensorrt@8.6", "--cured", "cured.onnx")
    assert found["accepted"] is False
    cured = found["cured"]
    assert cured["accepted"] is True
    assert [step["name"] for step in cured["passes"]] == ["decompose", "opset"]
    assert 0 <= cured["difference"] <= 1e-5
    assert all(step["difference"] is not None for step in cured["passes"])
    difference = compare(onnx.load(path), onnx.load("cured.onnx")).difference
    assert difference == cured["difference"]
    assert _json(run, ACCEPTED, "cured.onnx", "--for", "tensorrt@8.6")["accepted"] is True
    shown = run("inspect", path, "--for", "tensorrt@8.6", "--cured", "cured.onnx")
    assert "decompose" in shown.stdout
    assert "compared with the original" in shown.stdout


def test_what_cannot_be_compared_is_said(run: Run, tmp_path: Path) -> None:
    path = _write("upsample 11", tmp_path / "old.onnx")
    shown = run("inspect", path, "--for", "onnxruntime", "--cured", "cured.onnx")
    assert shown.exit_code == ACCEPTED, shown.output
    assert "not compared: ONNX Runtime cannot run the original" in shown.stdout


def test_what_has_no_cure_stays_refused(run: Run, tmp_path: Path) -> None:
    path = _write("top k 5000", tmp_path / "many.onnx")
    found = _json(run, REFUSED, path, "--for", "tensorrt-rtx", "--cured", "cured.onnx")
    assert found["cured"]["accepted"] is False
    assert found["findings"][0]["advice"]
    assert Path("cured.onnx").exists()


def test_free_sides_are_fixed(run: Run, tmp_path: Path) -> None:
    path = _write("dynamic sides", tmp_path / "free.onnx")
    options = ("--for", "tensorrt", "--cured", "cured.onnx", "--size", "32x48", "--batch", "2")
    found = _json(run, ACCEPTED, path, *options)
    assert found["cured"]["difference"] == 0
    shape = onnx.load("cured.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [extent.dim_value for extent in shape] == [2, 3, 32, 48]


def test_notes_are_cured_when_asked_for(run: Run, tmp_path: Path) -> None:
    path = _write("identity and dropout", tmp_path / "idle.onnx")
    for more, nodes in (((), 4), (("--tidy",), 1)):
        _json(run, ACCEPTED, path, "--for", "openvino", "--cured", "cured.onnx", *more)
        assert len(onnx.load("cured.onnx").graph.node) == nodes


def test_engines_and_weights_are_judged_by_the_model_in_them(run: Run, tmp_path: Path) -> None:
    weights = write_darknet(tmp_path)
    boxwright.build(boxwright.import_model(weights), output=tmp_path / "tiny.bw")
    for path in (weights, tmp_path / "tiny.cfg", tmp_path / "tiny.bw"):
        assert _json(run, ACCEPTED, path, "--for", "tensorrt@8.6")["accepted"] is True


def test_a_cured_model_keeps_its_card(run: Run, tmp_path: Path) -> None:
    make_model().save(tmp_path / "ours.onnx")
    options = ("--for", "tensorrt@8.6", "--cured", "cured.onnx", "--tidy")
    _json(run, ACCEPTED, tmp_path / "ours.onnx", *options)
    assert boxwright.Model.load("cured.onnx").card == make_model().card


@pytest.mark.parametrize("name", ["external data", "custom domain", "sequence", "string"])
def test_odd_files_get_a_verdict_for_every_target(run: Run, tmp_path: Path, name: str) -> None:
    path = _write(name, tmp_path / "odd.onnx")
    for target in ("tensorrt@8.6", "tensorrt@10", "tensorrt-rtx", "onnxruntime", "openvino"):
        assert run("inspect", path, "--for", target).exit_code in (ACCEPTED, REFUSED)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--for", "tensorflow"), 1, "did you mean 'tensorrt'"),
        (("--for", "tensorrt@7"), 1, "the oldest tensorrt to be judged for"),
        (("--cured", "cured.onnx"), USAGE, "need a runtime"),
        (("--size", "32"), USAGE, "need a runtime"),
        (("--for", "tensorrt", "--tidy"), USAGE, "give --cured"),
        (("--for", "tensorrt", "--layers"), USAGE, "leave --for away"),
        (("--for", "tensorrt", "--cured", "theirs.onnx"), 1, "would be read"),
    ],
)
def test_what_does_not_go_together(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    before = _write("mish", tmp_path / "theirs.onnx").read_bytes()
    done = run("inspect", "theirs.onnx", *arguments)
    assert done.exit_code == code, done.output
    assert said in done.output
    assert Path("theirs.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        (b"", "no nodes"),
        (b"not ONNX", "cannot be parsed"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no nodes"),
    ],
)
def test_what_is_no_graph_is_refused_in_one_line(
    run: Run, tmp_path: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "bad.onnx").write_bytes(content)
    done = run("inspect", "bad.onnx", "--for", "tensorrt")
    assert done.exit_code == 1
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not Path("cured.onnx").exists()
