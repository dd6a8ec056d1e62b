"""Making contexts with TensorRT-RTX, which compiles its kernels when an engine is loaded."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.backends.cache import cache_folder
from boxwright.errors import BoxwrightError
from boxwright.files import atomic_write

if TYPE_CHECKING:
    from boxwright.backends.tensorrt.library import Library

_log = logging.getLogger("boxwright")
_MAX_BYTES = 2**30


class RtxContexts:
    """Contexts that share one runtime cache: kernels compiled here are kept for next time.

    Args:
        library: TensorRT-RTX.
        engine: An ``ICudaEngine``.
        plan: The engine's plan, which names the cache.
        gpu_name: Likewise: kernels are compiled for one kind of GPU.
        graphs: Let TensorRT-RTX record its own CUDA graphs.
    """

    def __init__(
        self, library: Library, engine: Any, plan: bytes, gpu_name: str, graphs: bool
    ) -> None:
        self._engine = engine
        key = hashlib.sha256(plan + f"{library.version} {gpu_name}".encode()).hexdigest()
        self._path = cache_folder() / "runtime" / f"{key}.cache"
        self._config = engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        content = _read(self._path)
        if content:
            self._cache.deserialize(content)
        self._config.set_runtime_cache(self._cache)
        strategy = library.member("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE")
        if graphs and strategy is not None:
            self._config.cuda_graph_strategy = strategy

    def create(self) -> Any:
        """A new context, or ``None`` where TensorRT-RTX cannot make one."""
        return self._engine.create_execution_context(self._config)

    def keep(self) -> None:
        """Write the cache for the next time; one that cannot be written costs time only."""
        try:
            content = bytes(self._cache.serialize())
            if content:
                with atomic_write(self._path) as stream:
                    stream.write(content)
        except (BoxwrightError, OSError) as error:
            _log.warning("compiled kernels are not kept for the next time: %s", error)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.stat().st_size <= _MAX_BYTES else b""
    except OSError:
        return b""
