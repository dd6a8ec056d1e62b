"""One Darknet network two ways into TensorRT: its ONNX parser, and its network API.

    python benchmarks/tensorrt_network_api.py yolov4-tiny.weights yolov4-tiny.cfg --image dog.jpg

Both are built as float32 (TF32 off) with the same settings, and compared: inputs and
outputs, layers before the build, layers the builder made of them, engine sizes. On a machine
with a GPU both then run on the same pixels; where ONNX Runtime is installed, beside it.
Without a GPU, ``tensorrt_rtx`` builds for one all the same, and the comparison ends there.

Needs numpy, onnx and either ``tensorrt`` (8.6 or newer) or ``tensorrt_rtx``; to run the
engines cuda-bindings, to read photos OpenCV. Ends with 1 where the two differ.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _environment import heading
from numpy.typing import NDArray

from boxwright.darknet.network import Network, read_network
from boxwright.darknet.tensorrt import define_network
from boxwright.darknet.weights import WeightsReader
from boxwright.importers import import_model
from boxwright.preprocess import Preprocessor

if TYPE_CHECKING:
    from boxwright.model import Model

BATCHES = (1, 1, 4)
"""Least, usual and largest batch of the optimization profile."""
RUNS, WARM_UP = 50, 10
TOLERANCE = 1e-4
TYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FLOAT": np.dtype(np.float32)}
PARSER, API = "parser", "network API"

Tensors = dict[str, NDArray[Any]]


def main() -> int:
    """Command line; 1 where the two networks differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("cfg", type=Path)
    parser.add_argument("--image", type=Path, action="append", default=[], help="photo or .npy")
    parser.add_argument("--module", choices=["tensorrt", "tensorrt_rtx"])
    parser.add_argument("--level", type=int, default=1, help="builder optimisation level")
    arguments = parser.parse_args()
    cuda = open_cuda()
    trt = import_tensorrt(arguments.module)
    print(heading(), flush=True)
    print(f"# {trt.__name__} {trt.__version__}, GPU: {cuda.name if cuda else 'none'}")
    print(f"# float32 without TF32, optimisation level {arguments.level}, batches {BATCHES}")
    darknet = read_network(arguments.cfg)
    model = import_model(arguments.weights, cfg=arguments.cfg)
    builder = Builder(trt, arguments.level, has_gpu=cuda is not None)
    engines = [
        builder.parsed(model.proto.SerializeToString()),
        builder.defined(darknet, arguments.weights),
    ]
    same = report_build(*engines)
    if cuda is None:
        print("\nno GPU here: the engines were built, not run")
        return 0 if same else 1
    images = make_images(model, arguments.image)
    answers = {}
    for engine in engines:
        # One after the other, so that neither takes the other's memory or time.
        with Runner(trt, engine.plan, cuda) as runner:
            answers[engine.name] = runner.infer(images)
            for batch in sorted(set(BATCHES)):
                took = runner.median_ms(images[:batch])
                print(f"{engine.name}: batch {batch}: {took:.3f} ms, median of {RUNS}, network")
        gc.collect()
    reference = run_onnxruntime(model, images)
    if reference:
        answers["ONNX Runtime"] = reference
    return 0 if report_numbers(answers) and same else 1


def import_tensorrt(name: str | None) -> Any:
    """The module asked for, or the first of both that is installed."""
    names = [name] if name else ["tensorrt", "tensorrt_rtx"]
    for candidate in names:
        try:
            return importlib.import_module(candidate)
        except ImportError as error:
            reason = error
    sys.exit(f"error: none of {', '.join(names)} can be imported: {reason}")


@dataclass
class Built:
    """One engine and what is known of how it came about."""

    name: str
    plan: bytes
    seconds: float
    interface: list[str]
    before: Counter[str]
    after: list[tuple[str, str]] = field(default_factory=list)
    """Name and kind of each layer the builder made."""

    @property
    def convolutions_after(self) -> int:
        """How many of them convolve: RTX writes it as Corr, for correlation."""
        return sum(
            "corr" in f"{n} {k}".lower() or "convolution" in k.lower() for n, k in self.after
        )


