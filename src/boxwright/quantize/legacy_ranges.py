"""A TensorRT calibration cache in the place of a calibration: ranges without images."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boxwright.errors import InputError
from boxwright.files import sha256_file
from boxwright.quantize.calibration import Calibration
from boxwright.quantize.histogram import BINS, TensorStatistics, bin_of, exponent_of
from boxwright.quantize.legacy_cache import LegacyCache, read_legacy_cache

if TYPE_CHECKING:
    from boxwright.model import Model
    from boxwright.quantize.ranges import Method


def ranges_from_cache(model: Model, path: str | Path, tensors: Collection[str] = ()) -> Calibration:
    """What a cache says of a model's tensors.

    Only a range's upper end is known: the method is always ``minmax``, which gives that end
    as it is, and ranges count as symmetric.

    Args:
        model: The model that the tensors are of.
        path: The cache.
        tensors: Those that must be there.

    Raises:
        InputError: The file is no such cache, or lacks a tensor.
    """
    cache = read_legacy_cache(path)
    missing = cache.missing(tensors)
    if missing:
        some = ", ".join(map(repr, list(cache.scales)[:3]))
        raise InputError(
            f"{path} has no range for {len(missing)} of {len(tensors)} tensors that would be "
            f"quantised, such as {missing[0]!r}; it has {some}, ...: is it of another network, "
            "or of another import of it?"
        )
    statistics = {name: _statistics(cache.amax(name)) for name in cache.scales}
    digest = hashlib.sha256()
    for piece in model.pieces():
        digest.update(piece)
    return Calibration(statistics, 0, digest.hexdigest(), sha256_file(path))


def cache_of(calibration: Calibration, method: Method, percentile: float = 99.99) -> LegacyCache:
    """The cache that a calibrator of TensorRT would have written with these ranges.

    Raises:
        InputError: A range is too large or small for float32.
    """
    amax: Mapping[str, float] = {
        name: calibration.amax(name, method, percentile=percentile)
        for name in calibration.statistics
    }
    algorithm = "EntropyCalibration2" if method == "entropy" else "MinMaxCalibration"
    return LegacyCache.from_amax(amax, algorithm=algorithm)


def _statistics(amax: float) -> TensorStatistics:
    """One value, as large as can be."""
    counts = np.zeros(BINS, np.int64)
    exponent = exponent_of(amax)
    if amax:
        counts[bin_of(amax, exponent)] = 1
    negatives = np.zeros(BINS, np.int64)
    return TensorStatistics(-amax + 0.0, amax, 0 if amax else 1, counts, exponent, negatives)
