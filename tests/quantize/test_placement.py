"""Which layers and tensors are quantised, rule by rule, on the smallest graph that shows it."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from boxwright.errors import InputError
from boxwright.quantize.placement import Placement, place
from boxwright.quantize.rules import TARGETS, Rules
from boxwright.quantize.sets import DisjointSets
from tests.quantize.graphs import ACTIVATIONS, ALL, SIZE, Net, reasons


def tensors(placement: Placement) -> dict[str, tuple[str, ...]]:
    return {tensor.name: tensor.readers for tensor in placement.tensors}


def groups(placement: Placement) -> dict[str, int]:
    return {tensor.name: tensor.group for tensor in placement.tensors}


def chain(*channels: int) -> Net:
    """Convolutions ``c0``, ``c1``, ... with LeakyRelu between them."""
    net = Net(channels[0])
    x = net.op("Relu", net.x, name="start")
    for number, pair in enumerate(itertools.pairwise(channels)):
        x = ACTIVATIONS["leaky"](net, net.conv(x, f"c{number}", pair))
    net.done(x)
    return net


# Layers


def test_few_channels_stay_in_float_but_for_the_first() -> None:
    net = chain(3, 8, 16, 15, 32, 16)
    assert reasons(net.proto, Rules(first=True)) == {
        "c0": "",  # 3 channels, but the first
        "c1": "8 channels, fewer than 16",
        "c2": "15 channels, fewer than 16",
        "c3": "15 channels, fewer than 16",
        "c4": "gives a head's output",
    }


def test_a_depthwise_convolution_has_as_many_channels_as_groups() -> None:
    net = Net(32)
    x = net.conv(net.x, "first", (32, 32))
    x = net.conv(x, "depthwise", (32, 32), size=3, group=32)
    x = net.conv(x, "grouped", (32, 32), group=2)
    net.done(net.conv(x, "last", (32, 32)))
    assert reasons(net.proto, Rules(first=True))["depthwise"] == ""
    off = reasons(net.proto, Rules(first=True, depthwise=False))
    assert off == {
        "first": "",
        "depthwise": "depthwise",
        "grouped": "",
        "last": "gives a head's output",
    }


def test_the_first_convolution_may_stay_in_float() -> None:
    net = chain(3, 16, 16, 16)
    assert reasons(net.proto, Rules(first=False))["c0"] == "the first convolution"
    assert reasons(net.proto, Rules(first=False))["c1"] == ""


def test_each_heads_last_convolution_is_kept_through_its_decoding() -> None:
    net = Net()
    trunk = net.conv(net.x, "trunk")
    small = net.conv(trunk, "small")
    big = net.conv(net.conv(trunk, "between"), "big")
    flat = [net.op("Flatten", name, name=f"decode/{name}") for name in (small, big)]
    joined = net.op("Concat", *flat, name="decode/joined", axis=1)
    # A convolution in the decoding (YOLOv8's distribution of distances) is no layer of a head.
    square = net.builder.reshape(joined, [0, 2, 16, 64], "decode/square")
    decoded = net.conv(square, "decode/dfl", (2, 1))
    net.done(decoded)
    assert reasons(net.proto, Rules(first=True, min_channels=1)) == {
        "trunk": "",
        "small": "gives a head's output",
        "between": "",
        "big": "gives a head's output",
        "decode/dfl": "part of the decoding",
    }
    with_heads = reasons(net.proto, Rules(first=True, min_channels=1, heads=True))
    assert with_heads["small"] == with_heads["big"] == ""
    assert with_heads["decode/dfl"] == "part of the decoding"


def test_a_matrix_product_at_the_end_is_the_head_not_the_convolution_before_it() -> None:
    net = Net()
    flat = net.op("Flatten", net.conv(net.x, "conv"), name="flat")
    weights = net.constant("matrix", np.ones((16 * SIZE * SIZE, 4)))
    product = net.op("Gemm", flat, weights, name="gemm")
    net.done(net.op("MatMul", product, net.constant("other", np.eye(4)), name="matmul"))
    assert reasons(net.proto, Rules(first=True)) == {
        "conv": "",
        "gemm": "Gemm: only convolutions are quantised",
        "matmul": "MatMul: only convolutions are quantised",
    }


def test_a_transposed_convolution_says_why_it_stays() -> None:
    net = Net()
    up = net.op("ConvTranspose", net.x, net.constant("w", np.ones((16, 16, 2, 2))), name="up")
    net.done(net.conv(up, "conv"))
    assert reasons(net.proto, ALL)["up"] == "ConvTranspose: only convolutions are quantised"
    # It is not the first convolution either: that one reads what it gives.
    assert reasons(net.proto, Rules(first=False, heads=True))["conv"] == "the first convolution"


def test_computed_weights_stay_in_float() -> None:
    net = Net()
    computed = net.op("Neg", net.constant("w", np.ones((16, 16, 1, 1))), name="negative")
    net.done(net.op("Conv", net.x, computed, name="conv"))
    assert reasons(net.proto, ALL) == {"conv": "its weights are not constant"}
    assert not place(net.proto, ALL).tensors


def test_a_constant_input_needs_no_int8() -> None:
    net = Net()
    image = net.constant("image", np.ones((1, 16, SIZE, SIZE)))
    net.done(net.op("Add", net.x, net.conv(image, "conv"), name="sum"))
    assert reasons(net.proto, ALL) == {"conv": "its input is constant"}


def test_weights_of_two_convolutions_are_quantised_once_and_of_others_not() -> None:
    net = Net()
    weights = net.constant("w", net.random.normal(0, 1, (16, 16, 1, 1)))
    first = net.op("Conv", net.x, weights, name="first")
    second = net.op("Conv", first, weights, name="second")
    net.done(second)
    assert reasons(net.proto, ALL) == {"first": "", "second": ""}
    net = Net()
    weights = net.constant("w", net.random.normal(0, 1, (16, 16, 1, 1)))
    first = net.op("Conv", net.x, weights, name="conv")
    net.done(net.op("Add", first, net.op("ReduceMax", weights, name="most"), name="sum"))
    assert reasons(net.proto, ALL) == {"conv": "another operator reads its weights"}


def test_weights_of_another_type_stay_as_they_are() -> None:
    net = Net()
    half = net.op("Cast", net.x, name="half", to=TensorProto.FLOAT16)
    weights = net.constant("w", np.ones((16, 16, 1, 1)), np.float16)
    conv = net.op("Conv", half, weights, name="conv")
    net.done(net.op("Cast", conv, name="whole", to=TensorProto.FLOAT))
    assert reasons(net.proto, ALL) == {"conv": "its weights are float16"}


def test_layers_may_be_kept_by_name_and_unknown_names_are_refused() -> None:
    net = chain(16, 16, 16, 16)
    found = place(net.proto, ALL, keep=["c1"])
    assert {x.name: x.reason for x in found.layers}["c1"] == "asked to stay in float"
    assert "c0/leaky" not in tensors(found)
    with pytest.raises(InputError, match=r"'c7'.*layers are called c0, c1, c2"):
        place(net.proto, ALL, keep=["c1", "c7"])


def test_what_a_branch_reads_is_no_output_of_a_head() -> None:
    """A convolution whose result goes into another by way of an If is not the last one."""
    net = Net()
    net.conv(net.x, "trunk")
    branch = helper.make_graph(
        # Of the same name as a layer outside: names inside mean nothing there.
        [helper.make_node("Abs", ["trunk"], ["inner"], name="head")],
        *("branch", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)]),
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["trunk"], ["inner_2"], name="other")],
        *("branch", [], [helper.make_tensor_value_info("inner_2", TensorProto.FLOAT, None)]),
    )
    condition = net.constant("condition", np.array(True), bool)
    chosen = net.builder.add("If", [condition], "if", then_branch=branch, else_branch=other)
    head = net.conv(chosen, "head")
    net.done(head)
    expected = {"trunk": "", "head": "gives a head's output"}
    assert reasons(net.proto, Rules(first=True)) == expected


def test_a_node_inside_another_of_a_layers_name_is_no_layer() -> None:
    """The head's result goes into a branch whose node is called as a layer is."""
    net = Net()
    head = net.conv(net.conv(net.x, "trunk"), "head")
    branches = [
        helper.make_graph(
            [helper.make_node("Abs", [head], [f"inner_{side}"], name="trunk")],
            "branch",
            [],
            [helper.make_tensor_value_info(f"inner_{side}", TensorProto.FLOAT, None)],
        )
        for side in "ab"
    ]
    condition = net.constant("condition", np.array(True), bool)
    net.done(
        net.builder.add("If", [condition], "if", then_branch=branches[0], else_branch=branches[1])
    )
    assert reasons(net.proto, Rules(first=True)) == {"trunk": "", "head": "gives a head's output"}


