"""ONNX Runtime: the backend every installation has.

Its plan is the graph as ONNX Runtime optimises it, layouts for this processor included,
so that loading skips the optimisation.
"""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from typing import TYPE_CHECKING, Any

import onnx

from boxwright.backends.base import BuildSpec
from boxwright.backends.comparison import compare_outputs, judged_as, sample_images
from boxwright.backends.onnxruntime.lowering import lower_mish
from boxwright.backends.onnxruntime.quantized import lower_quantized
from boxwright.backends.onnxruntime.session import (
    OnnxRuntimeRunner,
    open_session,
    optimise,
    providers_for,
    session_options,
)
from boxwright.backends.plans import (
    Fingerprint,
    Plan,
    build_engine,
    check_contract,
    load_engine,
)
from boxwright.backends.quantized import without_pairs
from boxwright.environment import cpu_architecture, cpu_features
from boxwright.errors import BackendUnavailableError, BuildError, EngineError
from boxwright.extras import import_onnxruntime
from boxwright.model import Model
from boxwright.progress import ProgressCallback, silent
from boxwright.ranges import ranges_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from boxwright.backends.base import Tensors
    from boxwright.backends.capabilities import Capabilities
    from boxwright.engine import Engine

# Raise it when what `compile` writes changes: plans of another number do not fit.
_REVISION = 5

_STEPS = 3


class OnnxRuntimeBackend:
    """See :class:`boxwright.backends.base.Backend`."""

    name = "onnxruntime"

    def unavailable(self) -> str | None:
        """Why ONNX Runtime cannot be used here, or ``None``."""
        try:
            import_onnxruntime()
        except ImportError as error:
            return f"onnxruntime cannot be imported: {error}"
        return None

    def capabilities(self) -> Capabilities:
        """Float32 and INT8, on the CPU and, where ONNX Runtime was built for it, on CUDA."""
        providers = import_onnxruntime().get_available_providers()
        cuda = ["cuda"] if "CUDAExecutionProvider" in providers else []
        return {"precisions": ["fp32", "int8"], "devices": ["cpu", *cuda]}

    def fingerprint(self, spec: BuildSpec) -> str:
        """Version, device, precision and batch; on a CPU its instruction sets too.

        ONNX Runtime's blocked layouts depend on them (``MlasNchwcGetBlockSize``).

        Raises:
            BackendUnavailableError: The device cannot be used here.
            InputError: No device is called that.
        """
        if _on_cpu(spec.device):
            device = "+".join((f"cpu-{cpu_architecture()}", *cpu_features()))
        else:
            providers_for(spec.device)
            device = "cuda"
        version = f"{_version()}+{_REVISION}"
        return str(Fingerprint.of(self.name, version, device, spec))

    def build(
        self, model: Model, spec: BuildSpec, output: str | Path, progress: ProgressCallback = silent
    ) -> Engine:
        """See :meth:`boxwright.backends.base.Backend.build`."""
        return build_engine(self, model, spec, output, progress)

    def load(
        self, source: Engine | Model, spec: BuildSpec, progress: ProgressCallback = silent
    ) -> OnnxRuntimeRunner:
        """See :meth:`boxwright.backends.base.Backend.load`."""
        _check_precision(spec)

        def open_plan(data: bytes) -> OnnxRuntimeRunner:
            settings = session_options(spec.options, optimise=False)
            try:
                return OnnxRuntimeRunner(open_session(data, settings, spec.device))
            except BuildError as error:
                raise EngineError(str(error)) from error

        if isinstance(source, Model):
            runner = _open_model(source, spec)
            check_contract(source.card, runner.inputs, runner.outputs, "the model")
            return runner
        return load_engine(self, source, spec, open_plan, progress)

    def compile(self, model: Model, spec: BuildSpec, progress: ProgressCallback = silent) -> Plan:
        """Optimise the graph for this machine, and check that it still computes the same.

        Raises:
            BuildError: ONNX Runtime refuses the graph, or optimising it changed its results.
            InputError: An option or the device is wrong.
            BackendUnavailableError: The device cannot be used here.
        """
        _check_precision(spec)
        progress("optimise", 0, _STEPS)
        data, lowered = _serialise(model, spec)
        plan = optimise(data, spec.options, spec.device)
        del data
        progress("compare with the plain graph", 1, _STEPS)
        parity = _compare(model, plan, spec)
        progress("summarise", 2, _STEPS)
        evidence = {
            "layers": _summarise(plan),
            "lowered": lowered,
            "parity": {"against": "the portable graph, not optimised", "outputs": parity},
        }
        progress("optimise", _STEPS, _STEPS)
        return Plan(plan, evidence)