class Builder:
    """Builds networks one way for all."""

    def __init__(self, trt: Any, level: int, *, has_gpu: bool) -> None:
        self.trt, self.level, self.has_gpu = trt, level, has_gpu
        self.messages: list[str] = []
        self.is_rtx = hasattr(trt, "ComputeCapability")
        if not has_gpu and not self.is_rtx:
            sys.exit(f"error: {trt.__name__} builds nothing without a GPU; tensorrt_rtx does")
        # RTX tells of the layers it made in its log only, when there is no GPU.
        self.logger = _collect(trt, self.messages) if self.is_rtx else trt.Logger()
        self.builder = trt.Builder(self.logger)
        self.cache = b""

    def parsed(self, onnx: bytes) -> Built:
        """The network as TensorRT's ONNX parser makes it."""
        network = self._network()
        parser = self.trt.OnnxParser(network, self.logger)
        if not parser.parse(onnx):
            sys.exit(f"error: the parser refused the model: {parser.get_error(0)}")
        return self._build(PARSER, network)

    def defined(self, darknet: Network, weights: Path) -> Built:
        """The network as Boxwright defines it layer by layer."""
        network = self._network()
        with WeightsReader(weights, darknet) as reader:
            definition = define_network(network, darknet, reader, self.trt)
        built = self._build(API, network)
        # TensorRT read the weights where they lie until here.
        del definition
        return built

    def _network(self) -> Any:
        flags = self.trt.NetworkDefinitionCreationFlag.__members__
        explicit = flags.get("EXPLICIT_BATCH")
        return self.builder.create_network(0 if explicit is None else 1 << int(explicit))

    def _build(self, name: str, network: Any) -> Built:
        print(f"building with the {name} ...", file=sys.stderr, flush=True)
        config = self._config(network)
        self.messages.clear()
        started = time.perf_counter()
        plan = self.builder.build_serialized_network(network, config)
        seconds = time.perf_counter() - started
        if plan is None:
            sys.exit(f"error: {name}: the builder refused: {self.messages[-3:] or 'see its log'}")
        if not self.is_rtx:
            # The second build reuses what the first one measured, so that it is quick and
            # chooses the same kernels for the same layers.
            self.cache = bytes(config.get_timing_cache().serialize())
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        built = Built(
            name, bytes(plan), seconds, _interface(network), Counter(x.type.name for x in layers)
        )
        built.after = self._layers_made(built.plan)
        return built

    def _config(self, network: Any) -> Any:
        trt = self.trt
        config = self.builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        config.builder_optimization_level = self.level
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        profile = self.builder.create_optimization_profile()
        extents = tuple(network.get_input(0).shape)[1:]
        profile.set_shape(network.get_input(0).name, *((n, *extents) for n in BATCHES))
        config.add_optimization_profile(profile)
        if self.is_rtx:
            capability = trt.ComputeCapability
            config.num_compute_capabilities = 1
            config.set_compute_capability(
                capability.CURRENT if self.has_gpu else capability.SM86, 0
            )
            return config
        sources = trt.TacticSource.__members__
        # Whether these are installed must not decide what is compared.
        wanted = [sources[key] for key in sources if key not in ("CUBLAS", "CUBLAS_LT", "CUDNN")]
        config.set_tactic_sources(sum(1 << int(source) for source in wanted))
        config.set_timing_cache(config.create_timing_cache(self.cache), False)
        return config

    def _layers_made(self, plan: bytes) -> list[tuple[str, str]]:
        if self.is_rtx:
            lines = [line for text in self.messages for line in text.splitlines()]
            parts = [line.split(", ") for line in lines if line.startswith("Name: ")]
            return [(p[0].removeprefix("Name: "), p[1].removeprefix("LayerType: ")) for p in parts]
        engine = self.trt.Runtime(self.logger).deserialize_cuda_engine(plan)
        text = engine.create_engine_inspector().get_engine_information(
            self.trt.LayerInformationFormat.JSON
        )
        layers = json.loads(text, strict=False)["Layers"]
        return [(layer["Name"], layer.get("LayerType", "?")) for layer in layers]


