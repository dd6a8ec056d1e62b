"""A lock between processes that the system frees when its holder dies.

The lock is the system's own on an open file (flock(2); ``LockFileEx`` by way of `msvcrt`
on Windows), not the file's existence: a killed process leaves nothing that would have to
be told from a lock that is held.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_SECONDS = (0.05, 1.0)


class FileLock:
    """One lock, not yet held. Two of them on one path exclude each other, threads too.

    Args:
        path: Its file; made when the lock is taken, removed when it is released.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(
        self, timeout: float, waiting: Callable[[float], None] = lambda seconds: None
    ) -> bool:
        """Take the lock.

        Args:
            timeout: Seconds to wait for another holder.
            waiting: Called now and then with the seconds waited so far.

        Returns:
            Whether another held it at first.

        Raises:
            TimeoutError: Another holds it still.
            OSError: The file cannot be made, or its file system knows no locks.
        """
        started, pause, waited = time.monotonic(), _POLL_SECONDS[0], False
        while not self._try():
            waited = True
            elapsed = time.monotonic() - started
            if elapsed > timeout:
                raise TimeoutError(f"{self.path} is locked")
            waiting(elapsed)
            time.sleep(pause)
            pause = min(2 * pause, _POLL_SECONDS[1])
        return waited

    def release(self) -> None:
        """Free the lock; harmless where it is not held."""
        if self._descriptor is None:
            return
        # Removed while it is still held: who waits for it sees that its file is gone.
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def _try(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self.path, flags, 0o666)
        try:
            if _lock(descriptor) and self._is_current(descriptor):
                self._descriptor, descriptor = descriptor, -1
                return True
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the file that was locked is still the one that others will find."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))  # noqa: PTH116
        except FileNotFoundError:
            return False


def _lock(descriptor: int) -> bool:
    """Lock an open file without waiting; ``False`` where another has it."""
    try:
        import fcntl
    except ImportError:
        return _lock_on_windows(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_on_windows(descriptor: int) -> bool:
    import msvcrt

    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except PermissionError:
        return False
    return True
