"""What the doctor runs in a process of its own, since native packages may crash or hang.

``python -m boxwright.doctor.probe module NAME`` imports one runtime and prints what it is;
``python -m boxwright.doctor.probe backends NAME...`` asks Boxwright's backends, one after
another. Each answer is one line of JSON after a line that says what was begun, so that
the reader knows which one a crash belongs to.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGIN = "begin "
ANSWER = "answer "


def main(arguments: list[str]) -> int:
    """Answer what the arguments ask."""
    kind, names = arguments[0], arguments[1:]
    # `import openvino` reports itself to its makers, unasked, where it finds this package.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    ask = _backend if kind == "backends" else _module
    for name in names:
        print(BEGIN + name, flush=True)
        print(ANSWER + json.dumps({"name": name, **_guarded(ask, name)}), flush=True)
    return 0


def _guarded(ask: Callable[[str], dict[str, Any]], name: str) -> dict[str, Any]:
    try:
        return ask(name)
    except BaseException as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        return {"error": message[:600]}


def _module(name: str) -> dict[str, Any]:
    module = importlib.import_module(name)
    facts: dict[str, Any] = {"version": str(getattr(module, "__version__", "")) or None}
    if name == "onnxruntime":
        facts["providers"] = list(module.get_available_providers())
        error = _cuda_provider_error(module, facts["providers"])
        if error is not None:
            facts["cuda_error"] = error
    if name == "openvino":
        core = module.Core()
        facts["devices"] = {
            device: str(core.get_property(device, "FULL_DEVICE_NAME"))
            for device in core.available_devices
        }
    return facts


def _cuda_provider_error(module: Any, providers: list[str]) -> str | None:
    """Why the CUDA provider, which is listed whether or not it can be loaded, cannot be."""
    folder = Path(module.__file__).parent / "capi"
    if "CUDAExecutionProvider" not in providers or sys.platform != "linux":
        return None
    try:
        # As ONNX Runtime itself does: the second needs symbols of the first.
        for name in ("shared", "cuda"):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"), ctypes.RTLD_GLOBAL)
    except OSError as error:
        return str(error)
    return None


def _backend(name: str) -> dict[str, Any]:
    from boxwright.backends import registry
    from boxwright.backends.capabilities import capabilities
    from boxwright.errors import BackendUnavailableError

    try:
        backend = registry.get(name)
        reason = backend.unavailable()
    except BackendUnavailableError as error:
        return {"works": False, "reason": str(error)}
    if reason is not None:
        return {"works": False, "reason": reason}
    return {"works": True, "reason": None, **capabilities(backend)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
