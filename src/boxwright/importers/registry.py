"""Which formats can be imported, and how a file's format is recognised."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from boxwright.card import Interpolation, Resize
from boxwright.errors import ImportFailedError
from boxwright.model import Model
from boxwright.progress import ProgressCallback, silent
from boxwright.values import whole

_MODULES = {"darknet": "boxwright.importers.darknet"}


@dataclass(frozen=True)
class ImportRequest:
    """What to import, and what the user says about it.

    Attributes:
        weights: The weights file.
        cfg: The file describing the network, where the format has one.
        names: A file with one class name per line, or the names themselves.
        data: A Darknet ``.data`` file, which names the names.
        size: ``(height, width)`` instead of the source's own.
        resize: Resize mode instead of the source's own.
        interpolation: Interpolation instead of the source's own.
        licence: Licence of the weights, for the card.
        progress: Told how far the import is.
    """

    weights: Path
    cfg: Path | None = None
    names: Path | tuple[str, ...] | None = None
    data: Path | None = None
    size: tuple[int, int] | None = None
    resize: Resize | None = None
    interpolation: Interpolation | None = None
    licence: str | None = None
    progress: ProgressCallback = silent


class Importer(Protocol):
    """One source format."""

    @property
    def name(self) -> str:
        """Its name, as in ``--format``."""
        ...

    @property
    def description(self) -> str:
        """What it reads, for people."""
        ...

    def recognises(self, request: ImportRequest) -> bool:
        """Whether the files look like this format; reads a few bytes at most."""
        ...

    def load(self, request: ImportRequest) -> Model:
        """Import.

        Raises:
            ImportFailedError: The files are at fault.
        """
        ...


def formats() -> tuple[str, ...]:
    """Names of the formats that can be imported."""
    return tuple(_MODULES)


def import_model(
    weights: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the word users know, as in --format
    cfg: str | Path | None = None,
    names: str | Path | list[str] | tuple[str, ...] | None = None,
    data: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    resize: Resize | None = None,
    interpolation: Interpolation | None = None,
    licence: str | None = None,
    progress: ProgressCallback = silent,
) -> Model:
    """Make a Model of weights that somebody else trained.

    Args:
        weights: The weights file.
        format: One of :func:`formats`; recognised from the files when not given.
        cfg: Darknet's network description. Without it, a cfg of the weights' name, or else
            the only one beside them, is taken.
        names: A file with one class name per line, or the names themselves.
        data: A Darknet ``.data`` file, which names the names file.
        size: Input size, one side or ``(height, width)``, instead of the source's.
        resize: ``letterbox`` or ``stretch``, instead of the source's.
        interpolation: ``darknet`` or ``opencv``, instead of the source's.
        licence: Licence of the weights, kept in the card.
        progress: Told how far the import is.

    Raises:
        ImportFailedError: The files are missing, damaged or cannot be converted faithfully.
    """
    request = ImportRequest(
        weights=Path(weights),
        cfg=None if cfg is None else Path(cfg),
        names=Path(names)
        if isinstance(names, (str, Path))
        else None
        if names is None
        else tuple(names),
        data=None if data is None else Path(data),
        size=_size(size),
        resize=resize,
        interpolation=interpolation,
        licence=licence,
        progress=progress,
    )
    if not request.weights.exists():
        raise ImportFailedError(f"{request.weights} does not exist")
    if request.weights.is_dir():
        raise ImportFailedError(f"{request.weights} is a folder; give the weights file itself")
    return _choose(request, format).load(request)


def _size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    numbers = [number for number in map(whole, sides) if number and 1 <= number <= 16_384]
    if len(sides) != 2 or len(numbers) != 2:
        raise ImportFailedError(
            f"size must be 1 to 16384 pixels, one side or (height, width), got {size!r}"
        )
    return numbers[0], numbers[1]


def _choose(request: ImportRequest, name: str | None) -> Importer:
    if name is not None:
        if name not in _MODULES:
            raise ImportFailedError(
                f"unknown format {name!r}; known formats: {', '.join(formats())}"
            )
        return _importer(name)
    found = [i for i in map(_importer, _MODULES) if i.recognises(request)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ImportFailedError(
            f"{request.weights} could be any of {', '.join(i.name for i in found)}; "
            "say which with --format"
        )
    raise ImportFailedError(
        f"{request.weights} is of no known format; known formats: {', '.join(formats())} "
        "(say which with --format if its name is unusual)"
    )


def _importer(name: str) -> Importer:
    module = importlib.import_module(_MODULES[name])
    importer: Importer = module.IMPORTER
    return importer
