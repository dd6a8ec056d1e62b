"""Optional packages: the one place that turns a missing module into a pip command."""

from __future__ import annotations

import importlib
from types import ModuleType

from boxwright.errors import MissingExtraError


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
