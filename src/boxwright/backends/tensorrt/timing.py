"""TensorRT's timing cache: kernel times measured on this machine, kept for the next build.

A cache serves one TensorRT version on one kind of GPU. It saves most of a second build of
the same network, and never changes what is computed. One that is damaged or foreign is
ignored by TensorRT, which checks it.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.backends.cache import cache_folder
from boxwright.errors import BoxwrightError
from boxwright.files import atomic_write

if TYPE_CHECKING:
    from boxwright.backends.tensorrt.library import Library

_log = logging.getLogger("boxwright")
_MAX_BYTES = 2**30


def timing_cache_path(library: Library, gpu_name: str) -> Path:
    """Where the cache of this TensorRT on such a GPU lies."""
    name = f"{library.backend}-{library.version}-{gpu_name}"
    return cache_folder() / "timing" / (re.sub(r"[^A-Za-z0-9.+-]+", "-", name) + ".cache")


def attach(config: Any, path: Path) -> bool:
    """Give the builder what was measured before; whether there was anything."""
    content = b""
    try:
        if path.stat().st_size <= _MAX_BYTES:
            content = path.read_bytes()
    except OSError:
        pass
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        cache, content = config.create_timing_cache(b""), b""
        config.set_timing_cache(cache, False)
    return bool(content)


def keep(config: Any, path: Path) -> None:
    """Write what is known now, together with what another build wrote meanwhile."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        if path.exists() and path.stat().st_size <= _MAX_BYTES:
            other = config.create_timing_cache(path.read_bytes())
            if other is not None:
                cache.combine(other, True)
        with atomic_write(path) as stream:
            stream.write(bytes(cache.serialize()))
    except (BoxwrightError, OSError) as error:
        _log.warning("the timing cache is not kept for the next build: %s", error)
