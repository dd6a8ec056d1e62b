"""INT8 beside the other precisions: accuracy, and speed in turns in one run.

python benchmarks/quantization.py MODEL [MODEL ...] --backend onnxruntime
    --calibration FOLDER [FOLDER ...] --images FOLDER --annotations FILE
    [--batch 1,8] [--variants int8,fp32,static,...] [--rounds N] [--output FILE]

A MODEL is Darknet weights, a model that Boxwright imported, or another ONNX file, whose class
names are taken from a file of the same name that ends in ``.names``. It is calibrated on the
images of the folders of ``--calibration``, which must not be those it is evaluated on.

Variants: ``fp32``, ``fp16`` (where the backend has it), ``int8`` (quantised as
`boxwright quantize` does it for that backend), ``int8-METHOD`` (another calibration
method), ``int8+RULE`` (another rule of placement: heads, all-channels, first, no-first,
no-residual, no-depthwise, own-scales), ``int8+symmetric`` (without the ranges that were seen,
so that OpenVINO gets the portable graph's symmetric ones), ``budget`` (what ``quantize
--max-drop 0.5 --latency`` finds; it searches on the images that it is then evaluated on), and
the peers ``static`` (``onnxruntime.quantization.quantize_static`` as it is by default), ``nncf``
(``nncf.quantize`` on the ONNX graph, by default) and ``modelopt`` (NVIDIA Model Optimizer's
``modelopt.onnx.quantization.quantize``), where they are installed. Peers calibrate on the same
images; from NNCF and Model Optimizer the decoding is kept, as it is from us (``static``
fails where nodes are excluded).

Speed is the network alone: from GPU memory to GPU memory on TensorRT, from the host to the
host elsewhere; the median of rounds in turns, and the ratio to the first variant.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _arguments import int8_parser
from _environment import heading, tell

import boxwright
from boxwright import backends
from boxwright.backends.base import Runner
from boxwright.datasets import open as open_dataset
from boxwright.engine import Engine
from boxwright.evaluate.run import evaluate
from boxwright.files import sha256_file
from boxwright.images import find_images, load_image
from boxwright.model import Model
from boxwright.preprocess import Preprocessor
from boxwright.quantize.calibration import Calibration, calibrate
from boxwright.quantize.job import Request, quantize_model
from boxwright.quantize.probing import choose_probe
from boxwright.quantize.quantizer import quantize
from boxwright.quantize.rules import Rules
from boxwright.ranges import RANGES_KEY

SECONDS = 0.3
RULES: dict[str, dict[str, Any]] = {
    "heads": {"heads": True},
    "all-channels": {"min_channels": 1},
    "first": {"first": True},
    "no-first": {"first": False},
    "no-residual": {"residual": False},
    "no-depthwise": {"depthwise": False},
    "own-scales": {"shared_scales": False},
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """One variant of a model: what runs, and how many layers of it in INT8."""

    name: str
    engine: Engine
    layers: str


def open_model(path: Path) -> Model:
    # Class names beside a foreign file, for its own are numbers often.
    names = path.with_suffix(".names")
    if path.suffix == ".onnx":
        with contextlib.suppress(boxwright.BoxwrightError):
            return Model.load(path)
    return boxwright.import_model(path, names=names if names.is_file() else None)


def static(model: Model, files: list[Path], scratch: Path) -> Model:
    """ONNX Runtime's own quantisation, by default settings."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            preprocessor = Preprocessor(model.card)
            images = (preprocessor.prepare(load_image(path))[0] for path in files)
            self._feeds = ({"images": image[None]} for image in images)

        def get_next(self) -> Any:
            return next(self._feeds, None)

    source, target = scratch / "float.onnx", scratch / "static.onnx"
    model.save(source)
    quantize_static(source, target, Reader())
    return Model(onnx.load(target), model.card)


def decoding(model: Model) -> list[str]:
    return [n.name for n in model.proto.graph.node if n.name.startswith("decode/")]


