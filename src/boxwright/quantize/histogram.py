"""What is kept of a tensor's values over many images: range, zeros, a histogram of ``|x|``.

The histogram's range is a power of two, the smallest above the largest ``|x|`` seen. Where
a larger value comes, the range doubles and adjacent bins are added up, which is exact: bin
``floor(|x| * 2048 / 2^k)`` of the smaller range is bin ``floor(|x| * 2048 / 2^(k+1))`` of
the larger one halved, and scaling a float by a power of two rounds nothing. So one pass is
enough, and the counts depend neither on the order of the values nor on how they came.

Values below zero are counted a second time by themselves, for the ranges that have a zero
point.

Zeros are counted apart. They are exact in any symmetric quantisation, and where an
activation makes half of all values zero they would hide the shape of the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.images import import_cv2

BINS = 2048

# The range is never smaller than 2**-100, nor larger than float32's: so the factor from a
# value to its bin is a normal float32.
LOWEST_EXPONENT = -100
HIGHEST_EXPONENT = 128

_LOG_BINS = 11
# OpenCV counts in float32, which is exact up to 2**24; and this much stays in the cache.
_CHUNK = 1 << 18


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """What was seen of one tensor.

    Attributes:
        minimum: Its smallest value.
        maximum: Its largest value; both are 0 where it never held any.
        zeros: How many values were zero.
        counts: int64 ``(2048,)``: how many others had their absolute value in
            ``[i, i + 1) * bin_width``.
        exponent: The histogram ranges from 0 to ``2 ** exponent``.
        negatives: int64 ``(2048,)``: how many of `counts` are values below zero.
    """

    minimum: float
    maximum: float
    zeros: int
    counts: NDArray[np.int64]
    exponent: int
    negatives: NDArray[np.int64]

    @property
    def amax(self) -> float:
        """The largest absolute value."""
        return max(-self.minimum, self.maximum, 0.0)

    @property
    def bin_width(self) -> float:
        """The width of a bin; a power of two."""
        return math.ldexp(1.0, self.exponent - _LOG_BINS)

    @property
    def total(self) -> int:
        """How many values were seen, zeros included."""
        return self.zeros + int(self.counts.sum())

    def signed(self, parts: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values in order that stand for all but the zeros, and how many each stands for.

        Args:
            parts: How many of them there are to a bin, spread evenly.
        """
        positive = self.counts - self.negatives
        below, above = np.flatnonzero(self.negatives)[::-1], np.flatnonzero(positive)
        within = (np.arange(parts) + 0.5) / parts
        values = np.concatenate(
            [
                -(below[:, None] + within[::-1]).reshape(-1),
                (above[:, None] + within).reshape(-1),
            ]
        )
        counts = np.concatenate([self.negatives[below], positive[above]]) / parts
        values = np.clip(values * self.bin_width, self.minimum, self.maximum)
        return values, np.repeat(counts, parts)

    @property
    def used_bins(self) -> int:
        """Bins up to that of the largest absolute value; 0 where all is zero."""
        return bin_of(self.amax, self.exponent) + 1 if self.amax else 0


class Accumulator:
    """Statistics while they are gathered.

    Args:
        start: What an earlier run had gathered.
    """

    def __init__(self, start: TensorStatistics | None = None) -> None:
        self._minimum = start.minimum if start and start.total else math.inf
        self._maximum = start.maximum if start and start.total else -math.inf
        self._zeros = start.zeros if start else 0
        self._exponent = start.exponent if start else LOWEST_EXPONENT
        self._counts = start.counts.copy() if start else np.zeros(BINS, np.int64)
        self._negatives = start.negatives.copy() if start else np.zeros(BINS, np.int64)

    def add(self, values: NDArray[Any]) -> bool:
        """Take in the values of a float16 or float32 array of any shape.

        Returns:
            Whether all are finite; where one is not, nothing is taken in.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if not flat.size:
            return True
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        self._minimum, self._maximum = min(self._minimum, low), max(self._maximum, high)
        exponent = exponent_of(max(-low, high))
        if exponent > self._exponent:
            self._counts = _folded(self._counts, exponent - self._exponent)
            self._negatives = _folded(self._negatives, exponent - self._exponent)
            self._exponent = exponent
        # Counting booleans is four times as fast as counting floats.
        zeros = int(np.count_nonzero(flat == 0))
        counts, negatives = _counted(flat, self._exponent, signed=low < 0)
        self._counts += counts
        self._negatives += negatives
        self._counts[0] -= zeros
        self._zeros += zeros
        return True

    def result(self) -> TensorStatistics:
        """What was gathered so far."""
        seen = self._minimum <= self._maximum
        counts, negatives = self._counts.copy(), self._negatives.copy()
        counts.flags.writeable = negatives.flags.writeable = False
        # Adding 0 makes a negative zero a plain one.
        low, high = (self._minimum + 0.0, self._maximum + 0.0) if seen else (0.0, 0.0)
        return TensorStatistics(low, high, self._zeros, counts, self._exponent, negatives)


def exponent_of(amax: float) -> int:
    """The least `k` with ``amax < 2 ** k``, within the bounds of a histogram's range."""
    return max(math.frexp(amax)[1], LOWEST_EXPONENT) if amax else LOWEST_EXPONENT


def bin_of(value: float, exponent: int) -> int:
    """The bin of a value that is not negative, in a histogram up to ``2 ** exponent``."""
    return math.floor(math.ldexp(value, _LOG_BINS - exponent))


def _counted(
    flat: NDArray[np.float32], exponent: int, *, signed: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many values of a float32 array are in each bin, and how many of them are negative.

    Zeros are in the first bin. Without `signed` there must be no negative value.

    Bins of 16 bits counted by OpenCV: 0.7 ns a value where `numpy.bincount` takes 2.0 and
    `numpy.histogram` 6.5, and other threads may run meanwhile.
    """
    cv2 = import_cv2()
    bins_of_both = 2 * BINS if signed else BINS
    counts = np.zeros(bins_of_both, np.int64)
    scale = np.float32(math.ldexp(1.0, _LOG_BINS - exponent))
    scaled = np.empty(min(flat.size, _CHUNK), np.float32)
    bins = np.empty(scaled.shape, np.uint16)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        np.abs(part, out=scaled[: part.size])
        scaled[: part.size] *= scale
        # Assigning a float to an integer drops its fraction.
        bins[: part.size] = scaled[: part.size]
        if signed:
            # The negative ones have a second histogram behind the first.
            bins[: part.size] += (part < 0).view(np.uint8) * np.uint16(BINS)
        # As one row: OpenCV takes a vector for a column, and is half as fast on it.
        row = bins[None, : part.size]
        found = cv2.calcHist([row], [0], None, [bins_of_both], [0, bins_of_both])
        counts += found.reshape(-1).astype(np.int64)
    if not signed:
        return counts, np.zeros(BINS, np.int64)
    return counts[:BINS] + counts[BINS:], counts[BINS:]


def _folded(counts: NDArray[np.int64], times: int) -> NDArray[np.int64]:
    """The same values in a range that is doubled so many times."""
    # After as many, all values are in the first bin.
    for _ in range(min(times, _LOG_BINS)):
        half = counts.reshape(-1, 2).sum(axis=1)
        counts = np.concatenate([half, np.zeros(BINS // 2, np.int64)])
    return counts
