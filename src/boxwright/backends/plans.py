"""Building a plan, choosing the one that fits this machine, rebuilding where none does.

Every backend that compiles plans goes through here, so that all of them choose, explain,
rebuild and cache in the same way.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from boxwright.backends import cache, registry
from boxwright.backends.base import TensorSpec
from boxwright.backends.options import make_spec
from boxwright.engine import Engine
from boxwright.errors import BoxwrightError, EngineError
from boxwright.model import BOXES, IMAGES, SCORES
from boxwright.receipt import build_receipt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from boxwright.backends.base import BuildSpec, Runner
    from boxwright.card import ModelCard
    from boxwright.model import Model
    from boxwright.progress import ProgressCallback

_log = logging.getLogger("boxwright")
_RunnerT = TypeVar("_RunnerT", bound="Runner")


@dataclass(frozen=True)
class Fingerprint:
    """What a plan runs on. Its text is the five fields joined by ``_``.

    Attributes:
        backend: The backend's name.
        version: Of the runtime, and of our way of compiling for it.
        device: Kind of device, and whatever of it the plan depends on.
        precision: As in :class:`~boxwright.backends.base.BuildSpec`.
        batch: Shape profile.
    """

    backend: str
    version: str
    device: str
    precision: str
    batch: str

    @classmethod
    def of(cls, backend: str, version: str, device: str, spec: BuildSpec) -> Fingerprint:
        """For a plan built to `spec`; characters a fingerprint cannot hold become ``-``."""
        smallest, usual, largest = spec.batch
        fields = (backend, version, device, spec.precision, f"b{smallest}-{usual}-{largest}")
        return cls(*(re.sub(r"[^A-Za-z0-9.+-]", "-", text) for text in fields))

    @classmethod
    def parse(cls, text: str) -> Fingerprint | None:
        """The fingerprint written as `text`, or ``None`` where it is another kind of text."""
        fields = text.split("_")
        return cls(*fields) if len(fields) == 5 else None

    def __str__(self) -> str:
        return "_".join(dataclasses.astuple(self))

    def differences(self, other: Fingerprint) -> str:
        """What `other` was built for that this is not, for people."""
        pairs = (
            (item.name, getattr(other, item.name), getattr(self, item.name))
            for item in dataclasses.fields(self)
        )
        return ", ".join(f"{name} {theirs} (here {ours})" for name, theirs, ours in pairs
                         if theirs != ours)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a backend compiled.

    Attributes:
        data: The plan file's content.
        evidence: For the receipt; JSON values only.
    """

    data: bytes
    evidence: dict[str, Any] = field(default_factory=dict)


class Compiler(Protocol):
    """What this module needs of a backend."""

    @property
    def name(self) -> str:
        """The backend's name."""
        ...

    def fingerprint(self, spec: BuildSpec) -> str:
        """As :meth:`boxwright.backends.base.Backend.fingerprint`."""
        ...

    def compile(self, model: Model, spec: BuildSpec, progress: ProgressCallback) -> Plan:
        """Make a plan for this machine.

        Raises:
            BuildError: The model or the specification cannot be built.
        """
        ...


def build_engine(
    compiler: Compiler,
    model: Model,
    spec: BuildSpec,
    output: str | Path,
    progress: ProgressCallback,
) -> Engine:
    """Compile a plan and write the engine file, receipt included.

    Raises:
        BuildError: The model or the specification cannot be built.
        InputError: `output` cannot be written.
    """
    started = time.perf_counter()
    fingerprint = compiler.fingerprint(spec)
    plan = compiler.compile(model, spec, progress)
    receipt = build_receipt(
        model.card,
        spec,
        backend=compiler.name,
        fingerprint=fingerprint,
        seconds=time.perf_counter() - started,
        evidence=plan.evidence,
    )
    return Engine.write(output, model, receipt, {fingerprint: plan.data})


