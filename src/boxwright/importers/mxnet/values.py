"""Tensors while a graph is written: their names, and shapes in which the batch stays open.

A shape is a tuple of whole numbers. A negative one stands for so many batches: ``-1`` is
N, ``-4`` is 4 N. At most one axis depends on the batch, so that a product of extents, or
the rest of a division by some, can be taken of the numbers without their sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Shape = tuple[int, ...]
BATCH = -1


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX graph.

    Attributes:
        name: Its name there.
        shape: Its shape; see this module.
        array: What it holds, where that is known: a weight, or what was computed from
            weights and shapes alone.
    """

    name: str
    shape: Shape
    array: NDArray[Any] | None = None


OMITTED = Value("", ())
"""An optional input that is left out."""


def count(shape: Shape) -> int:
    """Elements of a tensor for a batch of one."""
    return abs(math.prod(shape))


def has_batch(shape: Shape) -> bool:
    """Whether some axis depends on the batch."""
    return any(extent < 0 for extent in shape)


def described(shape: Shape) -> str:
    """A shape for people: ``[N, 3, 112, 112]``."""
    texts = [str(n) if n >= 0 else "N" if n == BATCH else f"{-n}N" for n in shape]
    return f"[{', '.join(texts)}]"


def product(extents: Shape) -> int:
    """One extent as long as several together."""
    value = math.prod(map(abs, extents))
    return -value if has_batch(extents) else value


def broadcast(first: Shape, second: Shape) -> Shape | None:
    """NumPy's common shape of two, or ``None`` where there is none."""
    rank = max(len(first), len(second))
    a = (1,) * (rank - len(first)) + first
    b = (1,) * (rank - len(second)) + second
    result = []
    for x, y in zip(a, b, strict=True):
        if x != y and 1 not in (x, y):
            return None
        result.append(y if x == 1 else x)
    return tuple(result)
