"""The doctor finds what each graph of the zoo is there for, and nothing in sound ones."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import boxwright
from boxwright.graph.diagnose import diagnose, is_accepted
from boxwright.graph.legalise import ORDER, PASSES
from boxwright.graph.rules import RULES
from boxwright.graph.targets import COLUMNS, Target, known_targets
from tests.graph import zoo
from tests.models import make_model

CASES = zoo.cases()
TARGETS = known_targets()

# One target for every column: together they say everything that the table can say.
_BY_COLUMN = {target.column: target for target in TARGETS}


def _codes(proto: onnx.ModelProto) -> set[str]:
    return {f.code for target in TARGETS for f in diagnose(proto, target)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_a_graph_is_there_for_is_found(case: zoo.Case) -> None:
    if case.code:
        assert case.code in _codes(case.make())


@pytest.mark.parametrize("case", [c for c in CASES if not c.code], ids=lambda case: case.name)
@pytest.mark.parametrize("target", _BY_COLUMN.values(), ids=lambda target: target.name)
def test_sound_graphs_are_accepted(case: zoo.Case, target: Target) -> None:
    assert is_accepted(diagnose(case.make(), target)), case.name


def test_every_rule_has_a_graph() -> None:
    seen = {code for case in CASES for code in _codes(case.make())}
    assert set(RULES) - seen == set()


def test_every_column_of_the_table_is_a_targets() -> None:
    assert set(_BY_COLUMN) == set(COLUMNS)


def test_every_cure_is_a_pass_and_every_error_says_what_to_do() -> None:
    assert set(ORDER) == set(PASSES)
    for rule in RULES.values():
        assert rule.cure is None or rule.cure in PASSES, rule.code
        errors = [v for v in rule.verdicts.values() if v.severity == "error"]
        assert not errors or rule.cure or rule.advice, rule.code


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_our_own_models_are_clean(target: Target) -> None:
    findings = diagnose(make_model().proto, target)
    assert {finding.severity for finding in findings} <= {"note"}


def test_an_imported_detector_is_clean_for_every_target(fixtures_dir: Path) -> None:
    weights = fixtures_dir / "darknet" / "yolov4-tiny" / "yolov4-tiny.weights"
    model = boxwright.import_model(weights)
    for target in TARGETS:
        findings = diagnose(model.proto, target)
        assert {finding.severity for finding in findings} <= {"note"}, target.name


def test_a_diagnosis_changes_nothing_and_is_the_same_twice() -> None:
    for case in CASES:
        proto = case.make()
        before = copy.deepcopy(proto)
        assert diagnose(proto, TARGETS[0]) == diagnose(proto, TARGETS[0])
        assert proto == before, case.name


@pytest.mark.parametrize(
    "text",
    [
        "g (float[1,9] x) => (int64[1,2] i) <int64[1] k = {2}> { v, i = TopK(x, k) }",
        "g (float[1,4] x) => (float[1,2] i) { v, i = Split<axis=1>(x) }",
    ],
)
def test_outputs_that_must_be_there_and_have_no_name_are_faults(text: str) -> None:
    proto = zoo.model(text)
    assert is_accepted(diagnose(proto, _BY_COLUMN["rtx"]))
    proto.graph.node[0].output[0] = ""
    found = {f.code: f for f in diagnose(proto, _BY_COLUMN["rtx"])}
    assert "its output 0 has no name" in found["malformed"].what


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([-1, 0, 0], np.int64),  # not two for each axis
        (-1, np.int64),  # not a list
        ([-1.5, -1.0], np.float32),
        ([[-1, 0], [0, 0]], np.int64),
    ],
)
def test_numbers_that_do_not_fit_have_no_cure(values: object, kind: type) -> None:
    target = _BY_COLUMN["8.6"]
    tensor = numpy_helper.from_array(np.array(values, kind), "p")
    pad = zoo.model("g (float[1,4] x) => (float[a,b] y) { y = Pad(x, p) }")
    pad.graph.initializer.append(tensor)
    resize = zoo.model(
        "g (float[1,4] x) => (float[a,b] y) "
        '{ y = Resize<mode="nearest", keep_aspect_ratio_policy="not_larger">(x, , , p) }',
        18,
    )
    resize.graph.initializer.append(tensor)
    for proto, code in ((pad, "pad-negative"), (resize, "resize-aspect")):
        found = {f.code: f for f in diagnose(proto, target)}
        assert found[code].cure is None


def test_errors_come_first_and_name_their_node() -> None:
    proto = zoo.model(
        "g (float[1,4,8,8] x) => (float[1,4,8,8] y) "
        "{ a = Identity(x) y = MaxPool<kernel_shape=[3,3], dilations=[2,2], pads=[2,2,2,2]>(a) }"
    )
    proto.graph.node[1].name = "wide"
    findings = diagnose(proto, _BY_COLUMN["rtx"])
    assert [f.severity for f in findings] == ["error", "note"]
    worst = findings[0]
    assert (worst.node, worst.operator, worst.code) == ("wide", "MaxPool", "pool-dilation")
    assert (worst.stage, worst.cure) == ("parse", "pool-dilation")
    assert "dilations [2, 2]" in worst.what


def test_a_cure_is_named_only_where_it_applies() -> None:
    text = "g (float[1,4,8,8] x) => (float[1,4,h,w] y) { %s }"
    pool = "y = MaxPool<kernel_shape=[3,3], dilations=[2,2]%s>(x)"
    for more, cure in (("", "pool-dilation"), (", ceil_mode=1", None)):
        findings = diagnose(zoo.model(text % (pool % more)), _BY_COLUMN["rtx"])
        assert findings[0].cure == cure
        assert bool(findings[0].advice) == (cure is None)


def test_findings_inside_of_branches_count_but_are_not_cured() -> None:
    proto = zoo.model(
        "g (float[1,4,8,8] x, bool c) => (float[1,4,h,w] y) { y = If(c) <"
        "then_branch = t () => (float[1,4,h,w] a) "
        "{ a = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(x) }, "
        "else_branch = e () => (float[1,4,8,8] b) { b = Relu(x) }> }"
    )
    found = {f.code: f for f in diagnose(proto, _BY_COLUMN["rtx"])}
    assert found["pool-dilation"].severity == "error"
    assert found["pool-dilation"].cure is None


def test_files_outside_of_the_folder_are_not_looked_for(tmp_path: Path) -> None:
    inside = next(case for case in CASES if case.name == "external data").make()
    target = _BY_COLUMN["onnxruntime"]
    folder = tmp_path / "model"
    folder.mkdir()
    assert not is_accepted(diagnose(inside, target, folder))
    (folder / "weights.bin").write_bytes(bytes(16))
    assert is_accepted(diagnose(inside, target, folder))
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    inside.graph.initializer[0].external_data[0].value = "../weights.bin"
    found = diagnose(inside, target, folder)
    assert [f.what for f in found if f.code == "external-missing"] == [
        "no file '../weights.bin' within the model's folder"
    ]


def test_int64_ends_of_a_slice_are_harmless_and_other_large_values_are_not() -> None:
    target = _BY_COLUMN["8.6"]
    proto = zoo.model("g (int64[4] x) => (int64[4] y) { y = Add(x, c) }")
    for value, refused in (
        (2**31 - 1, False),
        (2**31, True),
        (-(2**31), False),
        (-(2**31) - 1, True),
    ):
        del proto.graph.initializer[:]
        proto.graph.initializer.append(numpy_helper.from_array(np.array([value]), "c"))
        assert is_accepted(diagnose(proto, target)) != bool(refused), value
