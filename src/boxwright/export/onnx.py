"""The portable model itself: standard ONNX, the card in its metadata."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from boxwright.engine import Engine
from boxwright.export.registry import Exported, Request, refuse_plan
from boxwright.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class OnnxTarget:
    """See :class:`boxwright.export.registry.Target`."""

    suffix = ".onnx"

    def paths(self, output: Path) -> tuple[Path, ...]:
        """One file."""
        return (output,)

    def write(self, request: Request) -> Exported:
        """Byte for byte what the engine holds."""
        refuse_plan(request, "onnx")
        digest = hashlib.sha256()
        with atomic_write(request.output) as stream:
            for piece in _pieces(request):
                digest.update(piece)
                stream.write(piece)
        return Exported("onnx", (request.output,), {"sha256": digest.hexdigest()})


def _pieces(request: Request) -> Iterator[bytes]:
    source = request.source
    if not isinstance(source, Engine):
        return source.pieces()
    source.model()  # parsed and checked before anything is written
    return source.model_pieces()
