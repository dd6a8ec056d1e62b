"""The reference backend: the common suite, and that its own operators are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from boxwright.backends.reference import _faster_operators
from boxwright.extras import import_onnxruntime
from tests.backends.conformance import BackendConformance

NO_PLANS = "it runs the portable graph itself: there is no plan to miss, cache or damage"


class TestConformance(BackendConformance):
    backend = "reference"
    unsupported = ("fp16",)
    exclusions = {  # noqa: RUF012
        "test_a_missing_plan_is_rebuilt_explained_and_kept": NO_PLANS,
        "test_a_damaged_cache_is_built_again": NO_PLANS,
        "test_a_cache_that_cannot_be_written_costs_only_time": NO_PLANS,
        "test_a_plan_of_nonsense_is_an_engine_error": NO_PLANS,
        "test_a_killed_build_leaves_nothing": "its build reports no progress to be killed at",
    }


def one_node(kind: str, inputs: dict[str, np.ndarray[Any, Any]], **attributes: Any) -> bytes:
    """A model of one operator; all inputs but the first are weights."""
    names = list(inputs)
    node = helper.make_node(kind, names, ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs["x"].shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(inputs[name], name) for name in names[1:]]
    graph = helper.make_graph([node], "one", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def evaluate(model: bytes, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    proto = onnx.ModelProto.FromString(model)
    (result,) = ReferenceEvaluator(proto, new_ops=_faster_operators()).run(None, {"x": x})
    return np.asarray(result)


# Every case runs here and in ONNX Runtime, whose kernels are somebody else's reading of the
# same definitions. Shapes are odd, so that a mix-up of rows and columns shows.
CASES: list[tuple[str, tuple[int, ...] | None, dict[str, Any]]] = [
    ("Conv", (6, 4, 3, 3), {}),
    ("Conv", (6, 4, 3, 5), {"pads": [1, 2, 0, 3], "strides": [2, 1]}),
    ("Conv", (4, 4, 3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    ("Conv", (6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    ("Conv", (4, 1, 3, 3), {"group": 4, "strides": [2, 2]}),
    ("Conv", (8, 1, 1, 1), {"group": 4}),
    ("Conv", (6, 4, 2, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ("Conv", (6, 4, 2, 4), {"auto_pad": "SAME_LOWER"}),
    ("Conv", (6, 4, 3, 3), {"auto_pad": "VALID"}),
    ("MaxPool", None, {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", None, {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
    ("MaxPool", None, {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]}),
    ("MaxPool", None, {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1}),
    ("MaxPool", None, {"kernel_shape": [2, 2], "strides": [4, 4], "pads": [0, 0, 1, 1]}),
    (
        "MaxPool",
        None,
        {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    ),
    ("MaxPool", None, {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("AveragePool", None, {"kernel_shape": [3, 2], "strides": [2, 2]}),
    ("AveragePool", None, {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2]}),
    ("AveragePool", None, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", None, {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1}),
    ("GlobalAveragePool", None, {}),
    ("Sigmoid", None, {}),
    ("Softplus", None, {}),
]


@pytest.mark.parametrize(("kind", "weights", "attributes"), CASES)
def test_an_operator_is_what_the_definition_says(
    kind: str, weights: tuple[int, ...] | None, attributes: dict[str, Any]
) -> None:
    random = np.random.default_rng(0)
    inputs = {"x": random.normal(-1, 4, (2, 4, 11, 14)).astype(np.float32)}
    if weights:
        inputs["w"] = random.normal(size=weights).astype(np.float32)
        inputs["b"] = random.normal(size=weights[0]).astype(np.float32)
    model = one_node(kind, inputs, **attributes)
    got = evaluate(model, inputs["x"])
    session = import_onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": inputs["x"]})
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_extreme_values_do_not_overflow() -> None:
    x = np.array([[[[-1e4, -100, -0.0, 0.0, 100, 1e4]]]], np.float32)
    expected = {
        "Sigmoid": [0, 3.7835e-44, 0.5, 0.5, 1, 1],
        "Softplus": [0, 3.7835e-44, 0.693147, 0.693147, 100, 1e4],
    }
    for kind, values in expected.items():
        got = evaluate(one_node(kind, {"x": x}), x)
        np.testing.assert_allclose(got.ravel(), np.array(values), rtol=1e-5)
