"""What a checkpoint is read into: plain records that can do nothing.

A pickle names classes and functions to be called; none is looked up here. An object of
class ``models.common.Conv`` becomes a :class:`Record` of that name with the attributes the
pickle gives it, a tensor becomes a :class:`Tensor` that says where its values lie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Storage classes of torch, and how their values lie in the file. numpy has no bfloat16:
# it is read as its 16 bits, the upper half of a float32.
STORAGES: Mapping[str, str] = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names, and nothing more than its name."""

    text: str

    @property
    def short(self) -> str:
        """Without its module: ``Conv``."""
        return self.text.rpartition(".")[2]


@dataclass(eq=False)
class Record:
    """An object that the pickle describes.

    Attributes:
        name: Module and class, as the pickle names them.
        position: Byte of the pickle where it was made, for messages.
        args: What its constructor would have been called with.
        state: The attributes it would have been given.
    """

    name: Name
    position: int
    args: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        # The state may hold the record itself.
        return f"{self.name.text} (byte {self.position})"


@dataclass(frozen=True)
class Storage:
    """A block of values in the file.

    Attributes:
        key: What the file calls it.
        kind: One of the values of :data:`STORAGES`.
        count: How many values.
    """

    key: str
    kind: str
    count: int

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.count * item_size(self.kind)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage; made only when every value it names lies within.

    Attributes:
        storage: Where the values are.
        offset: First value.
        shape: Extents.
        strides: Steps between values, in values.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many values."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        return f"tensor of {list(self.shape)}"


def item_size(kind: str) -> int:
    """Bytes of one value of a storage."""
    return int(kind.lstrip("abcdefghijklmnopqrstuvwxyz")) // (8 if kind == "bf16" else 1)


def make_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    """A tensor, checked against its storage.

    A view may repeat values (a stride of 0), so that few bytes can declare a tensor larger
    than any memory; whoever reads the values must compare :attr:`Tensor.count` first.

    Raises:
        ValueError: It reaches outside the storage; the message completes "a tensor ...".
    """
    if not isinstance(storage, Storage):
        raise ValueError("is made of something that is no storage")
    numbers = [offset, *_sequence(shape), *_sequence(strides)]
    if any(type(x) is not int or not 0 <= x < 1 << 48 for x in numbers) or len(numbers) > 33:
        raise ValueError("has extents that are no sizes")
    shape, strides = tuple(shape), tuple(strides)
    if len(shape) != len(strides):
        raise ValueError(f"has {len(shape)} extents and {len(strides)} strides")
    count = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else 0
    if last >= max(storage.count, 1):
        raise ValueError(f"reaches value {last} of a storage of {storage.count}")
    return Tensor(storage, offset, shape, strides)


def _sequence(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > 16:
        raise ValueError("has extents that are no list of sizes")
    return tuple(value)
