"""The doctor's verdicts against the runtimes themselves, where they can run here.

TensorRT-RTX parses and builds without a GPU, as long as it is told for which one.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest

import boxwright
from boxwright.extras import import_onnxruntime
from boxwright.graph.diagnose import diagnose, is_accepted
from boxwright.graph.legalise import legalise
from boxwright.graph.targets import Target, find_target
from tests.graph import zoo

CASES = zoo.cases()

# Not asked, because the answer is none.
_EXCLUDED = {
    ("slice input axes", "openvino"): "OpenVINO 2026.4 ends the process, about every second time",
    ("convolution without weights", "openvino"): "OpenVINO 2026.4 reads the input that is missing",
}

Answer = str  # "accepted", "refused while parsing", "refused while building"


@cache
def _rtx() -> Any:
    """The module and a builder; made once, for that takes a while."""
    trt = pytest.importorskip("tensorrt_rtx")
    return trt, trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))


def _ask_rtx(proto: onnx.ModelProto) -> Answer:
    trt, builder = _rtx()
    truth = importlib.import_module("benchmarks.graph_doctor_truth")
    log = type("Log", (), {"lines": []})()
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR))
    if not parser.parse(proto.SerializeToString()):
        return "refused while parsing"
    answer = truth.build(trt, builder, network, log)
    return "accepted" if answer == "ok" else "refused while building"


def _ask_onnxruntime(proto: onnx.ModelProto) -> Answer:
    runtime = import_onnxruntime()
    try:
        runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:  # its exceptions share no base but Exception
        return "refused while parsing"
    return "accepted"


_OPENVINO = """
import json, sys
import openvino
core = openvino.Core()
for line in sys.stdin:
    try:
        model = core.read_model(bytes.fromhex(line))
    except RuntimeError:
        answer = "refused while parsing"
    else:
        try:
            core.compile_model(model, "CPU")
            answer = "accepted"
        except RuntimeError:
            answer = "refused while building"
    print(json.dumps(answer), flush=True)
