"""TensorRT engines beside ONNX Runtime (what they compute) and a bare loop (how fast).

python benchmarks/tensorrt_engines.py A.weights [B.weights ...] --images FOLDER
    [--annotations FILE] [--precision fp32,tf32,fp16] [--batch 1,8,32] [--rounds N]
    [--level N] [--output FILE]

Needs a GPU. The cfg and ``coco.names`` of each are looked for beside its weights.

Parity is measured on the same uint8 pixels: the images, resized as the model's card says.
The bare loop (`boxwright.evaluate.bare_tensorrt`) is a CUDA graph of one
``execute_async_v3`` on fixed memory, launched and waited for; ours is
``TensorRtRunner.bind(...).run()`` and ``synchronize``. Both run the same plan, in turns, from
and to GPU memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _environment import heading, tell

import boxwright
from boxwright import backends
from boxwright.backends.tensorrt.library import load_library
from boxwright.backends.tensorrt.loaded import LoadedEngine
from boxwright.backends.tensorrt.runner import TensorRtRunner
from boxwright.cuda.device import find_gpu
from boxwright.cuda.stream import DeviceArray, Stream
from boxwright.datasets import open as open_dataset
from boxwright.engine import Engine
from boxwright.evaluate.bare_tensorrt import BareTensorRt
from boxwright.evaluate.run import evaluate
from boxwright.images import find_images, load_image
from boxwright.model import Model
from boxwright.preprocess import Preprocessor

SECONDS = 0.4


def measure(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds a call: for each the median of every round, the rounds in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(20):
            call()
    for turn in range(rounds):
        order = list(calls.items())
        for name, call in order if turn % 2 else reversed(order):
            times, until = [], time.perf_counter() + SECONDS / len(calls)
            while time.perf_counter() < until:
                started = time.perf_counter_ns()
                call()
                times.append((time.perf_counter_ns() - started) / 1e6)
            found[name].append(statistics.median(times))
    return found


def pixels(model: Model, files: list[Path], count: int) -> np.ndarray[Any, Any]:
    """The first images as the network gets them; repeated where there are too few."""
    preprocessor = Preprocessor(model.card)
    ready = [preprocessor.prepare(load_image(path))[0] for path in files[:count]]
    return np.stack([ready[index % len(ready)] for index in range(count)])


def parity(model: Model, engine: Engine, files: list[Path], batches: list[int]) -> Iterator[str]:
    yield "| batch | boxes: nrmse | max px (score > 0.05) | scores: nrmse | max |"
    yield "|---|---|---|---|---|"
    with (
        backends.load(model, backend="onnxruntime", device="cpu") as reference,
        backends.load(engine) as runner,
    ):
        for count in batches:
            images = pixels(model, files, count)
            want, got = (one.infer({"images": images}) for one in (reference, runner))
            likely = want["scores"].max(axis=-1) > 0.05
            cells = []
            for name, where in (("boxes", likely), ("scores", slice(None))):
                a, b = want[name].astype(np.float64), got[name].astype(np.float64)
                cells.append(f"{np.linalg.norm(b - a) / np.linalg.norm(a):.1e}")
                cells.append(f"{np.abs(b - a)[where].max(initial=0):.1e}")
            yield f"| {count} | {' | '.join(cells)} |"


def ways(
    bare: Callable[[], None],
    runner: TensorRtRunner,
    given: dict[str, Any],
    pinned: np.ndarray[Any, Any],
) -> dict[str, Callable[[], Any]]:
    """The calls that are compared."""
    binding = runner.bind(given)

    def bound() -> None:
        binding.run()
        runner.synchronize()

    return {
        "bare": bare,
        "bound": bound,
        "device": lambda: runner.infer_device(given),
        "host": lambda: runner.infer({"images": pinned}),
    }


def speed(
    plan: bytes, model: Model, files: list[Path], batches: list[int], rounds: int
) -> Iterator[str]:
    yield "| batch | bare ms | ours ms | ours / bare | images/s | infer_device | host to host |"
    yield "|---|---|---|---|---|---|---|"
    library = load_library("tensorrt")
    for count in batches:
        images = pixels(model, files, count)
        bare = BareTensorRt(plan, model.card, "", "tensorrt", "auto")
        with TensorRtRunner(LoadedEngine(library, plan), stream := Stream()) as runner:
            memory = stream.allocate(images.nbytes)
            stream.upload(memory.address, images)
            stream.synchronize()
            given = {"images": DeviceArray(memory.address, images.dtype, images.shape, memory)}
            pinned = runner.empty_input(count)
            pinned[:] = images

            found = measure(ways(bare.run(images), runner, given, pinned), rounds)
        bare.close()
        middle = {name: statistics.median(times) for name, times in found.items()}
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(found["bound"], found["bare"], strict=True)
        )
        yield (
            f"| {count} | {middle['bare']:.4f} | {middle['bound']:.4f} | {ratio:.3f} | "
            f"{count / middle['bound'] * 1e3:.0f} | {middle['device']:.4f} | {middle['host']:.4f} |"
        )


def accuracy(subjects: dict[str, Any], images: Path, annotations: Path) -> Iterator[str]:
    yield "| engine | AP | AP50 | AP75 |"
    yield "|---|---|---|---|"
    dataset = open_dataset(annotations, images=images)
    for name, subject in subjects.items():
        facts = evaluate(subject, dataset, batch_size=8).accuracy.to_dict(curves=False)
        cells = " | ".join(f"{facts[key]:.5f}" for key in ("ap", "ap50", "ap75"))
        yield f"| {name} | {cells} |"


def page(weights: Path, given: argparse.Namespace, scratch: Path) -> Iterator[str]:
    files = find_images(given.images)
    batches = [int(text) for text in given.batch.split(",")]
    names = weights.with_name("coco.names")
    model = boxwright.import_model(weights, names=names if names.is_file() else None)
    reference = boxwright.build(model, output=scratch / f"{weights.stem}-onnxruntime.bw")
    subjects: dict[str, Any] = {"onnxruntime fp32": reference}
    for precision in given.precision.split(","):
        engine = boxwright.build(
            model,
            backend="tensorrt",
            precision=precision.replace("tf32", "fp32"),
            batch=(batches[0], batches[len(batches) // 2], batches[-1]),
            output=scratch / f"{weights.stem}-{precision}.bw",
            options={"optimization_level": given.level, "tf32": precision == "tf32"},
        )
        subjects[f"tensorrt {precision}"] = engine
        receipt = engine.receipt
        yield f"\n## {weights.stem}, {precision}\n"
        built = receipt["tensorrt"]
        yield (
            f"`{engine.plans[0]}`: built in {built['build_seconds']:.0f} s at optimization level "
            f"{given.level}; plan {built['plan_bytes'] / 2**20:.1f} MiB. Layers: "
            + "; ".join(
                f"{kind}: {', '.join(f'{n} {name}' for name, n in counts.items())}"
                for kind, counts in receipt["layers"].items()
            )
            + ".\n"
        )
        yield "Against ONNX Runtime on the CPU, the same pixels:\n"
        yield from parity(model, engine, files, batches)
        yield "\nNetwork only, GPU memory to GPU memory, and the whole of `infer`:\n"
        yield from speed(engine.plan_bytes(engine.plans[0]), model, files, batches, given.rounds)
    if given.annotations:
        yield f"\n## {weights.stem}: accuracy\n"
        yield from accuracy(subjects, given.images, given.annotations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--precision", default="fp32,fp16")
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--level", type=int, default=2)
    parser.add_argument("--output", type=Path, help="a file for the output as well")
    given = parser.parse_args()
    tell(pages(given), given.output)


def pages(given: argparse.Namespace) -> Iterator[str]:
    yield heading()
    yield f"# gpu: {find_gpu('auto').to_dict()}"
    for weights in given.weights:
        with tempfile.TemporaryDirectory() as scratch:
            yield from page(weights, given, Path(scratch))


if __name__ == "__main__":
    main()
