"""Building a plan, choosing the one that fits this machine, rebuilding where none does.

Every backend that compiles plans goes through here, so that all of them choose, explain,
rebuild and cache in the same way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import shlex
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from boxwright.backends import cache, registry
from boxwright.backends.base import TensorSpec
from boxwright.backends.options import make_spec
from boxwright.builds import build_of, builds
from boxwright.engine import Engine
from boxwright.errors import BoxwrightError, EngineError, NoPlanError
from boxwright.model import BOXES, IMAGES, LANDMARKS, SCORES
from boxwright.receipt import build_receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from boxwright.backends.base import Backend, BuildSpec, Runner
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
        precision: As in :class:`~boxwright.backends.base.BuildSpec`; where the runtime was
            told to compute in another one, ``+`` and its name for that follow.
        batch: Shape profile.
    """

    backend: str
    version: str
    device: str
    precision: str
    batch: str

    @classmethod
    def of(
        cls, backend: str, version: str, device: str, spec: BuildSpec, computes: str = ""
    ) -> Fingerprint:
        """For a plan built to `spec`; characters a fingerprint cannot hold become ``-``.

        `computes` is what the runtime was told to compute in, where `spec` alone does not
        say.
        """
        smallest, usual, largest = spec.batch
        precision = f"{spec.precision}+{computes}" if computes else spec.precision
        fields = (backend, version, device, precision, f"b{smallest}-{usual}-{largest}")
        return cls(*(re.sub(r"[^A-Za-z0-9.+-]", "-", text) for text in fields))

    @classmethod
    def parse(cls, text: str) -> Fingerprint | None:
        """The fingerprint written as `text`, or ``None`` where it is another kind of text."""
        fields = text.split("_")
        return cls(*fields) if len(fields) == 5 else None

    @property
    def asked_precision(self) -> str:
        """The precision of the specification."""
        return self.precision.partition("+")[0]

    def __str__(self) -> str:
        return "_".join(dataclasses.astuple(self))

    def differences(self, other: Fingerprint) -> str:
        """What `other` was built for that this is not, for people."""
        return ", ".join(
            f"{name} {getattr(other, name)} (here {getattr(self, name)})"
            for name in self.differing(other)
        )

    def differing(self, other: Fingerprint) -> list[str]:
        """Names of the fields that differ."""
        names = (item.name for item in dataclasses.fields(self))
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def spec(self, device: str, options: Mapping[str, Any] | None) -> BuildSpec:
        """What such a plan is built as.

        Raises:
            ValueError: Its batch is not three numbers.
            InputError: Its precision or its batch is none there is.
        """
        # Some backends compile for several batches, such as b1-1-1+8-8-16.
        profiles = [
            [int(number) for number in profile.split("-")]
            for profile in self.batch.removeprefix("b").split("+")
        ]
        (low, usual, _), high = profiles[0], profiles[-1][-1]
        return make_spec(self.asked_precision, (low, usual, high), device, options)


@dataclass(frozen=True)
class Plan:
    """What a backend compiled.

    Attributes:
        data: The plan file's content.
        evidence: For the receipt; JSON values only.
    """

    data: bytes
    evidence: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
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


@runtime_checkable
class PlanMatcher(Protocol):
    """A backend whose plans run on more machines than the one they were built on.

    Without this, a plan fits where its fingerprint is this machine's.
    """

    def fits(self, plan_fingerprint: str, spec: BuildSpec) -> str | None:
        """Why a plan of this backend cannot run here, or ``None`` where it can.

        Args:
            plan_fingerprint: Of this backend and of `spec`'s precision, and not
                ``fingerprint(spec)``. It comes from a file.
            spec: What is to be run, and where.
        """
        ...


