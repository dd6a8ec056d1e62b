"""Timing code fairly: warm-up, interleaved rounds, and what may be said of the numbers."""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Clock = Callable[[], int]
"""Nanoseconds on a clock that never goes back."""

monotonic_ns: Clock = time.perf_counter_ns

# Warm-up ends when the medians of two neighbouring windows are this close.
_STABLE = 0.05
_WINDOW = 5
_RESAMPLES = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """What is said of a sample of durations, in milliseconds.

    Percentiles lie between neighbours in proportion, as ``numpy.percentile`` has them.

    Attributes:
        count: How many were measured.
        mean: Their mean.
        stdev: Standard deviation of the sample (divided by ``count - 1``); 0 for one.
        min: The quickest.
        p50: The median.
        p90: Nine of ten were quicker.
        p99: 99 of 100 were quicker; below a hundred values it says little more than the
            slowest.
    """

    count: int
    mean: float
    stdev: float
    min: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Summary:
        """Summarise one or more durations."""
        values = np.asarray(milliseconds, np.float64)
        p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
        stdev = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        return cls(len(values), float(values.mean()), stdev, float(values.min()), p50, p90, p99)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, rounded to a tenth of a microsecond."""
        names = ("mean", "stdev", "min", "p50", "p90", "p99")
        return {"count": self.count, **{name: round(getattr(self, name), 4) for name in names}}


@dataclass(frozen=True)
class Interval:
    """A median, and the bootstrap interval it lies in with 95 % confidence."""

    median: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """JSON values."""
        return {name: round(getattr(self, name), 4) for name in ("median", "low", "high")}


def median_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The median with its percentile-bootstrap interval.

    Args:
        values: One or more, such as a ratio per round.
        seed: Of the resampling: the same seed gives the same interval.
    """
    sample = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(sample), (_RESAMPLES, len(sample)))
    medians = np.median(sample[picks], axis=1)
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.percentile(medians, (tail, 100 - tail)).tolist()
    return Interval(float(np.median(sample)), low, high)


def variation(values: Sequence[float]) -> float:
    """Coefficient of variation: standard deviation over mean; 0 for fewer than two."""
    sample = np.asarray(values, np.float64)
    if len(sample) < 2 or sample.mean() == 0:
        return 0.0
    return float(sample.std(ddof=1) / sample.mean())


def interleave(count: int, rounds: int, seed: int = 0) -> list[tuple[int, ...]]:
    """In which order `count` contenders take their turns, round by round.

    A shuffled order is rotated by one each round, so in `count` rounds everyone is first,
    second, ... once; every other such cycle runs backwards, so nobody always follows
    the same neighbour.
    """
    base = list(range(count))
    random.Random(seed).shuffle(base)  # noqa: S311 - not a secret
    orders = []
    for number in range(rounds):
        cycle, turn = divmod(number, count)
        order = base[turn:] + base[:turn]
        orders.append(tuple(reversed(order) if cycle % 2 else order))
    return orders


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection inside: its pauses belong to nobody in particular."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class WarmUp:
    """What it took until durations settled.

    Attributes:
        iterations: How many were run.
        stable: Whether they settled; else the limit was reached.
    """

    iterations: int
    stable: bool


def warm_up(
    call: Callable[[], object],
    *,
    most: int = 50,
    seconds: float = 5.0,
    clock: Clock = monotonic_ns,
) -> WarmUp:
    """Call until durations are stable, `most` times, or for `seconds`, whichever is first.

    Stable means that the median of the last five is within 5 % of the five before.
    """
    durations: list[int] = []
    started = clock()
    while len(durations) < most:
        before = clock()
        call()
        now = clock()
        durations.append(now - before)
        if len(durations) >= 2 * _WINDOW:
            recent = float(np.median(durations[-_WINDOW:]))
            earlier = float(np.median(durations[-2 * _WINDOW : -_WINDOW]))
            if abs(recent - earlier) <= _STABLE * earlier:
                return WarmUp(len(durations), stable=True)
        if now - started >= seconds * 1e9:
            break
    return WarmUp(len(durations), stable=False)


def measure(
    call: Callable[[], int | None],
    *,
    seconds: float,
    least: int = 1,
    clock: Clock = monotonic_ns,
) -> list[float]:
    """Durations in milliseconds of calls made until `seconds` have passed.

    Args:
        call: What to time. Where it returns a number, that many nanoseconds are taken
            instead of the time around the call.
        seconds: Least time to spend.
        least: Least number of calls, however slow they are.
        clock: Tells the time.
    """
    durations: list[float] = []
    started = now = clock()
    while len(durations) < least or now - started < seconds * 1e9:
        before = clock()
        own = call()
        now = clock()
        durations.append((now - before if own is None else own) / 1e6)
    return durations
