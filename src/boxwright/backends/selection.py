"""Which of an engine's builds runs on this machine.

An engine may hold plans of several backends, precisions and machines. Every build that
its receipt tells of is a candidate. The one that runs is the first of

1. those with a plan of exactly this machine's fingerprint,
2. those with a plan that runs here besides (`boxwright.backends.plans.PlanMatcher`),
3. those whose backend runs the model as it is,
4. those whose backend works here, so that a plan can be built,

and within each, the build added last, the one the engine was made by at the end.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boxwright.backends import registry
from boxwright.backends.options import RUNS_CODE, make_spec
from boxwright.backends.plans import Compiler, fitting_plan
from boxwright.builds import Build, builds
from boxwright.errors import BackendUnavailableError, BoxwrightError, EngineError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boxwright.backends.base import BuildSpec
    from boxwright.engine import Engine


@dataclass(frozen=True)
class Choice:
    """What runs.

    Attributes:
        backend: The backend's name. It may not work here, where none does.
        spec: What to run, and where.
        plan: Fingerprint of the engine's plan that runs; ``None`` where the model runs as it
            is, or a plan has to be rebuilt.
        build: Which build of the receipt that is, as :attr:`boxwright.builds.Build.key`.
    """

    backend: str
    spec: BuildSpec
    plan: str | None = None
    build: str | None = None


def as_built(
    engine: Engine,
    backend: str | None,
    precision: str | None,
    batch: tuple[int, int, int] | None,
    *,
    device: str,
    options: Mapping[str, Any],
) -> tuple[str, BuildSpec]:
    """What an engine was made as, but for what is given.

    Raises:
        InputError: An argument is wrong.
        EngineError: The receipt does not say what was built.
    """
    made_by = builds(engine.receipt)[-1]
    name, spec = _spec_of(engine, made_by, device, options)
    chosen = backend or name
    # Another backend's options mean nothing to this one.
    kept = spec.options if chosen == name else options
    wanted = make_spec(precision or spec.precision, batch or spec.batch, device, kept)
    return chosen, wanted


def choose(
    engine: Engine,
    backend: str | None = None,
    precision: str | None = None,
    *,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
) -> Choice:
    """What to run of an engine on this machine; see the module.

    Args:
        engine: The engine.
        backend: Only builds for this backend; where there is none, it is given one like
            the engine's own.
        precision: Only builds in this precision, likewise.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        options: Settings of the backend.

    Raises:
        InputError: An argument is wrong.
        EngineError: The receipt does not say what was built.
        BackendUnavailableError: No backend of several works here; the message says why.
    """
    settings = dict(options or {})
    candidates = _candidates(engine, backend, precision, device, settings)
    if not candidates:
        name, spec = as_built(engine, backend, precision, None, device=device, options=settings)
        return Choice(name, spec)
    if len(candidates) == 1:
        return _with_plan(engine, candidates[0])
    ranked: list[tuple[int, Choice]] = []
    reasons = []
    for candidate in candidates:
        try:
            ranked.append(_rank(engine, candidate))
        except BoxwrightError as error:
            reasons.append(f"{candidate.backend}: {error}")
    if not ranked:
        raise BackendUnavailableError(
            f"no backend that {engine.path} was built for works here: {'; '.join(reasons)}"
        )
    return min(ranked, key=lambda item: item[0])[1]


def running_plan(engine: Engine, device: str = "auto") -> str | None:
    """The plan that runs on this machine unless told otherwise, if any; nothing raises."""
    try:
        return choose(engine, device=device).plan
    except BoxwrightError:
        return None


def _candidates(
    engine: Engine,
    backend: str | None,
    precision: str | None,
    device: str,
    options: Mapping[str, Any],
) -> list[Choice]:
    """What the builds stand for, each once, the one added last first."""
    found: list[Choice] = []
    for build in builds(engine.receipt):
        name, spec = _spec_of(engine, build, device, options)
        choice = Choice(name, spec, build=build.key)
        known = [(other.backend, other.spec) for other in found]
        wanted = backend in (None, name) and precision in (None, spec.precision)
        if wanted and (name, spec) not in known:
            found.append(choice)
    return found


def _rank(engine: Engine, candidate: Choice) -> tuple[int, Choice]:
    """How well a candidate serves, 0 best, and the candidate with its plan.

    Raises:
        BoxwrightError: Its backend or the device cannot be used here.
    """
    backend = registry.get(candidate.backend)
    if (reason := backend.unavailable()) is not None:
        raise BackendUnavailableError(reason)
    if not isinstance(backend, Compiler):
        return 2, candidate
    plan = fitting_plan(backend, engine, candidate.spec)
    if plan is None:
        return 3, candidate
    rank = 0 if plan == backend.fingerprint(candidate.spec) else 1
    return rank, _of_plan(engine, candidate, plan)


def _with_plan(engine: Engine, candidate: Choice) -> Choice:
    """The only candidate, with its plan where one can be told."""
    try:
        return _rank(engine, candidate)[1]
    except BoxwrightError:
        return candidate  # loading it says what is wrong


def _of_plan(engine: Engine, candidate: Choice, plan: str) -> Choice:
    """The candidate with the plan, and the build that made it: two machines' may be alike."""
    maker = next((b for b in builds(engine.receipt) if b.fingerprint == plan), None)
    key = candidate.build if maker is None else maker.key
    return dataclasses.replace(candidate, plan=plan, build=key)


def _spec_of(
    engine: Engine, build: Build, device: str, options: Mapping[str, Any]
) -> tuple[str, BuildSpec]:
    """What a build was for and as; its receipt comes from a file, so it is checked."""
    facts = build.facts
    try:
        if not isinstance(facts.get("backend"), str):
            raise InputError("it names no backend")
        recorded = facts.get("options", {})
        if not isinstance(recorded, dict):
            raise InputError(f"its options are no table: {recorded!r:.60}")
        recorded = {name: value for name, value in recorded.items() if name not in RUNS_CODE}
        built = make_spec(facts["precision"], tuple(facts["batch"]), "auto", recorded)
    except (KeyError, TypeError, InputError) as error:
        raise EngineError(
            f"{engine.path}: the receipt does not say what was built: {error}"
        ) from error
    settings = {**built.options, **options}
    return facts["backend"], make_spec(built.precision, built.batch, device, settings)
