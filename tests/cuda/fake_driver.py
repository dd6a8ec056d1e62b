"""NVIDIA's Python packages without an NVIDIA driver: ``cuda.bindings.driver`` and ``cuda.core``."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

GIB = 2**30


class FakeDriver(ModuleType):
    """``cuda.bindings.driver``: every call gives its status first.

    Attributes:
        gpus: Name, compute capability and memory of each.
        status: By name of a call, the status it gives instead of 0.
    """

    def __init__(self, *gpus: tuple[str, tuple[int, int], int], version: int = 13000) -> None:
        super().__init__("cuda.bindings.driver")
        self.gpus = gpus
        self.version = version
        self.status: dict[str, int] = {}
        self.missing: Exception | None = None
        self.calls: list[str] = []
        self.CUdevice_attribute = SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=0,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=1,
        )

    def _give(self, call: str, *values: Any) -> tuple[Any, ...]:
        self.calls.append(call)
        status = self.status.get(call, 0)
        return (status, *((None,) * len(values) if status else values))

    def cuInit(self, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        if self.missing is not None:
            raise self.missing
        return self._give("cuInit")

    def cuDeviceGetCount(self) -> tuple[Any, ...]:
        return self._give("cuDeviceGetCount", len(self.gpus))

    def cuDeviceGet(self, index: int) -> tuple[Any, ...]:
        return self._give("cuDeviceGet", index)

    def cuDeviceGetAttribute(self, which: int, handle: int) -> tuple[Any, ...]:
        return self._give("cuDeviceGetAttribute", self.gpus[handle][1][which])

    def cuDriverGetVersion(self) -> tuple[Any, ...]:
        return self._give("cuDriverGetVersion", self.version)

    def cuDeviceGetName(self, length: int, handle: int) -> tuple[Any, ...]:
        name = self.gpus[handle][0].encode(errors="surrogateescape")[: length - 1]
        # The driver fills what is left of the buffer with zeros.
        return self._give("cuDeviceGetName", name.ljust(length, b"\0"))

    def cuDeviceTotalMem(self, handle: int) -> tuple[Any, ...]:
        return self._give("cuDeviceTotalMem", self.gpus[handle][2])

    def cuStreamSynchronize(self, handle: int) -> tuple[Any, ...]:
        return self._give("cuStreamSynchronize")

    def cuGetErrorName(self, status: int) -> tuple[Any, ...]:
        if status == 999:
            return (1, None)
        return (0, {100: b"CUDA_ERROR_NO_DEVICE", 803: b"CUDA_ERROR_MISMATCH"}.get(status, b"?"))

    def cuGetErrorString(self, status: int) -> tuple[Any, ...]:
        return (1, None) if status == 999 else (0, b"in words")


class FakeBuilder:
    def __init__(self, core: FakeCore) -> None:
        self._core = core

    def begin_building(self, mode: str) -> None:
        assert mode == "relaxed"
        self._core.log.append("begin")

    def end_building(self) -> None:
        self._core.log.append("end")
        if self._core.capture_breaks:
            raise RuntimeError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")

    def complete(self) -> Any:
        if self._core.capture_breaks:
            raise RuntimeError("the capture is broken")
        return SimpleNamespace(launch=lambda stream: self._core.log.append("launch"))


class FakeStream:
    def __init__(self, core: FakeCore) -> None:
        self._core = core
        self.handle = 77
        self.is_closed = False

    def sync(self) -> None:
        self._core.log.append("sync")

    def create_graph_builder(self) -> FakeBuilder:
        return FakeBuilder(self._core)

    def close(self) -> None:
        self.is_closed = True
        self._core.log.append("close")


class FakeDevice:
    def __init__(self, core: FakeCore, index: int) -> None:
        self._core, self.index = core, index

    def set_current(self) -> None:
        self._core.log.append(f"current {self.index}")

    def create_stream(self, options: Any) -> FakeStream:
        assert options.nonblocking
        return FakeStream(self._core)

    def allocate(self, nbytes: int, stream: Any) -> Any:
        if nbytes > GIB:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        return SimpleNamespace(handle=4096, size=nbytes, close=lambda: None)


class FakeCore(ModuleType):
    """``cuda.core``, and a log of what was asked of it."""

    def __init__(self) -> None:
        super().__init__("cuda.core")
        self.log: list[str] = []
        self.capture_breaks = False
        self.StreamOptions = lambda nonblocking: SimpleNamespace(nonblocking=nonblocking)
        self.LegacyPinnedMemoryResource = lambda: None

    def Device(self, index: int) -> FakeDevice:
        return FakeDevice(self, index)


def install(
    monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, core: FakeCore | None = None
) -> FakeCore:
    """Put both where they are imported from."""
    core = core or FakeCore()
    package = ModuleType("cuda")
    package.__path__ = []
    for name, module in (
        ("cuda", package),
        ("cuda.bindings", ModuleType("cuda.bindings")),
        ("cuda.bindings.driver", driver),
        ("cuda.core", core),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return core
