"""Which NVIDIA GPUs there are, and why there are none.

Everything goes through ``cuda-core`` and ``cuda-bindings``, NVIDIA's own Python packages,
which are imported on first use. The driver itself is the only library asked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boxwright.errors import BackendUnavailableError, InputError, MissingExtraError
from boxwright.extras import require

if TYPE_CHECKING:
    from types import ModuleType

EXTRA = "tensorrt"

_DEVICE = re.compile(r"cuda(?::(\d{1,3}))?")


@dataclass(frozen=True)
class Gpu:
    """One GPU, by what engines and measurements depend on.

    Attributes:
        index: Its number, as in ``cuda:0``.
        name: As the driver calls it.
        compute_capability: Major and minor number, such as ``(9, 0)``.
        memory_bytes: Of the whole device.
        driver_cuda: The newest CUDA the driver serves, such as ``(13, 0)``.
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    driver_cuda: tuple[int, int]

    @property
    def sm(self) -> str:
        """The compute capability as compilers write it: ``sm90``."""
        return f"sm{self.compute_capability[0]}{self.compute_capability[1]}"

    def to_dict(self) -> dict[str, Any]:
        """For a receipt; JSON values."""
        return {
            "index": self.index,
            "name": self.name,
            "compute_capability": ".".join(map(str, self.compute_capability)),
            "memory_bytes": self.memory_bytes,
            "driver_cuda": ".".join(map(str, self.driver_cuda)),
        }


def unavailable() -> str | None:
    """Why no GPU can be used from this process, or ``None`` when one can."""
    try:
        count = gpu_count()
    except (BackendUnavailableError, MissingExtraError) as error:
        return str(error)
    return None if count else "the NVIDIA driver sees no GPU (is CUDA_VISIBLE_DEVICES empty?)"


def device_number(device: str) -> int:
    """The number in a device name; ``auto`` and ``cuda`` are the first GPU.

    Raises:
        InputError: It is the name of no NVIDIA GPU.
    """
    if device == "auto":
        return 0
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise InputError(f"device must be 'auto', 'cuda' or 'cuda:N', got {device!r}")
    return int(match.group(1) or 0)


def find_gpu(device: str) -> Gpu:
    """The GPU a device name means.

    Raises:
        InputError: It is the name of no NVIDIA GPU.
        BackendUnavailableError: There is no such GPU, or no working driver.
        MissingExtraError: NVIDIA's Python bindings are not installed.
    """
    index = device_number(device)
    count = gpu_count()
    if index >= count:
        there = f"there are {count}, numbered from 0" if count else "the driver sees none"
        raise BackendUnavailableError(f"there is no GPU {index}: {there}")
    driver = driver_api()
    handle = checked(driver.cuDeviceGet(index))
    attribute = driver.CUdevice_attribute
    major, minor = (
        checked(driver.cuDeviceGetAttribute(which, handle))
        for which in (
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    version = checked(driver.cuDriverGetVersion())
    name = checked(driver.cuDeviceGetName(256, handle))
    return Gpu(
        index,
        bytes(name).split(b"\0", 1)[0].decode(errors="replace").strip(),
        (major, minor),
        int(checked(driver.cuDeviceTotalMem(handle))),
        (version // 1000, version % 1000 // 10),
    )


def driver_api() -> ModuleType:
    """``cuda.bindings.driver``, its driver loaded and initialised.

    Raises:
        MissingExtraError: The bindings are not installed.
        BackendUnavailableError: There is no NVIDIA driver, or it does not start.
    """
    driver = require("cuda.bindings.driver", extra=EXTRA)
    try:
        (status,) = driver.cuInit(0)
    except Exception as error:  # the missing driver library: its type differs by version
        raise BackendUnavailableError(f"no NVIDIA driver can be loaded: {error}") from error
    if int(status) != 0:
        raise BackendUnavailableError(f"the NVIDIA driver does not start: {_words(driver, status)}")
    return driver


def checked(result: tuple[Any, ...]) -> Any:
    """What a call of the driver gave, without its status.

    Raises:
        BackendUnavailableError: The status is an error.
    """
    status, *values = result
    if int(status) != 0:
        driver = require("cuda.bindings.driver", extra=EXTRA)
        raise BackendUnavailableError(f"the GPU reports an error: {_words(driver, status)}")
    return values[0] if len(values) == 1 else tuple(values) or None


def gpu_count() -> int:
    """How many GPUs this process may use.

    Raises:
        BackendUnavailableError: There is no driver, or it does not start.
        MissingExtraError: NVIDIA's Python bindings are not installed.
    """
    return int(checked(driver_api().cuDeviceGetCount()))


def _words(driver: ModuleType, status: Any) -> str:
    """The driver's name for a status, and its sentence."""
    texts = []
    for describe in (driver.cuGetErrorName, driver.cuGetErrorString):
        failed, text = describe(status)
        if int(failed) == 0 and text:
            texts.append(text.decode(errors="replace"))
    return ": ".join(texts) or f"status {int(status)}"
