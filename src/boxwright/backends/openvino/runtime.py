"""OpenVINO itself, made private: imported without its usage reporting, its devices, its errors."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
import threading
from typing import TYPE_CHECKING, Any

from boxwright.errors import BackendUnavailableError, InputError, MissingExtraError
from boxwright.extras import require

if TYPE_CHECKING:
    from types import ModuleType

_REPORTER = "openvino_telemetry"
_lock = threading.Lock()


def import_openvino() -> ModuleType:
    """OpenVINO, with its usage reporting kept out.

    ``import openvino`` runs ``openvino/tools/ovc/__init__.py``, which reports the import to
    Google Analytics and writes a client number into ``~/intel``, without asking, where the
    package ``openvino_telemetry`` can be imported (openvino 2026.4). Where it cannot,
    OpenVINO puts a stub in its place: so it cannot, for the time of this import. Where the
    program has imported OpenVINO before, that was its own decision.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    with _lock:
        if "openvino" in sys.modules:
            return require("openvino", extra="openvino")
        # Modules below the package are looked for in it first, so it alone must be hidden.
        hidden = sys.modules.get(_REPORTER)
        sys.modules[_REPORTER] = None  # type: ignore[assignment]  # Python's "not to be found"
        try:
            return require("openvino", extra="openvino")
        finally:
            if hidden is None:
                del sys.modules[_REPORTER]
            else:
                sys.modules[_REPORTER] = hidden


@functools.cache
def core() -> Any:
    """The process's one ``openvino.Core``; plugins are loaded when a device is asked for."""
    return import_openvino().Core()


def version() -> str:
    """The package's version, without importing it: a fingerprint costs nothing.

    Raises:
        BackendUnavailableError: OpenVINO is not installed.
    """
    try:
        return importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        pass
    try:  # a build of one's own leaves no metadata
        return str(import_openvino().__version__)
    except (ImportError, MissingExtraError) as error:
        raise BackendUnavailableError(f"openvino cannot be imported: {error}") from error


def find_device(device: str) -> str:
    """OpenVINO's name for a device: ``CPU``, ``GPU``, ``GPU.1``, ``NPU``.

    Raises:
        InputError: No device is called that.
        BackendUnavailableError: This machine, or this OpenVINO, has none.
    """
    if on_cpu(device):
        return "CPU"
    match = re.fullmatch(r"gpu(?::(\d{1,3}))?|npu", device)
    if match is None:
        raise InputError(
            f"device must be 'auto', 'cpu', 'gpu', 'gpu:N' or 'npu' for OpenVINO, got {device!r}"
        )
    present = available_devices()
    if device not in present:
        raise BackendUnavailableError(
            f"OpenVINO finds no device {device!r} on this machine; it finds {', '.join(present)}"
        )
    kind, _, number = device.upper().partition(":")
    return f"{kind}.{number}" if number else kind


def on_cpu(device: str) -> bool:
    """Whether a device name means the processor."""
    return device in ("auto", "cpu")


def available_devices() -> tuple[str, ...]:
    """The devices OpenVINO finds, in our spelling; ``gpu`` is ``gpu:0``."""
    found = set()
    for name in core().available_devices:
        kind, _, number = name.lower().partition(".")
        found.add(kind)
        if kind == "gpu":
            found.add(f"gpu:{number or 0}")
    return tuple(sorted(found))


@functools.cache
def capabilities(device: str) -> frozenset[str]:
    """What OpenVINO says a device (in OpenVINO's spelling) computes in: ``FP32``, ``BF16``, ..."""
    return frozenset(core().get_property(device, "OPTIMIZATION_CAPABILITIES"))


def full_name(device: str) -> str:
    """The device's name for people, by OpenVINO's name for it."""
    return str(core().get_property(device, "FULL_DEVICE_NAME"))


def plain_message(error: Exception) -> str:
    """OpenVINO's message in one line, without its own source lines."""
    # Where operators are not known, every node behind them fails too; the summary names them.
    text = str(error).rpartition("Summary:")[2].partition("To facilitate the conversion")[0]
    text = re.sub(r"Exception from \S+:\d+:?", " ", text)
    text = re.sub(r"Check '(?:[^'\n]|'(?! failed))*' failed at \S+:\d+:?", " ", text)
    return " ".join(text.split())[:600] or type(error).__name__
