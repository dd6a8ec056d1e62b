"""From settings to a TensorRT builder configuration, noting what became of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from boxwright.backends.tensorrt.settings import Outcome, Settings
from boxwright.model import IMAGES

if TYPE_CHECKING:
    from boxwright.backends.tensorrt.library import Library

_HARDWARE = {"ampere-plus": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}


def network_flags(library: Library) -> int:
    """Creation flags: an explicit batch where that is not yet the only kind there is."""
    explicit = library.member("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH")
    return 0 if explicit is None else 1 << int(explicit)


def configure(
    library: Library, builder: Any, network: Any, settings: Settings, precision: str
) -> tuple[Any, Outcome]:
    """A builder configuration, and what became of the settings.

    What was refused stands in the outcome; the caller decides.
    """
    config, outcome = builder.create_builder_config(), Outcome()
    verbosity = library.member("ProfilingVerbosity", "DETAILED")
    if verbosity is not None:
        config.profiling_verbosity = verbosity
    _set_profiles(builder, network, config, settings, outcome)
    _set_precision(library, network, config, settings, precision, outcome)
    _set_resources(library, config, settings, outcome)
    _set_compatibility(library, config, settings, outcome)
    _set_dla(library, builder, config, settings, outcome)
    _set_weights(library, config, settings, outcome)
    if library.is_rtx:
        _set_capabilities(library, config, settings, outcome)
    elif settings.compute_capabilities:
        outcome.refused["compute_capabilities"] = "TensorRT builds for the GPU it runs on"
    return config, outcome


def _set_profiles(
    builder: Any, network: Any, config: Any, settings: Settings, outcome: Outcome
) -> None:
    shapes = [network.get_input(index) for index in range(network.num_inputs)]
    images = next(tensor for tensor in shapes if tensor.name == IMAGES)
    rest = tuple(images.shape)[1:]
    if images.shape[0] >= 0:
        outcome.ignored["profiles"] = f"the model's batch is fixed at {images.shape[0]}"
        return
    for batch in settings.profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(IMAGES, *((count, *rest) for count in batch))
        config.add_optimization_profile(profile)
    outcome.applied["profiles"] = [list(batch) for batch in settings.profiles]


def _set_precision(
    library: Library,
    network: Any,
    config: Any,
    settings: Settings,
    precision: str,
    outcome: Outcome,
) -> None:
    flags = library.trt.BuilderFlag
    if settings.tf32:
        config.set_flag(flags.TF32)
    else:
        config.clear_flag(flags.TF32)
    outcome.applied["tf32"] = settings.tf32
    if precision == "fp32":
        return
    if library.strongly_typed_only:
        # The graph it was given has the types, and what is kept is there already.
        outcome.applied["keep_float32"] = {"prefixes": list(settings.keep_float32)}
        return
    config.set_flag(flags.FP16)
    if precision == "int8":
        config.set_flag(flags.INT8)
    kept = _keep_float32(library, network, settings.keep_float32)
    if kept:
        config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
    outcome.applied["keep_float32"] = {"prefixes": list(settings.keep_float32), "layers": kept}


def _keep_float32(library: Library, network: Any, prefixes: tuple[str, ...]) -> int:
    """Pin every layer of those names to float32; how many there were."""
    float32, kept = library.trt.float32, 0
    constant = library.member("LayerType", "CONSTANT")
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if not layer.name.startswith(prefixes) or layer.type == constant:
            continue
        outputs = range(layer.num_outputs)
        # Shapes and indices are integers; there is nothing to pin.
        if any(layer.get_output(number).dtype != float32 for number in outputs):
            continue
        layer.precision = float32
        for number in outputs:
            layer.set_output_type(number, float32)
        kept += 1
    return kept


def _set_resources(library: Library, config: Any, settings: Settings, outcome: Outcome) -> None:
    if settings.workspace is not None:
        config.set_memory_pool_limit(library.trt.MemoryPoolType.WORKSPACE, settings.workspace)
        outcome.applied["workspace"] = settings.workspace
    _set_attribute(config, "builder_optimization_level", "optimization_level", settings, outcome)
    _set_attribute(config, "max_aux_streams", "max_aux_streams", settings, outcome)
    _set_attribute(config, "avg_timing_iterations", "average_timing", settings, outcome)
    if settings.tactic_sources is not None:
        known = library.trt.TacticSource.__members__
        chosen = [name for name in settings.tactic_sources if name.upper() in known]
        missing = sorted(set(settings.tactic_sources) - set(chosen))
        if missing:
            outcome.refused["tactic_sources"] = (
                f"there is no {', '.join(missing)} (there are: {', '.join(known).lower()})"
            )
            return
        bits = sum(1 << int(known[name.upper()]) for name in set(chosen))
        config.set_tactic_sources(bits)
        outcome.applied["tactic_sources"] = chosen


def _set_attribute(
    config: Any, attribute: str, name: str, settings: Settings, outcome: Outcome
) -> None:
    value = getattr(settings, name)
    if value is None:
        return
    if hasattr(config, attribute):
        setattr(config, attribute, value)
        outcome.applied[name] = value
    else:
        outcome.ignored[name] = "this TensorRT has no such setting"


def _set_compatibility(library: Library, config: Any, settings: Settings, outcome: Outcome) -> None:
    if settings.version_compatible:
        if library.is_rtx:
            outcome.refused["version_compatible"] = "TensorRT-RTX has no lean runtime to include"
        else:
            config.set_flag(library.trt.BuilderFlag.VERSION_COMPATIBLE)
            outcome.applied["version_compatible"] = True
    if settings.hardware == "none":
        return
    level = library.member("HardwareCompatibilityLevel", _HARDWARE[settings.hardware])
    if library.is_rtx:
        outcome.refused["hardware"] = "TensorRT-RTX is told compute_capabilities instead"
    elif level is None:
        outcome.refused["hardware"] = f"this TensorRT has no level {settings.hardware}"
    else:
        config.hardware_compatibility_level = level
        outcome.applied["hardware"] = settings.hardware


def _set_dla(
    library: Library, builder: Any, config: Any, settings: Settings, outcome: Outcome
) -> None:
    if settings.dla_core is None:
        return
    cores = int(getattr(builder, "num_DLA_cores", 0))
    if settings.dla_core >= cores:
        there = f"it has {cores}" if cores else "it has none"
        outcome.refused["dla_core"] = f"this machine has no DLA {settings.dla_core}: {there}"
        return
    config.default_device_type = library.trt.DeviceType.DLA
    config.DLA_core = settings.dla_core
    if settings.gpu_fallback:
        config.set_flag(library.trt.BuilderFlag.GPU_FALLBACK)
    outcome.applied["dla_core"] = settings.dla_core
    outcome.applied["gpu_fallback"] = settings.gpu_fallback


def _set_weights(library: Library, config: Any, settings: Settings, outcome: Outcome) -> None:
    """Flags about weights; without one of them the plan holds its weights as always."""
    wanted = (
        ("refit", "REFIT", settings.refit),
        ("strip", "STRIP_PLAN", settings.strip),
        ("sparse_weights", "SPARSE_WEIGHTS", settings.sparse_weights),
    )
    for name, member, asked in wanted:
        if not asked:
            continue
        if library.has_flag(member):
            config.set_flag(getattr(library.trt.BuilderFlag, member))
            outcome.applied[name] = True
        else:
            outcome.ignored[name] = f"this TensorRT has no flag {member}"


def _set_capabilities(library: Library, config: Any, settings: Settings, outcome: Outcome) -> None:
    """TensorRT-RTX: which GPUs to compile for; none named is every one since Ampere."""
    if not settings.compute_capabilities:
        return
    members = library.trt.ComputeCapability.__members__
    names = [f"SM{major}{minor}" for major, minor in settings.compute_capabilities]
    missing = [name for name in names if name not in members]
    if missing:
        known = ", ".join(sorted(name for name in members if name.startswith("SM")))
        outcome.refused["compute_capabilities"] = f"no {', '.join(missing)} (there are: {known})"
        return
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(members[name], index)
    outcome.applied["compute_capabilities"] = [
        f"{major}.{minor}" for major, minor in settings.compute_capabilities
    ]


def share_profiles(library: Library, config: Any) -> None:
    """Let several contexts use one profile, where that has to be asked for (8.6)."""
    feature = library.member("PreviewFeature", "PROFILE_SHARING_0806")
    if feature is not None:
        config.set_preview_feature(feature, True)
