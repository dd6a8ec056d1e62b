"""Names and constants of the builder, on a new graph and on one that is there."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from boxwright.graph.builder import GraphBuilder


def test_names_are_clean_and_taken_once() -> None:
    graph = GraphBuilder("names")
    assert graph.unique("model/22 (Concat)\n") == "model/22_Concat_"
    assert graph.unique("a") == "a"
    assert graph.unique("a") == "a_2"
    assert graph.unique("") == "unnamed"
    assert len(graph.unique("x" * 10_000)) <= 210


def test_a_constant_does_not_take_the_name_of_a_tensor_that_is_there() -> None:
    weights = numpy_helper.from_array(np.array(3, np.float32), "scalar/2.0")
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Mul", ["x", "scalar/2.0"], ["y"])],
            "there",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
            [weights],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    graph = GraphBuilder.on(proto)
    two = graph.scalar(2.0)
    assert two != "scalar/2.0"
    assert graph.scalar(2.0) == two
    values = {t.name: numpy_helper.to_array(t).item() for t in proto.graph.initializer}
    assert values == {"scalar/2.0": 3, two: 2}


def test_names_inside_nested_graphs_are_taken() -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["inside"])],
        "inner",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, [1])],
    )
    proto = onnx.ModelProto()
    proto.graph.node.append(
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    )
    assert GraphBuilder.on(proto).unique("inside") == "inside_2"
