"""Where candidates stand: cells of a grid, and anchor boxes on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def grid_sizes(size: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Rows and columns of each level; what is left over at an edge is a cell too.

    Args:
        size: ``(height, width)`` of the input in pixels.
        strides: Input pixels per cell.
    """
    return [(math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in strides]


def cells(rows: int, columns: int) -> NDArray[np.float64]:
    """Column and row of every cell, row by row: ``(rows * columns, 2)``."""
    y, x = np.mgrid[:rows, :columns]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)


def anchor_boxes(
    size: tuple[int, int],
    strides: Sequence[int],
    shapes: Sequence[Sequence[tuple[float, float]]],
    offset: float = 0.5,
) -> NDArray[np.float64]:
    """Prior boxes on grids, cell by cell and within a cell anchor by anchor.

    Args:
        size: ``(height, width)`` of the input in pixels.
        strides: Input pixels per cell, for each level.
        shapes: For each level its anchors' ``(width, height)`` in pixels.
        offset: Where in its cell an anchor is centred, in cells.

    Returns:
        `cxcywh` in input pixels, ``(A, 4)``.
    """
    levels = []
    for stride, level, (rows, columns) in zip(
        strides, shapes, grid_sizes(size, strides), strict=True
    ):
        centre = (cells(rows, columns) + offset) * stride
        extent = np.tile(np.array(level, np.float64), (len(centre), 1))
        levels.append(np.hstack([np.repeat(centre, len(level), axis=0), extent]))
    return np.concatenate(levels)
