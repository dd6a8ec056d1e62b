"""Which GPUs there are, asked of a driver that says what a test wants."""

from __future__ import annotations

import json
import sys

import pytest

from boxwright.cuda import device
from boxwright.cuda.device import Gpu, checked, device_number, find_gpu, gpu_count, unavailable
from boxwright.errors import BackendUnavailableError, InputError, MissingExtraError
from tests.cuda.fake_driver import GIB, FakeDriver, install

H200 = ("NVIDIA H200", (9, 0), 139 * GIB)
ORIN = ("Orin", (8, 7), 30 * GIB)


@pytest.mark.parametrize(
    ("name", "number"),
    [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:12", 12), ("cuda:007", 7)],
)
def test_device_names(name: str, number: int) -> None:
    assert device_number(name) == number


@pytest.mark.parametrize(
    "name", ["", "cpu", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:0 ", "CUDA", "cuda:1000", "0"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"'auto', 'cuda' or 'cuda:N', got {name!r}"):
        device_number(name)


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeDriver(H200, ORIN, version=12040))
    assert unavailable() is None
    assert gpu_count() == 2
    assert find_gpu("auto") == Gpu(0, "NVIDIA H200", (9, 0), 139 * GIB, (12, 4))
    second = find_gpu("cuda:1")
    assert (second.index, second.name, second.sm) == (1, "Orin", "sm87")
    assert json.loads(json.dumps(second.to_dict())) == {
        "index": 1,
        "name": "Orin",
        "compute_capability": "8.7",
        "memory_bytes": 30 * GIB,
        "driver_cuda": "12.4",
    }


@pytest.mark.parametrize("name", ["x" * 500, "a\udcffb", "  NVIDIA GeForce  ", ""])
def test_any_name_will_do(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(monkeypatch, FakeDriver((name, (12, 0), GIB)))
    found = find_gpu("cuda:0")
    assert found.sm == "sm120"
    assert len(found.name) <= 255
    assert found.name == found.name.strip()
    json.dumps(found.to_dict()).encode()


def test_a_gpu_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeDriver(H200))
    with pytest.raises(BackendUnavailableError, match="no GPU 1: there are 1, numbered from 0"):
        find_gpu("cuda:1")


def test_no_gpu_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeDriver())
    assert unavailable() == "the NVIDIA driver sees no GPU (is CUDA_VISIBLE_DEVICES empty?)"
    with pytest.raises(BackendUnavailableError, match="no GPU 0: the driver sees none"):
        find_gpu("auto")


class NotFoundError(Exception):
    """As cuda-bindings raises where the driver's library is missing."""


@pytest.mark.parametrize("error", [NotFoundError("libcuda.so"), RuntimeError("libcuda.so")])
def test_no_driver(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    driver = FakeDriver(H200)
    driver.missing = error
    install(monkeypatch, driver)
    assert unavailable() == "no NVIDIA driver can be loaded: libcuda.so"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (803, "CUDA_ERROR_MISMATCH: in words"),
        (100, "CUDA_ERROR_NO_DEVICE: in words"),
        # Newer than the bindings know.
        (999, "status 999"),
    ],
)
def test_a_driver_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    driver = FakeDriver(H200)
    driver.status["cuInit"] = status
    install(monkeypatch, driver)
    assert unavailable() == f"the NVIDIA driver does not start: {words}"


@pytest.mark.parametrize(
    "call",
    [
        *("cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetAttribute", "cuDriverGetVersion"),
        *("cuDeviceGetName", "cuDeviceTotalMem"),
    ],
)
def test_any_call_may_fail(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    driver = FakeDriver(H200)
    driver.status[call] = 100
    install(monkeypatch, driver)
    with pytest.raises(BackendUnavailableError, match="reports an error: CUDA_ERROR_NO_DEVICE"):
        find_gpu("auto")


def test_results_come_without_their_status(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeDriver())
    assert checked((0, 5)) == 5
    assert checked((0, 5, 6)) == (5, 6)
    assert checked((0,)) is None


def test_without_the_bindings_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "cuda"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    assert "pip install 'boxwright[tensorrt]'" in str(unavailable())
    with pytest.raises(MissingExtraError, match=r"boxwright\[tensorrt\]"):
        find_gpu("auto")
    assert device.EXTRA == "tensorrt"
