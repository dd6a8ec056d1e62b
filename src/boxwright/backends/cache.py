"""Plans rebuilt on this machine, kept for the next time.

The cache is a convenience: one that is full, read-only or damaged costs time, never a
result. A file holds the SHA-256 of the rest, then the plan.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from pathlib import Path

from boxwright.errors import BoxwrightError
from boxwright.files import atomic_write

_log = logging.getLogger("boxwright")


def cache_folder() -> Path:
    """``$BOXWRIGHT_CACHE``, or the platform's folder for caches; it need not exist."""
    chosen = os.environ.get("BOXWRIGHT_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "boxwright" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "boxwright"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "boxwright"


def read(model_sha256: str, fingerprint: str) -> bytes | None:
    """A kept plan, its hash verified; ``None`` where there is none or it is damaged."""
    path = _path(model_sha256, fingerprint)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, data = content[:32], content[32:]
    if hashlib.sha256(data).digest() != digest:
        _log.warning("the cached plan %s is damaged and will be built again", path)
        return None
    return data


def store(model_sha256: str, fingerprint: str, data: bytes) -> None:
    """Keep a plan; a cache that cannot be written is reported and otherwise ignored."""
    path = _path(model_sha256, fingerprint)
    try:
        with atomic_write(path) as stream:
            stream.write(hashlib.sha256(data).digest())
            stream.write(data)
    except (BoxwrightError, OSError) as error:
        _log.warning("the rebuilt plan is not kept for the next time: %s", error)


def _path(model_sha256: str, fingerprint: str) -> Path:
    return cache_folder() / "plans" / model_sha256 / f"{fingerprint}.plan"