def load_engine(
    compiler: Compiler,
    engine: Engine,
    spec: BuildSpec,
    open_plan: Callable[[bytes], _RunnerT],
    progress: ProgressCallback,
) -> _RunnerT:
    """Run an engine's plan for this machine, or rebuild one.

    Args:
        compiler: The backend.
        engine: The engine.
        spec: What it was built as, and the device to run on.
        open_plan: Makes a runner of a plan; raises EngineError where it cannot.
        progress: Called while rebuilding.

    Raises:
        EngineError: The engine file is damaged, or its plan is not what it says.
        BuildError: No plan fits, and none can be built.
    """
    fingerprint = compiler.fingerprint(spec)
    if fingerprint in engine.plans:
        data = engine.plan_bytes(fingerprint)
        return _open_checked(open_plan, data, engine.card, f"{engine.path}: plan {fingerprint}")
    _log.warning("%s", explain_misfit(engine, fingerprint))
    # The cache is looked up by the model's hash: make sure that this is the model's hash.
    engine.verify_model()
    kept = cache.read(engine.model_sha256, fingerprint)
    if kept is not None:
        try:
            return _open_checked(open_plan, kept, engine.card, "the cached plan")
        except EngineError as error:
            _log.warning("%s; it is built again", error)
    plan = compiler.compile(engine.model(), spec, progress)
    cache.store(engine.model_sha256, fingerprint, plan.data)
    return _open_checked(open_plan, plan.data, engine.card, "the rebuilt plan")


def explain_misfit(engine: Engine, wanted: str) -> str:
    """Why none of an engine's plans is the one wanted, in one sentence per plan."""
    here = Fingerprint.parse(wanted)
    reasons = []
    for present in engine.plans:
        other = Fingerprint.parse(present)
        known = here.differences(other) if here and other else ""
        reasons.append(f"{present} differs in: {known or 'its form'}")
    held = "; ".join(reasons) or "it holds none"
    return (
        f"{engine.path} holds no plan for this machine, so one is built from its model. "
        f"Wanted: {wanted}. Present: {held}."
    )


def fit(plan_text: str, device: str = "auto") -> str | None:
    """Why a plan would be rebuilt on this machine, or ``None`` where it runs as it is.

    Args:
        plan_text: The plan's fingerprint, as :attr:`Engine.plans` lists it. It may come from
            a file, so any text is answered and none raises.
        device: What to run on; as in :class:`~boxwright.backends.base.BuildSpec`.
    """
    built = Fingerprint.parse(plan_text)
    if built is None:
        return "its fingerprint is of another form"
    try:
        backend = registry.get(built.backend)
        if (reason := backend.unavailable()) is not None:
            return f"{built.backend} cannot work here: {reason}"
        low, usual, high = (int(number) for number in built.batch.removeprefix("b").split("-"))
        spec = make_spec(built.precision, (low, usual, high), device, None)
        here = Fingerprint.parse(backend.fingerprint(spec))
    except (BoxwrightError, ValueError) as error:
        return str(error)
    return (here.differences(built) or None) if here else "this backend's plans cannot be compared"


def check_contract(
    card: ModelCard,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    origin: str,
) -> None:
    """Check that what was loaded takes and gives what the card promises.

    Raises:
        EngineError: It does not; postprocessing would read past or misread its outputs.
    """
    height, width = card.input_size
    wanted = [TensorSpec(IMAGES, np.dtype(np.uint8), (None, height, width, 3))]
    if card.task == "detect":
        floats = np.dtype(np.float32)
        wanted.append(TensorSpec(BOXES, floats, (None, None, 4)))
        wanted.append(TensorSpec(SCORES, floats, (None, None, len(card.class_names))))
    if [spec.name for spec in inputs] != [IMAGES]:
        raise EngineError(f"{origin} takes {[spec.name for spec in inputs]}, not [{IMAGES!r}]")
    present = {spec.name: spec for spec in (*inputs, *outputs)}
    for want in wanted:
        have = present.get(want.name)
        if have is None or have.dtype != want.dtype or not _fits(want.shape, have.shape):
            shown = "nothing" if have is None else f"{have.dtype} {list(have.shape)}"
            raise EngineError(
                f"{origin} does not go with its card: {want.name!r} must be "
                f"{want.dtype} {list(want.shape)}, got {shown}"
            )


def _fits(want: tuple[int | None, ...], have: tuple[int | None, ...]) -> bool:
    """Runtimes forget extents while they optimise, so a free one fits."""
    return len(want) == len(have) and all(
        a is None or b is None or a == b for a, b in zip(want, have, strict=True)
    )


def _open_checked(
    open_plan: Callable[[bytes], _RunnerT], data: bytes, card: ModelCard, origin: str
) -> _RunnerT:
    try:
        runner = open_plan(data)
    except EngineError as error:
        raise EngineError(f"{origin} cannot be loaded: {error}") from error
    try:
        check_contract(card, runner.inputs, runner.outputs, origin)
    except EngineError:
        runner.close()
        raise
    return runner