"""
_openvino: list[subprocess.Popen[str]] = []


def _ask_openvino(proto: onnx.ModelProto) -> Answer:
    """In a process of its own, which some graphs end."""
    pytest.importorskip("openvino")
    if not _openvino:
        command = [sys.executable, "-c", _OPENVINO]
        pipe = subprocess.PIPE
        _openvino.append(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        )
    process = _openvino[0]
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(proto.SerializeToString().hex() + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        _close_openvino()
        return "crashed"
    return str(json.loads(line))


def _close_openvino() -> None:
    while _openvino:
        process = _openvino.pop()
        process.kill()
        process.communicate()


@pytest.fixture(scope="module", autouse=True)
def _end_processes() -> Iterator[None]:
    yield
    _close_openvino()


_RUNTIMES: dict[str, Callable[[onnx.ModelProto], Answer]] = {
    "tensorrt-rtx": _ask_rtx,
    "onnxruntime": _ask_onnxruntime,
    "openvino": _ask_openvino,
}
_MODULES = {"tensorrt-rtx": "tensorrt_rtx", "onnxruntime": "onnxruntime", "openvino": "openvino"}


def _target_here(family: str) -> Target:
    """What is installed here, to be judged by the nearest version there is a judgement for."""
    version = str(pytest.importorskip(_MODULES[family]).__version__)
    return find_target(f"{family}@{'.'.join(version.split('-')[0].split('.')[:2])}")


def _ours(proto: onnx.ModelProto, target: Target) -> Answer:
    stages = {f.stage for f in diagnose(proto, target) if f.severity == "error"}
    if not stages:
        return "accepted"
    return "refused while parsing" if "parse" in stages else "refused while building"


@pytest.mark.parametrize("family", _RUNTIMES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_verdict_is_the_runtimes(case: zoo.Case, family: str) -> None:
    if reason := _EXCLUDED.get((case.name, family)):
        pytest.skip(reason)
    target = _target_here(family)
    proto = case.make()
    assert _ours(proto, target) == _RUNTIMES[family](proto)


@pytest.mark.parametrize("family", _RUNTIMES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_cured_graph_is_accepted_if_the_doctor_says_so(case: zoo.Case, family: str) -> None:
    target = _target_here(family)
    cured, reports = legalise(case.make(), target, tidy=True, size=(8, 8), batch=1)
    if reports and (case.name, family) not in _EXCLUDED:
        assert _ours(cured, target) == _RUNTIMES[family](cured)


# What runtimes said that cannot be run here, as benchmarks/graph_doctor_truth.py wrote it.
_COMMITTED = {"tensorrt@8.6": "graph_doctor_tensorrt_8_6.md"}


@pytest.mark.parametrize(("name", "file"), _COMMITTED.items())
def test_the_verdict_is_that_of_the_committed_run(name: str, file: str) -> None:
    truth = importlib.import_module("benchmarks.graph_doctor_truth")
    path = Path(str(truth.__file__)).with_name("results") / file
    if not path.is_file():
        pytest.skip(f"no {path.name} was committed")
    said = _rows(path.read_text(encoding="utf-8"))
    assert len(said) >= 177
    ours = {g.label: g.expected(build=False) for g in truth.graphs_for(find_target(name))}
    # Graphs of the zoo that are newer than the run were not asked about.
    differ = {label for label in said if label in ours and said[label] != ours[label]}
    assert differ == set()


def _rows(text: str) -> dict[str, Answer]:
    """What the runtime did with each graph, from the tables of a committed run."""
    tables = text.partition("## As they are")[2].partition("## Operators")[0]
    rows = [[cell.strip() for cell in line.split("|")] for line in tables.splitlines()]
    return {row[2]: row[4] for row in rows if len(row) > 6 and row[2] not in ("graph", "---")}


def test_the_table_of_operators_is_the_parsers() -> None:
    trt, builder = _rtx()
    parser = trt.OnnxParser(builder.create_network(0), trt.Logger(trt.Logger.INTERNAL_ERROR))
    ours = _target_here("tensorrt-rtx").known_operators
    assert ours is not None
    schemas = onnx.defs.get_all_schemas()
    names = {schema.name for schema in schemas if not schema.domain}
    theirs = {name for name in names if parser.supports_operator(name)}
    # Known by name, and refused for a plugin that is not there: findings of their own.
    assert theirs - ours <= {"NonZero", "RoiAlign"}
    assert (ours & names) <= theirs


def test_something_is_cured_for_each_runtime() -> None:
    """So that the test above is not passed by curing nothing."""
    for family in _RUNTIMES:
        target = _target_here(family)
        cured = 0
        for case in CASES:
            proto, _ = legalise(case.make(), target)
            refused = not is_accepted(diagnose(case.make(), target))
            cured += refused and is_accepted(diagnose(proto, target))
        assert cured >= {"tensorrt-rtx": 14, "onnxruntime": 4, "openvino": 4}[family]


def _real_models(folder: Path) -> Iterator[tuple[str, onnx.ModelProto]]:
    for path in sorted((folder / "onnx").glob("*.onnx")):
        yield path.name, onnx.load(path)
    weights = folder / "darknet" / "yolov4-tiny" / "yolov4-tiny.weights"
    yield weights.name, boxwright.import_model(weights).proto


@pytest.mark.parametrize("family", _RUNTIMES)
def test_real_detectors_are_accepted_by_both_as_they_are_and_cured(
    family: str, fixtures_dir: Path
) -> None:
    target = _target_here(family)
    for name, proto in _real_models(fixtures_dir):
        cured, _ = legalise(proto, target, tidy=True)
        for graph in (proto, cured):
            assert _ours(graph, target) == "accepted", name
            assert _RUNTIMES[family](graph) == "accepted", name
