"""PyTorch computes of every operator what ONNX Runtime does; needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from boxwright.graph.session import plain_session
from boxwright.graph.torch_operators import (
    OPERATORS,
    attributes_of,
    constant_argument,
    refusal,
)

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed")

_RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return _RANDOM.normal(0, 2, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    operator: str
    constants: tuple[Any, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (2, 8, 6, 7)
    outputs: int = 1
    positive: bool = False


# `None` among the constants is an input that is left out.
CASES = {
    "add": Case("Add", (floats(8, 1, 1),)),
    "average pool": Case("AveragePool", (), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "average pool, padding counts": Case(
        "AveragePool", (), {"kernel_shape": [3, 3], "pads": [0, 1, 1, 1], "count_include_pad": 1}
    ),
    "average pool, all defaults": Case("AveragePool", (), {"kernel_shape": [2, 3]}),
    "batch normalisation": Case(
        "BatchNormalization", (floats(8), floats(8), floats(8), np.abs(floats(8)))
    ),
    "clip": Case("Clip", (np.float32(-1), np.float32(0.5))),
    "clip below": Case("Clip", (np.float32(-1),)),
    "clip above": Case("Clip", (None, np.float32(0.5))),
    "convolution": Case("Conv", (floats(4, 8, 3, 3), floats(4)), {"pads": [1, 1, 1, 1]}),
    "convolution, all defaults": Case("Conv", (floats(4, 8, 3, 3),)),
    "convolution, groups, strides": Case(
        "Conv", (floats(8, 2, 3, 3),), {"group": 4, "strides": [2, 1], "pads": [0, 1, 1, 1]}
    ),
    "convolution, dilated": Case(
        "Conv", (floats(8, 1, 3, 3),), {"group": 8, "dilations": [2, 2], "pads": [2, 2, 2, 2]}
    ),
    "convolution of one axis": Case("Conv", (floats(4, 8, 3),), {}, (2, 8, 9)),
    "depth to space": Case("DepthToSpace", (), {"blocksize": 2}),
    "depth to space, columns first": Case("DepthToSpace", (), {"blocksize": 2, "mode": "CRD"}),
    "divide": Case("Div", (np.abs(floats(7)) + 1,)),
    "elu": Case("Elu", (), {"alpha": 0.7}),
    "exp": Case("Exp"),
    "flatten": Case("Flatten"),
    "flatten from the end": Case("Flatten", (), {"axis": -1}),
    "floor": Case("Floor"),
    "gather": Case("Gather", (ints(2, 1, 0, -1),), {"axis": 1}),
    "gather one": Case("Gather", (np.array(2, np.int64),), {"axis": -1}),
    "gather from afar": Case("Gather", (ints(2**24 + 1),), {}, (2**24 + 2,)),
    "gemm": Case("Gemm", (floats(5, 7), floats(5)), {"transB": 1, "alpha": 0.5}, (6, 7)),
    "global average pool": Case("GlobalAveragePool"),
    "global max pool": Case("GlobalMaxPool"),
    "hard sigmoid": Case("HardSigmoid"),
    "hard swish": Case("HardSwish"),
    "identity": Case("Identity"),
    "leaky relu": Case("LeakyRelu"),
    "matrix product": Case("MatMul", (floats(7, 3),)),
    "max pool, wider than twice its padding": Case(
        "MaxPool", (), {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}
    ),
    "max pool, strides": Case(
        "MaxPool", (), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    ),
    "multiply": Case("Mul", (floats(1, 8, 1, 1),)),
    "pad": Case("Pad", (ints(0, 0, 1, 2, 0, 0, 3, 0), np.float32(0.5))),
    "power": Case("Pow", (np.float32(2),)),
    "prelu": Case("PRelu", (floats(8, 1, 1),)),
    "reduce max": Case("ReduceMax", (), {"axes": [2, 3], "keepdims": 0}),
    "reduce all": Case("ReduceMean", (), {"keepdims": 0}),
    "reduce mean": Case("ReduceMean", (), {"axes": [1]}),
    "reduce sum": Case("ReduceSum", (ints(2, 3),)),
    "relu": Case("Relu"),
    "reshape": Case("Reshape", (ints(0, 4, -1),)),
    "resize, nearest": Case(
        "Resize",
        (None, np.array([1, 1, 2, 3], np.float32)),
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "resize, linear": Case(
        "Resize", (None, np.array([1, 1, 2, 2], np.float32)), {"mode": "linear"}
    ),
    "resize, linear, to a size": Case(
        "Resize",
        (None, None, ints(2, 8, 9, 15)),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    "sigmoid": Case("Sigmoid"),
    "slice": Case("Slice", (ints(1, -4), ints(9999, -1), ints(2, 3))),
    "slice, every second": Case("Slice", (ints(1), ints(9999), ints(-1), ints(2))),
    "slice, backwards": Case("Slice", (ints(-1, 2), ints(-(2**63), 0), ints(1, 2), ints(-1, -1))),
    "softmax": Case("Softmax", (), {"axis": 1}),
    "softmax of the last axis": Case("Softmax"),
    "softplus": Case("Softplus"),
    "space to depth": Case("SpaceToDepth", (), {"blocksize": 2}, (2, 3, 4, 6)),
    "split": Case("Split", (ints(3, 5),), {"axis": 1}, outputs=2),
    "square root": Case("Sqrt", positive=True),
    "squeeze": Case("Squeeze", (ints(1, -1),), {}, (2, 1, 4, 1)),
    "squeeze all": Case("Squeeze", (), {}, (2, 1, 4, 1)),
    "subtract": Case("Sub", (floats(6, 7),)),
    "tanh": Case("Tanh"),
    "transpose": Case("Transpose", (), {"perm": [0, 2, 3, 1]}),
    "transpose, by default": Case("Transpose"),
    "unsqueeze": Case("Unsqueeze", (ints(0, -1),)),
}


def graph_of(case: Case) -> onnx.ModelProto:
    names = ["" if value is None else f"c{at}" for at, value in enumerate(case.constants)]
    outputs = [f"y{at}" for at in range(case.outputs)]
    node = helper.make_node(case.operator, ["x", *names], outputs, "node", **case.attributes)
    constants = [
        numpy_helper.from_array(np.asarray(value), name)
        for value, name in zip(case.constants, names, strict=True)
        if value is not None
    ]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, case.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_onnx_runtime_computes(name: str) -> None:
    case = CASES[name]
    proto = graph_of(case)
    node = proto.graph.node[0]
    assert refusal(node) is None
    x = floats(*case.shape)
    x = np.abs(x) if case.positive else x
    expected = plain_session(proto).run(None, {"x": x})
    inputs: list[Any] = [torch.from_numpy(x)]
    for value in case.constants:
        values = None if value is None else np.asarray(value)
        argument = None if values is None else constant_argument(values)
        inputs.append(
            torch.from_numpy(values) if argument is None and value is not None else argument
        )
    found = OPERATORS[node.op_type](torch, inputs, attributes_of(node))
    many = found if isinstance(found, (tuple, list)) else (found,)
    for got, wanted in zip(many, expected, strict=True):
        assert got.shape == wanted.shape
        # Sums of some dozens of products, in another order.
        scale = max(float(np.abs(wanted).max()), 1.0)
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-6 * scale)


def test_every_operator_is_tried() -> None:
    """Those that take several tensors, or give another type, in whole networks."""
    elsewhere = {"Cast", "Concat"}
    assert {case.operator for case in CASES.values()} == set(OPERATORS) - elsewhere


@pytest.mark.parametrize(
    ("operator", "attributes", "reason"),
    [
        ("Erf", {}, "the operator Erf is not known"),
        ("Conv", {"auto_pad": "SAME_UPPER"}, "Conv with auto_pad = 'SAME_UPPER'"),
        ("MaxPool", {"ceil_mode": 1}, "MaxPool with ceil_mode = 1"),
        ("Cast", {"to": TensorProto.INT64}, "Cast with to = 7"),
        ("Pad", {"mode": "reflect"}, "Pad with mode = 'reflect'"),
        ("Resize", {"mode": "cubic"}, "this way of resizing"),
        # Older forms, whose arguments are attributes.
        ("Clip", {"max": 6.0}, "Clip with max"),
        ("Squeeze", {"axes": [2]}, "Squeeze with axes"),
        ("Unsqueeze", {"axes": [2]}, "Unsqueeze with axes"),
        ("Pad", {"pads": [0, 1, 0, 1]}, "Pad with pads"),
        ("Split", {}, "Split without the sizes"),
        ("MaxPool", {"kernel_shape": [2]}, "MaxPool of 1 axes"),
        ("AveragePool", {"kernel_shape": [2, 2, 2]}, "AveragePool of 3 axes"),
        ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, "with dilations = [2, 2]"),
        ("ReduceMean", {"noop_with_empty_axes": 1}, "with noop_with_empty_axes = 1"),
        # PyTorch's nearest rounds down, ONNX's default otherwise.
        ("Resize", {"mode": "nearest"}, "this way of resizing"),
    ],
)
def test_what_is_not_known_is_refused(
    operator: str, attributes: dict[str, Any], reason: str
) -> None:
    node = helper.make_node(operator, ["x"], ["y"], "node", **attributes)
    assert reason in (refusal(node) or "")


def test_an_operator_of_another_domain_is_refused() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "node", domain="com.example")
    assert refusal(node) is not None
