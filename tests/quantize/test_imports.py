"""INT8 of every imported model, on every backend that can be had without a GPU.

What comes out is judged as users' plans are: on an image that the model was calibrated on, by
the distance to the network in float (`boxwright.backends.comparison`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from boxwright import backends
from boxwright.model import Model
from boxwright.quantize.calibration import Calibration, calibrate
from boxwright.quantize.probing import choose_probe
from boxwright.quantize.quantizer import Quantized, quantize
from boxwright.quantize.rules import Rules
from boxwright.ranges import RANGES_KEY
from tests.importers import catalogue
from tests.importers.catalogue import ENTRIES, Entry, Sources

SUBJECTS = [entry for entry in ENTRIES if not entry.quantised]
TARGETS = ("onnxruntime", "openvino", "tensorrt-rtx")
# What RTX needs to build without a GPU, and quickly.
RTX = {"compute_capabilities": "8.6", "optimization_level": 0, "profiles": [[1, 1, 2]]}
COMPUTED_IN = {"onnxruntime": "int8", "openvino": "u8", "tensorrt-rtx": "int8"}


class Subject:
    """A model, calibrated."""

    def __init__(self, entry: Entry, request: pytest.FixtureRequest, folder: Path) -> None:
        self.entry = entry
        sources = Sources(request, folder)
        self.model: Model = catalogue.load(entry, sources)
        self.files = [folder / f"{number}.png" for number in range(4)]
        self.images = catalogue.images(entry, sources, len(self.files))
        for path, image in zip(self.files, self.images, strict=True):
            cv2.imwrite(str(path), image[..., ::-1])
        self.calibration: Calibration = calibrate(self.model, self.files)
        self.probe = choose_probe(self.model, self.files)

    def quantize(self, target: str) -> Quantized:
        """By the rules of the target; of small networks, whatever may be in INT8 at all."""
        found = self._quantize(Rules.of_target(target))
        if found.placement.quantized:
            return found
        return self._quantize(Rules(min_channels=1, first=True, heads=True))

    def _quantize(self, rules: Rules) -> Quantized:
        return quantize(
            self.model, self.calibration, method="percentile", rules=rules, probe=self.probe
        )


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(request.param, request, tmp_path_factory.mktemp("subject"))


def listed(entries: list[Entry]) -> list[Any]:
    slow = [pytest.mark.slow]
    return [pytest.param(e, id=e.name, marks=slow if e.heavy else []) for e in entries]


@pytest.mark.filterwarnings("ignore:.*")  # of the runtimes' own, about small graphs
@pytest.mark.parametrize("subject", listed(SUBJECTS), indirect=True)
@pytest.mark.parametrize("target", TARGETS)
def test_every_import_runs_in_int8_everywhere(
    subject: Subject, target: str, tmp_path: Path
) -> None:
    if (reason := backends.available()[target]) is not None and target != "tensorrt-rtx":
        pytest.skip(f"{target} cannot work here: {reason}")
    if target == "tensorrt-rtx":
        pytest.importorskip("tensorrt_rtx")
    quantized = subject.quantize(target)
    layers = quantized.placement.quantized
    assert layers
    engine = backends.build(
        quantized.model,
        backend=target,
        precision="int8",
        output=tmp_path / "x.bw",
        options={**RTX, "isolate": False} if target == "tensorrt-rtx" else {},
    )
    counted = engine.receipt["layers"][COMPUTED_IN[target]]
    # A decomposed or a merged convolution is another number, but not next to none.
    assert sum(counted.values()) >= len(layers) / 2, counted
    if target == "tensorrt-rtx":  # it runs nowhere here
        return
    # Building has refused what is too far from the float network; these did not come by that.
    outputs = engine.receipt["parity"]["outputs"]
    assert {"nrmse_to_float", "graph_nrmse_to_float"} <= set(next(iter(outputs.values())))
    images = subject.images[:2]
    with backends.load(engine) as runner:
        first = runner.infer({"images": images})
        again = runner.infer({"images": images[::-1]})
    for name, values in first.items():
        np.testing.assert_allclose(again[name][::-1], values, atol=0.05 * np.abs(values).max())


@pytest.mark.parametrize("subject", listed(SUBJECTS), indirect=True)
def test_every_import_is_portable_in_int8(subject: Subject) -> None:
    """One form that all read: no batch normalisation between pairs, ranges and an image inside."""
    proto = subject.quantize("tensorrt").model.proto
    nodes = list(proto.graph.node)
    rounded = {name for node in nodes if node.op_type == "QuantizeLinear" for name in node.output}
    behind = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
    assert rounded
    assert behind
    convolved = {n.output[0] for n in nodes if n.op_type == "Conv" and n.input[0] in behind}
    assert not [
        n.name for n in nodes if n.op_type == "BatchNormalization" and n.input[0] in convolved
    ]
    assert {"boxwright.probe", RANGES_KEY} <= {prop.key for prop in proto.metadata_props}
