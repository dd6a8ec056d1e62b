"""NVML, played by a library that answers from a table."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from boxwright.evaluate import gpu
from boxwright.evaluate.machine import EnergyMeter

NOT_SUPPORTED = 3

NUMBERS = {
    "nvmlDeviceGetCount_v2": 1,
    "nvmlDeviceGetPowerManagementLimit": 700_000,
    "nvmlDeviceGetPowerUsage": 79_500,
    "nvmlDeviceGetTotalEnergyConsumption": 3_049_214,
    "nvmlDeviceGetTemperature": 41,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4 | 0x40,
}
CLOCKS = {
    ("nvmlDeviceGetClockInfo", 1): 1755,
    ("nvmlDeviceGetMaxClockInfo", 1): 1980,
    ("nvmlDeviceGetClockInfo", 2): 3201,
}


class FakeNvml:
    """The functions of ``libnvidia-ml`` that are asked for; absent ones raise as ctypes does."""

    def __init__(self, absent: tuple[str, ...] = (), failing: tuple[str, ...] = ()) -> None:
        self.absent, self.failing = absent, failing
        self.called: list[str] = []
        self.energy = NUMBERS["nvmlDeviceGetTotalEnergyConsumption"]

    def __getattr__(self, name: str) -> Any:
        if name in self.absent or name == "nvmlDeviceGetCurrentClocksEventReasons":
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.called.append(name)
            return NOT_SUPPORTED if name in self.failing else self._answer(name, arguments)

        return call

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> int:
        if name in ("nvmlInit_v2", "nvmlShutdown"):
            return 0
        if name == "nvmlDeviceGetHandleByIndex_v2":
            arguments[1]._obj.value = 77
            return 0 if arguments[0].value == 0 else NOT_SUPPORTED
        if name in ("nvmlDeviceGetName", "nvmlSystemGetDriverVersion"):
            text = b"NVIDIA Fake" if name == "nvmlDeviceGetName" else b"580.1"
            assert arguments[-1].value >= len(text)
            arguments[-2].value = text
            return 0
        value = self.energy if "Energy" in name else NUMBERS.get(name)
        if value is None:
            value = CLOCKS[name, arguments[1].value]
        if name.startswith("nvmlDevice") and name != "nvmlDeviceGetCount_v2":
            assert isinstance(arguments[0], ctypes.c_void_p)
            assert arguments[0].value == 77
        arguments[-1]._obj.value = value
        return 0


def _describe(library: FakeNvml) -> dict[str, Any]:
    with gpu.open_nvml(library) as nvml:
        assert nvml is not None
        (index,) = nvml.devices()
        return nvml.describe(index)


def test_a_gpu_is_described() -> None:
    library = FakeNvml()
    assert _describe(library) == {
        "index": 0,
        "name": "NVIDIA Fake",
        "driver": "580.1",
        "sm_mhz": 1755,
        "sm_max_mhz": 1980,
        "memory_mhz": 3201,
        "power_limit_w": 700.0,
        "power_w": 79.5,
        "temperature_c": 41,
        "throttling": ["power cap", "hardware thermal"],
    }
    assert library.called[0] == "nvmlInit_v2"
    assert library.called[-1] == "nvmlShutdown"


@pytest.mark.parametrize(
    "library",
    [
        FakeNvml(absent=("nvmlDeviceGetPowerUsage",)),  # an older driver
        FakeNvml(failing=("nvmlDeviceGetPowerUsage",)),  # not permitted, or not supported
    ],
    ids=["absent", "failing"],
)
def test_what_is_not_told_is_left_out(library: FakeNvml) -> None:
    found = _describe(library)
    assert "power_w" not in found
    assert found["temperature_c"] == 41


def test_no_driver_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu.open_nvml(FakeNvml(failing=("nvmlInit_v2",))) as nvml:
        assert nvml is None
    monkeypatch.setattr(gpu, "load_library", lambda: None)
    assert gpu.describe_gpus() == []


def test_energy_is_counted_of_gpus_that_take_part() -> None:
    library = FakeNvml()
    with EnergyMeter((0,), nvml_library=library) as meter:
        before = meter.read()["gpu 0"]
        library.energy += 2_500
        assert meter.read()["gpu 0"] - before == pytest.approx(2.5)
    with EnergyMeter((), nvml_library=library) as meter:
        assert "gpu 0" not in meter.read()
    with EnergyMeter((3,), nvml_library=library) as meter:
        assert "gpu 3" not in meter.read()