def _on_cpu(device: str) -> bool:
    return device in ("auto", "cpu")


def _version() -> str:
    """The package's version, without importing it: a fingerprint costs nothing."""
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        return str(import_onnxruntime().__version__)
    except ImportError as error:
        raise BackendUnavailableError(f"onnxruntime cannot be imported: {error}") from error


def _check_precision(spec: BuildSpec) -> None:
    if spec.precision == "fp16":
        raise BuildError(
            "backend onnxruntime builds precision fp32, and int8 of a quantised model, got "
            "fp16; its CPU kernels compute float32"
        )


def _serialise(model: Model, spec: BuildSpec) -> tuple[bytes, dict[str, int]]:
    """The graph as it is given to ONNX Runtime, and how much of it was written otherwise."""
    if not _on_cpu(spec.device):
        return model.proto.SerializeToString(), {}
    proto, mish = lower_mish(model.proto)
    ranges = ranges_of(proto) if spec.precision == "int8" else {}
    # A graph that somebody else quantised has its pairs where he wanted them.
    if not ranges:
        return proto.SerializeToString(), {"mish": mish}
    before = len(proto.graph.node)
    proto = lower_quantized(proto, ranges)
    return proto.SerializeToString(), {"mish": mish, "q_dq_added": len(proto.graph.node) - before}


def _open_model(model: Model, spec: BuildSpec) -> OnnxRuntimeRunner:
    data, _ = _serialise(model, spec)
    settings = session_options(spec.options, optimise=True)
    return OnnxRuntimeRunner(open_session(data, settings, spec.device))


def _summarise(plan: bytes) -> dict[str, dict[str, int]]:
    """How many nodes of each operator run, by the type they compute in."""
    proto = onnx.ModelProto.FromString(plan)
    counts: dict[str, Counter[str]] = {"float32": Counter(), "int8": Counter()}
    integers: set[str] = set()
    for node in proto.graph.node:
        quantised = "QLinear" in node.op_type or node.op_type.endswith("Integer")
        # What only moves values, a pooling for one, computes in the type that it is given.
        moves = node.op_type not in ("DequantizeLinear", "Cast", "DynamicQuantizeLinear")
        quantised = quantised or (moves and not integers.isdisjoint(node.input[:1]))
        if quantised or node.op_type == "QuantizeLinear":
            integers.update(node.output)
        counts["int8" if quantised else "float32"][node.op_type] += 1
    return {kind: dict(sorted(found.items())) for kind, found in counts.items() if found}


def plain_outputs(
    model: Model, images: NDArray[np.uint8], options: Mapping[str, Any], device: str = "cpu"
) -> Tensors:
    """What the portable graph gives, run as it is written: nothing is optimised.

    Other backends compare their plans with it, too.

    Args:
        model: The model.
        images: uint8 ``(N, H, W, 3)``.
        options: As in :class:`~boxwright.backends.base.BuildSpec`.
        device: As in :class:`~boxwright.backends.base.BuildSpec`.

    Raises:
        BuildError: ONNX Runtime refuses the graph, or it does not run.
    """
    return _run_once(model, model.proto.SerializeToString(), images, options, device)


def _compare(model: Model, plan: bytes, spec: BuildSpec) -> dict[str, Any]:
    """How far the plan's outputs are from the graph's, on one fixed random image."""
    images = sample_images(model)
    expected = plain_outputs(model, images, spec.options, spec.device)
    got = _run_once(model, plan, images, spec.options, spec.device)
    return compare_outputs(
        expected,
        got,
        plan="ONNX Runtime's optimised graph",
        judged=judged_as(model),
        floats=float_outputs(model, images, spec.options, spec.device),
    )


def float_outputs(
    model: Model, images: NDArray[np.uint8], options: Mapping[str, Any], device: str = "cpu"
) -> Tensors | None:
    """What a quantised model that keeps a real image gave before it was quantised.

    ``None`` for any other. The arguments are those of :func:`plain_outputs`.

    Raises:
        BuildError: ONNX Runtime refuses the graph, or it does not run.
    """
    if judged_as(model) != "int8 on an image":
        return None
    data = without_pairs(model.proto).SerializeToString()
    return _run_once(model, data, images, options, device)


def _run_once(
    model: Model,
    data: bytes,
    images: NDArray[np.uint8],
    options: Mapping[str, Any],
    device: str,
) -> Tensors:
    settings = session_options(options, optimise=False)
    with OnnxRuntimeRunner(open_session(data, settings, device)) as runner:
        try:
            check_contract(model.card, runner.inputs, runner.outputs, "the model")
            return runner.infer({runner.inputs[0].name: images})
        except EngineError as error:
            raise BuildError(f"the model builds, but does not run: {error}") from error
