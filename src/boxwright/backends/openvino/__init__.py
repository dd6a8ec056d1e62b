"""OpenVINO: Intel's runtime, for processors above all.

Its plan is the network as OpenVINO compiles it for this machine, one compiled model for
each of two batch sizes: the smallest and the usual one of the specification. Larger
batches are cut, for models of a fixed batch size run faster than one that takes any
(docs/explanation/decisions/0010-openvino-fixed-batches.md).

OpenVINO computes in bfloat16 by itself where the processor has it. Here it computes in
float32 unless told otherwise, so that an engine gives what its model gives.
"""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING, Any

from boxwright.backends.base import BuildSpec
from boxwright.backends.comparison import MAX_NRMSE, compare_outputs, judged_as, sample_images
from boxwright.backends.openvino.plan import PlanFile
from boxwright.backends.openvino.runner import OpenVinoRunner
from boxwright.backends.openvino.runtime import (
    available_devices,
    core,
    find_device,
    full_name,
    import_openvino,
    on_cpu,
    plain_message,
    version,
)
from boxwright.backends.openvino.settings import check, properties, settled
from boxwright.backends.plans import (
    Fingerprint,
    Plan,
    build_engine,
    check_contract,
    load_engine,
)
from boxwright.backends.quantized import with_unsigned_activations
from boxwright.backends.seen_ranges import with_seen_ranges
from boxwright.environment import cpu_architecture, cpu_features
from boxwright.errors import BuildError, EngineError, MissingExtraError
from boxwright.model import Model
from boxwright.progress import ProgressCallback, silent
from boxwright.ranges import ranges_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from boxwright.backends.capabilities import Capabilities
    from boxwright.engine import Engine

# Raise it when what `compile` writes changes: plans of another number do not fit.
_REVISION = 1

# bfloat16 keeps 8 bits of a float's 24. On noise, where scores are near nothing, trained
# detectors measure 0.04 to 0.07; another computation measures about 1.
_MAX_NRMSE_BF16 = 0.3

# Layers of OpenVINO's own graph that compute nothing.
_IDLE = frozenset({"Const", "Input", "Output"})
_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}

_STEPS = 3


class OpenVinoBackend:
    """See :class:`boxwright.backends.base.Backend`."""

    name = "openvino"

    def unavailable(self) -> str | None:
        """Why OpenVINO cannot be used here, or ``None``."""
        try:
            import_openvino()
        except MissingExtraError as error:
            return str(error)
        except ImportError as error:
            return f"openvino cannot be imported: {error}"
        return None

    def capabilities(self) -> Capabilities:
        """What OpenVINO builds, and the devices it finds."""
        return {"precisions": ["fp32", "int8"], "devices": list(available_devices())}

    def fingerprint(self, spec: BuildSpec) -> str:
        """Version, device, precision and batch; on a CPU its instruction sets too.

        Raises:
            BackendUnavailableError: The device cannot be used here.
            InputError: No device is called that, or an option is wrong.
        """
        asked = check(spec.options, spec.device)
        device = find_device(spec.device)
        if on_cpu(spec.device):
            where = "+".join((f"cpu-{cpu_architecture()}", *cpu_features()))
        else:
            where = f"{device.partition('.')[0].lower()}-{full_name(device)}"
        computes = asked["inference_precision"]
        mark = Fingerprint.of(
            *(self.name, f"{version()}+{_REVISION}", where, spec),
            computes="" if computes == "f32" else computes,
        )
        return str(mark)

    def build(
        self, model: Model, spec: BuildSpec, output: str | Path, progress: ProgressCallback = silent
    ) -> Engine:
        """See :meth:`boxwright.backends.base.Backend.build`."""
        return build_engine(self, model, spec, output, progress)

    def load(
        self, source: Engine | Model, spec: BuildSpec, progress: ProgressCallback = silent
    ) -> OpenVinoRunner:
        """See :meth:`boxwright.backends.base.Backend.load`."""
        _check_precision(spec)
        if isinstance(source, Model):
            runner = _compiled_runner(source, spec)
            check_contract(source.card, runner.inputs, runner.outputs, "the model")
            return runner
        return load_engine(self, source, spec, lambda data: _open_plan(data, spec), progress)

    def compile(self, model: Model, spec: BuildSpec, progress: ProgressCallback = silent) -> Plan:
        """Compile for this machine, and check that what is loaded still computes the same.

        Raises:
            BuildError: OpenVINO refuses the graph, or compiling it changed its results.
            InputError: An option or the device is wrong.
            BackendUnavailableError: The device cannot be used here.
        """
        _check_precision(spec)
        progress("compile", 0, _STEPS)
        data = _export(model, spec)
        progress("compare with the plain graph", 1, _STEPS)
        # What a user will load is what is compared: the exported models, not the compiled.
        try:
            with _open_plan(data, spec) as runner:
                check_contract(model.card, runner.inputs, runner.outputs, "the model")
                parity = _compare(model, runner, spec)
                progress("summarise", 2, _STEPS)
                evidence = {
                    "layers": _summarise(runner.compiled),
                    "openvino": _settings_evidence(runner, spec),
                    "parity": {
                        "against": "the portable graph, not optimised, by ONNX Runtime",
                        "outputs": parity,
                    },
                }
        except EngineError as error:
            raise BuildError(f"the model builds, but does not run: {error}") from error
        progress("compile", _STEPS, _STEPS)
        return Plan(data, evidence)


