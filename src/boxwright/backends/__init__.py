"""Backends: runtimes that engines are built for, and that run them.

:func:`build` makes an engine file from a model, :func:`load` makes an engine (or a
model, as it is) ready to run. :func:`available` says which backends work here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.backends.options import (
    DEFAULT_BACKEND,
    DEFAULT_BATCH,
    make_spec,
    precision_for,
)
from boxwright.backends.registry import available, get, names
from boxwright.errors import BackendUnavailableError, BuildError, NoPlanError
from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boxwright.backends.base import Backend, BuildSpec, Precision, Runner
    from boxwright.engine import Engine
    from boxwright.model import Model

__all__ = ["available", "build", "get", "load", "names", "open_source", "spec_of"]


def build(
    model: Model | Engine,
    *,
    output: str | Path,
    backend: str | None = None,
    precision: Precision | None = None,
    batch: tuple[int, int, int] | None = None,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    progress: ProgressCallback = silent,
) -> Engine:
    """Build an engine for this machine and write it to a file.

    Args:
        model: The model to build; or an engine, whose model is built for this machine and
            whose other plans are kept. Of the same fingerprint, the new plan replaces the
            old.
        output: The ``.bw`` file to write or replace; it may be the engine's own.
        backend: Which runtime to build for; see :func:`available`. By default the
            engine's, or ONNX Runtime.
        precision: ``fp32``, ``fp16`` or ``int8``; the receipt says what each layer runs in.
            By default the engine's; of a model ``int8`` where it is quantised, else ``fp32``.
        batch: Smallest, usual and largest batch; by default the engine's, or 1, 1, 16.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        options: Settings of that backend only.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        InputError: An argument is wrong, or `output` cannot be written.
        ModelError: The model does not keep the contract.
        EngineError: The engine file is damaged.
        BackendUnavailableError: The backend cannot work on this machine.
        BuildError: The backend refuses the model or the settings.
    """
    from boxwright.engine import Engine

    if isinstance(model, Engine):
        from boxwright.backends.selection import as_built

        name, spec = as_built(
            *(model, backend, precision, batch), device=device, options=options or {}
        )
        return _add_plan(model, _usable(name), spec, output, progress)
    spec = make_spec(precision_for(model, precision), batch or DEFAULT_BATCH, device, options)
    model.check()
    return _usable(backend or DEFAULT_BACKEND).build(model, spec, output, progress)


def load(
    source: Engine | Model | str | Path,
    *,
    backend: str | None = None,
    precision: Precision | None = None,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    rebuild: bool = True,
    progress: ProgressCallback = silent,
) -> Runner:
    """Make an engine ready to run; use the result as a context manager.

    Of an engine's plans, one that fits this machine is run: one made for exactly this
    machine before one that runs here besides, and of several the one added last. Where
    none fits, a warning says so and why, a plan is built from the portable graph, and it
    is kept in the user's cache.

    Args:
        source: An engine, a model that was never built, or the file of either.
        backend: Which runtime to use; by default one that the engine was built for.
        precision: Which precision to run; by default one that the engine was built in.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        options: Settings of that backend only. On a backend it was built for, an engine
            keeps the options it was built with, and these replace single ones.
        rebuild: Build a plan where none fits. With ``False``, only plans that are in the
            file or in the cache run, and a model is refused: nothing is compiled.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        EngineError: The engine file is damaged.
        NoPlanError: No plan fits, and `rebuild` is ``False``.
        ModelError: The model is damaged, or does not keep the contract.
        InputError: An argument is wrong.
        BackendUnavailableError: The backend cannot work on this machine.
        BuildError: No plan fits, and the backend cannot build one.
    """
    from boxwright.engine import Engine

    opened = open_source(source) if isinstance(source, (str, Path)) else source
    if isinstance(opened, Engine):
        chosen, spec = spec_of(
            opened, backend=backend, precision=precision, device=device, options=options
        )
        spec = dataclasses.replace(spec, rebuild=rebuild)
        return _usable(chosen).load(opened, spec, progress)
    opened.check()
    if not rebuild:
        raise NoPlanError(
            f"{opened.card.name} is a model, not an engine: running it compiles it, which "
            "must not be done here; build it first: boxwright build"
        )
    spec = make_spec(precision_for(opened, precision), DEFAULT_BATCH, device, options)
    return _usable(backend or DEFAULT_BACKEND).load(opened, spec, progress)


def open_source(path: str | Path) -> Engine | Model:
    """Read an engine or a model, told by what the file holds.

    Raises:
        EngineError: It is a damaged engine.
        ModelError: It is no model.
    """
    from boxwright.engine import Engine, is_engine_file
    from boxwright.model import Model

    if is_engine_file(path) or Path(path).suffix.lower() == ".bw":
        return Engine.open(path)
    return Model.load(path)


def spec_of(
    engine: Engine,
    *,
    backend: str | None = None,
    precision: Precision | None = None,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
) -> tuple[str, BuildSpec]:
    """The backend and the specification that :func:`load` uses for an engine here.

    The arguments are those of :func:`load`.

    Raises:
        EngineError: The receipt does not say what was built.
        InputError: An argument is wrong.
        BackendUnavailableError: No backend of several works here.
    """
    from boxwright.backends.selection import choose

    choice = choose(engine, backend, precision, device=device, options=options)
    return choice.backend, choice.spec


def _add_plan(
    engine: Engine,
    backend: Backend,
    spec: BuildSpec,
    output: str | Path,
    progress: ProgressCallback,
) -> Engine:
    from boxwright.backends.plans import Compiler, build_plan
    from boxwright.builds import with_build

    if not isinstance(backend, Compiler):
        raise BuildError(
            f"backend {backend.name!r} compiles no plan that could be added to {engine.path}; "
            "it runs the model inside as it is"
        )
    model = engine.model()
    precision_for(model, spec.precision)
    fingerprint, data, receipt = build_plan(backend, model, spec, progress)
    # What it says of the file, the engine's own receipt says too.
    record = {name: v for name, v in receipt.items() if name not in ("schema", "sources")}
    combined = with_build(engine.receipt, record, fingerprint)
    return engine.with_plans(output, {fingerprint: data}, receipt=combined)


def _usable(name: str) -> Backend:
    backend = get(name)
    reason = backend.unavailable()
    if reason is not None:
        raise BackendUnavailableError(f"backend {name!r} cannot work here: {reason}")
    return backend
