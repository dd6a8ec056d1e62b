"""The float16 form of a graph: what is converted, what is kept and why, and what it computes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from boxwright.errors import ModelError
from boxwright.graph.compare import compare
from boxwright.graph.precision import REASONS, HalfReport, convert, regions, to_half
from boxwright.graph.precision.emulate import emulated, measure_ranges
from boxwright.graph.precision.values import judge
from boxwright.graph.session import plain_session
from boxwright.graph.view import View
from boxwright.model import Model
from tests.graph import zoo
from tests.models import make_images, make_model

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


class Graph:
    """Nodes written in a line each; every input `x` is float32, every convolution 1 x 1."""

    def __init__(self, *shape: int, opset: int = 17) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shape = shape or (1, 4, 8, 8)
        self.opset = opset
        self.random = np.random.default_rng(0)

    def op(self, kind: str, *inputs: str, name: str = "", outputs: int = 1, **more: Any) -> str:
        name = name or f"{kind.lower()}{len(self.nodes)}"
        results = [name, *(f"{name}.{at}" for at in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), results, name=name, **more))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def conv(self, x: str, *, name: str = "", weights: Any = None, channels: int = 4) -> str:
        if weights is None:
            weights = self.random.normal(0, 0.5, (channels, 4, 1, 1))
        return self.op("Conv", x, self.constant(weights), name=name)

    def model(self, *outputs: str, kind: int = FLOAT) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", kind, self.shape)],
            [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
            self.constants,
        )
        opset = helper.make_opsetid("", self.opset)
        proto = helper.make_model(graph, opset_imports=[opset], ir_version=9)
        return onnx.shape_inference.infer_shapes(proto)


def checked(
    proto: onnx.ModelProto, tolerance: float = 4e-3, **more: Any
) -> tuple[onnx.ModelProto, HalfReport]:
    """The float16 form, sound by ONNX's checker, as close as 11 bits let it be."""
    before = proto.SerializeToString()
    half, report = convert(proto, **more)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(half, full_check=True)
    found = compare(proto, half)
    assert found.difference is not None, found.reason
    assert found.difference <= tolerance
    assert chains(half) == []
    return half, report


def chains(proto: onnx.ModelProto) -> list[str]:
    """Casts of what was cast just before."""
    casts = {n.output[0] for n in proto.graph.node if n.op_type == "Cast"}
    return [n.name for n in proto.graph.node if n.op_type == "Cast" and n.input[0] in casts]


def types_of(proto: onnx.ModelProto) -> dict[str, int]:
    """Element type of each tensor by name."""
    return dict(View(proto).types)


def reason_of(report: HalfReport, node: str) -> str:
    return next((item.reason for item in report.kept if item.node == node), "")


def values_of(proto: onnx.ModelProto, name: str) -> NDArray[Any]:
    (found,) = [t for t in proto.graph.initializer if t.name == name]
    return np.asarray(numpy_helper.to_array(found))


# A whole model


def test_inputs_and_outputs_stay_and_everything_between_is_float16() -> None:
    model = make_model()
    half, report = to_half(model)
    half.check()
    before, after = model.proto.graph, half.proto.graph
    assert [v.SerializeToString() for v in (*after.input, *after.output)] == [
        v.SerializeToString() for v in (*before.input, *before.output)
    ]
    types = types_of(half.proto)
    convs = [n for n in after.node if n.op_type == "Conv"]
    assert len(convs) == 5
    assert all(types[name] == FLOAT16 for n in convs for name in (*n.input, *n.output))
    weights = [t for t in after.initializer if t.name.endswith("/float16")]
    assert sum(t.data_type == FLOAT16 for t in weights) == len(weights) >= 10
    # Pixels are cast once, to float16, and what the last convolution found once, back.
    casts = [(n.input[0], n.attribute[0].i) for n in after.node if n.op_type == "Cast"]
    assert casts[0] == ("images", FLOAT16)
    assert [to for _, to in casts] == [FLOAT16, FLOAT]
    assert report.casts == 2
    assert report.bytes[1] < 0.75 * report.bytes[0]


