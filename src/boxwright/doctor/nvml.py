"""What NVIDIA's own libraries, which come with the driver, say of driver and GPUs."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, field
from typing import Any

from boxwright.evaluate import gpu

# nvmlReturn_t in NVIDIA's nvml.h.
NVML_SUCCESS = 0
NVML_DRIVER_NOT_LOADED = 9
NVML_VERSION_MISMATCH = 18

_LIBCUDA = {"linux": ("libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"), "win32": ("nvcuda.dll",)}


@dataclass(frozen=True)
class NvmlReading:
    """What NVML said.

    Attributes:
        status: nvmlReturn_t of ``nvmlInit_v2``; ``None`` where there is no NVML.
        driver: The driver's version.
        cuda: Newest CUDA version the driver serves, as 1000 x major + 10 x minor.
        gpus: One entry per GPU: ``name``, ``compute_capability`` such as ``"8.6"``,
            ``memory_mib``, ``power_limit_w``, ``persistence``, ``ecc``, ``mig``; what is
            unknown is left out.
    """

    status: int | None = None
    driver: str | None = None
    cuda: int | None = None
    gpus: tuple[dict[str, Any], ...] = field(default=())


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def read_nvml(library: Any = None) -> NvmlReading:
    """Ask NVML; never raises.

    Args:
        library: Stands in for the driver's library in tests.
    """
    found = gpu.load_library() if library is None else library
    if found is None:
        return NvmlReading()
    nvml = gpu.Nvml(found)
    status = nvml.start()
    if status != NVML_SUCCESS:
        return NvmlReading(status=status)
    try:
        return NvmlReading(
            status,
            nvml.driver_version(),
            nvml.cuda_version(),
            tuple(_describe(nvml, index) for index in nvml.devices()),
        )
    finally:
        nvml.close()


def read_libcuda(library: Any = None) -> int | None:
    """``cuDriverGetVersion``, which needs no GPU and no initialisation; ``None`` without it."""
    if library is None:
        for name in _LIBCUDA.get(sys.platform, ()):
            try:
                library = ctypes.CDLL(name)
            except OSError:
                continue
            break
    version = ctypes.c_int()
    try:
        status = library.cuDriverGetVersion(ctypes.byref(version))
    except AttributeError:
        return None
    return version.value if status == 0 and version.value > 0 else None


def _describe(nvml: gpu.Nvml, index: int) -> dict[str, Any]:
    known = nvml.describe(index)
    facts = {
        "name": known.get("name"),
        "compute_capability": nvml.compute_capability(index),
        "memory_mib": nvml.memory_mib(index, _Memory()),
        "power_limit_w": known.get("power_limit_w"),
        "persistence": nvml.mode(index, "nvmlDeviceGetPersistenceMode"),
        "ecc": nvml.mode_pair(index, "nvmlDeviceGetEccMode"),
        "mig": nvml.mode_pair(index, "nvmlDeviceGetMigMode"),
    }
    return {name: value for name, value in facts.items() if value is not None}
