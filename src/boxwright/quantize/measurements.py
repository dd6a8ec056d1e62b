"""Measurements that survive being killed: a JSON file of what was measured of what.

A key is everything that a value depends on. Each value is written as soon as it is there;
the file is replaced as a whole, so that it is never half-written. Processes that write to one
file at a time add to what the others wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from boxwright.errors import InputError
from boxwright.files import human_size, read_regular, write_text
from boxwright.locks import FileLock

_log = logging.getLogger("boxwright")

FORMAT = 1
_MARK = "boxwright_measurements"
_MAX_BYTES = 64 << 20
# Reading and writing takes no more than a second.
_PATIENCE_SECONDS = 60.0

Key = Mapping[str, Any]


class Measurements:
    """Numbers by what they depend on.

    Args:
        path: The file; ``None`` keeps them in memory only.

    Raises:
        InputError: The file is not one of ours, or cannot be read.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._entries: dict[str, dict[str, Any]] = {}
        self.reused = 0
        if path is not None and path.exists():
            self._entries = _read(path)

    def get(self, key: Key) -> float | None:
        """The value of a key, where it was measured."""
        entry = self._entries.get(_digest(key))
        return None if entry is None else float(entry["value"])

    def value(self, key: Key, measure: Callable[[], float]) -> float:
        """The value of a key, measured and kept where it was not yet."""
        known = self.get(key)
        if known is not None:
            self.reused += 1
            return known
        value = float(measure())
        self._entries[_digest(key)] = {"key": dict(key), "value": value}
        if self._path is not None:
            self._keep(self._path)
        return value

    def _keep(self, path: Path) -> None:
        """Write everything that is known here or to another process."""
        with _alone(path):
            if path.exists():
                self._entries = {**_read(path), **self._entries}
            content = {_MARK: FORMAT, "entries": self._entries}
            write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the file for this process, where its folder knows locks."""
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=_PATIENCE_SECONDS)
    except TimeoutError:
        # Better to measure again some day than not to keep this.
        _log.warning("%s is held by another process; written without waiting for it", path)
    except OSError as error:
        _log.info("no lock beside %s: %s", path, error)
    try:
        yield
    finally:
        lock.release()


def _digest(key: Key) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise InputError(f"{path} is {human_size(size)}, too large for a file of measurements")
        content = json.loads(read_regular(path))
        form = content[_MARK]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is to keep measurements, and something else is there; name another "
            "file, or delete it"
        ) from error
    entries = content.get("entries")
    sound = isinstance(entries, dict) and all(map(_is_entry, entries.values()))
    if form != FORMAT or not sound:
        _log.warning("%s is damaged or of another version; everything is measured again", path)
        return {}
    return dict(entries)


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), dict):
        return False
    value = entry.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)
