"""What a backend is: it builds an engine from a model, and runs one.

A backend sees tensors only. It knows neither where a model came from nor what a box is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from numpy.typing import NDArray

from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    import numpy as np

    from boxwright.engine import Engine
    from boxwright.model import Model

Precision = Literal["fp32", "fp16", "int8"]
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of an input or output; ``None`` is a free extent."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class BuildSpec:
    """What to build.

    Attributes:
        precision: The precision asked for; the receipt says what really runs.
        batch: Smallest, usual and largest batch, for backends that compile for a range.
        device: ``cpu``, ``cuda:0``, ...; ``auto`` lets the backend choose.
        options: Settings of one backend only.
        rebuild: Whether loading an engine may build a plan where none fits.
    """

    precision: Precision = "fp32"
    batch: tuple[int, int, int] = (1, 1, 16)
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    rebuild: bool = True


class Runner(Protocol):
    """A loaded engine. Use it as a context manager; safe to call from one thread at a time."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What :meth:`infer` takes."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What :meth:`infer` returns."""
        ...

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run once; every output by name.

        Raises:
            InputError: A tensor is missing, unknown, or of another type or shape.
        """
        ...

    def close(self) -> None:
        """Free what the runner holds; harmless when called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Backend(Protocol):
    """A runtime that engines can be built for."""

    @property
    def name(self) -> str:
        """How users call it: letters, digits and hyphens."""
        ...

    def unavailable(self) -> str | None:
        """Why this backend cannot work on this machine, or ``None`` when it can."""
        ...

    def fingerprint(self, spec: BuildSpec) -> str:
        """Identifies what a plan built here would run on: equal text, equal plan.

        Backend, its version, device, precision and shape profile. Letters, digits and
        ``._+-`` only, for it names a member of the engine file.
        """
        ...

    def build(
        self, model: Model, spec: BuildSpec, output: str | Path, progress: ProgressCallback = silent
    ) -> Engine:
        """Build `model` and write the engine file `output`.

        Raises:
            BackendUnavailableError: See :meth:`unavailable`.
            BuildError: The model or the specification cannot be built.
        """
        ...

    def load(
        self, source: Engine | Model, spec: BuildSpec, progress: ProgressCallback = silent
    ) -> Runner:
        """Make an engine, or a model that was never built, ready to run.

        Where the engine holds no plan for `spec` on this machine, one is built from its
        portable graph.

        Raises:
            EngineError: The engine file is damaged.
            BackendUnavailableError: See :meth:`unavailable`.
            BuildError: No plan fits, and none can be built.
        """
        ...