def test_it_computes_the_same_within_eleven_bits() -> None:
    model = make_model()
    half, _ = to_half(model)
    feed = {"images": make_images(model, 2)}
    want = plain_session(model.proto).run(None, feed)
    have = plain_session(emulated(half.proto)).run(None, feed)
    for a, b in zip(want, have, strict=True):
        assert 0 < np.abs(a - b).max() < 4e-3 * np.abs(a).max()


def test_the_card_says_so() -> None:
    model = make_model()
    half, report = to_half(model, keep=("node/conv_3",), ranges={"nothing": (0, 1)})
    (transform,) = half.card.transforms
    assert transform.name == "float16"
    assert transform.parameters["keep"] == ["node/conv_3"]
    assert transform.parameters["measured"] == 1
    assert transform.effect["kept"] == {k: len(v) for k, v in report.reasons().items()}
    assert Model.from_bytes(half.to_bytes()).card == half.card
    assert model.card.transforms == ()


def test_the_report_is_json() -> None:
    _, report = to_half(make_model(), keep="node/conv_3")
    content = json.loads(json.dumps(report.to_dict()))
    assert content["kept"]["asked"]["nodes"] == [{"node": "node/conv_3", "operator": "Conv"}]
    assert sum(part["count"] for part in content["kept"].values()) == len(report.kept)
    assert content["casts"] == report.casts
    assert set(content["kept"]) <= set(REASONS)
    short = report.to_dict(1)["kept"]["tail"]
    assert len(short["nodes"]) == 1 < short["count"]


def test_a_model_outside_the_contract_is_refused() -> None:
    model = make_model()
    model.proto.graph.output[0].name = "rectangles"
    with pytest.raises(ModelError, match="rectangles"):
        to_half(model)


# What stays, by operator


@pytest.mark.parametrize(
    ("kind", "inputs", "more", "reason"),
    [
        ("Exp", 1, {}, "overflow"),
        ("Softplus", 1, {}, "overflow"),
        ("Pow", 2, {}, "overflow"),
        ("Log", 1, {}, "overflow"),
        ("Softmax", 1, {"axis": 1}, "accumulates"),
        ("ReduceL2", 1, {"axes": [1], "keepdims": 1}, "accumulates"),
        # 8 x 8 pixels are few enough, all 256 numbers are not.
        ("GlobalAveragePool", 1, {}, ""),
        ("ReduceMean", 1, {"axes": [2, 3]}, ""),
        ("ReduceMean", 1, {"axes": [0, 1, 2, 3]}, "accumulates"),
        ("ReduceMean", 1, {}, "accumulates"),
        ("Floor", 1, {}, "exact"),
        ("Sin", 1, {}, "exact"),
        ("Hardmax", 1, {}, "unknown"),
        ("Sigmoid", 1, {}, ""),
        ("LeakyRelu", 1, {"alpha": 0.1}, ""),
        ("MaxPool", 1, {"kernel_shape": [3, 3], "pads": [1] * 4}, ""),
        ("HardSwish", 1, {}, ""),
    ],
)
def test_operators(kind: str, inputs: int, more: dict[str, Any], reason: str) -> None:
    graph = Graph()
    first = graph.op("Sigmoid", graph.conv("x"))
    node = graph.op(kind, *[first] * inputs, name="asked", **more)
    last = graph.op("Mul", graph.conv(first), node)
    half, report = checked(graph.model(graph.conv(last, name="last")))
    assert reason_of(report, "asked") == reason
    assert reason_of(report, "last") == ""
    types = types_of(half)
    (found,) = [n for n in half.graph.node if n.name == "asked"]
    assert types[found.input[0]] == (FLOAT if reason else FLOAT16)


