"""Ranges from histograms, against definitions written out and other people's code."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from boxwright.errors import InputError
from boxwright.quantize.histogram import Accumulator, TensorStatistics
from boxwright.quantize.ranges import (
    METHODS,
    _divergences,
    amax_of,
    entropy_amax,
    mse_amax,
    percentile_amax,
    squared_errors,
)

Values = NDArray[np.float32]


def normal(random: np.random.Generator) -> Values:
    return random.normal(0, 2, 50_000).astype(np.float32)


def leaky(random: np.random.Generator) -> Values:
    values = random.normal(0, 2, 50_000)
    return np.where(values > 0, values, values * 0.1).astype(np.float32)


def relu(random: np.random.Generator) -> Values:
    return np.maximum(random.normal(-1, 2, 50_000), 0).astype(np.float32)


def heavy(random: np.random.Generator) -> Values:
    return random.laplace(0, 1, 50_000).astype(np.float32)


def outliers(random: np.random.Generator) -> Values:
    return np.append(random.normal(0, 1, 50_000), [40.0, -37.0]).astype(np.float32)


def sigmoid(random: np.random.Generator) -> Values:
    return (1 / (1 + np.exp(-random.normal(-3, 3, 50_000)))).astype(np.float32)


def nearly_zero(random: np.random.Generator) -> Values:
    """Half of all values are in the first bin, and none is zero, as behind a Mish."""
    values = random.normal(0, 2, 50_000)
    return np.where(values > 0, values, values * 1e-5).astype(np.float32)


DISTRIBUTIONS = [normal, leaky, relu, heavy, outliers, sigmoid, nearly_zero]
Distribution = Callable[[np.random.Generator], Values]


def gather(values: Values) -> TensorStatistics:
    accumulator = Accumulator()
    assert accumulator.add(values)
    return accumulator.result()


@pytest.fixture(params=DISTRIBUTIONS, ids=lambda make: make.__name__)
def values(request: pytest.FixtureRequest) -> Values:
    make: Distribution = request.param
    return make(np.random.default_rng(0))


def divergence(counts: NDArray[np.float64], bins: int) -> float:
    """KL(P || Q) of a range of so many bins, step by step as the method is told."""
    p = counts[:bins].copy()
    p[-1] += counts[bins:].sum()
    q = np.zeros(bins)
    level = np.arange(bins) * 128 // bins
    for number in range(128):
        inside = (level == number) & (counts[:bins] > 0)
        if inside.any():
            q[inside] = counts[:bins][inside].mean()
    if not q.sum() or np.any((p > 0) & (q == 0)):
        return math.inf
    p, q = p / p.sum(), q / q.sum()
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


def test_entropy_is_the_least_divergence(values: Values) -> None:
    """The cumulated sums give what the definition gives, candidate by candidate."""
    statistics = gather(values)
    counts = statistics.counts[: statistics.used_bins].astype(np.float64)
    counts[0] = counts[1]
    found = _divergences(counts)
    for bins in [*range(128, len(counts), 37), len(counts)]:
        assert found[bins - 128] == pytest.approx(divergence(counts, bins), abs=1e-10)
    chosen = math.ceil(entropy_amax(statistics) / statistics.bin_width)
    assert divergence(counts, chosen) <= found.min() + 1e-9


def test_entropy_is_near_onnx_runtimes(values: Values) -> None:
    """ONNX Runtime merges bins otherwise (whole bins, the rest into the last level), smooths
    empty ones and keeps zeros; on the same counts without zeros it comes within a fifth.
    """
    from onnxruntime.quantization.calibrate import HistogramCollector

    statistics = gather(values[values != 0])
    used = statistics.used_bins
    counts = statistics.counts[:used].copy()
    counts[0] = counts[1]
    edges = np.arange(used + 1) * statistics.bin_width
    both = np.concatenate([counts[::-1], counts])
    all_edges = np.concatenate([-edges[:0:-1], edges]).astype(np.float32)
    collector = HistogramCollector("entropy", True, 2 * used, 256, 99.99, "same")
    ends = (np.float32(-statistics.amax), np.float32(statistics.amax))
    theirs = collector.get_entropy_threshold((both, all_edges, *ends, ends[1]), 256)[1]
    assert entropy_amax(statistics) == pytest.approx(float(theirs), rel=0.2)


def test_percentile_is_within_a_bin_of_the_exact_one(values: Values) -> None:
    statistics = gather(values)
    ordered = np.sort(np.abs(values))
    for permille in (500, 900, 990, 999, 1000):
        exact = float(ordered[-(-permille * len(values) // 1000) - 1])
        found = percentile_amax(statistics, permille / 10)
        if exact:
            assert exact <= found <= exact + statistics.bin_width
        assert 0 < found <= statistics.amax


def test_percentile_is_that_of_onnx_runtime(values: Values) -> None:
    """Theirs is a bin's lower end, their bins start at the least value, and a share summed
    in floats may end one value earlier or later.
    """
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector("percentile", True, 2048, 128, 99.9, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": values})
        theirs = float(collector.compute_percentile()["x"][1])
    statistics = gather(values)
    ordered, at = np.sort(np.abs(values)), -(-999 * len(values) // 1000) - 1
    width = 2 * statistics.bin_width
    assert ordered[at - 1] - width <= theirs <= ordered[at + 1] + width
    found = percentile_amax(statistics, 99.9)
    assert ordered[at] <= found <= ordered[at] + statistics.bin_width


def quantised_error(values: Values, amax: float) -> float:
    step = amax / 127
    exact = values.astype(np.float64)
    return float(np.mean((np.clip(np.rint(exact / step), -127, 127) * step - exact) ** 2))


def test_squared_errors_are_those_of_quantising_the_values(values: Values) -> None:
    statistics = gather(values)
    used = statistics.used_bins
    ends = np.unique(np.linspace(used // 16, used, 12).astype(np.int64))
    for end, found in zip(ends, squared_errors(statistics, ends), strict=True):
        amax = min(int(end) * statistics.bin_width, statistics.amax)
        # Values are taken to lie evenly in their bin; those of the first may lie nearer zero.
        first = float(statistics.counts[0]) / len(values) * statistics.bin_width**2 / 3
        exact = quantised_error(values, amax)
        assert found == pytest.approx(exact, abs=0.03 * exact + first)


def test_mse_is_nearly_the_best_of_all_ranges(values: Values) -> None:
    statistics = gather(values)
    tried = statistics.amax * np.linspace(0.02, 1, 400)
    best = min(quantised_error(values, float(amax)) for amax in tried)
    assert quantised_error(values, mse_amax(statistics)) <= 1.02 * best


def test_mse_is_the_best_of_all_bins(values: Values) -> None:
    """Trying every 8th bin first loses next to nothing."""
    statistics = gather(values)
    every = squared_errors(statistics, np.arange(1, statistics.used_bins + 1))
    end = math.ceil(mse_amax(statistics) / statistics.bin_width)
    assert every[min(end, statistics.used_bins) - 1] <= 1.001 * every.min()


def test_outliers_are_clipped() -> None:
    statistics = gather(outliers(np.random.default_rng(0)))
    assert amax_of(statistics) == 40
    # The squared error of two values that are clipped is large; it clips them a little.
    for method, most in (("entropy", 30), ("percentile", 30), ("mse", 36)):
        assert 2 < amax_of(statistics, method) < most, method  # type: ignore[arg-type]


def test_zeros_change_neither_entropy_nor_mse() -> None:
    """A network that pads more must not be given another range."""
    some = relu(np.random.default_rng(0))
    many = np.append(some, np.zeros(10_000_000, np.float32))
    for method in ("minmax", "entropy", "mse"):
        assert amax_of(gather(some), method) == amax_of(gather(many), method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "given",
    [
        [0.7],
        [1e-40],  # subnormal: far fewer bins than levels
        [1e38, -3e38],
        [0.0] * 100_000 + [2.5],  # zeros alone are the percentile
        [0.25] * 1000,
        [1e-3] * 100_000 + [1.0],  # all but one in the first bins
        [1.0, 2.0, 4.0, 1024.0],
    ],
)
def test_a_range_is_above_zero_and_within_the_values(method: str, given: list[float]) -> None:
    statistics = gather(np.array(given, np.float32))
    found = amax_of(statistics, method)  # type: ignore[arg-type]
    assert 0 < found <= statistics.amax


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros_has_no_range(method: str) -> None:
    assert amax_of(gather(np.zeros(9, np.float32)), method) == 0  # type: ignore[arg-type]
    assert amax_of(gather(np.zeros(0, np.float32)), method) == 0  # type: ignore[arg-type]


def test_a_percentile_of_zeros_is_the_least_other_value() -> None:
    statistics = gather(np.array([0.0] * 100_000 + [2.5, 1000], np.float32))
    assert percentile_amax(statistics, 99) == pytest.approx(2.5, abs=statistics.bin_width)


def test_wrong_arguments() -> None:
    statistics = gather(np.ones(1, np.float32))
    with pytest.raises(InputError, match="must be one of minmax, entropy"):
        amax_of(statistics, "kl")  # type: ignore[arg-type]
    for percentile in (0, -1, 101, math.nan):
        with pytest.raises(InputError, match="percentile must be"):
            amax_of(statistics, "percentile", percentile=percentile)
