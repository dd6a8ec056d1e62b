"""NVML and libcuda, played by libraries that answer from a table."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from boxwright.doctor.nvml import NvmlReading, read_libcuda, read_nvml

_ALL = (
    *("nvmlShutdown", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"),
    *("nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion_v2", "nvmlDeviceGetName"),
    *("nvmlDeviceGetCudaComputeCapability", "nvmlDeviceGetMemoryInfo"),
    *("nvmlDeviceGetPersistenceMode", "nvmlDeviceGetEccMode", "nvmlDeviceGetMigMode"),
    "nvmlDeviceGetPowerManagementLimit",
)


class FakeNvml:
    def __init__(self, status: int = 0, absent: tuple[str, ...] = ()) -> None:
        self.status, self.absent, self.shut = status, absent, False

    def __getattr__(self, name: str) -> Any:
        if name in self.absent or name not in (*_ALL, "nvmlInit_v2"):
            raise AttributeError(name)
        return lambda *arguments: self._answer(name, arguments)

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "nvmlInit_v2":
            return self.status
        if name == "nvmlShutdown":
            self.shut = True
        elif name == "nvmlDeviceGetHandleByIndex_v2":
            arguments[1]._obj.value = 77
        elif name in ("nvmlDeviceGetName", "nvmlSystemGetDriverVersion"):
            arguments[-2].value = b"NVIDIA A10G" if "Name" in name else b"580.65.06"
        elif name == "nvmlDeviceGetCudaComputeCapability":
            arguments[1]._obj.value, arguments[2]._obj.value = 8, 6
        elif name == "nvmlDeviceGetMemoryInfo":
            arguments[1]._obj.total = 24 << 30
        elif name in ("nvmlDeviceGetEccMode", "nvmlDeviceGetMigMode"):
            arguments[1]._obj.value = 1 if "Ecc" in name else 0
        else:
            numbers = {
                "nvmlDeviceGetCount_v2": 1,
                "nvmlSystemGetCudaDriverVersion_v2": 13000,
                "nvmlDeviceGetPersistenceMode": 1,
                "nvmlDeviceGetPowerManagementLimit": 300_000,
            }
            arguments[-1]._obj.value = numbers[name]
        return 0


def test_what_nvml_says() -> None:
    library = FakeNvml()
    assert read_nvml(library) == NvmlReading(
        0,
        "580.65.06",
        13000,
        (
            {
                "name": "NVIDIA A10G",
                "compute_capability": "8.6",
                "memory_mib": 24576,
                "power_limit_w": 300.0,
                "persistence": True,
                "ecc": True,
                "mig": False,
            },
        ),
    )
    assert library.shut


@pytest.mark.parametrize("status", [9, 18, 999])
def test_a_library_that_does_not_start_says_why(status: int) -> None:
    assert read_nvml(FakeNvml(status)) == NvmlReading(status)


def test_an_old_library_leaves_facts_out() -> None:
    reading = read_nvml(FakeNvml(absent=_ALL[7:]))
    assert reading.gpus == ({"name": "NVIDIA A10G"},) or "mig" not in reading.gpus[0]
    assert read_nvml(FakeNvml(absent=("nvmlInit_v2",))).status is None


class FakeCuda:
    def __init__(self, version: int, status: int = 0) -> None:
        self.version, self.status = version, status

    def cuDriverGetVersion(self, target: Any) -> int:
        assert isinstance(target._obj, ctypes.c_int)
        target._obj.value = self.version
        return self.status


def test_what_libcuda_says() -> None:
    assert read_libcuda(FakeCuda(12040)) == 12040
    assert read_libcuda(FakeCuda(0)) is None  # a stub library
    assert read_libcuda(FakeCuda(12040, status=100)) is None
    assert read_libcuda(object()) is None