def _collect(trt: Any, messages: list[str]) -> Any:
    class Collector(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            messages.append(message)
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                print(message, file=sys.stderr)

    return Collector()


def _interface(network: Any) -> list[str]:
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    return [f"{t.name} {t.dtype.name} {list(t.shape)}" for t in tensors]


def report_build(parsed: Built, defined: Built) -> bool:
    """Print both side by side; whether interface and convolutions agree."""
    print(f"\n| | {parsed.name} | {defined.name} |\n|---|---|---|")
    rows: list[tuple[str, Any, Any]] = [
        ("tensors", "; ".join(parsed.interface), "; ".join(defined.interface)),
        ("layers defined", parsed.before.total(), defined.before.total()),
        *(
            (f"of them {kind}", parsed.before[kind], defined.before[kind])
            for kind in sorted(parsed.before | defined.before)
        ),
        ("layers built", len(parsed.after), len(defined.after)),
        ("of them convolving", parsed.convolutions_after, defined.convolutions_after),
    ]
    kinds = [Counter(kind for _, kind in built.after) for built in (parsed, defined)]
    rows += [(f"of them {k}", kinds[0][k], kinds[1][k]) for k in sorted(kinds[0] | kinds[1])]
    rows.append(("engine, bytes", f"{len(parsed.plan):,}", f"{len(defined.plan):,}"))
    rows.append(("build, s", f"{parsed.seconds:.1f}", f"{defined.seconds:.1f}"))
    for name, ours, theirs in rows:
        print(f"| {name} | {ours} | {theirs} |")
    shared = {name for name, _ in parsed.after} & {name for name, _ in defined.after}
    print(f"\nbuilt layers of the same name: {len(shared)}")
    same = parsed.interface == defined.interface
    same &= parsed.before["CONVOLUTION"] == defined.before["CONVOLUTION"]
    same &= parsed.convolutions_after == defined.convolutions_after > 0
    print(f"interface and convolutions: {'the same' if same else 'DIFFERENT'}", flush=True)
    return same


def make_images(model: Model, files: list[Path]) -> NDArray[np.uint8]:
    """As many images as the largest batch: the files given, and then made-up pixels."""
    preprocessor = Preprocessor(model.card)
    height, width = model.card.input_size
    images = [preprocessor.prepare(_read(path))[0] for path in files[: BATCHES[-1]]]
    rng = np.random.default_rng(0)
    while len(images) < BATCHES[-1]:
        # Coarse patches with a little noise: noise alone looks like nothing to a network.
        cells = rng.integers(0, 256, (-(-height // 32), -(-width // 32), 3))
        coarse = cells.repeat(32, axis=0).repeat(32, axis=1)[:height, :width]
        noise = rng.integers(-20, 21, coarse.shape)
        images.append(np.clip(coarse + noise, 0, 255).astype(np.uint8))
    given = min(len(files), BATCHES[-1])
    print(f"\nimages: {given} given, {len(images) - given} made up")
    return np.stack(images)


def _read(path: Path) -> NDArray[np.uint8]:
    if path.suffix == ".npy":
        pixels: NDArray[np.uint8] = np.load(path)
        return pixels
    import cv2

    image = cv2.imread(str(path))
    if image is None:
        sys.exit(f"error: {path} is no picture that OpenCV reads")
    return np.ascontiguousarray(image[..., ::-1]).astype(np.uint8)


class Cuda:
    """The few calls of the CUDA runtime that this needs."""

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime
        name = self.call("cudaGetDeviceProperties", 0).name
        self.name = name.decode() if isinstance(name, bytes) else str(name)

    def call(self, function: str, *arguments: Any) -> Any:
        """The function's result; a failure ends the program."""
        status, *result = getattr(self.runtime, function)(*arguments)
        if int(status) != 0:
            raise RuntimeError(f"{function}: {status}")
        return result[0] if result else None

    def upload(self, pointer: int, values: NDArray[Any]) -> None:
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpy", pointer, values.ctypes.data, values.nbytes, kind)

    def download(self, values: NDArray[Any], pointer: int) -> None:
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpy", values.ctypes.data, pointer, values.nbytes, kind)


def open_cuda() -> Cuda | None:
    """The first GPU, or ``None`` where there is none or no cuda-bindings."""
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        return None
    try:
        status, count = runtime.cudaGetDeviceCount()
    except RuntimeError:  # no driver at all
        return None
    return Cuda(runtime) if int(status) == 0 and count > 0 else None


class Runner:
    """Runs one engine with buffers of the largest batch."""

    def __init__(self, trt: Any, plan: bytes, cuda: Cuda) -> None:
        self.cuda = cuda
        self.runtime = trt.Runtime(trt.Logger())
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            sys.exit("error: this GPU refuses the engine")
        self.context = self.engine.create_execution_context()
        self.names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        modes = {name: self.engine.get_tensor_mode(name) for name in self.names}
        (self.input,) = [n for n in self.names if modes[n] == trt.TensorIOMode.INPUT]
        self.types = {n: TYPES[self.engine.get_tensor_dtype(n).name] for n in self.names}
        self.stream = cuda.call("cudaStreamCreate")
        self.pointers: dict[str, int] = {}
        self._set_batch(BATCHES[-1])
        for name in self.names:
            size = int(np.prod(self._shape(name))) * self.types[name].itemsize
            self.pointers[name] = int(cuda.call("cudaMalloc", size))
            self.context.set_tensor_address(name, self.pointers[name])

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_error: object) -> None:
        for pointer in self.pointers.values():
            self.cuda.call("cudaFree", pointer)
        self.cuda.call("cudaStreamDestroy", self.stream)

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.context.get_tensor_shape(name))

    def _set_batch(self, batch: int) -> None:
        extents = tuple(self.engine.get_tensor_shape(self.input))[1:]
        if not self.context.set_input_shape(self.input, (batch, *extents)):
            raise RuntimeError(f"batch {batch} is refused")

    def _execute(self) -> None:
        if not self.context.execute_async_v3(int(self.stream)):
            raise RuntimeError("the engine failed; TensorRT's log says why")
        self.cuda.call("cudaStreamSynchronize", self.stream)

    def infer(self, images: NDArray[np.uint8]) -> Tensors:
        """The outputs as one batch, and again image by image under ``NAME, batch 1``."""
        together = self._infer(images)
        single = [self._infer(images[i : i + 1]) for i in range(len(images))]
        for name in list(together):
            together[f"{name}, batch 1"] = np.concatenate([part[name] for part in single])
        return together

    def _infer(self, images: NDArray[np.uint8]) -> Tensors:
        self._set_batch(len(images))
        pixels = np.ascontiguousarray(images)
        self.cuda.upload(self.pointers[self.input], pixels)
        self._execute()
        outputs = {}
        for name in self.names:
            if name != self.input:
                outputs[name] = np.empty(self._shape(name), self.types[name])
                self.cuda.download(outputs[name], self.pointers[name])
        return outputs

    def median_ms(self, images: NDArray[np.uint8]) -> float:
        """Median duration of the network, its buffers on the GPU already."""
        self._infer(images)
        durations = []
        for run in range(WARM_UP + RUNS):
            started = time.perf_counter()
            self._execute()
            if run >= WARM_UP:
                durations.append(time.perf_counter() - started)
        return 1e3 * statistics.median(durations)


def run_onnxruntime(model: Model, images: NDArray[np.uint8]) -> Tensors:
    """The same from ONNX Runtime on the CPU; empty where it is not installed."""
    try:
        importlib.import_module("onnxruntime")
    except ImportError:
        return {}
    from boxwright import backends

    with backends.load(model, backend="onnxruntime") as runner:
        outputs = runner.infer({runner.inputs[0].name: images})
    return outputs | {f"{name}, batch 1": values for name, values in outputs.items()}


def report_numbers(answers: dict[str, Tensors]) -> bool:
    """Print each pair's differences; whether parser and network API agree."""
    print("\n| | against | tensor | identical | nrmse | largest difference |")
    print("|---|---|---|---|---|---|")
    agree, names = True, list(answers)
    for position, ours in enumerate(names):
        for theirs in names[:position]:
            for tensor, values in answers[theirs].items():
                got = answers[ours][tensor]
                difference = np.abs(got.astype(float) - values).max()
                error = float(np.linalg.norm(got.astype(float) - values) / np.linalg.norm(values))
                identical = "yes" if np.array_equal(got, values) else "no"
                print(
                    f"| {ours} | {theirs} | {tensor} | {identical} | {error:.1e} "
                    f"| {difference:.2g}{' px' if tensor.startswith('boxes') else ''} |"
                )
                if {ours, theirs} == {PARSER, API}:
                    agree &= bool(error < TOLERANCE)
    print(f"\nparser and network API: {'the same' if agree else 'DIFFERENT'} to {TOLERANCE:g}")
    return agree


if __name__ == "__main__":
    sys.exit(main())
