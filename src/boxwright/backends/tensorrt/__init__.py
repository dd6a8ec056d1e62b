"""TensorRT 8.6 to 11, and TensorRT-RTX: one adapter, told apart by what they can do.

A plan belongs to one TensorRT version and one kind of GPU, unless it was built to be
compatible with more (options ``version_compatible`` and ``hardware``). TensorRT-RTX builds
without a GPU for the compute capabilities it is told.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import TYPE_CHECKING, Any

from boxwright.backends.base import BuildSpec
from boxwright.backends.comparison import compare_outputs, judged_as, sample_images
from boxwright.backends.plans import Fingerprint, Plan, build_engine, load_engine
from boxwright.backends.tensorrt.compatibility import (
    Target,
    device_misfit,
    platform_name,
    version_misfit,
)
from boxwright.backends.tensorrt.compile import Request, compile_plan
from boxwright.backends.tensorrt.library import Library, load_library
from boxwright.backends.tensorrt.loaded import LoadedEngine
from boxwright.backends.tensorrt.runner import TensorRtRunner
from boxwright.backends.tensorrt.settings import Settings, read_settings
from boxwright.backends.tensorrt.typed import typed
from boxwright.backends.tensorrt.worker import build_isolated
from boxwright.cuda.device import Gpu, device_number, find_gpu, gpu_count
from boxwright.cuda.device import unavailable as gpu_unavailable
from boxwright.cuda.stream import Stream
from boxwright.errors import (
    BackendUnavailableError,
    BuildError,
    EngineError,
    MissingExtraError,
    NoPlanError,
)
from boxwright.model import IMAGES, Model
from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from pathlib import Path

    from boxwright.backends.capabilities import Capabilities
    from boxwright.engine import Engine

# Raise it when what `compile` makes of a model changes, the float16 form that is derived for
# TensorRT 11 and RTX included: plans of another number do not fit.
_REVISION = 1

_PRECISIONS = ("fp32", "fp16", "int8")

# How far a plan may be from the portable graph on ONNX Runtime before it is refused as
# another computation. Half precision keeps 11 bits: 2e-3 to 1e-2 is what it costs through
# twenty to a hundred layers, and so does TF32 (1.8e-2 for yolo-fastest-1.1-xl on noise); INT8
# with arbitrary weights measures 3e-2.
_MAX_NRMSE = {"fp32": 1e-2, "tf32": 0.1, "fp16": 0.1, "int8": 0.3}


class TensorRtBackend:
    """See :class:`boxwright.backends.base.Backend`."""

    name = "tensorrt"

    def unavailable(self) -> str | None:
        """Why TensorRT cannot be used here, or ``None``: it builds on a GPU only."""
        try:
            load_library(self.name)
        except BackendUnavailableError as error:
            return str(error)
        return gpu_unavailable()

    def capabilities(self) -> Capabilities:
        """What this TensorRT builds, and the GPUs it runs on."""
        return {
            "precisions": list(_PRECISIONS),
            "devices": [f"cuda:{n}" for n in range(gpu_count())],
        }

    def fingerprint(self, spec: BuildSpec) -> str:
        """Version, GPU, precision and batches, with whatever widens or narrows the plan.

        Raises:
            BackendUnavailableError: TensorRT or the GPU cannot be used.
            InputError: An option or the device is wrong.
        """
        library, settings = load_library(self.name), read_settings(self.name, spec)
        version = f"{library.version}+{_REVISION}" + "+vc" * settings.version_compatible
        version += "+strip" * _strips(library, settings)
        device = str(self._target(spec, settings))
        found = Fingerprint.of(self.name, version, device, spec, "tf32" if settings.tf32 else "")
        batches = "+".join("-".join(map(str, batch)) for batch in settings.profiles)
        return str(dataclasses.replace(found, batch=f"b{batches}"))

    def fits(self, plan_fingerprint: str, spec: BuildSpec) -> str | None:
        """Whether a plan that was not built for exactly this machine runs here.

        See :class:`boxwright.backends.plans.PlanMatcher`. Any batch runs with any plan, in
        pieces where it must, so the batches it was built for do not matter.
        """
        here = Fingerprint.parse(self.fingerprint(spec))
        built = Fingerprint.parse(plan_fingerprint)
        if here is None or built is None:
            return "its fingerprint is of another form"
        try:
            gpu = find_gpu(spec.device)
        except (BackendUnavailableError, MissingExtraError) as error:
            return str(error)
        settings = read_settings(self.name, spec)
        return version_misfit(built.version, here.version) or device_misfit(
            built, gpu.compute_capability, self._target(spec, settings)
        )

    def build(
        self, model: Model, spec: BuildSpec, output: str | Path, progress: ProgressCallback = silent
    ) -> Engine:
        """See :meth:`boxwright.backends.base.Backend.build`."""
        return build_engine(self, model, spec, output, progress)

    def load(
        self, source: Engine | Model, spec: BuildSpec, progress: ProgressCallback = silent
    ) -> TensorRtRunner:
        """See :meth:`boxwright.backends.base.Backend.load`.

        Raises:
            BackendUnavailableError: Also where there is no GPU: TensorRT-RTX builds without
                one, but does not run.
        """
        reason = gpu_unavailable()
        if reason is not None:
            raise BackendUnavailableError(f"{self.name} runs on a GPU only: {reason}")
        library, settings = load_library(self.name), read_settings(self.name, spec)
        find_gpu(spec.device)

        def open_plan(data: bytes) -> TensorRtRunner:
            weights = None
            if _strips(library, settings):
                model = source if isinstance(source, Model) else source.model()
                weights = typed(library, model, spec.precision, settings)[0].to_bytes()
            return _open(library, data, settings, spec, weights)

        if isinstance(source, Model):
            plan = self.compile(source, spec, progress)
            return open_plan(plan.data)
        return load_engine(self, source, spec, open_plan, progress)

    def compile(self, model: Model, spec: BuildSpec, progress: ProgressCallback = silent) -> Plan:
        """Build a plan, and compare what it computes with the portable graph.

        Raises:
            BuildError: TensorRT refuses the graph or a setting, or computes something else.
            InputError: An option or the device is wrong.
            BackendUnavailableError: TensorRT or the GPU cannot be used.
        """
        library, settings = load_library(self.name), read_settings(self.name, spec)
        gpu = self._gpu_to_build_on(spec)
        request = Request(
            self.name,
            spec.precision,
            settings,
            None if gpu is None else gpu.index,
            "none" if gpu is None else gpu.name,
        )
        make = build_isolated if settings.isolate else compile_plan
        given, derived = typed(library, model, spec.precision, settings)
        built = make(request, given.to_bytes(), progress)
        evidence = {**built.evidence, **derived, "device": None if gpu is None else gpu.to_dict()}
        if gpu is not None:
            weights = given.to_bytes() if _strips(library, settings) else None
            evidence["parity"] = self._compare(library, model, built.plan, settings, spec, weights)
        return Plan(built.plan, evidence)

    def _target(self, spec: BuildSpec, settings: Settings) -> Target:
        """The device part of a fingerprint."""
        dla = "" if settings.dla_core is None else f"dla{settings.dla_core}"
        return Target(self._gpus(spec, settings), platform_name(sys.platform), dla)

    def _gpus(self, spec: BuildSpec, settings: Settings) -> tuple[str, ...]:
        gpu = find_gpu(spec.device)
        if settings.hardware == "ampere-plus":
            return ("ampere-plus",)
        if settings.hardware == "same-compute-capability":
            return (gpu.sm,)
        return (re.sub(r"[^A-Za-z0-9.]+", "-", f"{gpu.sm}-{gpu.name}"),)

    def _gpu_to_build_on(self, spec: BuildSpec) -> Gpu | None:
        return find_gpu(spec.device)

    def _compare(
        self,
        library: Library,
        model: Model,
        plan: bytes,
        settings: Settings,
        spec: BuildSpec,
        weights: bytes | None,
    ) -> dict[str, Any]:
        """How far the plan is from the portable graph on ONNX Runtime's CPU kernels."""
        from boxwright.backends.onnxruntime import float_outputs, plain_outputs

        images = sample_images(model)
        expected = plain_outputs(model, images, {})
        try:
            with _open(library, plan, settings, spec, weights) as runner:
                got = runner.infer({IMAGES: images})
        except EngineError as error:
            raise BuildError(f"the model builds, but does not run: {error}") from error
        limit = _MAX_NRMSE["tf32" if settings.tf32 and spec.precision == "fp32" else spec.precision]
        outputs = compare_outputs(
            expected,
            got,
            plan=f"{library.backend}'s plan",
            limit=limit,
            judged=judged_as(model),
            floats=float_outputs(model, images, {}),
        )
        return {"against": "the portable graph on ONNX Runtime's CPU kernels", "outputs": outputs}


