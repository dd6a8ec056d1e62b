"""Plans rebuilt on this machine, kept for the next time.

The cache is a convenience: one that is full, read-only or damaged costs time, never a
result. A file holds the SHA-256 of the rest, then the plan. Above a limit the files that
were used least recently go first; a lock keeps two processes from building the same plan
at the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from boxwright.errors import BoxwrightError
from boxwright.files import atomic_write, human_size, read_regular
from boxwright.locks import FileLock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boxwright.progress import ProgressCallback

_log = logging.getLogger("boxwright")

LIMIT_VARIABLE = "BOXWRIGHT_CACHE_LIMIT"
DEFAULT_LIMIT = 10 << 30
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}

# The longest build we know of takes minutes. The system frees the lock of a process that
# dies, so only one that hangs is waited for this long; then each builds for itself.
_PATIENCE_SECONDS = 3600.0
# What a killed process left half-written, where the system has no nameless files.
_LEFTOVER_SECONDS = 24 * 3600.0


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


def limit() -> int:
    """How many bytes of plans are kept: ``$BOXWRIGHT_CACHE_LIMIT``, or 10 GiB.

    It is written as bytes or with a unit of 1024s: ``4GiB``, ``500M``. 0 keeps nothing.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return DEFAULT_LIMIT
    match = re.fullmatch(
        r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]?)(?:i?B)?", text, re.IGNORECASE | re.ASCII
    )
    if match is None:
        _log.warning(
            "%s must be a size such as 4GiB, got %r; it is taken for %s",
            *(LIMIT_VARIABLE, text[:40], human_size(DEFAULT_LIMIT)),
        )
        return DEFAULT_LIMIT
    return int(float(match[1]) * (1 << _UNITS[match[2].upper()]))


def read(model_sha256: str, fingerprint: str) -> bytes | None:
    """A kept plan, its hash verified; ``None`` where there is none or it is damaged."""
    path = _path(model_sha256, fingerprint)
    try:
        content = read_regular(path)
    except OSError:
        return None
    digest, data = content[:32], content[32:]
    if hashlib.sha256(data).digest() != digest:
        _log.warning("the cached plan %s is damaged and will be built again", path)
        return None
    # The time of change is the time of use: reading times are off on many systems.
    with contextlib.suppress(OSError):
        os.utime(path)
    return data


def store(model_sha256: str, fingerprint: str, data: bytes) -> None:
    """Keep a plan, and drop others above the limit.

    A cache that cannot be written is reported and otherwise ignored.
    """
    path = _path(model_sha256, fingerprint)
    most = limit()
    if len(data) + 32 > most:
        _log.warning(
            "the rebuilt plan is not kept for the next time: it takes %s, and %s allows %s",
            *(human_size(len(data)), LIMIT_VARIABLE, human_size(most)),
        )
        return
    try:
        with atomic_write(path) as stream:
            stream.write(hashlib.sha256(data).digest())
            stream.write(data)
    except (BoxwrightError, OSError) as error:
        _log.warning("the rebuilt plan is not kept for the next time: %s", error)
        return
    _evict(most, keep=path)


@contextlib.contextmanager
def building(model_sha256: str, fingerprint: str, progress: ProgressCallback) -> Iterator[bool]:
    """Hold the right to build a plan; gives whether another process was waited for.

    Where the cache cannot be written, or the other takes an hour, both build.
    """
    lock = FileLock(_path(model_sha256, fingerprint).with_suffix(".lock"))

    def waiting(seconds: float) -> None:
        progress("wait for another process that builds this plan", int(seconds), None)

    try:
        waited = lock.acquire(timeout=_PATIENCE_SECONDS, waiting=waiting)
    except TimeoutError:
        _log.warning("another process has been building this plan for an hour; it is built here")
        waited = True
    except OSError as error:
        _log.info("no lock in the cache: %s", error)
        waited = False
    try:
        yield waited
    finally:
        lock.release()


class _Kept(NamedTuple):
    used: float
    size: int
    path: Path


def _evict(most: int, keep: Path) -> None:
    """Delete the plans used least recently until the rest is within the limit.

    Other processes may do the same now: what is gone already needs no deleting, and a
    plan that is being read stays readable (or, on Windows, where it is).
    """
    kept = sorted(_kept(cache_folder() / "plans"))
    total = sum(item.size for item in kept)
    for item in kept:
        if total <= most:
            break
        if item.path == keep:
            continue
        with contextlib.suppress(OSError):
            item.path.unlink()
            _log.info("dropped from the cache: %s (%s)", item.path, human_size(item.size))
        if not item.path.exists():
            total -= item.size
            with contextlib.suppress(OSError):
                item.path.parent.rmdir()  # only where it was the model's last


def _kept(folder: Path) -> Iterator[_Kept]:
    """Every plan; leftovers of killed processes are cleared away."""
    now = time.time()
    for path in folder.glob("*/*"):
        with contextlib.suppress(OSError):
            status = path.stat()
            if path.suffix == ".plan":
                yield _Kept(status.st_mtime, status.st_size, path)
            elif path.suffix == ".part" and now - status.st_mtime > _LEFTOVER_SECONDS:
                path.unlink()


def _path(model_sha256: str, fingerprint: str) -> Path:
    return cache_folder() / "plans" / model_sha256 / f"{fingerprint}.plan"
