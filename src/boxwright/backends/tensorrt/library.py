"""TensorRT and TensorRT-RTX as they are installed here, whichever version.

One code base serves TensorRT 8.6 to 11 and TensorRT-RTX. What a version can do is read off
the module itself (an attribute that exists, a member an enumeration has) and never off a
version number; numbers of enumeration members change from version to version and are never
kept.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boxwright.errors import BackendUnavailableError

if TYPE_CHECKING:
    from types import ModuleType

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Python module by backend."""

# The tensor-name API (`set_tensor_address`, `execute_async_v3`) is TensorRT 8.5's.
_NEEDED = ("execute_async_v3", "set_input_shape", "set_tensor_address", "get_tensor_shape")


@dataclass(frozen=True)
class Library:
    """An imported TensorRT and what it can do.

    Attributes:
        trt: The module.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        version: Of the library.
    """

    trt: Any
    backend: str
    version: str

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT-RTX, which compiles for compute capabilities."""
        return hasattr(self.trt, "ComputeCapability")

    @property
    def strongly_typed_only(self) -> bool:
        """Whether precision comes from the graph alone (11 and RTX), not from flags."""
        return not self.has_flag("FP16")

    @property
    def has_progress_monitor(self) -> bool:
        """Whether builds report progress by themselves and can be stopped."""
        return hasattr(self.trt, "IProgressMonitor")

    def has_flag(self, name: str) -> bool:
        """Whether there is a builder flag of that name."""
        return name in self.trt.BuilderFlag.__members__

    def member(self, enumeration: str, name: str) -> Any | None:
        """A member of an enumeration, or ``None`` where there is no such member."""
        return getattr(getattr(self.trt, enumeration, None), "__members__", {}).get(name)


@functools.cache
def load_library(backend: str) -> Library:
    """Import TensorRT.

    Raises:
        BackendUnavailableError: It is not installed, cannot be loaded, or is too old.
    """
    module = MODULES[backend]
    try:
        trt: ModuleType = importlib.import_module(module)
    except ImportError as error:
        raise BackendUnavailableError(_explain(module, error)) from error
    except Exception as error:  # NVIDIA's source packages raise what they like
        raise BackendUnavailableError(
            f"{module} is installed, but its import fails: {type(error).__name__}: {error}"
        ) from error
    version = str(getattr(trt, "__version__", "unknown"))
    if not hasattr(trt, "IExecutionContext"):
        # Such as any folder of that name that Python finds first.
        where = getattr(trt, "__file__", None) or ", ".join(getattr(trt, "__path__", ["?"]))
        raise BackendUnavailableError(f"{where} is imported as {module}, and it is not TensorRT")
    if not all(hasattr(trt.IExecutionContext, name) for name in _NEEDED):
        raise BackendUnavailableError(
            f"{module} {version} is too old: Boxwright needs TensorRT 8.6 or newer"
        )
    return Library(trt, backend, version)


def _explain(module: str, error: ImportError) -> str:
    if importlib.util.find_spec(module) is None:
        package = {"tensorrt_rtx": "tensorrt-rtx"}.get(module, module)
        return (
            f"{module} is not installed; `boxwright doctor --for {package}` has the commands "
            "for this machine"
        )
    return f"{module} is installed, but cannot be loaded: {error}"
