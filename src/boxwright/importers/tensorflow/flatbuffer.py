"""FlatBuffers, read with every offset checked.

Layout: https://flatbuffers.dev/internals/. A table begins with a signed offset back to
its vtable; the vtable has its own length, the table's length, and for each field its place
in the table or 0. Vectors and strings begin with their length. Offsets are unsigned and
lead forward, so following them ends; what is read is still limited in number, for many
offsets may lead to one place.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.importers.tensorflow.network import refusal

_VTABLE_HEAD = 4


class Buffer:
    """The bytes of a file, and how many tables may still be read from it.

    Args:
        data: The file.
        path: Its name, for messages.
        budget: Tables that may be opened before the file counts as hostile.
    """

    def __init__(self, data: bytes, path: object, budget: int = 2_000_000) -> None:
        self.data = data
        self.path = path
        self.budget = budget

    def root(self) -> Table:
        """The table that the file begins with."""
        return Table(self, self.number("<I", 0))

    def number(self, form: str, at: int) -> Any:
        """One little-endian number.

        Raises:
            ImportFailedError: It would lie outside of the file.
        """
        if at < 0 or at + struct.calcsize(form) > len(self.data):
            raise refusal(self.path, f"damaged: byte {at} is outside of its {len(self.data)}")
        return struct.unpack_from(form, self.data, at)[0]

    def vector(self, at: int, width: int) -> tuple[int, int]:
        """Where the elements of a vector at `at` begin, and how many there are."""
        count = self.number("<I", at)
        if at + 4 + count * width > len(self.data):
            raise refusal(
                self.path,
                f"damaged or truncated: {count} elements of {width} bytes at byte {at} "
                f"do not fit into its {len(self.data)}",
            )
        return at + 4, count


class Table:
    """One table; fields are asked for by their numbers in the schema."""

    def __init__(self, buffer: Buffer, at: int) -> None:
        buffer.budget -= 1
        if buffer.budget < 0:
            raise refusal(buffer.path, "damaged: it refers to the same places again and again")
        self._buffer = buffer
        self._at = at
        self._vtable = at - buffer.number("<i", at)
        self._length = buffer.number("<H", self._vtable)
        if self._length < _VTABLE_HEAD:
            raise refusal(buffer.path, f"damaged: the table at byte {at} has no fields' list")

    def integer(self, field: int, default: int = 0, form: str = "<i") -> int:
        """A whole number; `form` is its type as :mod:`struct` writes it."""
        place = self._place(field)
        return default if place is None else int(self._buffer.number(form, place))

    def real(self, field: int, default: float = 0.0) -> float:
        """A float32."""
        place = self._place(field)
        return default if place is None else float(self._buffer.number("<f", place))

    def flag(self, field: int) -> bool:
        """A bool, false by default."""
        return self.integer(field, 0, "<B") != 0

    def table(self, field: int) -> Table | None:
        """Another table."""
        place = self._place(field)
        return None if place is None else Table(self._buffer, self._follow(place))

    def tables(self, field: int) -> list[Table]:
        """A vector of tables."""
        start, count = self._vector(field, 4)
        return [Table(self._buffer, self._follow(start + 4 * i)) for i in range(count)]

    def text(self, field: int) -> str:
        """A string."""
        return self.raw(field).decode("utf-8", "replace")

    def texts(self, field: int) -> list[str]:
        """A vector of strings."""
        start, count = self._vector(field, 4)
        found = []
        for i in range(count):
            begin, length = self._buffer.vector(self._follow(start + 4 * i), 1)
            found.append(self._buffer.data[begin : begin + length].decode("utf-8", "replace"))
        return found

    def raw(self, field: int) -> bytes:
        """A vector of bytes."""
        start, count = self._vector(field, 1)
        return self._buffer.data[start : start + count]

    def numbers(self, field: int, dtype: str) -> NDArray[Any]:
        """A vector of numbers; empty where it is absent."""
        element = np.dtype(dtype)
        start, count = self._vector(field, element.itemsize)
        return np.frombuffer(self._buffer.data, element, count, start)

    def union(self, kind_field: int) -> tuple[int, Table | None]:
        """A union: its kind, and the table in the field behind it."""
        return self.integer(kind_field, 0, "<B"), self.table(kind_field + 1)

    def _vector(self, field: int, width: int) -> tuple[int, int]:
        place = self._place(field)
        return (0, 0) if place is None else self._buffer.vector(self._follow(place), width)

    def _follow(self, place: int) -> int:
        return place + int(self._buffer.number("<I", place))

    def _place(self, field: int) -> int | None:
        entry = _VTABLE_HEAD + 2 * field
        if entry + 2 > self._length:
            return None
        offset = self._buffer.number("<H", self._vtable + entry)
        return self._at + offset if offset else None


def read_map(data: bytes, path: object) -> dict[str, float]:
    """The numbers of a FlexBuffers map, which holds a custom operation's options.

    Layout: https://flatbuffers.dev/flatbuffers_internals.html#flexbuffers. The last byte is
    the width of the root, the one before it its packed type; a map is a vector of values
    and, before it, an offset to the vector of keys. Values that are no numbers are left out.

    Raises:
        ImportFailedError: It is no map, or damaged.
    """
    try:
        return _read_map(data)
    except (struct.error, IndexError, ValueError, KeyError) as error:
        raise refusal(
            path, f"damaged: a custom operation's options do not parse: {error}"
        ) from None


_MAP = 9
# Packed types: the upper six bits are the type, the lower two the width's logarithm.
_SIGNED, _UNSIGNED, _REAL, _BOOL = 1, 2, 3, 26
_INDIRECT = {6: _SIGNED, 7: _UNSIGNED, 8: _REAL}
_FORMS: dict[int, Sequence[str]] = {
    _SIGNED: ("<b", "<h", "<i", "<q"),
    _UNSIGNED: ("<B", "<H", "<I", "<Q"),
    _BOOL: ("<B", "<H", "<I", "<Q"),
    _REAL: ("", "<e", "<f", "<d"),
}


def _read_map(data: bytes) -> dict[str, float]:
    width, packed = data[-1], data[-2]
    if packed >> 2 != _MAP or width not in (1, 2, 4, 8):
        raise ValueError("they are no map")
    at = _back(data, len(data) - 2 - width, width)
    step = 1 << (packed & 3)
    count = _unsigned(data, at - step, step)
    keys_at = _back(data, at - 3 * step, step)
    key_step = _unsigned(data, at - 2 * step, step)
    if key_step not in (1, 2, 4, 8) or at + count * (step + 1) > len(data):
        raise ValueError("they are too long")
    found = {}
    for i in range(count):
        start = _back(data, keys_at + i * key_step, key_step)
        key = data[start : data.index(b"\0", start)].decode("utf-8", "replace")
        kind = data[at + count * step + i]
        number = _scalar(data, at + i * step, step, kind)
        if number is not None:
            found[key] = number
    return found


def _scalar(data: bytes, at: int, step: int, packed: int) -> float | None:
    kind = packed >> 2
    if kind in _INDIRECT:
        at, step, kind = _back(data, at, step), 1 << (packed & 3), _INDIRECT[kind]
    if kind not in _FORMS:
        return None
    form = _FORMS[kind][step.bit_length() - 1]
    if at < 0:
        raise ValueError("a value lies before them")
    value: float = struct.unpack_from(form, data, at)[0]
    return value


def _unsigned(data: bytes, at: int, step: int) -> int:
    if at < 0:
        raise ValueError("an offset leads before them")
    return int(struct.unpack_from(_FORMS[_UNSIGNED][step.bit_length() - 1], data, at)[0])


def _back(data: bytes, at: int, step: int) -> int:
    """Offsets of FlexBuffers lead back from where they stand."""
    target = at - _unsigned(data, at, step)
    if target < 0:
        raise ValueError("an offset leads before them")
    return target