def build_plan(
    compiler: Compiler, model: Model, spec: BuildSpec, progress: ProgressCallback
) -> tuple[str, bytes, dict[str, Any]]:
    """Compile a plan.

    Returns:
        Its fingerprint, its content, and the receipt of an engine of this plan alone.

    Raises:
        BuildError: The model or the specification cannot be built.
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
        plan_sha256=hashlib.sha256(plan.data).hexdigest(),
    )
    return fingerprint, plan.data, receipt


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
    fingerprint, data, receipt = build_plan(compiler, model, spec, progress)
    return Engine.write(output, model, receipt, {fingerprint: data})


def misfit(backend: Compiler | Backend, plan: str, spec: BuildSpec) -> str | None:
    """Why a plan cannot run as `spec` on this machine, or ``None`` where it can.

    Raises:
        BackendUnavailableError: The device cannot be used here.
        InputError: No device is called that.
    """
    wanted = backend.fingerprint(spec)
    if plan == wanted:
        return None
    here, built = Fingerprint.parse(wanted), Fingerprint.parse(plan)
    if here is None:
        return "this backend's plans cannot be compared"
    if built is None:
        return "its fingerprint is of another form"
    same = (here.backend, here.precision) == (built.backend, built.precision)
    if same and isinstance(backend, PlanMatcher):
        return backend.fits(plan, spec)
    return here.differences(built)


def fitting_plan(backend: Compiler | Backend, engine: Engine, spec: BuildSpec) -> str | None:
    """The plan of an engine to run as `spec` on this machine, or ``None``.

    One of this machine's own fingerprint goes before one that fits besides, and of those
    the one added last; raises as :func:`misfit`.
    """
    wanted = backend.fingerprint(spec)
    if wanted in engine.plans:
        return wanted
    known = [build.fingerprint for build in builds(engine.receipt)]
    ordered = [plan for plan in known if plan in engine.plans]
    ordered += [plan for plan in engine.plans if plan not in ordered]
    return next((plan for plan in ordered if misfit(backend, plan, spec) is None), None)


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
        spec: What it was built as, the device to run on, and whether to rebuild.
        open_plan: Makes a runner of a plan; raises EngineError where it cannot.
        progress: Called while rebuilding.

    Raises:
        EngineError: The engine file is damaged, or its plan is not what it says.
        NoPlanError: No plan fits, and `spec` does not let one be built.
        BuildError: No plan fits, and none can be built.
    """
    wanted = compiler.fingerprint(spec)
    plan = fitting_plan(compiler, engine, spec)
    why = ""
    if plan is not None:
        _check_described(engine, plan)
        origin = f"{engine.path}: plan {plan}"
        data = engine.plan_bytes(plan)
        try:
            return _open_checked(open_plan, data, engine.card, origin)
        except EngineError as error:
            # Of this very fingerprint it should run; one said to fit besides may turn out not to.
            if plan == wanted:
                raise
            why = f" ({error})"
    # The cache is looked up by the model's hash: make sure that this is the model's hash.
    engine.verify_model()
    return _rebuilt(compiler, engine, spec, open_plan, progress, why)


def _rebuilt(
    compiler: Compiler,
    engine: Engine,
    spec: BuildSpec,
    open_plan: Callable[[bytes], _RunnerT],
    progress: ProgressCallback,
    why: str,
) -> _RunnerT:
    """A runner of a plan from the cache or, failing that, of a new one."""
    wanted = compiler.fingerprint(spec)

    def open_kept() -> _RunnerT | None:
        kept = cache.read(engine.model_sha256, wanted)
        if kept is None:
            return None
        try:
            return _open_checked(open_plan, kept, engine.card, "the cached plan")
        except EngineError as error:
            _log.warning("%s; it is built again", error)
            return None

    explanation = f"{explain_misfit(compiler, engine, spec)}{why}"
    if (runner := open_kept()) is not None:
        _log.info("%s The plan built here before is used.", explanation)
        return runner
    if not spec.rebuild:
        raise NoPlanError(
            f"{explanation} None may be built here; on a machine like this one that may, "
            f"{_command(engine, spec, compiler.name)} adds it"
        )
    _log.warning(
        "%s One is built from its model and kept in %s; to have it in the file: %s",
        *(explanation, cache.cache_folder(), _command(engine, spec, compiler.name)),
    )
    with cache.building(engine.model_sha256, wanted, progress) as waited:
        if waited and (runner := open_kept()) is not None:
            return runner
        plan = compiler.compile(engine.model(), spec, _named(progress, engine, wanted))
        cache.store(engine.model_sha256, wanted, plan.data)
    return _open_checked(open_plan, plan.data, engine.card, "the rebuilt plan")