def test_a_square_overflows_and_a_product_does_not() -> None:
    graph = Graph()
    first = graph.conv("x")
    square = graph.op("Mul", first, first, name="square")
    product = graph.op("Mul", square, first, name="product")
    _, report = checked(graph.model(graph.conv(product)))
    assert reason_of(report, "square") == "overflow"
    assert reason_of(report, "product") == ""


def test_division_by_a_constant_is_safe() -> None:
    graph = Graph()
    first = graph.conv("x")
    by_constant = graph.op("Div", first, graph.constant(6.0), name="by constant")
    squashed = graph.op("Sigmoid", first)
    computed = graph.op("Div", by_constant, squashed, name="computed")
    _, report = checked(graph.model(graph.conv(computed)))
    assert reason_of(report, "by constant") == ""
    assert reason_of(report, "computed") == "divides"


def test_overflow_within_mish_is_made_good() -> None:
    """The softplus of 20 overflows inside; tanh of what comes out is 1 all the same."""
    graph = Graph()
    first = graph.conv("x", weights=40 * np.eye(4).reshape(4, 4, 1, 1))
    soft = graph.op("Softplus", first, name="soft")
    mish = graph.op("Mul", first, graph.op("Tanh", soft))
    _, report = checked(graph.model(graph.conv(mish)))
    assert reason_of(report, "soft") == ""


def test_measured_ranges_decide_where_they_are_known() -> None:
    graph = Graph()
    first = graph.conv("x")
    exp = graph.op("Exp", first, name="exp")
    proto = graph.model(graph.conv(exp, name="last"))
    feeds = [{"x": np.random.default_rng(0).uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32)}]
    ranges = measure_ranges(proto, feeds)
    assert set(ranges) == {first, "exp", "last"}
    low, high = ranges["exp"]
    assert 0 < low < high < 100
    assert reason_of(checked(proto)[1], "exp") == "overflow"
    assert reason_of(checked(proto, ranges=ranges)[1], "exp") == ""
    # A quarter of 65504 is the limit, for what makes the values and for what reads them.
    _, report = checked(proto, ranges=ranges | {"exp": (0.0, 16400.0)})
    assert reason_of(report, "exp") == "overflow"
    assert reason_of(report, "last") == "measured"
    assert "16400 " in f"{report.kept[-1].detail} ".replace("1.64e+04", "16400")
    _, report = checked(proto, ranges=ranges | {first: (-20000.0, 1.0)})
    assert reason_of(report, first) == "measured"


# What stays, by what is around it


def test_what_follows_the_last_convolution_stays_and_moves_do_not() -> None:
    graph = Graph()
    head = graph.conv("x")
    moved = graph.op("Transpose", head, perm=[0, 2, 3, 1], name="moved")
    scores = graph.op("Sigmoid", moved, name="scores")
    again = graph.op("Reshape", scores, graph.constant([1, -1], np.int64), name="again")
    half, report = checked(graph.model(again))
    assert reason_of(report, "scores") == reason_of(report, "again") == "tail"
    assert reason_of(report, "moved") == ""
    assert types_of(half)["moved"] == FLOAT16
    assert report.casts == 2


def test_names_decide_too() -> None:
    graph = Graph()
    scaled = graph.op("Mul", "x", graph.constant(0.1), name="pre/scale")
    first = graph.conv(scaled, name="first")
    decoded = graph.conv(first, name="decode/mean")
    half, report = checked(graph.model(decoded), keep=("nothing",))
    assert [reason_of(report, n) for n in ("pre/scale", "first", "decode/mean")] == [
        "pre", "", "decode",
    ]  # fmt: skip
    assert types_of(half)["decode/mean"] == FLOAT
    # What both sides read, each reads in its own type.
    assert reason_of(checked(graph.model(decoded), keep="fir")[1], "first") == "asked"


