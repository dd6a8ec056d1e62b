"""Costs counted by hand for one node of each counted kind."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from boxwright.errors import ModelError
from boxwright.graph.cost import cost


def _model(
    nodes: list[onnx.NodeProto], shape: list[int | str], weights: dict[str, tuple[int, ...]]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize(
    ("node", "shape", "weight", "macs"),
    [
        # 8 output channels of 10 x 10, each from 4 channels x 3 x 3.
        (
            helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
            ["N", 4, 10, 10],
            (8, 4, 3, 3),
            8 * 10 * 10 * 4 * 9,
        ),
        # Stride 2: a quarter of the output.
        (
            helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2]),
            ["N", 4, 10, 10],
            (8, 4, 3, 3),
            8 * 5 * 5 * 4 * 9,
        ),
        # Depthwise: one input channel each.
        (
            helper.make_node("Conv", ["x", "w"], ["y"], group=4),
            ["N", 4, 10, 10],
            (4, 1, 1, 1),
            4 * 10 * 10,
        ),
        # Each of 4 x 5 x 5 inputs spread over 6 channels x 2 x 2.
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]),
            ["N", 4, 5, 5],
            (4, 6, 2, 2),
            4 * 5 * 5 * 6 * 4,
        ),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), ["N", 7], (7, 3), 7 * 3),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), ["N", 7], (3, 7), 7 * 3),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), ["N", 5, 7], (7, 3), 5 * 7 * 3),
        # Not counted: it multiplies, but that is not where the time goes.
        (helper.make_node("Mul", ["x", "w"], ["y"]), ["N", 7], (7,), 0),
    ],
    ids=["conv", "stride", "depthwise", "transpose", "gemm", "gemm-t", "matmul", "mul"],
)
def test_multiply_accumulates(
    node: onnx.NodeProto, shape: list[int | str], weight: tuple[int, ...], macs: int
) -> None:
    model = _model([node], shape, {"w": weight})
    assert cost(model).macs == macs
    assert cost(model).flops == 2 * macs
    assert cost(model, batch=3).macs == 3 * macs
    assert cost(model).parameters == int(np.prod(weight))
    assert cost(model).uncounted == ()


def test_large_weights_do_not_change_the_count() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = _model([node], ["N", 64, 4, 4], {"w": (128, 64, 3, 3)})
    assert cost(model).macs == 128 * 2 * 2 * 64 * 9
    assert cost(model).parameters == 128 * 64 * 9


def test_constants_of_the_contract_are_not_parameters() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["a"], name="pre/scale"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="layer0"),
        helper.make_node("Mul", ["b", "anchors"], ["y"], name="decode/0/anchors"),
    ]
    model = _model(nodes, ["N", 4], {"scale": (1,), "w": (4, 2), "anchors": (2,)})
    assert cost(model).parameters == 8
    assert cost(model).operators == {"Mul": 2, "MatMul": 1}


def test_shared_weights_count_once() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="second"),
    ]
    costs = cost(_model(nodes, ["N", 4], {"w": (4, 4)}))
    assert [layer.parameters for layer in costs.layers] == [16, 0]
    assert costs.macs == 32


def test_unknown_shapes_are_named_not_counted_as_nothing() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["z"]),
        helper.make_node("Cast", ["z"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"], name="lost"),
    ]
    costs = cost(_model(nodes, ["N", 4], {"w": (4, 4)}))
    assert costs.uncounted == ("lost",)


def test_the_model_is_not_changed() -> None:
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], ["N", 4], {"w": (4, 4)})
    before = model.SerializeToString(deterministic=True)
    cost(model)
    assert model.SerializeToString(deterministic=True) == before


def test_impossible_shapes_are_named_too() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="odd")
    assert cost(_model([node], ["N", 4], {"w": (8, 4, 3, 3)})).uncounted == ("odd",)


# What ONNX's inference, which is native code, is not to be handed.
@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("Softmax", ["x"], ["y"], axis=-(2**62), name="odd"), "its axis is"),
        (helper.make_node("Transpose", ["x"], ["y"], perm=[2**40, 0], name="odd"), "its perm is"),
        (helper.make_node("Conv", ["x"], ["y"], name="odd"), "it has 1 inputs, and needs 2"),
    ],
)
def test_damaged_graphs_are_refused_before_inference(node: onnx.NodeProto, said: str) -> None:
    with pytest.raises(ModelError, match=f"it is damaged: {node.op_type} 'odd': {said}"):
        cost(_model([node], ["N", 4], {}))


def test_a_damaged_weight_is_refused_before_inference() -> None:
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], ["N", 4], {"w": (4, 4)})
    model.graph.initializer[0].dims[0] = -4
    with pytest.raises(ModelError, match=r"damaged: 'w': its shape is \[-4, 4\]"):
        cost(model)


def test_a_graph_without_an_opset_is_refused() -> None:
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], ["N", 4], {"w": (4, 4)})
    del model.opset_import[:]
    with pytest.raises(ModelError, match="shapes cannot be inferred"):
        cost(model)
