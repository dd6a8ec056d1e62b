"""Writing files so that a killed process never leaves half of one, and hashing them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING

from boxwright.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 20
_OPEN_FILES = Path("/proc/self/fd")


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of `path` when the block ends without an error.

    Until then `path` is left as it was. Where the system can, the new file has no name
    before it is whole, so that a killed process leaves nothing at all; elsewhere it may
    leave a ``.part`` file.

    Raises:
        InputError: The folder does not exist or cannot be written.
    """
    # What a link points to is written, and the link stays one.
    target = Path(os.path.realpath(path))
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise InputError(f"cannot write {target}: it is a folder")
        if target.exists() and not target.is_file():
            raise InputError(f"cannot write {target}: it is not a regular file")
        stream, temporary = _create(target.parent)
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if temporary is None:
                temporary = _part_name(target.parent)
                _give_name(stream, temporary)
        temporary.replace(target)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(f"cannot write {target}: {error.strerror or error}") from error
        raise
    _sync_folder(target.parent)


def refuse_overwriting(output: str | Path, *inputs: str | Path | None) -> None:
    """Refuse to write a file over one that it is made from.

    Raises:
        InputError: `output` is one of `inputs`, by whatever name; ``None`` is no input.
    """
    for path in inputs:
        with contextlib.suppress(OSError):
            if path is not None and os.path.samefile(output, path):  # noqa: PTH121 - links, too
                raise InputError(
                    f"{output} is what would be read; writing there would destroy it: "
                    "give another place with -o"
                )


def _create(folder: Path) -> tuple[IO[bytes], Path | None]:
    """A new file in `folder`, readable and writable as the umask says, and its name if any."""
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0)
    unnamed: int | None = getattr(os, "O_TMPFILE", None)
    if unnamed is not None and _OPEN_FILES.is_dir():
        # Network and overlay file systems may refuse, each with an error of its own.
        with contextlib.suppress(OSError):
            return os.fdopen(os.open(folder, flags | unnamed, 0o666), "w+b"), None
    name = _part_name(folder)
    return os.fdopen(os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o666), "w+b"), name


def _give_name(stream: IO[bytes], name: Path) -> None:
    """Link a nameless file into its folder, as open(2) describes under ``O_TMPFILE``."""
    # With a folder's descriptor, and only then, Python makes the call that follows links.
    folder = os.open(_OPEN_FILES, os.O_RDONLY)
    try:
        os.link(str(stream.fileno()), name, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _part_name(folder: Path) -> Path:
    return folder / f".boxwright-{secrets.token_hex(8)}.part"


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 through :func:`atomic_write`."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading; a pipe or a device is refused instead of waited for.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    # Without O_NONBLOCK, opening a named pipe waits for somebody to write into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "it is a directory" if stat.S_ISDIR(mode) else "it is not a regular file"
        raise OSError(errno.EINVAL, what, str(path))
    return os.fdopen(descriptor, "rb")


def is_file(path: str | Path) -> bool:
    """Whether a file is there; false, too, for a name that no file can have or that is barred."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for these


def read_regular(path: str | Path) -> bytes:
    """All of a regular file; raises as :func:`open_regular`."""
    with open_regular(path) as stream:
        return stream.read()


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits, read in pieces.

    Raises:
        InputError: The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(path) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def printable(text: str) -> str:
    r"""Text that can be written as UTF-8: stray bytes of a file name become ``\xfe``.

    Python keeps such bytes as lone surrogates, which JSON and ONNX have no place for.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def human_size(size: int) -> str:
    """A byte count for people: ``23.1 MiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; not every system lets a folder be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