def _check_described(engine: Engine, plan: str) -> None:
    """Refuse a plan that took the place of the one that the receipt tells of."""
    build = build_of(engine.receipt, plan)
    stated = None if build is None else build.plan_sha256
    if stated is not None and stated != engine.plan_sha256(plan):
        raise EngineError(
            f"{engine.path}: plan {plan} cannot be loaded: its SHA-256 is "
            f"{engine.plan_sha256(plan)[:16]}..., and the receipt tells of one of "
            f"{stated[:16]}...; it comes from another file. Build it again: boxwright build "
            f"{engine.path}"
        )


def _named(progress: ProgressCallback, engine: Engine, wanted: str) -> ProgressCallback:
    """Progress that says why there is something to wait for."""
    reason = _why_rebuilt(engine, wanted)

    def named(stage: str, done: int, total: int | None) -> None:
        progress(f"rebuild, {reason}: {stage}", done, total)

    return named


def _why_rebuilt(engine: Engine, wanted: str) -> str:
    """In few words, what sets this machine apart from those the engine has plans for."""
    here = Fingerprint.parse(wanted)
    others = [other for plan in engine.plans if (other := Fingerprint.parse(plan))]
    if here is None or not others:
        return "the engine has no plan"
    nearest = min((here.differing(other) for other in others), key=len)
    return f"the plan is of another {' and '.join(nearest)}"


def _command(engine: Engine, spec: BuildSpec, backend: str) -> str:
    words = ["boxwright", "build", str(engine.path), "--backend", backend]
    # What differs from the build at the top has to be said.
    made_by = builds(engine.receipt)[-1].facts
    if spec.precision != made_by.get("precision"):
        words += ["--precision", spec.precision]
    if list(spec.batch) != made_by.get("batch"):
        words += ["--batch", ":".join(map(str, spec.batch))]
    return shlex.join(words)


def explain_misfit(backend: Compiler | Backend, engine: Engine, spec: BuildSpec) -> str:
    """Why none of an engine's plans runs as `spec` here, in one sentence per plan."""
    reasons = []
    for plan in engine.plans:
        why = misfit(backend, plan, spec)
        form = why in (None, "its fingerprint is of another form")
        reasons.append(f"{plan} differs in: its form" if form else f"{plan} differs in: {why}")
    held = "; ".join(reasons) or "it holds none"
    return (
        f"{engine.path} holds no plan for this machine. "
        f"Wanted: {backend.fingerprint(spec)}. Present: {held}."
    )


def fit(
    plan_text: str, device: str = "auto", options: Mapping[str, Any] | None = None
) -> str | None:
    """Why a plan would be rebuilt on this machine, or ``None`` where it runs as it is.

    Args:
        plan_text: The plan's fingerprint, as :attr:`Engine.plans` lists it. It may come from
            a file, so any text is answered and none raises.
        device: What to run on; as in :class:`~boxwright.backends.base.BuildSpec`.
        options: What the plan was built with, likewise.
    """
    built = Fingerprint.parse(plan_text)
    if built is None:
        return "its fingerprint is of another form"
    try:
        backend = registry.get(built.backend)
        if (reason := backend.unavailable()) is not None:
            return f"{built.backend} cannot work here: {reason}"
        return misfit(backend, plan_text, built.spec(device, options))
    except (BoxwrightError, ValueError) as error:
        return str(error)


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
        if card.landmarks:
            wanted.append(TensorSpec(LANDMARKS, floats, (None, None, len(card.landmarks), 2)))
    for attribute in card.attributes:
        classes = (len(attribute.names),) if attribute.kind == "class" else ()
        wanted.append(TensorSpec(attribute.name, np.dtype(np.float32), (None, *classes)))
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
