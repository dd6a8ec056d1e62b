"""What machine this is: the facts a measurement or a plan depends on.

Nothing here opens a network connection, and nothing identifies a person: no host name,
no user name, no address, no serial number.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from boxwright._version import __version__

# Instruction sets that inference libraries choose kernels and memory layouts by, under one
# spelling (lower case, no underscores). Order is the order of fingerprints.
CPU_FEATURES = (
    *("avx2", "fma", "avx512f", "avx512vnni", "avx512bf16", "avx512fp16"),
    *("avxvnni", "amxint8", "amxbf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"),
)

_LIBRARIES = (
    *("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("opencv-python-headless", "pillow"),
)
_CPUINFO = Path("/proc/cpuinfo")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def describe_environment() -> dict[str, Any]:
    """This machine and its software, as JSON values; unknown facts are ``None``."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpu_features": list(cpu_features()),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "governor": _first_line(_GOVERNOR),
        "python": platform.python_version(),
        "libraries": library_versions(),
        "boxwright": __version__,
    }


def usable_cores() -> int:
    """How many logical cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def library_versions() -> dict[str, str]:
    """Versions of the installed libraries that results may depend on."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def cpu_model() -> str | None:
    """The processor's name as the system gives it."""
    fields = _read_cpuinfo()
    return fields.get("model name") or platform.processor() or None


@functools.cache
def cpu_features() -> tuple[str, ...]:
    """Which of :data:`CPU_FEATURES` this processor has, in that order."""
    fields = _read_cpuinfo()
    listed = fields.get("flags") or fields.get("Features")
    names = listed.split() if listed else _features_by_numpy()
    present = {name.lower().replace("_", "") for name in names}
    return tuple(name for name in CPU_FEATURES if name in present)


def cpu_architecture() -> str:
    """``x86-64``, ``arm64``, ... under one name whatever the system calls it."""
    machine = platform.machine().lower().replace("_", "-") or "unknown"
    return {"amd64": "x86-64", "aarch64": "arm64"}.get(machine, machine)


def _features_by_numpy() -> list[str]:
    """Where the system lists no features, numpy has looked: it dispatches by them.

    The table is not public; without it a plan is told apart by architecture alone.
    """
    try:
        umath = importlib.import_module("numpy._core._multiarray_umath")
    except ImportError:
        return []
    table: dict[str, bool] = getattr(umath, "__cpu_features__", {})
    names = [name for name, present in table.items() if present]
    return [{"FMA3": "fma"}.get(name, name) for name in names]


def _read_cpuinfo() -> dict[str, str]:
    """The first processor's block of ``/proc/cpuinfo``; empty where there is none."""
    try:
        text = _CPUINFO.read_text(errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
