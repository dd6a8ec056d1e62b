"""Writing files so that a killed process never leaves half of one, and hashing them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from boxwright.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 20


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; on success sync it and rename it into place.

    When the block raises, `path` is left as it was and the temporary file is removed.

    Raises:
        InputError: The folder does not exist or cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            prefix=f".{target.name}.", suffix=".part", dir=target.parent
        )
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        # mkstemp makes files private; what we write is as shareable as the umask says.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        with os.fdopen(handle, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(target)
    except OSError as error:
        _remove(temporary)
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    except BaseException:
        _remove(temporary)
        raise
    _sync_folder(target.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 through :func:`atomic_write`."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits, read in pieces.

    Raises:
        InputError: The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def human_size(size: int) -> str:
    """A byte count for people: ``23.1 MiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; not every system lets a folder be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
