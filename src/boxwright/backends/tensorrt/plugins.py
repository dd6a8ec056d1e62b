"""Plugins: layers that TensorRT does not have by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from boxwright.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

    from boxwright.backends.tensorrt.library import Library


def load_plugins(library: Library, logger: Any, files: tuple[Path, ...]) -> None:
    """Register TensorRT's own plugins and those in shared libraries.

    Raises:
        BuildError: A library cannot be loaded, or this TensorRT takes none.
    """
    trt = library.trt
    # Such as EfficientNMS_TRT; TensorRT-RTX has none.
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(logger, "")
    if not files:
        return
    if library.is_rtx:
        raise BuildError("TensorRT-RTX takes no plugins")
    registry = trt.get_plugin_registry()
    for path in files:
        if registry.load_library(str(path)) is None:
            raise BuildError(f"TensorRT cannot load the plugins in {path}")