def nncf(model: Model, files: list[Path], scratch: Path) -> Model:
    """Intel's NNCF on the ONNX graph."""
    import nncf as library

    preprocessor = Preprocessor(model.card)
    images = [preprocessor.prepare(load_image(path))[0] for path in files]
    data = library.Dataset(images, lambda image: {"images": image[None]})
    ignored = library.IgnoredScope(names=decoding(model))
    done = library.quantize(model.proto, data, ignored_scope=ignored, subset_size=len(images))
    return Model(done, model.card)


def modelopt(model: Model, files: list[Path], scratch: Path) -> Model:
    """NVIDIA's Model Optimizer."""
    import onnx
    from modelopt.onnx.quantization import quantize as optimize

    preprocessor = Preprocessor(model.card)
    images = np.stack([preprocessor.prepare(load_image(path))[0] for path in files])
    source, target = scratch / "float.onnx", scratch / "modelopt.onnx"
    model.save(source)
    optimize(
        str(source),
        quantize_mode="int8",
        calibration_data={"images": images},
        calibration_eps=["cpu"],
        nodes_to_exclude=decoding(model),
        high_precision_dtype="fp32",
        output_path=str(target),
    )
    return Model(onnx.load(target), model.card)


PEERS = {"static": static, "nncf": nncf, "modelopt": modelopt}


