"""NVIDIA GPUs as NVML reports them: clocks, limits, throttling, temperature, energy.

NVML (``libnvidia-ml``) comes with the driver and is called directly, so that no package
is needed. Whatever is not there, or not permitted, is left out; nothing here raises.
Names and numbers are those of NVIDIA's ``nvml.h``.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

_SUCCESS = 0
_TEMPERATURE_GPU = 0
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_TEXT_BYTES = 96

# nvmlClocksThrottleReason*: why the clocks are below what was asked for.
THROTTLE_REASONS = {
    0x0000000000000001: "idle",
    0x0000000000000002: "application clocks",
    0x0000000000000004: "power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000010: "sync boost",
    0x0000000000000020: "software thermal",
    0x0000000000000040: "hardware thermal",
    0x0000000000000080: "power brake",
    0x0000000000000100: "display clocks",
}

HARMLESS_REASONS = frozenset({"idle", "application clocks", "display clocks", "sync boost"})
"""Reasons that do not say that the measurement was held back."""


class Nvml:
    """An open NVML library. Make one with :func:`open_nvml`."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def start(self) -> int | None:
        """Initialise the library: its ``nvmlReturn_t``; ``None`` where it has no such function."""
        try:
            return int(self._library.nvmlInit_v2())
        except AttributeError:
            return None

    def driver_version(self) -> str | None:
        """The driver's version, such as ``580.65.06``."""
        return self._text("nvmlSystemGetDriverVersion")

    def cuda_version(self) -> int | None:
        """Newest CUDA version the driver serves, as 1000 x major + 10 x minor."""
        return self._number("nvmlSystemGetCudaDriverVersion_v2", ctypes.c_int)

    def compute_capability(self, index: int) -> str | None:
        """Compute capability, such as ``8.6``."""
        device, major, minor = self._handle(index), ctypes.c_int(), ctypes.c_int()
        name = "nvmlDeviceGetCudaComputeCapability"
        if device and self._call(name, device, ctypes.byref(major), ctypes.byref(minor)):
            return f"{major.value}.{minor.value}"
        return None

    def memory_mib(self, index: int, record: Any) -> int | None:
        """Memory in MiB, read into `record`, an ``nvmlMemory_t``."""
        device = self._handle(index)
        if device and self._call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(record)):
            return int(record.total) >> 20
        return None

    def mode(self, index: int, name: str) -> bool | None:
        """Whether a mode is on, by a function that gives one ``nvmlEnableState_t``."""
        device = self._handle(index)
        value = self._number(name, ctypes.c_uint, device) if device else None
        return None if value is None else bool(value)

    def mode_pair(self, index: int, name: str) -> bool | None:
        """Whether a mode is on, by a function that gives its current and its next state."""
        device, current, pending = self._handle(index), ctypes.c_uint(), ctypes.c_uint()
        if device and self._call(name, device, ctypes.byref(current), ctypes.byref(pending)):
            return bool(current.value)
        return None

    def devices(self) -> list[int]:
        """Numbers of the GPUs this process may see."""
        count = self._number("nvmlDeviceGetCount_v2", ctypes.c_uint)
        return list(range(count or 0))

    def describe(self, index: int) -> dict[str, Any]:
        """What is known of one GPU, as JSON values; unknown facts are left out."""
        device = self._handle(index)
        if device is None:
            return {}
        milliwatts = self._number("nvmlDeviceGetPowerManagementLimit", ctypes.c_uint, device)
        drawn = self._number("nvmlDeviceGetPowerUsage", ctypes.c_uint, device)
        facts: dict[str, Any] = {
            "index": index,
            "name": self._text("nvmlDeviceGetName", device),
            "driver": self.driver_version(),
            "sm_mhz": self._clock("nvmlDeviceGetClockInfo", device, _CLOCK_SM),
            "sm_max_mhz": self._clock("nvmlDeviceGetMaxClockInfo", device, _CLOCK_SM),
            "memory_mhz": self._clock("nvmlDeviceGetClockInfo", device, _CLOCK_MEMORY),
            "power_limit_w": None if milliwatts is None else milliwatts / 1000,
            "power_w": None if drawn is None else drawn / 1000,
            "temperature_c": self._clock("nvmlDeviceGetTemperature", device, _TEMPERATURE_GPU),
            "throttling": self._throttling(device),
        }
        return {name: value for name, value in facts.items() if value is not None}

    def energy_joules(self, index: int) -> float | None:
        """Energy the GPU has used since the driver was loaded (Volta and newer)."""
        device = self._handle(index)
        if device is None:
            return None
        used = self._number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong, device)
        return None if used is None else used / 1000

    def close(self) -> None:
        """Let the library go."""
        self._call("nvmlShutdown")

    def _throttling(self, device: ctypes.c_void_p) -> list[str] | None:
        # Renamed in driver 535; the old name is still exported.
        for name in (
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        ):
            bits = self._number(name, ctypes.c_ulonglong, device)
            if bits is not None:
                return [text for bit, text in THROTTLE_REASONS.items() if bits & bit]
        return None

    def _handle(self, index: int) -> ctypes.c_void_p | None:
        device = ctypes.c_void_p()
        name = "nvmlDeviceGetHandleByIndex_v2"
        if self._call(name, ctypes.c_uint(index), ctypes.byref(device)):
            return device
        return None

    def _clock(self, name: str, device: ctypes.c_void_p, kind: int) -> int | None:
        return self._number(name, ctypes.c_uint, device, ctypes.c_int(kind))

    def _number(self, name: str, kind: Any, *arguments: Any) -> int | None:
        result = kind()
        if self._call(name, *arguments, ctypes.byref(result)):
            return int(result.value)
        return None

    def _text(self, name: str, *arguments: Any) -> str | None:
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        if self._call(name, *arguments, buffer, ctypes.c_uint(_TEXT_BYTES)):
            return buffer.value.decode(errors="replace")
        return None

    def _call(self, name: str, *arguments: Any) -> bool:
        """Whether the library has the function and it succeeded."""
        try:
            function = getattr(self._library, name)
        except AttributeError:
            return False
        return bool(function(*arguments) == _SUCCESS)


@contextlib.contextmanager
def open_nvml(library: Any = None) -> Iterator[Nvml | None]:
    """NVML, ready to ask, or ``None`` where there is no NVIDIA driver.

    Args:
        library: Stands in for the driver's library in tests.
    """
    found = load_library() if library is None else library
    nvml = None if found is None else Nvml(found)
    if nvml is None or nvml.start() != _SUCCESS:
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.close()


def describe_gpus() -> list[dict[str, Any]]:
    """Every GPU NVML knows, as JSON values; empty where there is none."""
    with open_nvml() as nvml:
        return [] if nvml is None else [nvml.describe(index) for index in nvml.devices()]


def load_library() -> Any:
    """NVML through ctypes, not initialised; ``None`` where there is no driver."""
    names = {
        # WSL keeps the driver's libraries where the loader may not look.
        "linux": ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1"),
        "win32": ("nvml.dll",),
    }.get(sys.platform, ())
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
