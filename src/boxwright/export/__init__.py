"""Giving an engine or a model out in somebody else's format.

::

    from boxwright.export import export

    export("tiny.bw", to="onnx", output="tiny.onnx")

:func:`export` reads the source and keeps what all formats share; what is written is a
target's business (:mod:`boxwright.export.registry`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boxwright.export.registry import Exported, Request, get, names
from boxwright.files import refuse_overwriting
from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from boxwright.engine import Engine
    from boxwright.model import Model

__all__ = ["Exported", "export", "names"]


def export(
    source: Engine | Model | str | Path,
    to: str,
    output: str | Path,
    *,
    plan: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Exported:
    """Write an engine or a model in another format.

    Args:
        source: The engine or the model, or the file of either.
        to: The format; see :func:`names`.
        output: The file to write or replace. A format of several files puts the others
            beside it.
        plan: Which of an engine's plans to give out, for formats that hold one; by default
            the one that would run on this machine.
        device: What that would run on.
        seed: Of the random images that a converted model is compared on.
        progress: Called as ``progress(stage, done, total)``.

    Returns:
        What was written.

    Raises:
        InputError: An argument is wrong, or a file cannot be written or is the source.
        EngineError: The engine is damaged.
        NoPlanError: The engine has no such plan, or none that fits.
        MissingExtraError: The format needs a package that is not installed.
        BuildError: What came out computes something else than the model.
    """
    from boxwright.backends import open_source

    target = get(to)
    path = Path(output)
    opened = open_source(source) if isinstance(source, (str, Path)) else source
    origin = source if isinstance(source, (str, Path)) else getattr(source, "path", None)
    for written in target.paths(path):
        refuse_overwriting(written, origin)
    request = Request(opened, path, plan, device, seed, progress)
    return target.write(request)
