"""How far a plan may be from the graph that it was made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from boxwright.backends.comparison import compare_outputs
from boxwright.errors import BuildError
from tests.models import make_model

RANDOM = np.random.default_rng(0)
# As a trained detector on noise: next to nothing everywhere.
SCORES = RANDOM.uniform(0, 0.002, (1, 1000, 80)).astype(np.float32)
BOXES = RANDOM.uniform(0, 320, (1, 1000, 4)).astype(np.float32)


def moved(values: Any, deviation: float) -> Any:
    return (values + RANDOM.normal(0, deviation, values.shape)).astype(np.float32)


def compared(expected: Any, got: Any, quantised: bool) -> float:
    found = compare_outputs(
        {"y": expected}, {"y": got}, plan="it", judged="int8" if quantised else "float"
    )
    return float(found["y"]["nrmse"])


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        # What ONNX Runtime and OpenVINO make of EfficientDet-Lite0, and a good deal more.
        (SCORES, moved(SCORES, 5e-4)),
        (BOXES, moved(BOXES, 1.2)),
        (SCORES + 0.5, moved(SCORES + 0.5, 3.5e-3)),
        (SCORES * 0, moved(SCORES * 0, 1e-3)),
    ],
)
def test_a_quantised_plan_may_round_elsewhere(expected: Any, got: Any) -> None:
    compared(expected, got, True)


def test_a_plan_of_floats_may_not() -> None:
    with pytest.raises(BuildError, match=r"computes another 'y' .* at most 0.01 expected"):
        compared(SCORES, moved(SCORES, 5e-4), False)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (SCORES, SCORES * 0),
        (SCORES + 0.5, np.roll(SCORES + 0.5, 1, 1) * 3),
        (SCORES + 0.5, moved(SCORES + 0.5, 0.2)),
        (BOXES, moved(BOXES, 200)),
        (BOXES, BOXES[..., ::-1]),
        (SCORES * 0, moved(SCORES * 0, 8e-3)),
        (SCORES, np.where(SCORES > 0.001, np.float32(np.nan), SCORES)),
    ],
)
def test_a_quantised_plan_that_computes_something_else_is_refused(expected: Any, got: Any) -> None:
    with pytest.raises(BuildError, match=r"computes another 'y'|gives 0 for all of 'y'"):
        compared(expected, got, True)


def test_a_model_of_floats_is_not_quantised() -> None:
    assert not make_model().quantized