def test_a_damaged_convolution_does_not_break_the_search() -> None:
    net = Net()
    net.done(net.conv(net.x, "conv"))
    node = net.proto.graph.node[-1]
    for broken in ([], ["x"], ["x", ""], ["x", "conv/weights", "a", "b", "c"]):
        del node.input[:]
        node.input.extend(broken)
        (layer,) = place(net.proto, ALL).layers
        assert layer.reason is not None


# Tensors


def test_one_pair_serves_all_quantised_readers_of_a_tensor() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    left, right = net.conv(start, "left"), net.conv(start, "right")
    net.done(net.op("Concat", left, right, start, name="joined", axis=1))
    assert tensors(place(net.proto, ALL)) == {"start": ("left", "right")}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_of_an_addition_only_the_branch_that_is_no_convolution_is_rounded(activation: str) -> None:
    net = Net()
    skip = net.op("Relu", net.x, name="skip")
    branch = ACTIVATIONS[activation](net, net.conv(net.conv(skip, "one"), "two"))
    total = net.op("Add", branch, skip, name="total")
    net.done(net.conv(total, "three"))
    assert tensors(place(net.proto, ALL)) == {
        "skip": ("one", "total"),
        "one": ("two",),
        "total": ("three",),
    }
    without = place(net.proto, Rules(first=True, heads=True, residual=False))
    assert tensors(without)["skip"] == ("one",)


