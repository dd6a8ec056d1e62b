"""Class names: lists in files, and numbers where there are none."""

from __future__ import annotations

import logging
from pathlib import Path

from boxwright.errors import ImportFailedError
from boxwright.files import open_regular

_LOGGER = logging.getLogger("boxwright")
_MAX_NAMES_BYTES = 4 << 20


def read_names(path: Path) -> tuple[str, ...]:
    """One name per line; blank lines at the end do not count.

    Raises:
        ImportFailedError: The file cannot be read, is huge, or holds no text.
    """
    text = read_text(path)
    return tuple(line.strip() for line in text.rstrip().splitlines())


def read_text(path: Path) -> str:
    """A small text file; raises as :func:`read_names`."""
    try:
        with open_regular(path) as stream:
            data = stream.read(_MAX_NAMES_BYTES + 1)
    except OSError as error:
        raise ImportFailedError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > _MAX_NAMES_BYTES or b"\0" in data:
        raise ImportFailedError(f"{path} is not a list of class names")
    return data.decode("utf-8-sig", errors="replace")


def fit_names(
    names: tuple[str, ...], classes: int, origin: str, counted: str = "the cfg"
) -> tuple[str, ...]:
    """`names`, if there are as many as classes.

    Raises:
        ImportFailedError: There are not; `counted` says where the number is from.
    """
    if len(names) != classes:
        raise ImportFailedError(
            f"{origin}: expected {classes} class names, as {counted} says, got {len(names)}"
        )
    return names


def numbered_names(classes: int) -> tuple[str, ...]:
    """``class_0`` and so on, and a warning about it."""
    _LOGGER.warning(
        "no class names for %d classes: they are called class_0 and so on (give --names)", classes
    )
    return tuple(f"class_{i}" for i in range(classes))


def asked_names(
    asked: Path | tuple[str, ...] | None, classes: int, counted: str
) -> tuple[tuple[str, ...] | None, Path | None]:
    """The names that the user gave, and the file they came from; ``None`` for what is not.

    Raises:
        ImportFailedError: They are not as many as classes.
    """
    if isinstance(asked, tuple):
        return fit_names(asked, classes, "the names given", counted), None
    if asked is not None:
        return fit_names(read_names(asked), classes, str(asked), counted), asked
    return None, None