class TensorRtRtxBackend(TensorRtBackend):
    """TensorRT-RTX: builds anywhere for the GPUs it is told, compiles kernels when loading."""

    name = "tensorrt-rtx"

    def unavailable(self) -> str | None:
        """Why TensorRT-RTX cannot even build here, or ``None``."""
        try:
            load_library(self.name)
        except BackendUnavailableError as error:
            return str(error)
        return None

    def capabilities(self) -> Capabilities:
        """As TensorRT's; without a GPU it builds and runs nothing."""
        reason = gpu_unavailable()
        if reason is None:
            return super().capabilities()
        return {
            "precisions": list(_PRECISIONS),
            "devices": [],
            "note": f"builds here, for other machines, and runs nothing: {reason}",
        }

    def load(
        self, source: Engine | Model, spec: BuildSpec, progress: ProgressCallback = silent
    ) -> TensorRtRunner:
        """As TensorRT's; a plan for other GPUs than this one would be refused without a reason.

        Raises:
            NoPlanError: The compute capabilities asked for, or built for, lack this GPU's.
        """
        wanted = read_settings(self.name, spec).compute_capabilities
        if wanted and gpu_unavailable() is None:
            gpu = find_gpu(spec.device)
            if gpu.compute_capability not in wanted:
                own, built = (
                    ",".join(f"{major}.{minor}" for major, minor in versions)
                    for versions in ((gpu.compute_capability,), wanted)
                )
                raise NoPlanError(
                    f"built for compute capabilities {built}, and GPU {gpu.index} ({gpu.name}) "
                    f"has {own}; load it with the option compute_capabilities={own}, or build "
                    f"it with compute_capabilities={built},{own}"
                )
        return super().load(source, spec, progress)

    def _gpus(self, spec: BuildSpec, settings: Settings) -> tuple[str, ...]:
        device_number(spec.device)
        if not settings.compute_capabilities:
            return ("ampere-plus",)
        return tuple(f"sm{major}{minor}" for major, minor in settings.compute_capabilities)

    def _gpu_to_build_on(self, spec: BuildSpec) -> Gpu | None:
        try:
            return find_gpu(spec.device)
        except (BackendUnavailableError, MissingExtraError):
            return None

    def _compare(
        self,
        library: Library,
        model: Model,
        plan: bytes,
        settings: Settings,
        spec: BuildSpec,
        weights: bytes | None,
    ) -> dict[str, Any]:
        # It builds for other GPUs than this machine's, which may be one it does not run on.
        try:
            return super()._compare(library, model, plan, settings, spec, weights)
        except BuildError as error:
            if isinstance(error.__cause__, EngineError):
                return {"skipped": str(error.__cause__)}
            raise


def _strips(library: Library, settings: Settings) -> bool:
    """Whether plans come without weights: TensorRT 8.6 ignores that wish."""
    return settings.strip and library.has_flag("STRIP_PLAN")


def _open(
    library: Library, data: bytes, settings: Settings, spec: BuildSpec, weights: bytes | None = None
) -> TensorRtRunner:
    stream = Stream(spec.device)
    try:
        engine = LoadedEngine(
            library,
            data,
            gpu_name=stream.gpu.name,
            host_code=settings.version_compatible,
            weights=weights,
            plugins=settings.plugins,
            graphs=settings.cuda_graphs,
        )
    except BaseException:
        stream.close()
        raise
    return TensorRtRunner(engine, stream, settings.cuda_graphs and not library.is_rtx)
