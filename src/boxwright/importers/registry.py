"""Which formats can be imported, and how a file's format is recognised."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

from boxwright.card import Interpolation, Resize
from boxwright.errors import ImportFailedError
from boxwright.files import open_regular
from boxwright.model import Model
from boxwright.progress import ProgressCallback, silent
from boxwright.values import whole

_MODULES = {
    "caffe": "boxwright.importers.caffe",
    "darknet": "boxwright.importers.darknet",
    "mxnet": "boxwright.importers.mxnet",
    "onnx": "boxwright.importers.onnx",
    "pytorch": "boxwright.importers.pytorch",
    "tensorflow": "boxwright.importers.tensorflow",
}


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
        head: What kind of head the network ends in, where the format does not say.
        options: Settings of one format only, such as ``{"scale": 1}``; an importer refuses
            those that it does not have (:func:`check_options`).
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
    head: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: ProgressCallback = silent


class Confidence(IntEnum):
    """How sure an importer is that a file is of its format."""

    POSSIBLE = 1
    """The name says so, the content does not contradict."""
    LIKELY = 2
    """The content looks like it, but nothing in it names the format."""
    CERTAIN = 3
    """The content names the format, or the user gave a file that only this format has."""


@dataclass(frozen=True)
class Recognition:
    """That a file is of a format, and why.

    Attributes:
        confidence: How sure that is.
        reason: Why, for people: half a sentence such as ``it begins with an ONNX model``.
    """

    confidence: Confidence
    reason: str


@dataclass(frozen=True)
class Check:
    """One tensor of an imported model beside the source's own.

    Attributes:
        name: What is compared.
        difference: The largest absolute difference.
        tolerance: What it may be.
        reason: Why not 0.
    """

    name: str
    difference: float
    tolerance: float
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; a NaN is not."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """An imported model compared with its source.

    Attributes:
        against: What the source was run by, with its version.
        checks: What was compared.
    """

    against: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check did, and there was one."""
        return bool(self.checks) and all(check.passed for check in self.checks)


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

    def recognise(self, request: ImportRequest) -> Recognition | None:
        """Whether the files are of this format; reads their beginnings only, never raises."""
        ...

    def load(self, request: ImportRequest) -> Model:
        """Import.

        Raises:
            ImportFailedError: The files are at fault.
        """
        ...


class Verifying(Importer, Protocol):
    """An importer that can compare a model with its source."""

    def verify(self, request: ImportRequest, model: Model) -> Verification:
        """Run the source by something else than us, and compare.

        Raises:
            MissingExtraError: What runs the source is not installed.
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
    head: str | None = None,
    options: Mapping[str, Any] | None = None,
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
        head: The kind of head, such as ``yolox``, where a format does not say it.
        options: Settings that one format only has; see its page.
        progress: Told how far the import is.

    Raises:
        ImportFailedError: The files are missing, damaged or cannot be converted faithfully.
    """
    request = make_request(
        weights,
        cfg=cfg,
        names=names,
        data=data,
        size=size,
        resize=resize,
        interpolation=interpolation,
        licence=licence,
        head=head,
        options=options,
        progress=progress,
    )
    return choose(request, format).load(request)


def make_request(
    weights: str | Path,
    *,
    cfg: str | Path | None = None,
    names: str | Path | list[str] | tuple[str, ...] | None = None,
    data: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
    **given: Any,
) -> ImportRequest:
    """A checked request of what :func:`import_model` takes.

    Raises:
        ImportFailedError: The weights do not exist, or the size cannot be one.
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
        options=dict(options or {}),
        **given,
    )
    if not request.weights.exists():
        raise ImportFailedError(f"{request.weights} does not exist")
    return request


def check_options(
    request: ImportRequest, known: Mapping[str, str], *, takes_head: bool = False
) -> None:
    """Refuse options that a format does not have, which would be without effect.

    Args:
        request: What the user asked for.
        known: Options of the format, and what each is.
        takes_head: Whether the format may have to be told the kind of head.

    Raises:
        ImportFailedError: A name is not among `known`, or a head is named for nothing.
    """
    if not takes_head:
        refuse_head(request)
    for name in request.options:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            shown = ", ".join(known) or "none"
            raise ImportFailedError(
                f"unknown option {name!r} of this format; there are: {shown}{hint}"
            )


def refuse_head(request: ImportRequest) -> None:
    """Refuse a kind of head where the file itself says what it is.

    Raises:
        ImportFailedError: One was named.
    """
    if request.head is not None:
        raise ImportFailedError(
            f"--head {request.head} is without effect: {request.weights} says itself what its "
            "head is; leave --head out"
        )


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


def choose(request: ImportRequest, name: str | None = None) -> Importer:
    """The importer for a request: that of the format `name`, or the one that is surest.

    Raises:
        ImportFailedError: There is no such format, or none recognises the files, or several
            are equally sure; the message lists them with their reasons.
    """
    if name is not None:
        if name not in _MODULES:
            raise ImportFailedError(
                f"unknown format {name!r}; known formats: {', '.join(formats())}"
            )
        return _importer(name)
    found = [
        (importer, recognition)
        for importer in map(_importer, _MODULES)
        if (recognition := importer.recognise(request)) is not None
    ]
    surest = max((recognition.confidence for _, recognition in found), default=None)
    best = [pair for pair in found if pair[1].confidence == surest]
    if len(best) == 1:
        return best[0][0]
    if best:
        listed = "; ".join(f"{importer.name}, because {why.reason}" for importer, why in best)
        raise ImportFailedError(
            f"{request.weights} could be of {len(best)} formats: {listed}. Say which with --format"
        )
    if request.weights.is_dir():
        raise ImportFailedError(f"{request.weights} is a folder; give the weights file itself")
    raise ImportFailedError(
        f"{request.weights} is of no known format; known formats: {', '.join(formats())} "
        "(say which with --format if its name is unusual)"
    )


def read_start(path: Path, count: int = 4096) -> bytes:
    """The first bytes of a regular file, for recognition; none where it cannot be read."""
    try:
        with open_regular(path) as stream:
            return stream.read(count)
    except OSError:
        return b""


def _importer(name: str) -> Importer:
    module = importlib.import_module(_MODULES[name])
    importer: Importer = module.IMPORTER
    return importer
