"""How far the float16 form of a model is from it: boxes, scores, AP.

python benchmarks/float16_graph.py MODEL [MODEL ...] --images DIR [--annotations F.json]

MODEL is an ONNX model that Boxwright wrote, or trained weights. Every image is run through
the model, and through its float16 form in four ways:

rounded      every result rounded to float16, as a GPU stores it (graph/precision/emulate.py)
onnxruntime  the float16 graph on ONNX Runtime's CPU kernels, which round only where they must
openvino     the float16 graph on OpenVINO's CPU plugin, likewise
peer         onnxconverter-common's float16 form of the same model, rounded as in the first

A candidate counts where the model scores a class above 0.25. `score` is the largest
difference of a score, `pixels` of a box's side, `p99` its 99th percentile; `lost` counts
images on which a way gives an infinity or NaN that the model does not. AP is COCO's, of the
images that have labels, where the model's classes are COCO's.
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _environment import heading

import boxwright
from boxwright.backends.base import BuildSpec, TensorSpec
from boxwright.backends.registry import get
from boxwright.backends.runner import CheckedRunner
from boxwright.detector import Detector
from boxwright.errors import BoxwrightError
from boxwright.graph.precision import to_half
from boxwright.graph.precision.emulate import emulated, measure_ranges
from boxwright.images import find_images, load_image
from boxwright.model import BOXES, IMAGES, SCORES, Model
from boxwright.preprocess import Preprocessor

SCORE = 0.25
Run = Callable[[Any], dict[str, Any]]


def on_onnxruntime(proto: onnx.ModelProto) -> Run:
    """Run by ONNX Runtime's CPU kernels, optimised as it likes."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    names = [BOXES, SCORES]
    return lambda images: dict(zip(names, session.run(names, {IMAGES: images}), strict=True))


def on_openvino(proto: onnx.ModelProto) -> Run:
    """Run by OpenVINO's CPU plugin, told to compute in float32 where it has a choice."""
    from boxwright.backends.openvino.runtime import core

    network = core().read_model(proto.SerializeToString())
    compiled = core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images: Any) -> dict[str, Any]:
        results = compiled({IMAGES: images})
        return {name: results[name] for name in (BOXES, SCORES)}

    return run


def by_peer(model: Model) -> onnx.ModelProto:
    """onnxconverter-common's float16 form, with its own rules, inputs and outputs kept."""
    float16 = importlib.import_module("onnxconverter_common.float16")
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted: onnx.ModelProto = float16.convert_float_to_float16(copy, keep_io_types=True)
    return converted


class Runner(CheckedRunner):
    """A function as a runner, for the detector."""

    def __init__(self, model: Model, run: Run) -> None:
        height, width = model.card.input_size
        shape = (None, height, width, 3)
        classes = len(model.card.class_names)
        outputs = (
            TensorSpec(BOXES, np.dtype(np.float32), (None, None, 4)),
            TensorSpec(SCORES, np.dtype(np.float32), (None, None, classes)),
        )
        super().__init__((TensorSpec(IMAGES, np.dtype(np.uint8), shape),), outputs)
        self._call = run

    def _run(self, feed: dict[str, Any]) -> dict[str, Any]:
        return self._call(feed[IMAGES])

    def _free(self) -> None:
        pass


def average_precision(model: Model, run: Run, images: Path, annotations: Path) -> str:
    """COCO's AP in percent, or ``-`` where model and labels have no class in common."""
    from boxwright.datasets import open as open_dataset
    from boxwright.evaluate.run import evaluate

    try:
        dataset = open_dataset(annotations, images=images)
        with Detector(
            model.card, runner=Runner(model, run), batch_size=1, score_threshold=0.001,
            max_detections=100,
        ) as detector:  # fmt: skip
            accuracy = evaluate(detector, dataset).accuracy
    except BoxwrightError as error:
        return f"- ({error})"[:40]
    return "-" if accuracy.headline is None else f"{100 * accuracy.headline:.2f}"


def deviations(model: Model, run: Run, feeds: list[Any], expected: list[dict[str, Any]]) -> str:
    """Score, pixels, p99 and lost, as cells of the table."""
    scores, boxes, lost = [0.0], [np.zeros(1)], 0
    for images, want in zip(feeds, expected, strict=True):
        have = run(images)
        finite = all(np.isfinite(have[name]).all() for name in (BOXES, SCORES))
        if not finite and all(np.isfinite(want[name]).all() for name in (BOXES, SCORES)):
            lost += 1
            continue
        rows = want[SCORES].max(axis=2) > SCORE
        if rows.any():
            scores.append(float(np.abs(have[SCORES] - want[SCORES])[rows].max()))
            boxes.append(np.abs(have[BOXES] - want[BOXES])[rows].ravel())
    sides = np.concatenate(boxes)
    return f"{max(scores):.4f} | {sides.max():.3f} | {np.percentile(sides, 99):.3f} | {lost}"


def measure(path: Path, photos: list[Path], labels: tuple[Path, Path] | None) -> None:
    """Print the rows of one model."""
    model = Model.load(path) if path.suffix == ".onnx" else boxwright.import_model(path)
    prepare = Preprocessor(model.card).prepare_batch
    feeds = [prepare([load_image(photo)])[0] for photo in photos]
    with get("onnxruntime").load(model, BuildSpec(device="cpu")) as runner:
        expected = [runner.infer({IMAGES: feed}) for feed in feeds]

        def original(images: Any) -> dict[str, Any]:
            return dict(runner.infer({IMAGES: images}))

        half, report = to_half(model)
        ranges = measure_ranges(model.proto, ({IMAGES: feed} for feed in feeds[:3]))
        largest = max(max(abs(low), abs(high)) for low, high in ranges.values())
        print(f"\n{path.stem}: {report.converted} nodes in float16, {len(report.kept)} kept, "
              f"{report.casts} casts, {report.bytes[0] / 1e6:.2f} -> {report.bytes[1] / 1e6:.2f} "
              f"MB; largest value of any tensor {largest:.4g}\n")  # fmt: skip
        print("| way | score | pixels | p99 | lost | AP |\n|---|---|---|---|---|---|")
        ap = average_precision(model, original, *labels) if labels else "-"
        print(f"| the model | | | | | {ap} |")
        for name, make in ways(model, half).items():
            try:
                run = make()
                cells = deviations(model, run, feeds, expected)
                accurate = name in ("rounded", "peer") and labels
                ap = average_precision(model, run, *labels) if accurate and labels else "-"
            except Exception as error:  # a peer may fail in its own way, and that is a result
                cells, ap = " ".join(f"{type(error).__name__}: {error}".split())[:150], ""
            print(f"| {name} | {cells} | {ap} |", flush=True)


def ways(model: Model, half: Model) -> dict[str, Callable[[], Run]]:
    """How to run the float16 form, by name."""
    return {
        "rounded": lambda: on_onnxruntime(emulated(half.proto)),
        "onnxruntime": lambda: on_onnxruntime(half.proto),
        "openvino": lambda: on_openvino(half.proto),
        "peer": lambda: on_onnxruntime(emulated(by_peer(model))),
    }


def main() -> None:
    """Print the environment and a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="photos to compare on")
    parser.add_argument("--labelled", type=Path, help="folder of the labelled images")
    parser.add_argument("--annotations", type=Path, help="COCO's json of these")
    arguments = parser.parse_args()
    print(heading())
    photos = find_images([arguments.images])
    labels = (arguments.labelled, arguments.annotations) if arguments.annotations else None
    for path in arguments.models:
        measure(path, photos, labels)


if __name__ == "__main__":
    main()
