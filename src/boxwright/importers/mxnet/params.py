"""MXNet's ``.params`` files: named arrays in one binary file.

The layout is that of ``NDArray::Save`` and of the list around it in MXNet's
``src/ndarray/ndarray.cc``, all little-endian::

    uint64  0x112, uint64  reserved
    uint64  number of arrays, the arrays
    uint64  number of names, the names (uint64 length, bytes)

An array begins with a number that says how the rest is laid out: one of three magic
numbers, or, before MXNet 0.9, its number of axes. Nothing in the file is executed, and no
length in it is believed before the file is seen to be that long.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import WeightsError
from boxwright.files import human_size, open_regular

Array = NDArray[Any]

LIST_MAGIC = 0x112
# Arrays with 64-bit extents; with a storage type before them; with NumPy's zero-sized shapes.
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_MAX_AXES = 32
_MAX_NAME_BYTES = 4096
_MAX_ARRAYS = 1 << 20

# mshadow's type flags (3rdparty/mshadow/mshadow/base.h).
_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f8"),
    2: np.dtype("<f2"),
    3: np.dtype("u1"),
    4: np.dtype("<i4"),
    5: np.dtype("i1"),
    6: np.dtype("<i8"),
    7: np.dtype("?"),
}


def is_params_file(path: Path) -> bool:
    """Whether a file begins as ``.params`` files do; says nothing about the rest of it."""
    try:
        with open_regular(path) as stream:
            return stream.read(8) == struct.pack("<Q", LIST_MAGIC)
    except (OSError, ValueError):
        return False


def read_params(path: Path) -> dict[str, Array]:
    """All arrays of a file by name, without the ``arg:`` and ``aux:`` that say their role.

    Floating-point arrays are returned as float32, all others in their own type.

    Raises:
        WeightsError: The file is missing, damaged, truncated or too long, two arrays share
            a name, or an array is sparse or holds numbers that are not finite.
    """
    try:
        with open_regular(path) as stream:
            reader = _Reader(path, stream, os.fstat(stream.fileno()).st_size)
            return _read(reader)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error


def _read(reader: _Reader) -> dict[str, Array]:
    magic, _ = reader.numbers("<QQ", "the header")
    if magic != LIST_MAGIC:
        raise reader.error(
            f"it begins with {magic:#x}, and MXNet's parameters with {LIST_MAGIC:#x}"
        )
    # An array takes 4 bytes at least, a name 8: a count beyond that is damage.
    count = reader.count("arrays", smallest=4)
    arrays = [_read_array(reader, f"array {i}") for i in range(count)]
    names = [_read_name(reader, i) for i in range(reader.count("names", smallest=8))]
    if reader.left:
        raise reader.error(f"{reader.left} bytes follow the last name; it is another kind of file")
    if len(names) != len(arrays):
        raise reader.error(
            f"it holds {len(arrays)} arrays and {len(names)} names; "
            "parameters saved with a name each are expected"
        )
    found: dict[str, Array] = {}
    for name, array in zip(names, arrays, strict=True):
        bare = name.partition(":")[2] if name.startswith(("arg:", "aux:")) else name
        if bare in found:
            raise reader.error(f"two arrays are named {bare!r}")
        if array is None:
            continue
        if array.dtype.kind == "f":
            # Checked before the conversion: a float64 too large for float32 is refused too.
            with np.errstate(over="ignore"):
                array = array.astype(np.float32, copy=False)
            if not np.isfinite(array).all():
                raise reader.error(f"{bare!r} holds values that are not finite numbers")
        found[bare] = array
    return found


def _read_array(reader: _Reader, what: str) -> Array | None:
    """One array, or ``None`` for one that was never given a shape."""
    (magic,) = reader.numbers("<I", what)
    axes: int
    if magic in (_V2, _V3):
        (storage,) = reader.numbers("<i", what)
        if storage not in (-1, 0):
            raise reader.error(f"{what} is sparse (storage type {storage}); save it dense")
    if magic in (_V1, _V2, _V3):
        (axes,) = reader.numbers("<i", what)
        extent = "q"
    else:
        axes, extent = magic, "I"
    # Before NumPy shapes, no axes meant no array; since, it means a single number.
    if axes == (-1 if magic == _V3 else 0):
        return None
    if not 0 <= axes <= _MAX_AXES:
        raise reader.error(f"{what} has {axes} axes, and 0 to {_MAX_AXES} are possible")
    shape = reader.numbers(f"<{axes}{extent}", what)
    _device, _number, flag = reader.numbers("<iii", what)
    if flag not in _TYPES:
        raise reader.error(f"{what} is of the unknown type {flag}")
    dtype = _TYPES[flag]
    if min(shape, default=0) < 0:
        raise reader.error(f"{what} has a negative extent: {list(shape)}")
    data = reader.take(math.prod(shape) * dtype.itemsize, f"{what} of shape {list(shape)}")
    return np.frombuffer(data, dtype).reshape(shape)


def _read_name(reader: _Reader, number: int) -> str:
    (length,) = reader.numbers("<Q", f"name {number}")
    if length > _MAX_NAME_BYTES:
        raise reader.error(f"name {number} is {length} bytes long, at most {_MAX_NAME_BYTES}")
    data = reader.take(length, f"name {number}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise reader.error(f"name {number} is not UTF-8") from error


class _Reader:
    """A file that is never asked for more than it has."""

    def __init__(self, path: Path, stream: IO[bytes], size: int) -> None:
        self.path = path
        self.left = size
        self._size = size
        self._stream = stream

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise self.error(
                f"{what} needs {human_size(count)} and {human_size(self.left)} are left; "
                "it is truncated or damaged, get a complete copy"
            )
        data = self._stream.read(count)
        if len(data) != count:
            raise self.error(f"{what} cannot be read; the file became shorter meanwhile")
        self.left -= count
        return data

    def numbers(self, layout: str, what: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))

    def count(self, what: str, smallest: int) -> int:
        """A number of items of `smallest` bytes or more, each of which must still follow."""
        (count,) = self.numbers("<Q", f"the number of {what}")
        if count > min(self.left // smallest, _MAX_ARRAYS):
            raise self.error(f"it says that {count} {what} follow, more than it has room for")
        return count

    def error(self, reason: str) -> WeightsError:
        """The error to raise, with file and place."""
        return WeightsError(f"{self.path}: at byte {self._size - self.left}: {reason}")