def test_an_island_without_a_product_is_not_worth_its_casts() -> None:
    graph = Graph()
    exp = graph.op("Exp", "x")
    island = graph.op("Add", exp, graph.constant(1.0), name="island")
    log = graph.op("Log", island)
    _, report = checked(graph.model(graph.conv(log)))
    assert reason_of(report, "island") == "island"
    assert report.casts == 2


def test_a_mean_of_a_softmax_stays() -> None:
    graph = Graph()
    bins = graph.op("Softmax", graph.conv("x"), axis=1)
    moved = graph.op("Transpose", bins, perm=[0, 1, 3, 2])
    graph.conv(moved, name="mean", weights=np.arange(4.0).reshape(1, 4, 1, 1))
    _, report = checked(graph.model("mean"))
    assert reason_of(report, "mean") == "expectation"


def test_numbers_that_follow_from_shapes_stay() -> None:
    graph = Graph()
    first = graph.conv("x")
    shape = graph.op("Cast", graph.op("Shape", first), to=FLOAT)
    doubled = graph.op("Mul", shape, graph.constant([1, 1, 2, 2]), name="doubled")
    sizes = graph.op("Cast", doubled, to=TensorProto.INT64)
    larger = graph.op("Resize", first, "", "", sizes, mode="nearest")
    _, report = checked(graph.model(graph.conv(larger)))
    assert reason_of(report, "doubled") == "shapes"
    assert report.casts == 2


def test_coordinates_of_resize_stay() -> None:
    graph = Graph()
    scales = graph.constant([1, 1, 1.7, 1.7])
    region = graph.constant([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9])
    mode = "tf_crop_and_resize"
    larger = graph.op(
        *("Resize", graph.conv("x"), region, scales),
        name="larger",
        mode="linear",
        coordinate_transformation_mode=mode,
    )
    half, report = checked(graph.model(graph.conv(larger)))
    assert reason_of(report, "larger") == ""
    types = types_of(half)
    assert (types[scales], types[region], types["larger"]) == (FLOAT, FLOAT, FLOAT16)


# Constants


def test_weights_that_overflow_stay() -> None:
    graph = Graph()
    weights = np.full((4, 4, 1, 1), 0.5)
    weights[1, 2] = -65600
    graph.conv(graph.conv("x", name="large", weights=weights), name="plain")
    _, report = checked(graph.model("plain"))
    assert reason_of(report, "large") == "weights overflow"
    assert "1 of 16, up to 6.56e+04" in report.kept[0].detail
    assert reason_of(report, "plain") == ""
    (found,) = report.weights
    assert (found.overflowing, found.largest) == (1, 65600)


@pytest.mark.parametrize(("size", "reason"), [(2e-8, "weights underflow"), (0.5, "")])
def test_weights_that_underflow_stay_where_that_counts(size: float, reason: str) -> None:
    """One weight in four of 2e-8 is nothing beside others of 0.5, and much beside its like."""
    graph = Graph()
    weights = np.full((4, 4, 1, 1), size)
    weights[:, 0] = 2e-8
    _, report = checked(graph.model(graph.conv("x", name="small", weights=weights)))
    assert reason_of(report, "small") == reason
    (found,) = report.weights
    assert found.lost == (16 if reason else 4)
    assert (found.share > 1e-3) == bool(reason)


def test_a_small_bias_does_not_keep_its_convolution() -> None:
    graph = Graph()
    bias = graph.constant(np.full(4, 1e-9))
    weights = graph.constant(np.ones((4, 4, 1, 1)))
    _, report = checked(graph.model(graph.op("Conv", "x", weights, bias, name="conv")))
    assert reason_of(report, "conv") == ""
    # As what keeps a division from 0, it must not become 0.
    graph = Graph()
    safe = graph.op("Add", graph.conv("x"), graph.constant(1e-9), name="safe")
    _, report = checked(graph.model(graph.conv(safe)))
    assert reason_of(report, "safe") == "weights underflow"


