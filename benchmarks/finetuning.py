"""Whether fine-tuning pays: points of AP that INT8 loses without it and with it, and its time.

python benchmarks/finetuning.py MODEL [MODEL ...] --calibration FOLDER [FOLDER ...]
    --images FOLDER --annotations FILE [--methods minmax,entropy] [--steps N]
    [--backends openvino,onnxruntime] [--work FOLDER] [--threads N] [--output FILE]

A MODEL is one that `boxwright import` wrote. It is calibrated and fine-tuned on the images of
the folders of ``--calibration``, without labels. All layers that TensorRT's rules allow are in
INT8. "graph" is the portable graph computed as it says, so that figure belongs to no runtime;
"without pairs" is the graph in float with the weights that were trained, which says how far
these went.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from _arguments import int8_parser
from _environment import heading, tell

from boxwright import backends
from boxwright.backends.quantized import without_pairs
from boxwright.datasets import open as open_dataset
from boxwright.images import find_images
from boxwright.model import Model
from boxwright.quantize.calibration import calibrate
from boxwright.quantize.finetune.training import DEFAULT_STEPS, Settings
from boxwright.quantize.finetune.tune import PARAMETERS, Tuner
from boxwright.quantize.objective import LabelledObjective
from boxwright.quantize.probing import choose_probe
from boxwright.quantize.quantizer import prepare, quantize


def value_on(backend: str, model: Model, objective: LabelledObjective) -> float:
    """AP of what `build` makes of it, whose own checks it passes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "engine.bw"
        engine = backends.build(model, backend=backend, precision="int8", output=file)
        return objective.measure(model, backends.load(engine))


def rows(
    path: Path, given: argparse.Namespace, objective: LabelledObjective
) -> Iterator[list[str]]:
    import torch

    files = [file for folder in given.calibration for file in find_images(folder)]
    model = prepare(Model.load(path))
    calibration = calibrate(model, files)
    before = objective.measure(model)
    probe = choose_probe(model, files)
    for method in given.methods:
        plain = quantize(model, calibration, method=method, probe=probe)
        tuner = Tuner(model, files, Settings(given.steps, device="cpu"), given.work)
        started = time.perf_counter()
        tuned = tuner.tune(plain)
        seconds = time.perf_counter() - started
        told = tuned.model.card.transforms[-1].parameters[PARAMETERS]
        error = told["error"]
        lost = [
            f"{before - objective.measure(plain.model):.2f} to "
            f"{before - objective.measure(tuned.model):.2f}"
        ]
        for backend in given.backends:
            pair = [before - value_on(backend, item.model, objective) for item in (plain, tuned)]
            lost.append(f"{pair[0]:.2f} to {pair[1]:.2f}")
        floats = Model(without_pairs(tuned.model.proto), model.card)
        yield [
            f"{model.card.name} ({before:.2f})",
            method,
            f"{error['before']:.2f} to {error['after']:.2f}",
            *lost,
            f"{before - objective.measure(floats):.2f}",
            f"{seconds:.0f} ({torch.get_num_threads()} threads)",
        ]


def page(given: argparse.Namespace) -> Iterator[str]:
    import torch

    torch.set_num_threads(given.threads)
    yield heading()
    yield f"# torch: {torch.__version__}"
    files = [file for folder in given.calibration for file in find_images(folder)]
    objective = LabelledObjective(open_dataset(given.annotations, images=given.images))
    yield (
        f"\nCalibrated and tuned on {len(files)} images, {given.steps} steps; {objective.name}. "
        "Points lost, without to with.\n"
    )
    names = ["network (float)", "ranges", "error", "graph", *given.backends]
    names += ["without pairs", "seconds"]
    yield f"| {' | '.join(names)} |"
    yield f"|---|{'---|' * (len(names) - 1)}"
    for path in given.models:
        for row in rows(path, given, objective):
            yield f"| {' | '.join(row)} |"


def main() -> None:
    parser = int8_parser(__doc__)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["entropy"])
    parser.add_argument("--backends", type=lambda text: text.split(","), default=["openvino"])
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="a folder that a stopped run goes on with")
    given = parser.parse_args()
    tell(page(given), given.output)


if __name__ == "__main__":
    main()
