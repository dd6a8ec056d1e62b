"""Whether correcting biases pays: points of AP that INT8 loses without it and with it.

python benchmarks/bias_correction.py MODEL [MODEL ...] --calibration FOLDER [FOLDER ...]
    --images FOLDER --annotations FILE [--output FILE]

A MODEL is one that `boxwright import` wrote. All layers that TensorRT's rules allow are in
INT8, and the graph is computed as it says, so the figures belong to no runtime.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from _arguments import int8_parser
from _environment import heading, tell

from boxwright.datasets import open as open_dataset
from boxwright.images import find_images
from boxwright.model import Model
from boxwright.quantize.calibration import calibrate
from boxwright.quantize.objective import LabelledObjective
from boxwright.quantize.quantizer import prepare
from boxwright.quantize.ranges import METHODS
from boxwright.quantize.variants import Variant, Workshop


def page(given: argparse.Namespace) -> Iterator[str]:
    yield heading()
    files = [file for folder in given.calibration for file in find_images(folder)]
    objective = LabelledObjective(open_dataset(given.annotations, images=given.images))
    yield f"\nCalibrated on {len(files)} images; {objective.name}. Points lost, without to with.\n"
    yield f"| network (float) | {' | '.join(METHODS)} |"
    yield f"|---|{'---|' * len(METHODS)}"
    for path in given.models:
        model = prepare(Model.load(path))
        workshop = Workshop(model, calibrate(model, files), images=files)
        before = objective.measure(model)
        cells = []
        for method in METHODS:
            lost = [
                before - objective.measure(workshop.make(Variant(method, bias=bias)).model)
                for bias in (False, True)
            ]
            cells.append(f"{lost[0]:.2f} to {lost[1]:.2f}")
        yield f"| {model.card.name} ({before:.2f}) | {' | '.join(cells)} |"


def main() -> None:
    parser = int8_parser(__doc__)
    given = parser.parse_args()
    tell(page(given), given.output)


if __name__ == "__main__":
    main()