def test_bounds_saturate() -> None:
    graph = Graph()
    limits = graph.constant(0.0), graph.constant(np.finfo(np.float32).max)
    clipped = graph.op("Clip", graph.conv("x"), *limits, name="clipped")
    padded = graph.op(
        *("Pad", clipped, graph.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)),
        graph.constant(-np.inf),
        name="padded",
    )
    pooled = graph.op("MaxPool", padded, kernel_shape=[3, 3])
    half, report = checked(graph.model(graph.conv(pooled)))
    assert reason_of(report, "clipped") == reason_of(report, "padded") == ""
    assert values_of(half, f"{limits[1]}/float16") == np.float16(65504)


def test_a_constant_of_both_sides_has_two_forms() -> None:
    graph = Graph()
    shared = graph.constant([[[[0.3]]]])
    first = graph.op("Mul", graph.conv("x"), shared)
    last = graph.op("Mul", graph.conv(first), shared, name="last")
    half, report = checked(graph.model(last))
    assert reason_of(report, "last") == "tail"
    assert values_of(half, shared).dtype == np.float32
    assert values_of(half, f"{shared}/float16") == np.float16(0.3)


def test_constant_nodes_are_constants() -> None:
    graph = Graph()
    value = numpy_helper.from_array(np.full((4, 4, 1, 1), 0.3, np.float32))
    weights = graph.op("Constant", value=value)
    half, _ = checked(graph.model(graph.op("Conv", "x", weights)))
    assert not any(n.op_type == "Constant" for n in half.graph.node)
    assert values_of(half, f"{weights}/float16").dtype == np.float16


def test_judged_by_numpy() -> None:
    found = judge("w", np.array([1, 1e-8, 3e-5, -65504, 65505, np.inf, 0], np.float32))
    assert (found.count, found.overflowing, found.lost, found.subnormal) == (7, 1, 1, 2)
    assert found.largest == 65505


# Borders


def test_what_the_graph_gives_out_keeps_its_name_and_type() -> None:
    graph = Graph()
    middle = graph.conv("x", name="middle")
    half, _ = checked(graph.model(middle, graph.conv(middle, name="end")))
    assert types_of(half)["middle"] == types_of(half)["end"] == FLOAT
    readers = [n for n in half.graph.node if n.name == "end"]
    assert types_of(half)[readers[0].input[0]] == FLOAT16


def test_pixels_are_cast_once() -> None:
    graph = Graph()
    floats = graph.op("Cast", "x", to=FLOAT)
    graph.conv(floats, name="end")
    half, report = convert(graph.model("end", kind=TensorProto.UINT8))
    casts = [n for n in half.graph.node if n.op_type == "Cast"]
    assert [(n.input[0], n.attribute[0].i) for n in casts] == [("x", FLOAT16), ("end/float16", 1)]
    assert report.casts == 2


def test_graphs_inside_of_nodes_see_float32() -> None:
    graph = Graph()
    outer = graph.conv("x")
    branch = helper.make_graph(
        [helper.make_node("Neg", [outer], ["turned"])],
        "branch", [], [helper.make_tensor_value_info("turned", FLOAT, None)],
    )  # fmt: skip
    choice = graph.constant(True, np.bool_)
    graph.op("If", choice, name="if", then_branch=branch, else_branch=branch)
    _, report = checked(graph.model(graph.conv("if")))
    assert reason_of(report, "if") == "unknown"


def test_every_graph_of_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that is safe converted, wherever it stands."""
    monkeypatch.setattr(regions, "_keep_tail", lambda *_: None)
    monkeypatch.setattr(regions, "_keep_islands", lambda *_: None)
    done = 0
    for case in zoo.cases():
        proto = case.make()
        try:
            plain_session(proto)
            half, report = convert(proto)
        except Exception:
            continue
        found = compare(proto, half)
        if report.converted and found.difference is not None:
            assert found.difference < 2e-3, case.name
            done += 1
        elif report.converted:
            assert "changed graph" not in str(found.reason), case.name
    assert done > 80
