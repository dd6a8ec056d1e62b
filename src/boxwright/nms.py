"""Non-maximum suppression, exact and greedy, in bounded memory.

The procedure is Darknet's (``diounms_sort`` in ``src/box.c``): within a class, best score
first, a box is dropped when its overlap with a kept better box is strictly above the
threshold. Boxes are handled in blocks, each first against the boxes kept so far and then
within itself, so that no matrix grows with the square of the number of candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.card import Nms

_BLOCK = 128
# Kept boxes compared at a time. Measured: 128 x 512 floats stay in a core's cache and in
# memory that is reused; 256 x 512 takes twice as long, 256 x 2048 nearly three times.
_COLUMNS = 512
# The cheap test lets through a little more than it must; the exact formula then decides.
_SLACK = 1 - 1e-4


def suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    nms: Nms,
) -> NDArray[np.intp]:
    """Choose which candidates survive.

    Args:
        boxes: float32 ``(n, 4)``, `xyxy`, finite. IoU does not depend on the unit; DIoU
            depends on the ratio of the units of x and y. Darknet compares in fractions of
            the source image's width and height.
        scores: ``(n,)``, finite.
        class_ids: ``(n,)``; ignored when `nms` is class-agnostic.
        nms: Kind, thresholds and exponent.

    Returns:
        Indices of the survivors, best score first; equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    if nms.kind == "none" or len(order) < 2:
        return order
    beta = nms.beta if nms.kind == "diou" else None
    if nms.class_agnostic:
        return order[_greedy(boxes[order], nms.iou_threshold, beta)]
    alive = np.zeros(len(order), bool)
    # A stable sort by class keeps the order by score inside each class.
    by_class = np.argsort(class_ids[order], kind="stable")
    classes = class_ids[order][by_class]
    starts = np.flatnonzero(np.diff(classes, prepend=classes[0] - 1))
    for start, stop in zip(starts, [*starts[1:], len(classes)], strict=True):
        members = by_class[start:stop]
        if len(members) == 1:
            alive[members] = True
        else:
            alive[members[_greedy(boxes[order[members]], nms.iou_threshold, beta)]] = True
    return order[alive]


def _greedy(boxes: NDArray[np.float32], threshold: float, beta: float | None) -> NDArray[np.intp]:
    """Indices kept of boxes that are sorted best first."""
    count = len(boxes)
    columns = np.ascontiguousarray(boxes.T)
    kept_columns = np.empty_like(columns)
    kept: list[int] = []
    for start in range(0, count, _BLOCK):
        block = columns[:, start : start + _BLOCK]
        alive = np.ones(block.shape[1], bool)
        for first in range(0, len(kept), _COLUMNS):
            others = kept_columns[:, first : min(first + _COLUMNS, len(kept))]
            rows = np.flatnonzero(alive)
            hit_rows, _ = _pairs_above(block[:, rows], others, threshold, beta)
            alive[rows[hit_rows]] = False
        rows = np.flatnonzero(alive)
        survivors = rows[_greedy_block(block[:, rows], threshold, beta)]
        kept_columns[:, len(kept) : len(kept) + len(survivors)] = block[:, survivors]
        kept.extend((survivors + start).tolist())
    return np.array(kept, np.intp)


def _greedy_block(
    block: NDArray[np.float32], threshold: float, beta: float | None
) -> NDArray[np.intp]:
    count = block.shape[1]
    above = np.zeros((count, count), bool)
    above[_pairs_above(block, block, threshold, beta)] = True
    alive = np.ones(count, bool)
    for i in np.flatnonzero(np.triu(above, 1).any(axis=1)).tolist():
        if alive[i]:
            alive[i + 1 :] &= ~above[i, i + 1 :]
    return np.flatnonzero(alive)


def _pairs_above(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    threshold: float,
    beta: float | None,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices ``(i, j)`` of the pairs whose overlap is strictly above the threshold.

    Args:
        first: ``(4, n)``, one row per coordinate.
        second: ``(4, m)``.
        threshold: 0 or more, so that pairs apart can be left out.
        beta: Exponent of the distance term, or ``None`` for plain IoU.
    """
    width = np.minimum(first[2][:, None], second[2])
    scratch = np.maximum(first[0][:, None], second[0])
    width -= scratch
    np.maximum(width, 0, out=width)
    height = np.minimum(first[3][:, None], second[3])
    np.maximum(first[1][:, None], second[1], out=scratch)
    height -= scratch
    # A negative height gives a product of 0 or less, which fails the test like 0.
    width *= height
    areas = [np.maximum(b[2] - b[0], 0) * np.maximum(b[3] - b[1], 0) for b in (first, second)]
    # IoU > t  <=>  I > t / (1 + t) * (A + B); DIoU is never above IoU.
    share = np.float32(threshold / (1 + threshold) * _SLACK)
    np.add((share * areas[0])[:, None], share * areas[1], out=scratch)
    i, j = np.nonzero(width > scratch)
    intersection = width[i, j]
    overlap = intersection / (areas[0][i] + areas[1][j] - intersection)
    if beta is not None:
        overlap -= _distance_term(first[:, i], second[:, j], beta)
    exact = overlap > threshold
    return i[exact], j[exact]


def _distance_term(
    first: NDArray[np.float32], second: NDArray[np.float32], beta: float
) -> NDArray[np.float32]:
    """``(d² / c²) ** beta`` of pairs that overlap (``box_diounms`` in Darknet's ``box.c``)."""
    offset = (first[:2] + first[2:] - second[:2] - second[2:]) / 2
    extent = np.maximum(first[2:], second[2:]) - np.minimum(first[:2], second[:2])
    ratio = (offset**2).sum(axis=0) / (extent**2).sum(axis=0)
    term: NDArray[np.float32] = ratio ** np.float32(beta)
    return term
