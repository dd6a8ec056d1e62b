"""Other packages: a missing one becomes a pip command, and ONNX Runtime is made private."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from boxwright.errors import MissingExtraError

_FATAL = 4


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Args:
        module: Dotted module name, such as ``"openvino"``.
        extra: The Boxwright extra that installs it.

    Raises:
        MissingExtraError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{module} is not installed; it comes with an extra: pip install 'boxwright[{extra}]'"
        ) from error


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, with its usage reporting switched off before it starts.

    Since 1.29 it reports usage from Linux too, and writes a device number into the user's
    cache, unless this variable is set when it is imported.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    # Only what ends the process: everything else comes back as an exception, once.
    onnxruntime.set_default_logger_severity(_FATAL)
    module: ModuleType = onnxruntime
    return module