def _check_precision(spec: BuildSpec) -> None:
    if spec.precision == "fp16":
        raise BuildError(
            "backend openvino builds precision fp32, and int8 of a quantised model, got fp16; a "
            "processor with bfloat16 can be told to compute in it: option inference_precision=bf16"
        )


def _compile(model: Model, spec: BuildSpec) -> tuple[dict[int, Any], tuple[str, ...], bool]:
    """A compiled model for each batch size, the outputs' names, and whether there is one only.

    Raises:
        BuildError: OpenVINO refuses the graph.
    """
    asked = check(spec.options, spec.device)
    device = find_device(spec.device)
    chosen = properties(asked, device)
    names = tuple(value.name for value in model.proto.graph.output)
    proto = model.proto
    if model.quantized:
        proto = with_unsigned_activations(with_seen_ranges(proto, ranges_of(proto)))
    data = proto.SerializeToString()
    compiled = {}
    try:
        network = core().read_model(data)
        batch = network.inputs[0].get_partial_shape()[0]
        fixed = bool(batch.is_static)
        sizes = [batch.get_length()] if fixed else sorted(set(spec.batch[:2]))
        for size in sizes:
            network.reshape({0: [size, *model.card.input_size, 3]})
            compiled[size] = core().compile_model(network, device, chosen)
    except Exception as error:  # RuntimeError, and others where its text is none
        raise BuildError(f"OpenVINO refuses the model: {plain_message(error)}") from error
    return compiled, names, fixed


def _compiled_runner(model: Model, spec: BuildSpec) -> OpenVinoRunner:
    try:
        return OpenVinoRunner(*_compile(model, spec))
    except EngineError as error:
        raise BuildError(f"OpenVINO cannot run the model: {error}") from error


def _export(model: Model, spec: BuildSpec) -> bytes:
    compiled, names, fixed = _compile(model, spec)
    exported = {}
    try:
        for size, one in compiled.items():
            # Without a stream of ours, what is given back differs from version to version.
            stream = io.BytesIO()
            one.export_model(stream)
            exported[size] = stream.getvalue()
    except Exception as error:  # RuntimeError, and others where its text is none
        raise BuildError(f"OpenVINO cannot export the model: {plain_message(error)}") from error
    return PlanFile(names, fixed, exported).to_bytes()


def _open_plan(data: bytes, spec: BuildSpec) -> OpenVinoRunner:
    """Import the compiled models of a plan; nothing is compiled.

    Raises:
        EngineError: It is no plan of ours, or OpenVINO refuses it.
        BuildError: The device does not compute in the precision asked for.
    """
    plan = PlanFile.from_bytes(data)
    device = find_device(spec.device)
    # An exported model keeps neither precision nor threads: they are asked for once more.
    chosen = properties(check(spec.options, spec.device), device)
    try:
        models = {n: core().import_model(one, device, chosen) for n, one in plan.models.items()}
    except Exception as error:  # RuntimeError, and others where its text is none
        raise EngineError(f"OpenVINO refuses the plan: {plain_message(error)}") from error
    return OpenVinoRunner(models, plan.outputs, plan.fixed)


def _compare(model: Model, runner: OpenVinoRunner, spec: BuildSpec) -> dict[str, Any]:
    """How far the plan's outputs are from the graph's, on one fixed random image.

    Every compiled model of the plan runs, the larger ones padded; the largest distances
    count.
    """
    from boxwright.backends.onnxruntime import float_outputs, plain_outputs

    name, extent = runner.inputs[0].name, runner.inputs[0].shape[0]
    images = sample_images(model, extent or 1)
    expected, floats = plain_outputs(model, images, {}), float_outputs(model, images, {})
    lossy = check(spec.options, spec.device)["inference_precision"] != "f32"
    found = [
        compare_outputs(
            expected,
            runner.only(size).infer({name: images}),
            plan=f"OpenVINO's compiled model for batch {size}",
            limit=_MAX_NRMSE_BF16 if lossy else MAX_NRMSE,
            judged=judged_as(model),
            floats=floats,
        )
        for size in runner.compiled
    ]
    return {
        output: {fact: max(one[output][fact] for one in found) for fact in found[0][output]}
        for output in found[0]
    }


def _summarise(compiled: Mapping[int, Any]) -> dict[str, dict[str, int]]:
    """How many layers of each type run, by the type they compute in, as OpenVINO reports it.

    The compiled models of one plan differ in nothing but the batch; the first is counted.
    """
    counts: dict[str, Counter[str]] = {}
    for layer in next(iter(compiled.values())).get_runtime_model().get_ops():
        facts = layer.get_rt_info()
        kind = facts["layerType"].astype(str)
        if kind not in _IDLE:
            precision = facts["runtimePrecision"].astype(str)
            counts.setdefault(_DTYPES.get(precision, precision), Counter())[kind] += 1
    return {kind: dict(sorted(found.items())) for kind, found in sorted(counts.items())}


def _settings_evidence(runner: OpenVinoRunner, spec: BuildSpec) -> dict[str, Any]:
    """What was asked of OpenVINO, and what it says it made of that."""
    asked = check(spec.options, spec.device)
    return {
        "device": full_name(find_device(spec.device)),
        "batches": sorted(runner.compiled),
        "asked": {name: value for name, value in asked.items() if value is not None},
        "runs": settled(next(iter(runner.compiled.values())), asked),
    }
