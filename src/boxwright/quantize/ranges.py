"""From a histogram to the range that eight bits shall cover.

Every function gives *amax*, the upper end of a symmetric range: values beyond it are
clipped, the others rounded to multiples of ``amax / 127``. A small one rounds finely and
clips much, a large one the other way round; the methods weigh that differently.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import InputError
from boxwright.quantize.histogram import TensorStatistics

Method = Literal["minmax", "entropy", "percentile", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

# Steps on one side of zero: of a symmetric range -127 to 127, and of the entropy method,
# which its author counts with zero.
_STEPS = 127
_LEVELS = 128

# Candidates of the squared error: every so many bins at first, then all around the best.
_STRIDE = 8

# Divergences that differ by less are the same: only sums were rounded differently.
_SAME = 1e-12

Doubles = NDArray[np.float64]


def amax_of(
    statistics: TensorStatistics, method: Method = "minmax", *, percentile: float = 99.99
) -> float:
    """The upper end of the symmetric range that a method finds.

    Args:
        statistics: Of the tensor.
        method: ``minmax``, ``entropy``, ``percentile`` or ``mse``.
        percentile: Of ``percentile``: how many of a hundred values shall be within.

    Returns:
        At most the largest absolute value, and above 0 unless that is 0.

    Raises:
        InputError: The method is none of these, or the percentile is not in (0, 100].
    """
    if method not in METHODS:
        raise InputError(
            f"a calibration method must be one of {', '.join(METHODS)}, got {method!r}"
        )
    if not 0 < percentile <= 100:
        raise InputError(f"a percentile must be above 0 and at most 100, got {percentile}")
    if method == "minmax" or not statistics.amax:
        return statistics.amax
    if method == "percentile":
        return percentile_amax(statistics, percentile)
    return entropy_amax(statistics) if method == "entropy" else mse_amax(statistics)


def percentile_amax(statistics: TensorStatistics, percentile: float) -> float:
    """The smallest bin's end that at least so many of a hundred ``|x|`` are within.

    Zeros count. It is at most one bin above the exact percentile.
    """
    cumulated = statistics.zeros + np.cumsum(statistics.counts)
    # As it is written: 99.9 as a float is a little more, which could ask for one value more.
    wanted = math.ceil(Fraction(str(float(percentile))) * int(cumulated[-1]) / 100)
    # Where zeros alone are enough, the least of the others is: a range of 0 is none.
    at = int(np.searchsorted(cumulated, max(wanted, statistics.zeros + 1)))
    return _end_of(statistics, at + 1)


def entropy_amax(statistics: TensorStatistics) -> float:
    """The range whose 128 levels tell least from the values: least Kullback-Leibler divergence.

    The method of Szymon Migacz, "8-bit Inference with TensorRT" (GTC 2017): for each number
    `i` of bins from 128 up, P is the histogram of the first `i` bins with all that lies
    beyond added to the last of them. Q has the same bins without what lies beyond, merged
    into 128 levels and each level spread evenly over those of its bins that are not empty.
    The `i` with the least KL(P || Q) wins, the largest of several.

    As in NVIDIA's quantisation toolkits the first bin is given the second one's count: it
    holds what every candidate rounds to zero, and often most of all values.

    Where the `i`-th bin is empty and something lies beyond, Q is 0 where P is not, and the
    divergence infinite; a smaller range clips the same values then.
    """
    used = statistics.used_bins
    if used < _LEVELS:
        return statistics.amax
    counts = statistics.counts[:used].astype(np.float64)
    counts[0] = counts[1]
    divergences = _divergences(counts)
    best = np.flatnonzero(divergences <= divergences.min() + _SAME)[-1]
    return _end_of(statistics, _LEVELS + int(best))


def _divergences(counts: Doubles) -> Doubles:
    """KL(P || Q) for each number of bins from 128 to all.

    The divergence is ``sum P log P - sum P log Q``. Within a level log Q is constant, so both
    sums follow from cumulated ones: 128 terms for a candidate instead of up to 2048.
    """
    ends = np.arange(_LEVELS, len(counts) + 1)
    total = counts.sum()
    sums, filled, entropies = (
        np.concatenate([[0.0], np.cumsum(terms)])
        for terms in (counts, counts > 0, counts * _log(counts))
    )
    kept = sums[ends]
    beyond, last = total - kept, counts[ends - 1]
    joined = last + beyond
    p_log_p = entropies[ends] - last * _log(last) + joined * _log(joined) - total * _log(total)
    # Bin j belongs to level floor(j * 128 / i), so a level starts at the next whole bin.
    starts = -(-np.arange(_LEVELS + 1) * ends[:, None] // _LEVELS)
    mass = np.diff(sums[starts])
    log_q = _log(mass) - _log(np.diff(filled[starts]))
    p_log_q = (mass * log_q).sum(axis=1) + beyond * log_q[:, -1] - total * _log(kept)
    possible = (kept > 0) & ((last > 0) | (beyond == 0))
    result: Doubles = np.where(possible, (p_log_p - p_log_q) / max(total, 1.0), math.inf)
    return result


def _log(values: Doubles | float) -> Doubles:
    """The logarithm, and 0 at 0: there it is always multiplied by 0."""
    positive = np.asarray(values) > 0
    result: Doubles = np.log(np.where(positive, values, 1.0))
    return result


def mse_amax(statistics: TensorStatistics) -> float:
    """The range with the least mean squared error, rounding and clipping together.

    Values count as spread evenly over their bin, and the error over a bin is integrated, so
    steps finer than a bin are weighed as rightly as coarse ones. (Those of the first bin often
    lie nearer zero, which adds the same error to every range of two bins a step or more.)
    Every 8th bin's end is tried, then all around the best.
    """
    used = statistics.used_bins
    coarse = np.append(np.arange(1, used, _STRIDE), used)
    best = int(coarse[np.argmin(squared_errors(statistics, coarse))])
    fine = np.arange(max(best - _STRIDE, 1), min(best + _STRIDE, used) + 1)
    return _end_of(statistics, int(fine[np.argmin(squared_errors(statistics, fine))]))


def squared_errors(statistics: TensorStatistics, ends: NDArray[np.int64]) -> Doubles:
    """The mean squared error of ranges that end with these numbers of bins.

    With step `s` the integral of ``(x - s * round(x / s))^2`` from 0 to `x` is
    ``s^3 * (n / 12 + r^3 / 3)``, where ``x / s = n + r`` and ``|r| <= 1/2``: a period adds
    ``s^3 / 12``. Beyond the end `a` it grows by ``(x - a)^3 / 3``.
    """
    used, width = statistics.used_bins, statistics.bin_width
    edges = np.arange(used + 1) * width
    errors = []
    for end in ends:
        amax = _end_of(statistics, int(end))
        step = amax / _STEPS
        inside = np.minimum(edges, amax)
        whole = np.rint(inside / step)
        integral = step**3 * (whole / 12 + (inside / step - whole) ** 3 / 3)
        integral += (edges - inside) ** 3 / 3
        errors.append((np.diff(integral) * statistics.counts[:used]).sum() / width)
    return np.asarray(errors) / max(statistics.total, 1)


def _end_of(statistics: TensorStatistics, bins: int) -> float:
    """Where so many bins end, or the largest absolute value where that is less."""
    return min(bins * statistics.bin_width, statistics.amax)
