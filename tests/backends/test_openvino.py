"""OpenVINO: the common suite, its plans, its options, and that nothing is reported."""

from __future__ import annotations

import importlib.util

import pytest

from tests.backends.conformance import BackendConformance

# Not importorskip: that would import OpenVINO with its usage reporting.
if importlib.util.find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)


class TestConformance(BackendConformance):
    backend = "openvino"
    box_tolerance = 1e-4
    score_tolerance = 1e-6
    unsupported = ("fp16", "int8")
