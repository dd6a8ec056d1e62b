"""How fast a model is in each precision on a backend, and which one to hand out.

INT8 often is no faster than FP16: batch 1 leaves kernels waiting, float layers between
quantised ones cost conversions, and not every kernel exists. So precisions are measured, in
turns, and INT8 is handed out only where it was faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.errors import (
    BackendUnavailableError,
    BoxwrightError,
    BudgetMissedError,
    InputError,
)
from boxwright.evaluate.timing import (
    Interval,
    Summary,
    collector_off,
    interleave,
    measure,
    median_interval,
    warm_up,
)
from boxwright.model import IMAGES
from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.backends.base import Precision, Runner
    from boxwright.model import Model

INT8 = "int8"
DEFAULT_ROUNDS = 10
DEFAULT_SECONDS = 2.0
_MORE_ROUNDS = 4

ROUNDING = 1e-9
"""Of a drop in points, a difference of sums in float64: what a budget forgives."""


@dataclass(frozen=True)
class Timed:
    """The network of one precision alone, from pixels to boxes and scores on the host.

    Attributes:
        precision: Its precision.
        milliseconds: Of single batches.
        rounds: The median of each round.
    """

    precision: str
    milliseconds: Summary
    rounds: tuple[float, ...]

    def faster_than(self, other: Timed, seed: int = 0) -> Interval:
        """How many times as fast it is, by the rounds that both ran in."""
        return median_interval(np.divide(other.rounds, self.rounds).tolist(), seed)


@dataclass(frozen=True)
class Latency:
    """What was measured on a backend, in one run.

    Attributes:
        backend: Its name.
        batch: Images at a time.
        timed: By precision.
        failed: Precisions that cannot be run, and why.
    """

    backend: str
    batch: int
    timed: Mapping[str, Timed] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "backend": self.backend,
            "batch": self.batch,
            "network_ms": {name: item.milliseconds.to_dict() for name, item in self.timed.items()},
            "failed": dict(self.failed),
        }


def precisions_of(backend: str) -> tuple[str, ...]:
    """The precisions that a backend has here, INT8 included where it says so."""
    from boxwright import backends
    from boxwright.backends.capabilities import capabilities

    return tuple(capabilities(backends.get(backend))["precisions"] or ("fp32",))


def load_precision(
    model: Model, backend: str, precision: str, device: str, progress: ProgressCallback = silent
) -> Runner:
    """A model ready to run on a backend.

    Raises:
        BoxwrightError: See :func:`boxwright.backends.load`.
    """
    from boxwright import backends

    chosen: Precision = precision  # type: ignore[assignment]  # `load` checks it
    return backends.load(model, backend=backend, precision=chosen, device=device, progress=progress)


def measure_latency(
    models: Mapping[str, Model],
    backend: str,
    *,
    pixels: NDArray[np.uint8],
    device: str = "auto",
    rounds: int = DEFAULT_ROUNDS,
    seconds: float = DEFAULT_SECONDS,
    seed: int = 0,
    examine: Callable[[str, Runner], None] = lambda precision, runner: None,
    settled: Callable[[Mapping[str, Timed]], bool] = lambda timed: True,
    progress: ProgressCallback = silent,
) -> Latency:
    """Time the network in several precisions, turn by turn.

    A round gives each a turn, in changing order, so that what slows the machine for a while
    slows all of them.

    Args:
        models: What to run, by precision: the quantised model for ``int8``. Several models
            of one precision take names of their own: those that are quantised run in INT8.
        backend: The runtime.
        pixels: uint8 ``(N, H, W, 3)`` at the models' input size; one batch. A model of a
            fixed batch takes its first images, again and again where there are too few.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        rounds: How many, 2 at least.
        seconds: Least measuring time for each precision.
        seed: Of the order of turns.
        examine: Called with each precision and what runs it, when all are timed: building
            some takes minutes, so what else is to be known of them is best asked then. It
            may close the runner.
        settled: Whether what was timed decides what it is measured for. Where it does not, as
            on a busy machine, four times as many rounds are had, once.
        progress: Told of rounds done.

    Raises:
        InputError: An argument is wrong.
    """
    _check_amounts(len(models), len(pixels), rounds, seconds)
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        runs: dict[str, Callable[[], object]] = {}
        runners: dict[str, Runner] = {}
        for precision, model in models.items():
            try:
                wanted = INT8 if model.quantized else precision
                runner = load_precision(model, backend, wanted, device, progress)
                stack.enter_context(runner)
                run = _run(runner, pixels)
                warm_up(run)
            except BoxwrightError as error:
                failed[precision] = str(error)
                continue
            runs[precision], runners[precision] = run, runner
        turns = _Turns(runs, failed, rounds, seconds / rounds, progress)
        found = turns.take(rounds, seed)
        if found and not settled(found):
            found = turns.take(_MORE_ROUNDS * rounds, seed + 1)
        for precision in found:
            examine(precision, runners[precision])
    return Latency(backend, len(pixels), found, failed)


def _check_amounts(models: int, images: int, rounds: int, seconds: float) -> None:
    if rounds < 2 or seconds < 0 or not models or not images:
        raise InputError(
            f"latency needs models, images, and 2 rounds at least; got {models} models, "
            f"{images} images, {rounds} rounds"
        )


def _run(runner: Runner, pixels: NDArray[np.uint8]) -> Callable[[], object]:
    """One batch from the host to the host."""
    fixed = runner.inputs[0].shape[0] or len(pixels)
    batch = np.ascontiguousarray(np.resize(pixels, (fixed, *pixels.shape[1:])))
    wait = getattr(runner, "synchronize", None)

    def run() -> None:
        runner.infer({IMAGES: batch})
        if wait is not None:
            wait()

    return run


@dataclass
class _Turns:
    """Contenders that are timed in turns; one that fails on the way takes no more of them."""

    runs: Mapping[str, Callable[[], object]]
    failed: dict[str, str]
    expected: int
    seconds: float
    progress: ProgressCallback
    taken: dict[str, list[list[float]]] = field(default_factory=dict)
    done: int = 0

    def take(self, rounds: int, seed: int) -> dict[str, Timed]:
        """Some rounds more; what is known after all of them."""
        names = [name for name in self.runs if name not in self.failed]
        self.expected = max(self.expected, self.done + rounds)
        with collector_off():
            for order in interleave(len(names), rounds, seed) if names else ():
                for index in order:
                    self._one(names[index])
                self.done += 1
                self.progress("measuring latency", self.done, self.expected)
        return {
            name: Timed(
                name,
                Summary.of([value for values in turns for value in values]),
                tuple(float(np.median(values)) for values in turns),
            )
            for name, turns in self.taken.items()
            if name not in self.failed
        }

    def _one(self, name: str) -> None:
        if name in self.failed:
            return
        try:
            durations = _one_turn(self.runs[name], self.seconds)
        except BoxwrightError as error:
            self.failed[name] = f"it failed while it was timed: {error}"
            return
        self.taken.setdefault(name, []).append(durations)


def _one_turn(run: Callable[[], object], seconds: float) -> list[float]:
    run()  # unmeasured: the neighbour has filled the caches
    return measure(lambda: _nothing(run()), seconds=seconds)


def _nothing(result: object) -> None:
    """What was run has no duration of its own to tell."""


@dataclass(frozen=True)
class Choice:
    """Which precision to hand out.

    Attributes:
        precision: That one.
        reason: Why, in a sentence.
        tried: Of each precision its drop in points (``None`` where not measured), its median
            in milliseconds, and whether it may be chosen.
    """

    precision: str
    reason: str
    tried: Sequence[Mapping[str, Any]]

    def allows(self, precision: str) -> bool:
        """Whether a precision runs and keeps to the budget, faster or not."""
        return any(row["precision"] == precision and row["within_budget"] for row in self.tried)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "precision": self.precision,
            "reason": self.reason,
            "tried": [dict(item) for item in self.tried],
        }


def choose_precision(
    latency: Latency,
    drops: Mapping[str, float | None],
    max_drop: float | None,
    *,
    default: str = "fp32",
    seed: int = 0,
) -> Choice:
    """The fastest precision within the budget; INT8 only where it is shown to be faster.

    Args:
        latency: What was measured.
        drops: Points that each precision loses against the float model; ``None`` or absent
            where it was not measured, which for anything but `default` is no pass.
        max_drop: The budget; ``None`` accepts every drop.
        default: What passes without having been measured; it loses nothing.
        seed: Of the resampling behind "shown": the 95 % interval of the ratio of medians,
            round by round, lies above 1.

    Raises:
        BackendUnavailableError: Nothing runs, `default` neither.
        BudgetMissedError: `default` does not run, and what does loses too much.
    """
    within = {
        name: item
        for name, item in latency.timed.items()
        if name == default or _passes(drops.get(name), max_drop)
    }
    tried = [_row(name, latency, drops, name in within) for name in _all_names(latency, drops)]
    if not within:
        raise _nothing_left(latency, max_drop, default)
    floats = [item for name, item in within.items() if name != INT8]
    best = min(floats, key=lambda item: item.milliseconds.p50, default=None)
    quantized = within.get(INT8)
    if quantized is None:
        name = default if best is None else best.precision
        return Choice(name, _without_int8(latency, drops, max_drop, name), tried)
    if best is None:
        return Choice(INT8, f"only INT8 runs on {latency.backend} here", tried)
    ratio = quantized.faster_than(best, seed)
    told = (
        f"{quantized.milliseconds.p50:.2f} ms against {best.milliseconds.p50:.2f} ms in "
        f"{best.precision.upper()} ({ratio.median:.2f} times as fast, {ratio.low:.2f} to "
        f"{ratio.high:.2f}, on {latency.backend})"
    )
    if ratio.low > 1.0:
        return Choice(INT8, f"INT8 is the fastest: {told}", tried)
    return Choice(best.precision, f"INT8 is not faster: {told}", tried)


def _nothing_left(latency: Latency, max_drop: float | None, default: str) -> BoxwrightError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in latency.failed.items())
    if not latency.timed:
        return BackendUnavailableError(
            f"the model runs on {latency.backend} here in no precision: {reasons or 'it has none'}"
        )
    limit = 0.0 if max_drop is None else max_drop
    return BudgetMissedError(
        f"{default} does not run on {latency.backend} here ({reasons}), and "
        f"{', '.join(latency.timed)} is not within {limit:g} points, or not measured"
    )


def _passes(drop: float | None, max_drop: float | None) -> bool:
    return max_drop is None or (drop is not None and drop <= max_drop + ROUNDING)


def _all_names(latency: Latency, drops: Mapping[str, float | None]) -> list[str]:
    return list(dict.fromkeys([*latency.timed, *latency.failed, *drops]))


def _row(
    name: str, latency: Latency, drops: Mapping[str, float | None], passes: bool
) -> dict[str, Any]:
    timed = latency.timed.get(name)
    return {
        "precision": name,
        "drop": drops.get(name),
        "median_ms": None if timed is None else round(timed.milliseconds.p50, 4),
        "within_budget": passes,
        **({"failed": latency.failed[name]} if name in latency.failed else {}),
    }


def _without_int8(
    latency: Latency, drops: Mapping[str, float | None], max_drop: float | None, chosen: str
) -> str:
    if INT8 in latency.failed:
        return f"INT8 does not run on {latency.backend} here: {latency.failed[INT8]}"
    drop = drops.get(INT8)
    if INT8 in latency.timed and max_drop is not None:
        if drop is None:
            return f"what INT8 loses on {latency.backend} could not be measured"
        return f"INT8 loses {drop:.2f} points on {latency.backend}, {max_drop:g} are allowed"
    return f"{chosen.upper()} is the fastest of {', '.join(latency.timed)} within the budget"
