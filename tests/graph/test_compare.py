"""Two graphs are told apart by running them, and what cannot be run is said."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from boxwright.graph.compare import compare
from tests.graph.zoo import model


def _times(factor: float, opset: int = 13) -> onnx.ModelProto:
    proto = model("g (float[N,4] x) => (float[N,4] y) { y = Mul(x, c) }", opset)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "c"))
    return proto


def test_the_same_graph_differs_by_nothing() -> None:
    assert compare(_times(2), _times(2)).difference == 0


@pytest.mark.parametrize("error", [1e-6, 1e-3, 0.5])
def test_a_difference_is_measured_relative_to_the_largest_value(error: float) -> None:
    difference = compare(_times(1000), _times(1000 * (1 + error))).difference
    assert difference == pytest.approx(error, rel=0.1)


def test_nan_and_another_shape_are_infinitely_far() -> None:
    assert compare(_times(1), _times(math.nan)).difference == math.inf
    assert compare(_times(math.nan), _times(math.nan)).difference == 0
    flat = model("g (float[N,4] x) => (float[M] y) <int64[1] s = {-1}> { y = Reshape(x, s) }")
    assert compare(_times(1), flat).difference == math.inf


def test_what_cannot_be_run_is_said() -> None:
    broken = model("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }", opset=99)
    found = compare(broken, _times(1))
    assert found.difference is None
    assert "cannot run the original" in (found.reason or "")
    text = model("g (string[1] x) => (string[1] y) { y = Identity(x) }")
    assert "no tensor of numbers" in (compare(text, text).reason or "")
    huge = model("g (float[100000,100000] x) => (float[100000,100000] y) { y = Relu(x) }")
    assert "too large" in (compare(huge, huge).reason or "")


def test_a_random_graph_is_not_compared() -> None:
    noise = model(
        "g (float[2,4] x) => (float[2,4] y) <float r = {0.5}, bool t = {1}> "
        "{ y = Dropout(x, r, t) }"
    )
    found = compare(noise, _times(1))
    assert found.difference is None
    assert "random" in (found.reason or "")


def test_types_that_a_pass_changed_are_converted() -> None:
    wide = model("g (double[2,4] x) => (double[2,4] y) { y = Sqrt(x) }")
    narrow = model("g (float[2,4] x) => (float[2,4] y) { y = Sqrt(x) }")
    difference = compare(wide, narrow).difference
    assert difference is not None
    assert 0 < difference < 1e-6
