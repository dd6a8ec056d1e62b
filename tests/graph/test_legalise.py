"""Every pass does what it says, says what it did, and changes nothing that is computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from boxwright.errors import InputError, ModelError, NotCurableError
from boxwright.graph.compare import compare
from boxwright.graph.diagnose import diagnose, is_accepted
from boxwright.graph.doctor import cure, read_graph, write_graph
from boxwright.graph.legalise import PASSES, legalise
from boxwright.graph.targets import find_target, known_targets
from tests.graph import zoo

CASES = {case.name: case for case in zoo.cases()}

# Which graphs of the zoo a pass is tried on; the rest come from the test of the targets.
TRIED: dict[str, tuple[str, ...]] = {
    "opset": ("opset 8", "opset 18", "opset 21", "pad 2", "softmax 12", "upsample 7", "pad axes"),
    "ir-version": ("IR version 12",),
    "inline": (),  # a test of its own, as it needs functions
    "embed": (),  # a test of its own, as it needs files
    "initializer-inputs": ("initializers as inputs",),
    "sort": ("not in order",),
    "names": ("odd names",),
    "outputs": (),  # what has no output cannot be run: a test of its own
    "empty-outputs": ("optional output left out", "max pool unused indices",
                      "empty indices"),
    "shapes": ("output without type",),
    "constant-if": ("if constant",),
    "fix-shapes": ("dynamic sides", "dynamic reshape"),
    "decompose": ("mish", "hard swish", "gelu", "gelu tanh", "swish 24", "quick gelu",
                  "microsoft gelu", "fused conv", "group normalization"),
    "upsample": ("upsample", "upsample linear", "upsample 7"),
    "scatter": ("scatter",),
    "resize-antialias": ("resize antialias off up",),
    "resize-coordinates": ("resize crop", "resize symmetric"),
    "resize-aspect": ("resize not larger", "resize not smaller"),
    "resize-axes": ("resize axes",),
    "pad-axes": ("pad axes",),
    "pad-negative": ("pad negative", "pad mixed signs"),
    "pad-wrap": ("pad wrap",),
    "pool-dilation": ("dilated max pool", "dilated max pool padded"),
    "einsum": ("einsum ellipsis",),
    "explicit-padding": ("conv auto pad", "conv auto pad lower", "average pool auto pad",
                         "conv transpose output shape"),
    "uint8": ("uint8 inside", "uint8 reshape"),
    "float-bias": ("dequantize int32",),
    "zero-points": ("quantize no zero point", "dequantize no zero point"),
    "signed-quantisation": ("quantize uint8 zero point",),
    "fake-quantisation": ("quantize zero point", "quantize uint8 zero point"),
    "double": ("double", "double inside"),
    "int32": ("int64 indices", "slice to the end", "gather negative"),
    "constants": ("constant node", "constant node ints", "constant node int"),
    "no-ops": ("identity and dropout",),
    "cast-chains": ("cast chain",),
    "batchnorm": ("conv then batch normalization",),
}  # fmt: skip

PARAMETERS: dict[tuple[str, str], dict[str, Any]] = {
    ("opset", "opset 18"): {"version": 17},
    ("opset", "opset 21"): {"version": 17},
    ("opset", "pad axes"): {"version": 17},
    ("fix-shapes", "dynamic sides"): {"size": (16, 24), "batch": 1},
    ("fix-shapes", "dynamic reshape"): {"size": (16, 24)},
}

# These cannot be done, and say so.
REFUSED = {
    ("opset", "pad axes"): "not|cannot|axes",
}


def _attempts() -> Iterator[tuple[str, str]]:
    for name, cases in TRIED.items():
        for case in cases:
            yield name, case


def test_every_pass_is_tried() -> None:
    assert set(TRIED) == set(PASSES)


@pytest.mark.parametrize(("name", "case"), list(_attempts()))
def test_a_pass_changes_nothing_that_is_computed(name: str, case: str) -> None:
    proto = CASES[case].make()
    before = copy.deepcopy(proto)
    parameters = PARAMETERS.get((name, case), {})
    if (name, case) in REFUSED:
        with pytest.raises(NotCurableError, match=REFUSED[name, case]):
            PASSES[name](proto, **parameters)
        return
    after, report = PASSES[name](proto, **parameters)
    assert proto == before, "a pass leaves what it is given as it is"
    assert report.name == name
    assert report.changes
    assert all(report.changes)
    for seed in range(3):
        measured = compare(proto, after, seed)
        assert measured.difference is not None, measured.reason
        assert measured.difference <= report.tolerance, measured
    if report.tolerance:
        assert report.reason
    # Once is enough: there is nothing left to do.
    again, second = PASSES[name](after, **parameters)
    assert second.changes == ()
    assert again is after


# One for every column of the table; versions within a column differ in numbers alone.
COLUMNS = {target.column: target for target in known_targets()}


@pytest.mark.parametrize("target", COLUMNS.values(), ids=lambda target: target.name)
def test_curing_for_a_target_changes_nothing_that_is_computed(target: Any) -> None:
    for case in CASES.values():
        proto = case.make()
        for tidy in (False, True):
            cured, reports = legalise(proto, target, tidy=tidy)
            measured = compare(proto, cured)
            allowed = sum(report.tolerance for report in reports)
            # Where the original cannot be run there is nothing to compare with.
            if measured.difference is None:
                reason = measured.reason or ""
                assert "the original" in reason or "no tensor" in reason, (case.name, measured)
            else:
                assert measured.difference <= allowed, (case.name, measured, reports)


def test_what_can_be_cured_is_cured() -> None:
    """A finding with a cure is gone after it, in every graph and for every target."""
    for target in COLUMNS.values():
        for case in CASES.values():
            proto = case.make()
            cured, _ = legalise(proto, target, size=(8, 8), batch=1)
            left = {f.code for f in diagnose(cured, target) if f.severity == "error" and f.cure}
            # A newer opset than the converter can take back keeps its warning, and says so.
            assert left <= {"opset-changed", "opset-new"}, (target.name, case.name, left)


def test_the_zoo_that_tensorrt_8_6_refuses_is_mostly_cured() -> None:
    target = find_target("tensorrt@8.6")
    refused = [c for c in CASES.values() if not is_accepted(diagnose(c.make(), target))]
    cured = [c.name for c in refused
             if is_accepted(diagnose(legalise(c.make(), target)[0], target))]  # fmt: skip
    assert {"mish", "gelu", "resize antialias off up", "dilated max pool", "opset 18"} <= set(cured)


def test_a_report_counts_the_operators_it_changed() -> None:
    _, report = PASSES["decompose"](CASES["mish"].make())
    assert report.before == {"Mish": 1}
    assert report.after == {"Mul": 1, "Tanh": 1, "Softplus": 1}
    assert report.to_json()["changes"] == ["Mish 'y': 3 nodes now: Softplus, Tanh, Mul"]


def test_upsample_of_a_newer_opset_is_that_of_its_own() -> None:
    """It cannot be run as it is, but it is the graph of opset 9 under another number."""
    cured, _ = PASSES["upsample"](CASES["upsample 11"].make())
    assert compare(CASES["upsample"].make(), cured).difference == 0


def test_missing_outputs_are_named() -> None:
    wanted = zoo.model("g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Relu(x) y = Neg(a) }")
    for name in ("no outputs", "output not produced"):
        cured, report = PASSES["outputs"](CASES[name].make())
        assert report.changes
        assert compare(wanted, cured).difference == 0


def test_two_missing_outputs_are_not_guessed() -> None:
    proto = CASES["output not produced"].make()
    extra = proto.graph.output.add()
    extra.CopyFrom(proto.graph.output[0])
    extra.name = "nowhere else"
    assert PASSES["outputs"](proto)[1].changes == ()
    found = diagnose(proto, find_target("onnxruntime"))
    assert all(f.cure is None and f.advice for f in found if f.code == "output-not-produced")


def test_functions_are_inlined() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 15, "my": 1]>'
        "g (float[2,4] x) => (float[2,4] y) { y = my.twice(x) }"
        '<opset_import: ["": 15], domain: "my"> twice (a) => (b) { b = Add(a, a) }'
    )
    target = find_target("tensorrt@8.6")
    assert "functions" in {f.code for f in diagnose(proto, target)}
    cured, report = PASSES["inline"](proto)
    assert report.changes == ("1 function(s) inlined",)
    assert [node.op_type for node in cured.graph.node] == ["Add"]
    assert compare(proto, cured).difference == 0


@pytest.fixture
def spread(tmp_path: Path) -> tuple[onnx.ModelProto, Path]:
    """A graph whose four weights are in a file, and the folder of that file."""
    proto = CASES["external data"].make()
    (tmp_path / "weights.bin").write_bytes(np.array([1, 2, 3, 4], np.float32).tobytes())
    return proto, tmp_path


def test_values_kept_elsewhere_are_read_in(spread: tuple[onnx.ModelProto, Path]) -> None:
    proto, folder = spread
    cured, _ = PASSES["embed"](proto, folder=folder)
    assert numpy_helper.to_array(cured.graph.initializer[0]).tolist() == [1, 2, 3, 4]
    findings = diagnose(cured, find_target("onnxruntime"))
    assert not {"external-data", "external-missing"} & {f.code for f in findings}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("location", "nowhere.bin", "cannot read"),
        ("location", "../weights.bin", "outside"),
        ("location", "/etc/passwd", "outside"),
        ("location", ".", "cannot read"),
        ("offset", "8", "too short"),
        ("offset", "-4", "needs 16 bytes"),
        ("offset", "first", "does not say"),
        ("length", "17", "needs 16 bytes"),
    ],
)
def test_values_are_read_from_the_folder_alone(
    spread: tuple[onnx.ModelProto, Path], key: str, value: str, said: str
) -> None:
    proto, folder = spread
    places = proto.graph.initializer[0].external_data
    for item in list(places):
        if item.key == key:
            places.remove(item)
    places.add(key=key, value=value)
    with pytest.raises(InputError, match=said):
        PASSES["embed"](proto, folder=folder)


def test_a_pass_that_changes_results_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from boxwright.graph.legalise import operators

    def wrong(chain: Any, node: Any, kind: Any) -> None:
        chain.op("Tanh", node.input[0], output=node.output[0])

    monkeypatch.setitem(operators._FORMULAS, ("", "Mish"), wrong)
    with pytest.raises(ModelError, match=r"the pass 'decompose' changes what .* computes"):
        cure(CASES["mish"].make(), find_target("tensorrt@8.6"))


def test_outputs_that_must_be_there_are_named_not_taken_off() -> None:
    proto = zoo.model("g (float[1,4] x) => (float[1,2] y) { y, z = Split<axis=1>(x) }")
    proto.graph.node[0].output[1] = ""
    cured, _ = PASSES["empty-outputs"](proto)
    assert len(cured.graph.node[0].output) == 2  # with one it would not split
    assert all(cured.graph.node[0].output)


def test_circles_cannot_be_sorted() -> None:
    proto = zoo.model("g (float[4] x) => (float[4] y) { a = Add(x, b) b = Relu(a) y = Neg(b) }")
    with pytest.raises(NotCurableError, match="circle"):
        PASSES["sort"](proto)


def test_a_body_keeps_its_own_names() -> None:
    """Renaming a tensor goes into bodies that read it, and stops where a name is hidden."""
    proto = zoo.model(
        "g (float[1,4] x, bool c) => (float[1,4] y) { a = Identity(x) y = If(c) <"
        "then_branch = t () => (float[1,4] p) { p = Relu(a) }, "
        "else_branch = e () => (float[1,4] q) { q = Neg(a) }> }"
    )
    cured, report = PASSES["no-ops"](proto)
    assert report.changes
    assert compare(proto, cured).difference == 0


def test_a_graph_is_written_whole_and_read_again(tmp_path: Path) -> None:
    proto = CASES["mish"].make()
    size = write_graph(proto, tmp_path / "mish.onnx")
    assert (tmp_path / "mish.onnx").stat().st_size == size
    assert read_graph(tmp_path / "mish.onnx") == proto
    assert [path.name for path in tmp_path.iterdir()] == ["mish.onnx"]


@pytest.mark.parametrize(("extent", "sizes"), [(6, None), (7, [3, 3, 1])])
def test_split_and_reductions_go_below_opset_18(extent: int, sizes: list[int] | None) -> None:
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 18]>
        g (float[N,{extent},4] x) => (float[N,1,1] a, float[N,1,4] b, float[N,C,4] c) {{
            axes = Constant<value = int64[2] {{1, 2}}>()
            one = Constant<value = int64[1] {{1}}>()
            p, q, c = Split<axis = 1, num_outputs = 3>(x)
            a = ReduceMean(p, axes)
            b = ReduceMax<keepdims = 1>(q, one)
        }}""")
    changed, report = PASSES["opset"](proto, version=17)
    assert report.changes
    assert changed.opset_import[0].version == 17
    onnx.checker.check_model(changed, full_check=True)
    assert compare(proto, changed).difference == 0
    split = next(node for node in changed.graph.node if node.op_type == "Split")
    assert (len(split.input) == 2) == (sizes is not None)
