"""One TensorRT build, from a serialised model to a plan, in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.backends.tensorrt.configure import configure, network_flags, share_profiles
from boxwright.backends.tensorrt.layers import best_described, describe
from boxwright.backends.tensorrt.library import Library, load_library
from boxwright.backends.tensorrt.log import Journal, make_logger
from boxwright.backends.tensorrt.monitor import STEPS, Phases, Watch, make_monitor
from boxwright.backends.tensorrt.parse import explain_refusal, has_quantisation, parse_network
from boxwright.backends.tensorrt.plugins import load_plugins
from boxwright.backends.tensorrt.settings import Settings
from boxwright.backends.tensorrt.timing import attach, keep, timing_cache_path
from boxwright.errors import BuildError

if TYPE_CHECKING:
    from boxwright.progress import ProgressCallback

_MAX_WARNINGS = 20


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        settings: Builder options.
        gpu: Number of the GPU to build on, or ``None`` to build without one.
        gpu_name: Its name, for the timing cache.
    """

    backend: str
    precision: str
    settings: Settings
    gpu: int | None
    gpu_name: str

    def to_json(self) -> str:
        """For the process that builds."""
        content = asdict(self)
        content["settings"]["plugins"] = [str(path) for path in self.settings.plugins]
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str) -> Request:
        """What :meth:`to_json` wrote; lists become tuples again."""
        content = json.loads(text)
        given = content.pop("settings")
        given["plugins"] = tuple(map(Path, given["plugins"]))
        for name in ("profiles", "compute_capabilities"):
            given[name] = tuple(tuple(item) for item in given[name])
        for name in ("keep_float32", "tactic_sources"):
            given[name] = None if given[name] is None else tuple(given[name])
        return cls(**content, settings=Settings(**given))


@dataclass(frozen=True)
class Built:
    """A plan, and what is known of it."""

    plan: bytes
    evidence: dict[str, Any]


def compile_plan(
    request: Request,
    model: bytes,
    progress: ProgressCallback,
    stopped: Callable[[], bool] = lambda: False,
) -> Built:
    """Build a plan.

    Args:
        request: What to build.
        model: A serialised ONNX model.
        progress: Called with thousandths of the build.
        stopped: Asked between steps where TensorRT can be stopped.

    Raises:
        BackendUnavailableError: TensorRT or the GPU cannot be used.
        BuildError: TensorRT refuses the model or a setting, or the build was stopped.
    """
    library = load_library(request.backend)
    if request.gpu is not None:
        _use_gpu(request.gpu)
    if request.precision == "int8" and not has_quantisation(model):
        raise BuildError("precision int8 needs a quantised model (with QuantizeLinear nodes)")
    progress("read the model", 0, STEPS)
    watch = Watch(progress, stopped)
    # Where TensorRT reports progress by itself, its log must not contradict it.
    count = None if library.has_progress_monitor else watch.count
    journal = Journal(count)
    logger = make_logger(library, journal)
    load_plugins(library, logger, request.settings.plugins)
    builder = _make_builder(library, logger, journal)
    network = builder.create_network(network_flags(library))
    parse_network(library, network, logger, model, journal)
    started = time.perf_counter()
    plan, outcome = _build(library, builder, network, request, journal, watch)
    if plan is None:
        raise _refusal(library, model, journal, watch)
    seconds = time.perf_counter() - started
    progress("describe the engine", STEPS, STEPS)
    layers = best_described(_inspect(library, plan, logger), journal.layers)
    evidence = {
        **describe(layers),
        "settings": outcome,
        "tensorrt": {
            "library": library.backend,
            "version": library.version,
            "build_seconds": round(seconds, 3),
            "plan_bytes": len(plan),
            "warnings": list(journal.warnings)[:_MAX_WARNINGS],
        },
    }
    return Built(plan, evidence)


def _make_builder(library: Library, logger: Any, journal: Journal) -> Any:
    try:
        return library.trt.Builder(logger)
    except Exception as error:  # pybind's TypeError where TensorRT gives none
        why = "; ".join(journal.errors[-3:]) or str(error)
        raise BuildError(f"{library.backend} {library.version} does not start: {why}") from error


def _refusal(library: Library, model: bytes, journal: Journal, watch: Watch) -> BaseException:
    """Why there is no plan."""
    if watch.failure is not None:
        return watch.failure
    if watch.stopped():
        return BuildError("the build was stopped")
    return BuildError(explain_refusal(library, model, journal))


def _use_gpu(index: int) -> None:
    """TensorRT builds on the calling thread's current GPU."""
    from boxwright.cuda.device import EXTRA
    from boxwright.extras import require

    require("cuda.core", extra=EXTRA).Device(index).set_current()


def _build(
    library: Library,
    builder: Any,
    network: Any,
    request: Request,
    journal: Journal,
    watch: Watch,
) -> tuple[bytes | None, dict[str, Any]]:
    """The plan, or ``None`` where TensorRT makes none, and what became of the settings."""
    config, outcome = configure(library, builder, network, request.settings, request.precision)
    if outcome.refused:
        raise BuildError(f"{library.backend} {library.version} refuses {outcome.explain_refused()}")
    share_profiles(library, config)
    cache = timing_cache_path(library, request.gpu_name)
    # TensorRT-RTX measures nothing while it builds.
    caching = request.settings.timing_cache and not library.is_rtx
    if caching:
        outcome.applied["timing_cache"] = "used" if attach(config, cache) else "begun"
    elif request.settings.timing_cache:
        outcome.ignored["timing_cache"] = "TensorRT-RTX measures nothing while it builds"
    if library.has_progress_monitor:
        phases = Phases(lambda phase, done: watch.tell(phase.lower(), done))
        config.progress_monitor = make_monitor(library, phases, watch.stopped)
    try:
        plan = builder.build_serialized_network(network, config)
    except Exception as error:  # pybind turns C++ exceptions into RuntimeError and others
        journal.add("ERROR", str(error))
        plan = None
    if plan is None or watch.failure is not None:
        return None, {}
    if caching:
        keep(config, cache)
    return bytes(plan), outcome.to_dict()


def _inspect(library: Library, plan: bytes, logger: Any) -> str | None:
    """The inspector's JSON; ``None`` where the plan cannot be loaded here."""
    if library.is_rtx:
        # Its inspector needs a GPU, and its log says the same.
        return None
    trt = library.trt
    runtime = trt.Runtime(logger)
    if hasattr(runtime, "engine_host_code_allowed"):
        # A version-compatible plan brings its own runtime; this one was built a moment ago.
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    context = None if engine is None else engine.create_execution_context()
    if context is None:
        return None
    # Of a free batch the inspector says "N/A due to dynamic shapes" instead of types.
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        an_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        if an_input and -1 in tuple(engine.get_tensor_shape(name)):
            context.set_input_shape(name, engine.get_tensor_profile_shape(name, 0)[1])
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
