"""A graph that names other files for its values is given to no runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from boxwright.backends.onnxruntime.session import open_session, session_options
from boxwright.errors import BuildError, ModelError
from boxwright.external_data import serialised_keeps_values_elsewhere
from boxwright.graph.session import plain_session


def elsewhere(name: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    return tensor


def made(where: str) -> onnx.ModelProto:
    """x + 1, of which the 1 is an initializer, a constant, or a constant in a branch."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    one = helper.make_node("Constant", [], ["one"], value=elsewhere("one"))
    add = helper.make_node("Add", ["x", "one"], ["y"])
    yes = numpy_helper.from_array(np.array(True), "yes")
    if where == "branch":
        branch = helper.make_graph([one, add], "branch", [], [y])
        node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
        graph = helper.make_graph([node], "graph", [x], [y], [yes])
    elif where == "constant":
        graph = helper.make_graph([one, add], "graph", [x], [y])
    else:
        graph = helper.make_graph([add], "graph", [x], [y], [elsewhere("one")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
def test_it_is_refused_wherever_the_values_belong(where: str) -> None:
    proto = made(where)
    assert serialised_keeps_values_elsewhere(proto.SerializeToString())
    with pytest.raises(ModelError, match="keeps values in another file"):
        plain_session(proto)
    with pytest.raises(BuildError, match="keeps values in another file"):
        open_session(proto.SerializeToString(), session_options({}, optimise=False), "cpu")


def test_a_name_that_only_sounds_like_it_is_none() -> None:
    proto = made("initializer")
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(4, np.float32), "one"))
    proto.graph.node[0].name = "location"
    assert not serialised_keeps_values_elsewhere(proto.SerializeToString())
    plain_session(proto)
    open_session(proto.SerializeToString(), session_options({}, optimise=False), "cpu")


def test_what_is_no_model_is_refused_as_such() -> None:
    with pytest.raises(BuildError, match="refuses the model"):
        open_session(b"location", session_options({}, optimise=False), "cpu")