def test_of_two_convolutions_the_later_one_takes_the_addition_in() -> None:
    net = Net()
    skip = net.op("Relu", net.x, name="skip")
    short, long = net.conv(skip, "short"), net.conv(net.conv(skip, "one"), "two")
    for name, operands in (("a", (short, long)), ("b", (long, short))):
        total = net.op("Add", *operands, name=name)
        net.conv(total, f"after_{name}")
    net.done("after_a", "after_b")
    assert tensors(place(net.proto, ALL))["short"] == ("a", "b")
    assert "two" not in tensors(place(net.proto, ALL))


def test_an_addition_stays_in_float_where_its_sum_does() -> None:
    net = Net()
    skip = net.op("Relu", net.x, name="skip")
    total = net.op("Add", net.conv(skip, "one"), skip, name="total")
    net.done(net.op("Exp", total, name="end"))
    assert tensors(place(net.proto, ALL)) == {"skip": ("one",)}


def test_a_tensor_added_to_itself_or_to_a_constant_is_no_residual() -> None:
    net = Net()
    one = net.conv(net.op("Relu", net.x, name="start"), "one")
    twice = net.op("Add", one, one, name="twice")
    moved = net.op("Add", twice, net.constant("offset", 1.0), name="moved")
    net.done(net.conv(moved, "two"))
    assert tensors(place(net.proto, ALL)) == {"start": ("one",), "moved": ("two",)}


def test_a_product_of_two_convolutions_is_no_convolutions_result() -> None:
    """Squeeze and excitation: the addition behind it cannot go into a convolution's kernel."""
    net = Net()
    skip = net.op("Relu", net.x, name="skip")
    body = net.conv(skip, "body")
    pooled = net.op("GlobalAveragePool", body, name="pooled")
    gate = net.op("Sigmoid", net.conv(pooled, "squeeze"), name="gate")
    for name, operands in (("a", (gate, body)), ("b", (body, gate))):
        scaled = net.op("Mul", *operands, name=f"scaled_{name}")
        total = net.op("Add", scaled, skip, name=f"total_{name}")
        net.conv(total, f"after_{name}")
    net.done("after_a", "after_b")
    found = tensors(place(net.proto, ALL))
    assert found["skip"] == ("body",)


def test_additions_of_the_decoding_stay_in_float() -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    total = net.op("Add", net.conv(start, "one"), start, name="decode/total")
    net.done(net.conv(total, "two"))
    assert tensors(place(net.proto, ALL))["start"] == ("one",)


# Scales that are shared


def moved_by(net: Net, x: str, operator: str) -> str:
    sized = {"Slice": lambda: net.builder.slice(x, 0, 16, 1, "moved")}
    if operator in sized:
        return sized[operator]()
    if operator == "Resize":
        scales = net.constant("scales", [1, 1, 2, 2])
        return net.op("Resize", x, "", scales, name="moved", mode="nearest")
    if operator == "MaxPool":
        return net.op("MaxPool", x, name="moved", kernel_shape=[2, 2], strides=[2, 2])
    if operator == "Split":
        return net.builder.split(x, [16], 1, "moved")[0]
    if operator == "Reshape":
        return net.builder.reshape(x, [0, 16, 4, 16], "moved")
    if operator == "Transpose":
        return net.op("Transpose", x, name="moved", perm=[0, 1, 3, 2])
    return net.op(operator, x, name="moved")


