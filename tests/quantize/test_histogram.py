"""Statistics of values: exact counts, whatever the order they come in."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from boxwright.quantize.histogram import (
    BINS,
    LOWEST_EXPONENT,
    Accumulator,
    TensorStatistics,
    exponent_of,
)

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
ARRAYS = hnp.arrays(np.float32, st.integers(0, 60), elements=FLOATS)


def gather(*batches: NDArray[np.generic]) -> TensorStatistics:
    accumulator = Accumulator()
    for batch in batches:
        assert accumulator.add(batch)
    return accumulator.result()


def assert_same(first: TensorStatistics, second: TensorStatistics) -> None:
    np.testing.assert_array_equal(first.counts, second.counts)
    np.testing.assert_array_equal(first.negatives, second.negatives)
    names = ("minimum", "maximum", "zeros", "exponent")
    assert [getattr(first, n) for n in names] == [getattr(second, n) for n in names]


def skewed(count: int, seed: int = 0) -> NDArray[np.float32]:
    """As a leaky activation leaves it: more than one kind of value, and zeros."""
    values = np.random.default_rng(seed).normal(0, 3, count)
    values = np.where(values > 0, values, 0.1 * values)
    values[::7] = 0
    return values.astype(np.float32)


@settings(max_examples=300, deadline=None)
@given(ARRAYS)
def test_counts_are_those_of_numpy(values: NDArray[np.float32]) -> None:
    found = gather(values)
    nonzero = np.abs(values[values != 0]).astype(np.float64)
    end = math.ldexp(1.0, found.exponent)
    expected, _ = np.histogram(nonzero, BINS, (0, end))
    np.testing.assert_array_equal(found.counts, expected)
    negative = -values[values < 0].astype(np.float64)
    np.testing.assert_array_equal(found.negatives, np.histogram(negative, BINS, (0, end))[0])
    assert found.zeros == (values == 0).sum()
    assert found.total == len(values)
    if len(values):
        assert (found.minimum, found.maximum) == (values.min(), values.max())
    if len(nonzero):
        assert found.amax == nonzero.max()
        assert nonzero.max() < end
        # The range is no larger than it has to be.
        assert found.exponent == LOWEST_EXPONENT or nonzero.max() >= end / 2
        assert np.flatnonzero(found.counts)[-1] == found.used_bins - 1


@settings(max_examples=200, deadline=None)
@given(ARRAYS, st.lists(st.integers(0, 60), max_size=4), st.randoms(use_true_random=False))
def test_neither_order_nor_batches_matter(
    values: NDArray[np.float32], cuts: list[int], random: object
) -> None:
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    parts = np.split(values[order], sorted(min(cut, len(values)) for cut in cuts))
    assert_same(gather(values), gather(*parts))


def test_more_values_than_are_counted_at_once() -> None:
    values = skewed(1_000_000)
    found = gather(values.reshape(10, 100, 1000))
    nonzero = np.abs(values[values != 0]).astype(np.float64)
    np.testing.assert_array_equal(
        found.counts, np.histogram(nonzero, BINS, (0, 2.0**found.exponent))[0]
    )


def test_signed_bins_are_in_order_and_within_the_range() -> None:
    values = skewed(5000)
    found = gather(values)
    middles, counts = found.signed()
    for parts in (2, 8):
        finer, shares = found.signed(parts)
        assert len(finer) == parts * len(middles)
        assert (np.diff(finer) >= 0).all()
        np.testing.assert_allclose(shares.reshape(-1, parts).sum(axis=1), counts)
        inner = slice(1, -1)  # the ends are drawn in to the range
        means = finer.reshape(-1, parts).mean(axis=1)
        np.testing.assert_allclose(means[inner], middles[inner])
    assert (np.diff(middles) > 0).all()
    assert (middles[0], middles[-1]) >= (found.minimum, 0)
    assert counts.sum() == np.count_nonzero(values)
    assert counts[middles < 0].sum() == (values < 0).sum()
    # Each value is within half a bin of its bin's middle.
    mean = (middles * counts).sum() / counts.sum()
    assert mean == pytest.approx(values[values != 0].mean(), abs=found.bin_width / 2)


def test_more_equal_values_than_a_float32_counts() -> None:
    """OpenCV's counters are float32: they stop at 2**24."""
    assert gather(np.full(20_000_001, 0.75, np.float32)).counts.max() == 20_000_001


def test_a_gathering_goes_on_from_a_result() -> None:
    values = skewed(5000)
    accumulator = Accumulator(gather(values[:100]))
    accumulator.add(values[100:] * 9)
    assert_same(accumulator.result(), gather(values[:100], values[100:] * 9))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_told_and_not_counted(odd: float) -> None:
    accumulator = Accumulator()
    assert accumulator.add(np.array([1, 2], np.float32))
    before = accumulator.result()
    assert not accumulator.add(np.array([1, odd, 2000], np.float32))
    assert_same(before, accumulator.result())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (0.0, 0.0, 0, 0)),
        ([0.0, -0.0], (0.0, 0.0, 2, 0)),
        ([3.0, 5.0], (3.0, 5.0, 0, 2)),  # zero need not be in the range
        ([-3.0, -5.0], (-5.0, -3.0, 0, 2)),
        ([1.0], (1.0, 1.0, 0, 1)),  # a power of two belongs to the range above
        ([np.finfo(np.float32).max], (np.finfo(np.float32).max,) * 2 + (0, 1)),
        ([1e-40], (float(np.float32(1e-40)),) * 2 + (0, 1)),  # subnormal
    ],
)
def test_edges(values: list[float], expected: tuple[float, float, int, int]) -> None:
    found = gather(np.array(values, np.float32))
    counted = int(found.counts.sum())
    assert (found.minimum, found.maximum, found.zeros, counted) == expected


def test_half_floats_are_taken() -> None:
    values = skewed(1000).astype(np.float16)
    assert_same(gather(values), gather(values.astype(np.float32)))


def test_exponents() -> None:
    assert [exponent_of(v) for v in (0, 0.5, 0.99, 1, 1.5, 2)] == [LOWEST_EXPONENT, 0, 0, 1, 1, 2]
    assert exponent_of(1e-45) == LOWEST_EXPONENT
