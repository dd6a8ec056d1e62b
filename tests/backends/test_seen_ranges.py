"""Symmetric activations spread over the range they have, and plans held to the float graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from boxwright.backends.comparison import (
    MAX_NRMSE_AT_ALL,
    MAX_NRMSE_IMAGE,
    MAX_RATIO_TO_GRAPH,
    compare_outputs,
)
from boxwright.backends.quantized import activation_pairs, without_pairs
from boxwright.backends.seen_ranges import with_seen_ranges
from boxwright.errors import BuildError
from boxwright.graph.session import plain_session

INT8, UINT8, FLOAT = onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT


def paired(scales: dict[str, float]) -> onnx.ModelProto:
    """``y = sum of (x + i)``, each term behind a pair of its own."""
    nodes, constants, terms = [], [], []
    for number, (name, scale) in enumerate(scales.items()):
        values = {f"{name}/s": np.float32(scale), f"{name}/z": np.int8(0)}
        values[f"{name}/i"] = np.float32(number)
        constants += [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()]
        pair = [f"{name}/s", f"{name}/z"]
        nodes += [
            helper.make_node("Add", ["x", f"{name}/i"], [name], name=name),
            helper.make_node("QuantizeLinear", [name, *pair], [f"{name}/q"], name=f"{name}/q"),
            helper.make_node(
                "DequantizeLinear", [f"{name}/q", *pair], [f"{name}/dq"], name=f"{name}/dq"
            ),
        ]
        terms.append(f"{name}/dq")
    nodes.append(helper.make_node("Sum", terms, ["y"], name="y"))
    graph = helper.make_graph(
        nodes,
        "pairs",
        [helper.make_tensor_value_info("x", FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", FLOAT, ["n"])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(proto: onnx.ModelProto, x: Any) -> Any:
    return plain_session(proto).run(None, {"x": np.asarray(x, np.float32)})[0]


def parameters(proto: onnx.ModelProto) -> list[tuple[float, int, int]]:
    """Scale, zero point and type of each pair."""
    constants = {t.name: t for t in proto.graph.initializer}
    found = []
    for pair in activation_pairs(proto):
        scale, zero = (constants[name] for name in pair.quantize.input[1:3])
        values = float(numpy_helper.to_array(scale)), int(numpy_helper.to_array(zero))
        found.append((*values, zero.data_type))
    return found


def test_a_range_on_one_side_gets_twice_the_steps() -> None:
    float_scale = 10 / 127
    fine = with_seen_ranges(paired({"a": float_scale}), {"a": (0.0, 10.0)})
    ((scale, zero, kind),) = parameters(fine)
    assert (zero, kind) == (0, UINT8)
    assert scale == pytest.approx(10 / 255)
    x = np.linspace(0, 10, 1001)
    assert np.abs(run(fine, x) - x).max() <= scale / 2 + 1e-6
    assert np.abs(run(paired({"a": float_scale}), x) - x).max() > 0.9 * float_scale / 2


def test_what_calibration_clipped_stays_clipped() -> None:
    fine = with_seen_ranges(paired({"a": 1 / 127}), {"a": (-0.25, 50.0)})
    assert run(fine, [20.0, -20.0]) == pytest.approx([1.0, -0.25], abs=5e-3)


def test_zero_is_exact() -> None:
    for low in (-0.3, -1e-3, -7.0):
        fine = with_seen_ranges(paired({"a": 7 / 127}), {"a": (low, 7.0)})
        assert run(fine, [0.0]) == [0.0]


def test_tensors_of_one_scale_keep_one() -> None:
    ranges = {"a": (-1.0, 2.0), "b": (-0.5, 5.0), "c": (0.0, 1.0)}
    fine = with_seen_ranges(paired({"a": 5 / 127, "b": 5 / 127, "c": 1 / 127}), ranges)
    a, b, c = parameters(fine)
    assert a == b
    assert a[0] == pytest.approx(6 / 255)
    assert c[0] == pytest.approx(1 / 255)


@pytest.mark.parametrize("ranges", [{}, {"a": (-1.0, 2.0)}, {"a": (0.0, 0.0), "b": (0.0, 0.0)}])
def test_without_all_ranges_a_group_stays(ranges: dict[str, tuple[float, float]]) -> None:
    proto = paired({"a": 5 / 127, "b": 5 / 127})
    assert parameters(with_seen_ranges(proto, ranges)) == parameters(proto)


def test_the_graph_given_is_left_alone() -> None:
    proto = paired({"a": 1 / 127})
    before = proto.SerializeToString()
    with_seen_ranges(proto, {"a": (0.0, 1.0)})
    without_pairs(proto)
    assert proto.SerializeToString() == before


def test_without_pairs_nothing_is_rounded() -> None:
    x = np.random.default_rng(0).normal(size=100).astype(np.float32)
    plain = without_pairs(paired({"a": 1 / 127, "b": 3 / 127}))
    assert {node.op_type for node in plain.graph.node} == {"Add", "Sum"}
    np.testing.assert_allclose(run(plain, x), 2 * x + 1, atol=1e-6)


FLOATS = np.linspace(0, 1, 100).astype(np.float32)


def off(share: float) -> Any:
    """Values that far from `FLOATS`."""
    noise = np.random.default_rng(0).normal(size=FLOATS.shape).astype(np.float32)
    return FLOATS + noise * np.float32(share * np.linalg.norm(FLOATS) / np.linalg.norm(noise))


def judge(graph: float, plan: float) -> Any:
    """What becomes of a plan that far from the float network, whose graph is so far."""
    return compare_outputs(
        {"y": -off(graph) if graph > 1 else off(graph)},
        {"y": off(plan)},
        plan="it",
        judged="int8 on an image",
        floats={"y": FLOATS},
    )["y"]


def test_a_plan_may_be_closer_to_the_float_network_than_its_graph() -> None:
    found = judge(0.8, 0.2)
    assert found["nrmse_to_float"] == pytest.approx(0.2, rel=1e-3)
    assert found["graph_nrmse_to_float"] == pytest.approx(0.8, rel=1e-3)


@pytest.mark.parametrize(
    ("graph", "plan", "passes"),
    [
        (0.05, 0.9 * MAX_NRMSE_IMAGE, True),
        (0.05, 1.1 * MAX_NRMSE_IMAGE, False),
        (0.5, 0.99 * MAX_RATIO_TO_GRAPH * 0.5, True),
        (0.5, 1.01 * MAX_RATIO_TO_GRAPH * 0.5, False),
        # However far the graph is off, a plan that has nothing in common is none of it.
        (0.8, 0.99 * MAX_NRMSE_AT_ALL, True),
        (0.8, 1.01 * MAX_NRMSE_AT_ALL, False),
    ],
)
def test_a_plan_may_not_be_much_further_than_its_graph(
    graph: float, plan: float, passes: bool
) -> None:
    if passes:
        judge(graph, plan)
    else:
        with pytest.raises(BuildError, match="computes another 'y' than the model: on an image"):
            judge(graph, plan)


def test_where_the_model_itself_is_lost_no_plan_is_blamed() -> None:
    with pytest.raises(BuildError, match=r"quantised model itself has little.*'y'.*--method"):
        judge(2.0, 1.0)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
@pytest.mark.parametrize("count", [1, 100])
def test_a_plan_that_gives_no_numbers_is_refused(odd: float, count: int) -> None:
    """However close the finite ones are; of none, the distance is 0."""
    got = FLOATS.copy()
    got[:count] = odd
    with pytest.raises(BuildError, match="'y'"):
        compare_outputs(
            {"y": off(0.1)}, {"y": got}, plan="it", judged="int8 on an image", floats={"y": FLOATS}
        )


def test_an_output_without_values_is_no_fault() -> None:
    none = {"y": np.zeros((1, 0, 4), np.float32)}
    found = compare_outputs(none, none, plan="it", judged="int8")
    assert found["y"]["nrmse"] == 0


def test_constants_that_only_a_branch_reads_stay() -> None:
    proto = paired({"a": 1 / 127})
    inner = helper.make_graph(
        [helper.make_node("Identity", ["only/inside"], ["chosen"])],
        "then",
        [],
        [helper.make_tensor_value_info("chosen", FLOAT, [])],
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array(3, np.float32), "only/inside"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    branch = helper.make_node("If", ["yes"], ["more"], then_branch=inner, else_branch=inner)
    proto.graph.node.append(branch)
    proto.graph.output.append(helper.make_tensor_value_info("more", FLOAT, []))
    fine = with_seen_ranges(proto, {"a": (0.0, 1.0)})
    assert {"only/inside", "yes"} <= {tensor.name for tensor in fine.graph.initializer}
    onnx.checker.check_model(fine)
