"""Pairing the boxes of two lists one to one.

The lists come from two computations of the same thing, so that partners lie close to each
other; what has no partner is the finding. Pairs are proposed by position on a grid, never
by comparing everything with everything: 20,000 boxes a side take about a second.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from boxwright.evaluate.reference import Candidates

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Proposed pairs held at a time; 4 million take about 200 MB.
_CHUNK = 4_000_000
# Neighbours looked at for one box in one grid cell. Only boxes lying on top of each
# other by the hundred reach it, and any of those is as good a partner as the next.
_NEIGHBOURS = 512


@dataclass(frozen=True)
class Pairs:
    """Partners, and what has none.

    Attributes:
        first: int64 ``(k,)`` indices into the first list.
        second: int64 ``(k,)`` indices into the second list, pair by pair.
        only_first: Indices of the first list without a partner.
        only_second: Indices of the second list without a partner.
    """

    first: Ints
    second: Ints
    only_first: Ints
    only_second: Ints


def match(
    first: Candidates,
    second: Candidates,
    size: tuple[int, int],
    reach: float = 0.01,
    score_reach: float = 0.05,
    by_row: bool | None = None,
) -> Pairs:
    """Pair two lists: by row and class where both know their rows, else by position.

    Args:
        first: One list.
        second: The other list.
        size: ``(height, width)`` of the network input in pixels.
        reach: Largest corner distance of partners, as :func:`box_error` measures it.
        score_reach: Largest score difference of partners matched by position.
        by_row: Insist on matching by row, or by position; default: by row where both
            lists have rows.

    Returns:
        Pairs of the same class; by position, the closest pairs (box and score together)
        are made first.
    """
    if by_row is None:
        by_row = first.row is not None and second.row is not None
    if by_row:
        return _match_rows(first, second)
    pairs = _propose(first, second, size, reach, score_reach)
    return _assign(*pairs, len(first), len(second))


def box_error(first: Floats, second: Floats, size: tuple[int, int]) -> Floats:
    """Largest corner distance of paired boxes, relative.

    Relative to the image side or, where the box is larger than the image, to the box's
    own side: the width of a box is ``exp(t)``, and where `t` is large its float32
    rounding alone moves corners by pixels that lie far outside the image.

    Args:
        first: `xyxy` in input pixels, shape ``(n, 4)``.
        second: The same of the partners; the sides of these boxes count.
        size: ``(height, width)`` of the network input in pixels.

    Returns:
        Shape ``(n,)``; infinite where a corner is not finite.
    """
    side = np.array([size[1], size[0]], np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        scale = np.maximum(np.abs(second[:, 2:] - second[:, :2]), side)
        error = (np.abs(first - second) / np.tile(scale, 2)).max(axis=1, initial=0)
    result: Floats = np.where(np.isfinite(error), error, np.inf)
    return result


def _match_rows(first: Candidates, second: Candidates) -> Pairs:
    if first.row is None or second.row is None:
        raise ValueError("both lists must know their rows to be matched by row")
    classes = 1 + max(int(first.class_id.max(initial=0)), int(second.class_id.max(initial=0)))
    _, in_first, in_second = np.intersect1d(
        first.row * classes + first.class_id,
        second.row * classes + second.class_id,
        return_indices=True,
    )
    return _complete(in_first, in_second, len(first), len(second))


def _complete(first: Ints, second: Ints, count_first: int, count_second: int) -> Pairs:
    order = np.argsort(first, kind="stable")
    first, second = first[order].astype(np.int64), second[order].astype(np.int64)
    return Pairs(
        first,
        second,
        np.setdiff1d(np.arange(count_first), first),
        np.setdiff1d(np.arange(count_second), second),
    )


def _propose(
    first: Candidates,
    second: Candidates,
    size: tuple[int, int],
    reach: float,
    score_reach: float,
) -> tuple[Ints, Ints, Floats]:
    """Pairs of the same class within reach, with their cost."""
    empty = np.zeros(0, np.int64)
    finite_first = np.flatnonzero(np.isfinite(first.xyxy).all(axis=1))
    finite_second = np.flatnonzero(np.isfinite(second.xyxy).all(axis=1))
    if not len(finite_first) or not len(finite_second):
        return empty, empty, np.zeros(0)
    a, b = first[finite_first], second[finite_second]
    cell_a, cell_b = _cells(a.xyxy, size, reach), _cells(b.xyxy, size, reach)
    found: list[tuple[Ints, Ints, Floats]] = []
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            shifted = cell_a + np.array([dx, dy])
            found += _propose_in_cells(a, b, shifted, cell_b, size, reach, score_reach)
    # The centre of a box larger than the image may have moved by more than a cell, see
    # box_error: such boxes also look for partners by their extent, wherever they are.
    # Proposing a pair twice does no harm.
    large_a, large_b = _large(a.xyxy, size), _large(b.xyxy, size)
    a, b = a[large_a], b[large_b]
    cell_a, cell_b = _extent_cells(a.xyxy, size, reach), _extent_cells(b.xyxy, size, reach)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            shifted = cell_a + np.array([dx, dy])
            for in_a, in_b, cost in _propose_in_cells(
                a, b, shifted, cell_b, size, reach, score_reach
            ):
                found.append((large_a[in_a], large_b[in_b], cost))
    in_a, in_b, cost = (np.concatenate(part) for part in zip(*found, strict=True))
    return finite_first[in_a], finite_second[in_b], cost


def _cells(xyxy: Floats, size: tuple[int, int], reach: float) -> Ints:
    side = np.array([size[1], size[0]])
    centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2 / side
    cells = np.floor(np.clip(centre, -1e6, 1e6) / max(reach, 1e-6))
    result: Ints = cells.astype(np.int64)
    return result


def _extent_cells(xyxy: Floats, size: tuple[int, int], reach: float) -> Ints:
    """Cells of width and height: linear within the image, logarithmic beyond.

    On that scale the extents of partners differ by at most twice the reach.
    """
    span = np.abs(xyxy[:, 2:] - xyxy[:, :2]) / np.array([size[1], size[0]])
    scaled = np.where(span < 1, span, 1 + np.log(np.maximum(span, 1)))
    result: Ints = np.floor(scaled / max(2.2 * reach, 1e-6)).astype(np.int64)
    return result


def _large(xyxy: Floats, size: tuple[int, int]) -> Ints:
    """Indices of boxes about as large as the image or larger."""
    span = np.abs(xyxy[:, 2:] - xyxy[:, :2]) / np.array([size[1], size[0]])
    return np.flatnonzero((span > 0.9).any(axis=1))


def _propose_in_cells(
    a: Candidates,
    b: Candidates,
    cell_a: Ints,
    cell_b: Ints,
    size: tuple[int, int],
    reach: float,
    score_reach: float,
) -> list[tuple[Ints, Ints, Floats]]:
    key_a, key_b = _keys(a.class_id, cell_a, b.class_id, cell_b)
    # Within a cell by score: a box's neighbours in that order are its likely partners.
    order = np.lexsort((b.score, key_b))
    sorted_key, sorted_score = key_b[order], b.score[order]
    low = np.searchsorted(sorted_key, key_a, "left")
    high = np.searchsorted(sorted_key, key_a, "right")
    low, high = _narrow(low, high, a.score, sorted_score, score_reach)
    count = high - low
    found: list[tuple[Ints, Ints, Floats]] = [(order[:0], order[:0], np.zeros(0))]
    edges = np.searchsorted(np.cumsum(count), np.arange(0, count.sum() + _CHUNK, _CHUNK))
    edges[-1] = len(count)
    for start, stop in itertools.pairwise(edges):
        part = count[start:stop]
        in_a = np.repeat(np.arange(start, stop), part)
        within = np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        in_b = order[np.repeat(low[start:stop], part) + within]
        distance = box_error(a.xyxy[in_a], b.xyxy[in_b], size)
        delta = np.abs(a.score[in_a] - b.score[in_b])
        near = (distance <= reach) & (delta <= score_reach)
        found.append((in_a[near], in_b[near], (distance + delta)[near]))
    return found


def _narrow(
    low: Ints, high: Ints, score: Floats, sorted_score: Floats, score_reach: float
) -> tuple[Ints, Ints]:
    """Limit each range to the neighbours of `score` where it is longer than we look at."""
    long = np.flatnonzero(high - low > _NEIGHBOURS)
    for i in long.tolist():
        cell = sorted_score[low[i] : high[i]]
        middle = int(np.searchsorted(cell, score[i]))
        start = max(0, min(middle - _NEIGHBOURS // 2, len(cell) - _NEIGHBOURS))
        low[i], high[i] = low[i] + start, low[i] + start + _NEIGHBOURS
    return low, high


def _keys(class_a: Ints, cell_a: Ints, class_b: Ints, cell_b: Ints) -> tuple[Ints, Ints]:
    """Equal numbers for equal (class, column, row), whatever their range."""
    rows = np.concatenate([np.column_stack([class_a, cell_a]), np.column_stack([class_b, cell_b])])
    _, inverse = np.unique(rows, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    return inverse[: len(class_a)], inverse[len(class_a) :]


def _assign(first: Ints, second: Ints, cost: Floats, count_first: int, count_second: int) -> Pairs:
    """Closest pairs first, each box once.

    Vectorised greedy matching: a pair that is the cheapest of both its boxes is what
    the greedy rule would take; take all such pairs, drop their rivals, and repeat.
    """
    order = np.lexsort((second, first, cost))
    first, second = first[order], second[order]
    kept_first: list[Ints] = []
    kept_second: list[Ints] = []
    while len(first):
        place = np.arange(len(first))
        best_first = np.full(count_first, len(first))
        np.minimum.at(best_first, first, place)
        best_second = np.full(count_second, len(first))
        np.minimum.at(best_second, second, place)
        taken = (best_first[first] == place) & (best_second[second] == place)
        kept_first.append(first[taken])
        kept_second.append(second[taken])
        free_first = np.ones(count_first, bool)
        free_first[first[taken]] = False
        free_second = np.ones(count_second, bool)
        free_second[second[taken]] = False
        rest = free_first[first] & free_second[second]
        first, second = first[rest], second[rest]
    empty = [np.zeros(0, np.int64)]
    return _complete(
        np.concatenate(kept_first or empty),
        np.concatenate(kept_second or empty),
        count_first,
        count_second,
    )
