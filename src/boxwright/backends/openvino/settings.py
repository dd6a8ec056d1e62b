"""The backend's options: which there are, what they may be, and OpenVINO's names for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boxwright.backends.openvino.runtime import capabilities, full_name, on_cpu
from boxwright.backends.options import check_options
from boxwright.errors import BuildError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_COUNT = 1024


@dataclass(frozen=True)
class _Option:
    """An option: OpenVINO's property, its default, and what it may be."""

    key: str
    default: Any
    accepts: Callable[[Any], bool]
    expected: str
    # Properties that only the CPU plugin has.
    cpu_only: bool = False


def _one_of(key: str, default: str, *words: str, cpu_only: bool = False) -> _Option:
    expected = " or ".join(map(repr, words))
    return _Option(
        key, default, lambda v: isinstance(v, str) and v in words, expected, cpu_only=cpu_only
    )


def _count(key: str, meaning: str, *, cpu_only: bool = False) -> _Option:
    return _Option(
        key,
        0,
        lambda v: type(v) is int and 0 <= v <= _MAX_COUNT,
        f"0 ({meaning}) to {_MAX_COUNT}",
        cpu_only=cpu_only,
    )


def _flag(key: str) -> _Option:
    # None: what OpenVINO does by itself depends on the system and on the other settings.
    return _Option(key, None, lambda v: isinstance(v, bool), "true or false", cpu_only=True)


# Names are OpenVINO's own, in lower case and without "_HINT" where it leaves no choice.
OPTIONS = {
    "inference_precision": _one_of("INFERENCE_PRECISION_HINT", "f32", "f32", "bf16"),
    "performance_hint": _one_of("PERFORMANCE_HINT", "latency", "latency", "throughput"),
    "num_streams": _count("NUM_STREAMS", "as the performance hint has it"),
    "inference_num_threads": _count(
        "INFERENCE_NUM_THREADS", "one per physical core", cpu_only=True
    ),
    "scheduling_core_type": _one_of(
        *("SCHEDULING_CORE_TYPE", "any_core", "any_core", "pcore_only", "ecore_only"),
        cpu_only=True,
    ),
    "enable_cpu_pinning": _flag("ENABLE_CPU_PINNING"),
    "enable_hyper_threading": _flag("ENABLE_HYPER_THREADING"),
}

# What each precision needs of a device, in OpenVINO's list of capabilities.
_CAPABILITY = {"f32": "FP32", "bf16": "BF16"}


def check(options: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The options with their defaults; looks at no device.

    Args:
        options: As in :class:`~boxwright.backends.base.BuildSpec`.
        device: Likewise.

    Raises:
        InputError: An option is unknown, out of range, or not for this device.
    """
    check_options("openvino", options, OPTIONS)
    for name, value in options.items():
        option = OPTIONS[name]
        if not option.accepts(value):
            raise InputError(f"{name} must be {option.expected}, got {value!r}")
        if option.cpu_only and not on_cpu(device):
            raise InputError(f"{name} is for the CPU only, and the device is {device!r}")
    return {
        name: options.get(name, option.default)
        for name, option in OPTIONS.items()
        if on_cpu(device) or not option.cpu_only
    }


def properties(settings: Mapping[str, Any], device: str) -> dict[str, Any]:
    """OpenVINO's properties for checked settings; left out is what OpenVINO is to decide.

    Args:
        settings: Of :func:`check`.
        device: OpenVINO's name for the device.

    Raises:
        BuildError: The device does not compute in the precision.
    """
    precision = settings["inference_precision"]
    _check_capability(precision, device)
    # OpenVINO takes bfloat16 by itself where the processor has it (and float16 on a GPU),
    # so float32 is asked for in both ways there are, at compiling and at importing.
    chosen: dict[str, Any] = {
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "f32" else "PERFORMANCE"
    }
    for name, value in settings.items():
        if value is None or (value == 0 and not isinstance(value, bool)):
            continue
        upper = isinstance(value, str) and name != "inference_precision"
        chosen[OPTIONS[name].key] = value.upper() if upper else value
    return chosen


def _check_capability(precision: str, device: str) -> None:
    present = capabilities(device)
    if _CAPABILITY[precision] in present:
        return
    computes = ", ".join(sorted(present & {"FP32", "FP16", "BF16", "INT8"})) or "nothing we know"
    if precision == "bf16" and device == "CPU":
        needs = "a processor with AVX-512 BF16 or AMX"
    else:
        needs = f"a device that computes in {_CAPABILITY[precision]}"
    hint = "; leave the option out, or say f32" if precision != "f32" else ""
    raise BuildError(
        f"inference_precision {precision} needs {needs}; OpenVINO says that "
        f"{full_name(device)} computes in {computes}{hint}"
    )


def settled(compiled: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenVINO made of the settings: JSON values, by our names.

    Args:
        compiled: A compiled model.
        settings: Of :func:`check`.
    """
    found = {}
    supported = set(compiled.get_property("SUPPORTED_PROPERTIES"))
    for name in settings:
        if OPTIONS[name].key in supported:
            found[name] = _json_value(compiled.get_property(OPTIONS[name].key))
    if "EXECUTION_MODE_HINT" in supported:
        found["execution_mode_hint"] = _json_value(compiled.get_property("EXECUTION_MODE_HINT"))
    return found


_TYPE_NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def _json_value(value: Any) -> Any:
    """A property's value; enumerations and types become their names in lower case."""
    if isinstance(value, (bool, int, float)):
        return value
    if hasattr(value, "get_type_name"):
        value = value.get_type_name()
    text = str(getattr(value, "name", value)).lower()
    return _TYPE_NAMES.get(text, text)
