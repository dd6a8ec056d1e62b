"""Calibrations as files: an ``.npz`` of numbers and text, checked when it is read.

The first member is JSON and says what the others belong to. A calibration that is not
finished says how far it got.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import InputError
from boxwright.evaluate.npz import begins_with, read_npz, write_npz
from boxwright.quantize.histogram import (
    BINS,
    HIGHEST_EXPONENT,
    LOWEST_EXPONENT,
    TensorStatistics,
    bin_of,
    exponent_of,
)

FORMAT = 2
_HEADER = "boxwright_calibration"

# Some sixteen thousand tensors.
_MAX_BYTES = 512 << 20
_MAX_COUNT = 1 << 53

_HISTOGRAMS = frozenset({"counts", "negatives"})
_DTYPES: dict[str, np.dtype[Any]] = {
    "counts": np.dtype(np.int64),
    "negatives": np.dtype(np.int64),
    "zeros": np.dtype(np.int64),
    "minimum": np.dtype(np.float32),
    "maximum": np.dtype(np.float32),
    "exponent": np.dtype(np.int32),
}

# What a header must hold, and of which type.
_FIELDS = {"model_sha256": str, "images_sha256": str, "images": int, "everything": bool}


@dataclass(frozen=True)
class Progress:
    """How far a calibration got, and how it went about it.

    Attributes:
        group: Which group of tensors is at work.
        images: How many images that group has done.
        batch: Images at a time.
        budget: Bytes of activations at a time.
        runtime: ONNX Runtime's version.
    """

    group: int
    images: int
    batch: int
    budget: int
    runtime: str


@dataclass(frozen=True)
class Stored:
    """What a file holds.

    Attributes:
        model_sha256: Of the model's file.
        images_sha256: Of the images' contents in order.
        images: How many.
        everything: Whether all activations were asked for, and not some by name.
        statistics: By tensor.
        progress: ``None`` where it is finished.
    """

    model_sha256: str
    images_sha256: str
    images: int
    everything: bool
    statistics: Mapping[str, TensorStatistics]
    progress: Progress | None = None


def write(path: Path, stored: Stored) -> None:
    """Write a file; the same content always gives the same bytes.

    Raises:
        InputError: It cannot be written.
    """
    header = {
        "format": FORMAT,
        "bins": BINS,
        **{name: getattr(stored, name) for name in _FIELDS},
        "tensors": list(stored.statistics),
        "progress": None if stored.progress is None else vars(stored.progress),
    }
    text = json.dumps(header, ensure_ascii=True, sort_keys=True).encode()
    values = list(stored.statistics.values())
    arrays: dict[str, NDArray[Any]] = {_HEADER: np.frombuffer(text, np.uint8)}
    for name, dtype in _DTYPES.items():
        shape = (len(values), BINS) if name in _HISTOGRAMS else (len(values),)
        column = [getattr(item, name) for item in values]
        arrays[name] = np.array(column, dtype).reshape(shape)
    write_npz(path, arrays)


def is_ours(path: Path) -> bool:
    """Whether a file starts as ours do, damaged or not.

    Raises:
        InputError: It cannot be read.
    """
    return begins_with(path, _HEADER)


def read(path: Path) -> Stored:
    """Read a file, and check that it can be what it says.

    Raises:
        InputError: It is missing, not one of ours, damaged, too large, or of another
            version of Boxwright.
    """
    if not is_ours(path):
        raise InputError(
            f"{path} is not a calibration that Boxwright wrote; name the file that "
            "`quantize` or Calibration.save wrote"
        )
    arrays = read_npz(path, _MAX_BYTES)
    try:
        header = json.loads(arrays[_HEADER].tobytes())
        if header["format"] != FORMAT or header["bins"] != BINS:
            raise InputError(
                f"{path} is a calibration of another version of Boxwright (format "
                f"{str(header['format'])[:20]}, expected {FORMAT}); calibrate again"
            )
        return _stored(header, arrays)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged: {reason}; calibrate again") from error


def _stored(header: Any, arrays: Mapping[str, NDArray[Any]]) -> Stored:
    """Raises KeyError, TypeError or ValueError for whatever does not fit together."""
    fields = {name: header[name] for name in _FIELDS}
    for name, kind in _FIELDS.items():
        if type(fields[name]) is not kind:
            raise ValueError(f"{name} must be of type {kind.__name__}")
    if not 0 < fields["images"] < _MAX_COUNT:
        raise ValueError("it is of no images")
    names = header["tensors"]
    sound = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if not sound or len(set(names)) != len(names):
        raise ValueError("its tensors must have names, each another")
    for name, dtype in _DTYPES.items():
        shape = (len(names), BINS) if name in _HISTOGRAMS else (len(names),)
        array = arrays[name]
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name} must be {dtype} {shape}, got {array.dtype} {array.shape}")
    statistics = {
        name: _checked(name, {key: arrays[key][at] for key in _DTYPES})
        for at, name in enumerate(names)
    }
    return Stored(**fields, statistics=statistics, progress=_progress(header, fields["images"]))


def _checked(name: str, row: Mapping[str, Any]) -> TensorStatistics:
    found = TensorStatistics(
        float(row["minimum"]),
        float(row["maximum"]),
        int(row["zeros"]),
        row["counts"],
        int(row["exponent"]),
        row["negatives"],
    )
    low, high, amax = found.minimum, found.maximum, found.amax
    bounded = LOWEST_EXPONENT <= found.exponent <= HIGHEST_EXPONENT
    ordered = math.isfinite(low) and math.isfinite(high) and low <= high
    if not (bounded and ordered and found.exponent == exponent_of(amax)):
        raise ValueError(f"the range of {name!r} is not one")
    filled = np.flatnonzero(found.counts)
    # Together below 2**54: no sum of them overflows.
    most = max(found.zeros // BINS, int(found.counts.max()))
    if found.zeros < 0 or found.counts.min() < 0 or most >= _MAX_COUNT // BINS:
        raise ValueError(f"{name!r} counts less than nothing, or too much")
    top = int(filled[-1]) if len(filled) else -1
    if top != (bin_of(amax, found.exponent) if amax else -1):
        raise ValueError(f"the histogram of {name!r} does not end at its largest value")
    if found.negatives.min() < 0 or (found.negatives > found.counts).any():
        raise ValueError(f"{name!r} has more negative values than values")
    if not found.total and (low or high):
        raise ValueError(f"{name!r} has a range and no values")
    return found


def _progress(header: Any, images: int) -> Progress | None:
    if header["progress"] is None:
        return None
    found = Progress(**header["progress"])
    numbers = (found.group, found.images, found.batch, found.budget)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("it does not say how far it got")
    if not isinstance(found.runtime, str) or found.images > images or not found.batch:
        raise ValueError("it does not say how far it got")
    return found