def variant(
    name: str, model: Model, calibration: Calibration, files: list[Path], given: Any, scratch: Path
) -> Subject:
    options: dict[str, Any] = {}
    if given.backend.startswith("tensorrt"):
        options["optimization_level"] = given.level
    made, layers, precision = model, "", name
    if name in PEERS:
        try:
            made, precision = PEERS[name](model, files, scratch), "int8"
        except Exception as error:  # whatever a peer raises is its row in the table
            raise boxwright.BoxwrightError(f"{type(error).__name__}: {error}") from error
        pairs = sum(node.op_type == "DequantizeLinear" for node in made.proto.graph.node)
        layers = f"{pairs} DequantizeLinear"
    elif name == "budget":
        request = Request(
            calibration=files,
            dataset=open_dataset(given.annotations, images=given.images),
            max_drop=0.5,
            target=given.backend,
            latency=True,
        )
        outcome = quantize_model(model, request)
        if outcome.quantized is None or outcome.precision != "int8":
            raise boxwright.BoxwrightError("; ".join(outcome.notes) or "no INT8 in the budget")
        placement = outcome.quantized.placement
        made, precision = outcome.model, "int8"
        layers = f"{len(placement.quantized)} of {len(placement.layers)}"
    elif name.startswith("int8"):
        rest, _, rule = name.partition("+")
        method: Any = rest.partition("-")[2] or "minmax"
        rules = dataclasses.replace(Rules.of_target(given.backend), **RULES.get(rule, {}))
        probe = choose_probe(model, files)
        result = quantize(model, calibration, method=method, rules=rules, probe=probe)
        made, precision = result.model, "int8"
        if rule == "symmetric":
            kept = [prop for prop in made.proto.metadata_props if prop.key != RANGES_KEY]
            del made.proto.metadata_props[:]
            made.proto.metadata_props.extend(kept)
        layers = f"{len(result.placement.quantized)} of {len(result.placement.layers)}"
    batches = given.batches
    engine = boxwright.build(
        made,
        backend=given.backend,
        precision=precision,  # type: ignore[arg-type]
        batch=(batches[0], batches[len(batches) // 2], batches[-1]),
        output=scratch / f"{name}.bw",
        options=options,
    )
    return Subject(name, engine, layers)


def call(runner: Runner, images: np.ndarray[Any, Any]) -> Callable[[], Any]:
    """One call of the network; on TensorRT from and to GPU memory."""
    if not hasattr(runner, "bind"):
        return lambda: runner.infer({"images": images})
    from boxwright.cuda.stream import DeviceArray, Stream

    stream = Stream()
    memory = stream.allocate(images.nbytes)
    stream.upload(memory.address, images)
    stream.synchronize()
    array = DeviceArray(memory.address, images.dtype, images.shape, (memory, stream))
    binding = runner.bind({"images": array})

    def run() -> None:
        binding.run()
        runner.synchronize()  # type: ignore[attr-defined]

    return run


def measure(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds a call: for each the median of every round, the rounds in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for one in calls.values():
        for _ in range(5):
            one()
    for turn in range(rounds):
        order = list(calls.items())
        for name, one in order if turn % 2 else reversed(order):
            times: list[float] = []
            until = time.perf_counter() + SECONDS
            while time.perf_counter() < until or not times:
                started = time.perf_counter_ns()
                one()
                times.append((time.perf_counter_ns() - started) / 1e6)
            found[name].append(statistics.median(times))
    return found


def speeds(subjects: list[Subject], model: Model, files: list[Path], given: Any) -> Iterator[str]:
    names = [subject.name for subject in subjects]
    yield f"| batch | {' | '.join(names)} |"
    yield f"|---|{'---|' * len(names)}"
    preprocessor = Preprocessor(model.card)
    for count in given.batches:
        ready = [preprocessor.prepare(load_image(path))[0] for path in files[:count]]
        images = np.stack([ready[index % len(ready)] for index in range(count)])
        with contextlib.ExitStack() as stack:
            runners = {s.name: stack.enter_context(backends.load(s.engine)) for s in subjects}
            calls = {name: call(runner, images) for name, runner in runners.items()}
            found = measure(calls, given.rounds)
            del calls
        first = found[names[0]]
        cells = []
        for name in names:
            ratio = statistics.median(a / b for a, b in zip(first, found[name], strict=True))
            cells.append(f"{statistics.median(found[name]):.3f} ms, {ratio:.2f}x")
        yield f"| {count} | {' | '.join(cells)} |"


def page(path: Path, given: Any, scratch: Path) -> Iterator[str]:
    model = open_model(path)
    fixed = model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    if fixed:  # it takes no other number of images
        given = argparse.Namespace(**{**vars(given), "batches": [fixed]})
    files = [file for folder in given.calibration for file in find_images(folder)]
    evaluated = find_images(given.images)
    if {sha256_file(f) for f in files} & {sha256_file(f) for f in evaluated}:
        raise SystemExit("an image is both calibrated on and evaluated")
    calibration = calibrate(model, files)
    yield f"\n## {model.card.name} on {given.backend}\n"
    yield f"Calibrated on {len(files)} images, evaluated on {len(evaluated)}.\n"
    dataset = open_dataset(given.annotations, images=given.images)
    yield "| variant | INT8 layers | AP | AP50 | points lost | receipt: layers |"
    yield "|---|---|---|---|---|---|"
    subjects: list[Subject] = []
    first: float | None = None
    for name in given.variants.split(","):
        try:
            subject = variant(name, model, calibration, files, given, scratch)
        except (boxwright.BoxwrightError, ImportError) as error:
            yield f"| {name} | | | | | {' '.join(str(error).split())[:300]} |"
            continue
        subjects.append(subject)
        done = evaluate(subject.engine, dataset, batch_size=given.batches[-1])
        facts = done.accuracy.to_dict(curves=False)
        first = facts["ap"] if first is None else first
        layers = subject.engine.receipt.get("layers", {})
        counts = "; ".join(f"{kind}: {sum(of.values())}" for kind, of in layers.items())
        yield (
            f"| {name} | {subject.layers} | {100 * facts['ap']:.2f} | "
            f"{100 * facts['ap50']:.2f} | {100 * (first - facts['ap']):+.2f} | {counts} |"
        )
    yield "\nThe network alone, and how many times as fast as the first:\n"
    yield from speeds(subjects, model, evaluated, given)


def main() -> None:
    parser = int8_parser(__doc__)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--variants", default="fp32,int8,int8-percentile,int8-entropy,static")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--level", type=int, default=1, help="TensorRT's optimization level")
    given = parser.parse_args()
    given.batches = [int(text) for text in given.batch.split(",")]
    tell(pages(given), given.output)


def pages(given: argparse.Namespace) -> Iterator[str]:
    yield heading()
    for path in given.models:
        with tempfile.TemporaryDirectory() as scratch:
            yield from page(path, given, Path(scratch))


if __name__ == "__main__":
    main()
