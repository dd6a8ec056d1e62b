"""Warm-up, rounds and statistics, on clocks that the tests turn by hand."""

from __future__ import annotations

import gc
from collections import Counter

import numpy as np
import pytest

from boxwright.evaluate.timing import (
    Summary,
    collector_off,
    interleave,
    measure,
    median_interval,
    variation,
    warm_up,
)

SAMPLES = ([3.0], [1.0, 2.0], [5.0, 1.0, 4.0, 2.0], list(np.random.default_rng(1).gamma(2, 3, 999)))


class FakeClock:
    """Stands still but for `advance`."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now

    def advance(self, milliseconds: float) -> None:
        self.now += round(milliseconds * 1e6)


@pytest.mark.parametrize("sample", SAMPLES, ids=len)
def test_a_summary_is_what_numpy_says(sample: list[float]) -> None:
    found = Summary.of(sample)
    assert found.count == len(sample)
    assert found.mean == pytest.approx(np.mean(sample))
    assert found.min == min(sample)
    for name, share in (("p50", 50), ("p90", 90), ("p99", 99)):
        assert getattr(found, name) == pytest.approx(np.percentile(sample, share))
    deviation = np.std(sample, ddof=1) if len(sample) > 1 else 0.0
    assert found.stdev == pytest.approx(deviation)
    assert set(found.to_dict()) == {"count", "mean", "stdev", "min", "p50", "p90", "p99"}


def test_variation_is_deviation_over_mean() -> None:
    assert variation([9.0, 10.0, 11.0]) == pytest.approx(0.1)
    assert variation([7.0]) == 0.0


def test_the_interval_holds_the_median_and_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(3).normal(2, 0.1, 40).tolist()
    found = median_interval(values, seed=5)
    assert found == median_interval(values, seed=5)
    assert found != median_interval(values, seed=6)
    assert found.median == pytest.approx(np.median(values))
    assert found.low < found.median < found.high
    # About 2.5 standard errors of a median of 40 a side.
    assert 0.02 < found.high - found.low < 0.14
    assert median_interval([2.0, 2.0, 2.0]).to_dict() == {"median": 2.0, "low": 2.0, "high": 2.0}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_everyone_is_equally_often_at_every_place(count: int) -> None:
    orders = interleave(count, 4 * count, seed=7)
    assert all(sorted(order) == list(range(count)) for order in orders)
    for place in range(count):
        assert set(Counter(order[place] for order in orders).values()) == {4}
    assert orders == interleave(count, 4 * count, seed=7)


def test_nobody_always_follows_the_same_neighbour() -> None:
    after = {order[order.index(0) + 1] for order in interleave(3, 6) if order.index(0) < 2}
    assert after == {1, 2}


def test_the_seed_changes_who_begins() -> None:
    assert len({interleave(4, 1, seed)[0] for seed in range(20)}) > 1


def test_warm_up_ends_when_durations_settle() -> None:
    clock = FakeClock()
    durations = iter([50.0, 40.0, 30.0, 20.0, 15.0, *[10.0] * 40])
    found = warm_up(lambda: clock.advance(next(durations)), clock=clock)
    assert found.stable
    # Five unsettled ones, and two windows of five that agree; the medians agree sooner.
    assert found.iterations == 13


def test_warm_up_gives_up() -> None:
    clock = FakeClock()
    growing = iter(2.0**n for n in range(60))
    found = warm_up(lambda: clock.advance(next(growing)), most=12, seconds=1e9, clock=clock)
    assert (found.stable, found.iterations) == (False, 12)
    slow = warm_up(lambda: clock.advance(3000), most=50, seconds=5, clock=clock)
    assert (slow.stable, slow.iterations) == (False, 2)


def test_measuring_lasts_as_long_as_asked_for() -> None:
    clock = FakeClock()
    assert measure(lambda: clock.advance(30), seconds=0.1, clock=clock) == [30.0] * 4
    # Slower than the time there is: one all the same, or as many as are asked for.
    assert measure(lambda: clock.advance(900), seconds=0.1, clock=clock) == [900.0]
    assert measure(lambda: clock.advance(900), seconds=0, least=3, clock=clock) == [900.0] * 3


def test_a_call_may_tell_its_own_duration() -> None:
    clock = FakeClock()

    def call() -> int:
        clock.advance(10)
        return 4_000_000

    assert measure(call, seconds=0.02, clock=clock) == [4.0, 4.0]


def test_garbage_is_not_collected_inside_and_is_again_after_an_error() -> None:
    assert gc.isenabled()
    seen = []

    def fail() -> None:
        with collector_off():
            seen.append(gc.isenabled())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [False]
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_off():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
