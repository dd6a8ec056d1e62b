"""The metadata that TensorFlow Lite files may carry: labels, normalisation, licence.

Numbers of fields are those of TFLite Support's ``metadata_schema.fbs``. Label files are
kept in a zip archive that is appended to the file.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from boxwright.files import printable
from boxwright.importers.tensorflow.flatbuffer import Buffer, Table
from boxwright.importers.tensorflow.network import refusal

_MAX_LABEL_BYTES = 1 << 20
_MAX_TEXT = 500
_NORMALIZATION = 1
_LABEL_TYPES = (2, 3)  # AssociatedFileType: TENSOR_AXIS_LABELS, TENSOR_VALUE_LABELS

Pixels = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Metadata:
    """What of it concerns an import; see :class:`~.network.Network`."""

    name: str | None
    licence: str | None
    labels: tuple[str, ...]
    pixels: Pixels | None


def read_metadata(content: bytes, data: bytes, path: Path) -> Metadata:
    """Read it.

    Args:
        content: The metadata, a flatbuffer of its own.
        data: The whole file, with the archive at its end.
        path: The file, for messages.

    Raises:
        ImportFailedError: It is damaged.
    """
    root = Buffer(content, f"{path}: metadata", budget=10_000).root()
    graphs = root.tables(3)
    pixels, files = None, []
    if graphs:
        for tensor in graphs[0].tables(2)[:1]:
            pixels = _normalization(tensor)
        files = [name for tensor in graphs[0].tables(3) for name in _label_files(tensor)]
    return Metadata(
        name=printable(root.text(0))[:_MAX_TEXT] or None,
        licence=_one_line(root.text(5)) or None,
        labels=_labels(files, data, path) if files else (),
        pixels=pixels,
    )


def _one_line(text: str) -> str:
    return " ".join(printable(text[:_MAX_TEXT]).split())


def _normalization(tensor: Table) -> Pixels | None:
    for unit in tensor.tables(4):
        kind, options = unit.union(0)
        if kind == _NORMALIZATION and options is not None:
            mean = tuple(float(x) for x in options.numbers(0, "<f4"))
            std = tuple(float(x) for x in options.numbers(1, "<f4"))
            if mean and std and all(map(math.isfinite, mean)) and all(x > 0 for x in std):
                return mean, std
    return None


def _label_files(tensor: Table) -> Iterator[str]:
    for file in tensor.tables(6):
        if file.integer(2, 0, "<b") in _LABEL_TYPES:
            yield file.text(0)


def _labels(files: list[str], data: bytes, path: Path) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in files:
                with archive.open(name) as stream:
                    text = stream.read(_MAX_LABEL_BYTES + 1)
                if len(text) > _MAX_LABEL_BYTES or b"\0" in text:
                    raise refusal(path, "the label file inside it is no list of names")
                lines = text.decode("utf-8-sig", "replace").rstrip().splitlines()
                return tuple(line.strip() for line in lines)
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        KeyError,
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
    ) as error:
        raise refusal(
            path, f"damaged: the label file inside it cannot be read ({type(error).__name__})"
        ) from None
    return ()
