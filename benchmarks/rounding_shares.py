"""What INT8 loses by rounding weights, and what by rounding activations: points of AP.

python benchmarks/rounding_shares.py MODEL [MODEL ...] --calibration FOLDER [FOLDER ...]
    --images FOLDER --annotations FILE [--output FILE]

A MODEL is one that `boxwright import` wrote. All layers that TensorRT's rules allow are in
INT8, and the graph is computed as it says, so the figures belong to no runtime. Where weights
alone lose next to nothing, no better rounding of them (AdaRound and the like) can bring
anything back. "One scale" is what weights lose with one scale for a whole layer instead of one
for each output channel: what cross-layer equalisation was made for.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

import numpy as np
from _arguments import int8_parser
from _environment import heading, tell

from boxwright.datasets import open as open_dataset
from boxwright.images import find_images
from boxwright.model import Model
from boxwright.quantize.calibration import Calibration, calibrate
from boxwright.quantize.insert import LEVELS, insert
from boxwright.quantize.layers import weight_values
from boxwright.quantize.objective import LabelledObjective
from boxwright.quantize.placement import Placement, place
from boxwright.quantize.quantizer import prepare, quantize
from boxwright.quantize.ranges import Method
from boxwright.quantize.rules import Rules

METHODS: tuple[Method, ...] = ("minmax", "entropy")
HEADS = (
    "network (float)",
    "weights, one scale",
    "weights",
    *(f"{what}, {method}" for method in METHODS for what in ("activations", "both")),
)


def weights_only(model: Model, placement: Placement) -> Model:
    """Pairs behind the weights, none behind activations."""
    return Model(insert(model.proto, dataclasses.replace(placement, tensors=()), {}), model.card)


def activations_only(model: Model, placement: Placement, amax: dict[str, float]) -> Model:
    """Pairs behind activations, none behind weights."""
    layers = tuple(dataclasses.replace(item, reason="not here") for item in placement.layers)
    only = dataclasses.replace(placement, layers=layers)
    return Model(insert(model.proto, only, amax), model.card)


def one_scale(model: Model, placement: Placement) -> Model:
    """Weights rounded with one scale for each layer, in a graph without pairs."""
    from onnx import numpy_helper

    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name in {layer.weights for layer in placement.quantized}:
        values = weight_values(tensors[name])
        scale = np.float32(max(float(np.abs(values).max()), 1e-12) / LEVELS)
        rounded = (np.rint(values / scale) * scale).astype(np.float32)
        tensors[name].CopyFrom(numpy_helper.from_array(rounded, name))
    return Model(proto, model.card)


def lost(model: Model, calibration: Calibration, objective: LabelledObjective) -> Iterator[float]:
    """Points of AP lost, in the order of the table."""
    placement = place(model.proto, Rules(), ())
    before = objective.measure(model)
    yield before
    yield before - objective.measure(one_scale(model, placement))
    yield before - objective.measure(weights_only(model, placement))
    for method in METHODS:
        both = quantize(model, calibration, method=method)
        activations = activations_only(model, placement, dict(both.amax))
        yield before - objective.measure(activations)
        yield before - objective.measure(both.model)


def page(given: argparse.Namespace) -> Iterator[str]:
    yield heading()
    files = [file for folder in given.calibration for file in find_images(folder)]
    objective = LabelledObjective(open_dataset(given.annotations, images=given.images))
    yield f"\nCalibrated on {len(files)} images; {objective.name}. Points lost.\n"
    yield f"| {' | '.join(HEADS)} |"
    yield f"|---|{'---|' * (len(HEADS) - 1)}"
    for path in given.models:
        model = prepare(Model.load(path))
        before, *cells = lost(model, calibrate(model, files), objective)
        row = " | ".join(f"{cell:.2f}" for cell in cells)
        yield f"| {model.card.name} ({before:.2f}) | {row} |"


def main() -> None:
    parser = int8_parser(__doc__)
    given = parser.parse_args()
    tell(page(given), given.output)


if __name__ == "__main__":
    main()