@pytest.mark.parametrize(
    "operator",
    ["MaxPool", "Slice", "Split", "Resize", "Reshape", "Transpose", "Identity"],
)
def test_values_that_are_only_moved_keep_their_scale(operator: str) -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    moved = moved_by(net, start, operator)
    net.conv(start, "a"), net.conv(moved, "b")
    net.done("a", "b")
    shared = groups(place(net.proto, ALL))
    assert shared["start"] == shared[moved]
    own = groups(place(net.proto, Rules(first=True, heads=True, shared_scales=False)))
    assert own["start"] != own[moved]


@pytest.mark.parametrize("operator", ["AveragePool", "Sigmoid", "Resize"])
def test_values_that_are_computed_with_get_a_scale_of_their_own(operator: str) -> None:
    net = Net()
    start = net.op("Relu", net.x, name="start")
    if operator == "Resize":
        scales = net.constant("scales", [1, 1, 2, 2])
        other = net.op("Resize", start, "", scales, name="other", mode="linear")
    elif operator == "AveragePool":
        other = net.op("AveragePool", start, name="other", kernel_shape=[2, 2])
    else:
        other = net.op("Sigmoid", start, name="other")
    net.conv(start, "a"), net.conv(other, "b")
    net.done("a", "b")
    found = groups(place(net.proto, ALL))
    assert found["start"] != found[other]


def test_all_parts_of_a_concatenation_share_one_scale() -> None:
    net = Net()
    parts = [net.op("Relu", net.x, name="p0"), net.op("Abs", net.x, name="p1")]
    joined = net.op("Concat", *parts, name="joined", axis=1)
    pooled = net.op("MaxPool", joined, name="pooled", kernel_shape=[2, 2])
    for number, part in enumerate(parts):
        net.conv(part, f"c{number}")
    net.conv(pooled, "c2", (32, 16))
    net.done("c0", "c1", "c2")
    assert len(set(groups(place(net.proto, ALL)).values())) == 1


def test_a_slices_limits_are_not_joined_to_the_values() -> None:
    """Constants that several nodes read would otherwise make one set of them all."""
    net = Net()
    limits = [
        net.constant(name, [value], np.int64) for name, value in zip("abc", (0, 8, 1), strict=True)
    ]
    starts = net.op("Relu", net.x, name="p0"), net.op("Abs", net.x, name="p1")
    for number, start in enumerate(starts):
        net.conv(net.op("Slice", start, *limits, name=f"s{number}"), f"c{number}", (8, 16))
    net.done("c0", "c1")
    found = groups(place(net.proto, ALL))
    assert found["s0"] != found["s1"]


# Rules and sets


def test_rules_fit_a_target() -> None:
    assert {Rules.of_target(target).min_channels for target in TARGETS[:2]} == {16}
    assert {Rules.of_target(target).min_channels for target in TARGETS[2:]} == {1}
    with pytest.raises(InputError, match=r"target must be one of tensorrt, .*, got 'cuda'"):
        Rules.of_target("cuda")


def test_disjoint_sets_against_a_naive_count() -> None:
    random = np.random.default_rng(0)
    sets, naive = DisjointSets[int](), {i: {i} for i in range(60)}
    for a, b in random.integers(0, 60, (50, 2)).tolist():
        sets.join(a, b)
        joined = naive[a] | naive[b]
        naive.update(dict.fromkeys(joined, joined))
    for a in range(60):
        assert {b for b in range(60) if sets.find(a) == sets.find(b)} == naive[a]


def test_a_long_chain_of_joined_tensors_is_no_recursion() -> None:
    sets = DisjointSets[int]()
    for number in range(20_000):
        sets.join(number + 1, number)
    assert sets.find(0) == sets.find(20_000)


def test_placing_leaves_the_graph_alone() -> None:
    net = chain(16, 16, 16, 16)
    before = net.proto.SerializeToString(deterministic=True)
    place(net.proto, ALL)
    assert net.proto.SerializeToString(deterministic=True) == before
    assert onnx.ModelProto.FromString(before) == net.proto
