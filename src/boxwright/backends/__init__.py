"""Backends: runtimes that engines are built for, and that run them.

:func:`build` makes an engine file from a model, :func:`load` makes an engine (or a
model, as it is) ready to run. :func:`available` says which backends work here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.backends.options import make_spec
from boxwright.backends.registry import available, get, names
from boxwright.errors import BackendUnavailableError, EngineError, InputError
from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boxwright.backends.base import Backend, BuildSpec, Precision, Runner
    from boxwright.engine import Engine
    from boxwright.model import Model

__all__ = ["available", "build", "get", "load", "names", "spec_of"]

DEFAULT_BACKEND = "onnxruntime"


def build(
    model: Model,
    *,
    output: str | Path,
    backend: str = DEFAULT_BACKEND,
    precision: Precision = "fp32",
    batch: tuple[int, int, int] = (1, 1, 16),
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    progress: ProgressCallback = silent,
) -> Engine:
    """Build an engine for this machine and write it to a file.

    Args:
        model: The model to build.
        output: The ``.bw`` file to write or replace.
        backend: Which runtime to build for; see :func:`available`.
        precision: ``fp32``, ``fp16`` or ``int8``; the receipt says what each layer runs in.
        batch: Smallest, usual and largest batch.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        options: Settings of that backend only.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        InputError: An argument is wrong, or `output` cannot be written.
        ModelError: The model does not keep the contract.
        BackendUnavailableError: The backend cannot work on this machine.
        BuildError: The backend refuses the model or the settings.
    """
    spec = make_spec(precision, batch, device, options)
    model.check()
    return _usable(backend).build(model, spec, output, progress)


def load(
    source: Engine | Model | str | Path,
    *,
    backend: str | None = None,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    progress: ProgressCallback = silent,
) -> Runner:
    """Make an engine ready to run; use the result as a context manager.

    Where the engine holds no plan that fits this machine, a warning says so and why, a
    plan is built from the portable graph, and it is kept in the user's cache.

    Args:
        source: An engine, a model that was never built, or the file of either.
        backend: Which runtime to use; by default the one the engine was built for.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        options: Settings of that backend only. On the backend it was built for, an engine
            keeps the options it was built with, and these replace single ones.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        EngineError: The engine file is damaged.
        ModelError: The model is damaged, or does not keep the contract.
        InputError: An argument is wrong.
        BackendUnavailableError: The backend cannot work on this machine.
        BuildError: No plan fits, and the backend cannot build one.
    """
    from boxwright.engine import Engine

    opened = _open(source) if isinstance(source, (str, Path)) else source
    if isinstance(opened, Engine):
        chosen, spec = spec_of(opened, backend=backend, device=device, options=options)
    else:
        opened.check()
        chosen = backend or DEFAULT_BACKEND
        spec = make_spec("fp32", (1, 1, 16), device, options)
    return _usable(chosen).load(opened, spec, progress)


def _open(path: str | Path) -> Engine | Model:
    from boxwright.engine import Engine, is_engine_file
    from boxwright.model import Model

    if is_engine_file(path) or Path(path).suffix == ".bw":
        return Engine.open(path)
    return Model.load(path)


def spec_of(
    engine: Engine,
    *,
    backend: str | None = None,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
) -> tuple[str, BuildSpec]:
    """The backend and the specification that :func:`load` uses for an engine.

    What was asked for at the build is in the receipt. It comes from a file, so it is
    checked.

    Args:
        engine: The engine.
        backend: As in :func:`load`.
        device: As in :func:`load`.
        options: As in :func:`load`.

    Raises:
        EngineError: The receipt does not say what was built.
        InputError: An argument is wrong.
    """
    record = engine.receipt.get("build")
    try:
        if not isinstance(record, dict) or not isinstance(record["backend"], str):
            raise InputError("it names no backend")
        built = make_spec(
            record["precision"], tuple(record["batch"]), "auto", _recorded_options(record)
        )
    except (KeyError, TypeError, InputError) as error:
        raise EngineError(
            f"{engine.path}: the receipt does not say what was built: {error}"
        ) from error
    chosen = backend or record["backend"]
    # Another backend's options mean nothing to this one.
    kept = built.options if chosen == record["backend"] else {}
    return chosen, make_spec(built.precision, built.batch, device, {**kept, **(options or {})})


def _recorded_options(record: Mapping[str, Any]) -> dict[str, Any]:
    recorded = record.get("options", {})
    if not isinstance(recorded, dict):
        raise InputError(f"its options are no table: {recorded!r:.60}")
    return recorded


def _usable(name: str) -> Backend:
    backend = get(name)
    reason = backend.unavailable()
    if reason is not None:
        raise BackendUnavailableError(f"backend {name!r} cannot work here: {reason}")
    return backend
