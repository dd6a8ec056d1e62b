"""The conformance suite on a real GPU."""

from __future__ import annotations

import pytest

from boxwright import backends
from tests.backends.conformance import BackendConformance

_REASON = backends.available()["tensorrt"]


@pytest.mark.skipif(_REASON is not None, reason=f"TensorRT cannot work here: {_REASON}")
class TestTensorRt(BackendConformance):
    backend = "tensorrt"
    # float32 without TF32; kernels add in another order than the reference, which adds in
    # float64.
    box_tolerance = 2e-3
    score_tolerance = 2e-5
