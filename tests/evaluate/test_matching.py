"""Pairing boxes one to one."""

from __future__ import annotations

import time

import numpy as np
import pytest

from boxwright.evaluate.matching import box_error, match
from boxwright.evaluate.pairing import paired_iou
from boxwright.evaluate.reference import Candidates

SIZE = (200, 400)


def candidates(rows: list[tuple[float, ...]], known_rows: list[int] | None = None) -> Candidates:
    """From (class, score, left, top, right, bottom)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Candidates(
        table[:, 2:],
        table[:, 1],
        table[:, 0].astype(np.int64),
        None if known_rows is None else np.array(known_rows, np.int64),
    )


def many(count: int, classes: int, seed: int = 0) -> Candidates:
    random = np.random.default_rng(seed)
    corner = random.uniform(-10, 390, (count, 2))
    return Candidates(
        np.concatenate([corner, corner + random.uniform(1, 300, (count, 2))], axis=1),
        random.uniform(0.005, 1, count),
        random.integers(0, classes, count),
    )


def test_a_shuffled_list_finds_its_partners_again() -> None:
    first = many(3000, 5)
    random = np.random.default_rng(1)
    order = random.permutation(3000)[:2990]
    moved = first.xyxy[order] + random.normal(0, 0.001, (2990, 4))
    second = Candidates(moved, first.score[order], first.class_id[order])
    pairs = match(first, second, SIZE)
    assert len(pairs.first) == 2990
    np.testing.assert_array_equal(order[pairs.second], pairs.first)
    np.testing.assert_array_equal(pairs.only_first, np.setdiff1d(np.arange(3000), order))
    assert len(pairs.only_second) == 0


def test_classes_are_never_mixed() -> None:
    pairs = match(candidates([(0, 0.5, 1, 1, 9, 9)]), candidates([(1, 0.5, 1, 1, 9, 9)]), SIZE)
    assert len(pairs.first) == 0
    assert pairs.only_first.tolist() == pairs.only_second.tolist() == [0]


def test_the_closest_pair_is_made_first() -> None:
    first = candidates([(0, 0.5, 10, 10, 50, 50), (0, 0.5, 11, 10, 51, 50)])
    second = candidates([(0, 0.5, 11.1, 10, 51.1, 50), (0, 0.5, 12, 10, 52, 50)])
    pairs = match(first, second, SIZE)
    # 1 and 0 differ by 0.1 px; what is left pairs up at 2 px.
    assert dict(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == {1: 0, 0: 1}


def test_boxes_of_one_place_are_told_apart_by_score() -> None:
    box = (10, 10, 50, 50)
    first = candidates([(0, 0.9, *box), (0, 0.3, *box)])
    second = candidates([(0, 0.31, *box), (0, 0.91, *box)])
    pairs = match(first, second, SIZE, score_reach=1)
    assert dict(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == {0: 1, 1: 0}


@pytest.mark.parametrize(("shift", "found"), [(3.9, 1), (4.1, 0)])
def test_reach_is_relative_to_the_image_side(shift: float, found: int) -> None:
    """0.01 of 400 pixels; the pair straddles grid cells of the search."""
    first = candidates([(0, 0.5, 99, 50, 139, 90)])
    second = candidates([(0, 0.5, 99 + shift, 50, 139 + shift, 90)])
    assert len(match(first, second, SIZE, reach=0.01).first) == found


def test_boxes_larger_than_the_image_are_found() -> None:
    """Their rounding moves corners by far more than the search's cells are wide."""
    first = candidates([(0, 0.5, -1e7, -1e7, 1e7, 1e7)])
    second = candidates([(0, 0.5, -1e7 + 300, -1e7 - 20, 1e7 + 900, 1e7)])
    assert len(match(first, second, SIZE).first) == 1


def test_by_row() -> None:
    first = candidates([(0, 0.5, 0, 0, 9, 9), (1, 0.5, 0, 0, 9, 9)], [7, 7])
    second = candidates([(1, 0.1, 90, 90, 99, 99), (0, 0.5, 0, 0, 9, 9)], [7, 8])
    pairs = match(first, second, SIZE)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([1], [0])
    with pytest.raises(ValueError, match="rows"):
        match(candidates([(0, 0.5, 0, 0, 9, 9)]), first, SIZE, by_row=True)


def test_boxes_that_are_no_numbers_have_no_partner() -> None:
    first = candidates([(0, 0.5, np.nan, 0, 9, 9)])
    pairs = match(first, first, SIZE)
    assert (len(pairs.first), len(pairs.only_first), len(pairs.only_second)) == (0, 1, 1)


@pytest.mark.parametrize("empty", ["first", "second", "both"])
def test_empty_lists(empty: str) -> None:
    some, none = many(3, 1), candidates([])
    first, second = {"first": (none, some), "second": (some, none), "both": (none, none)}[empty]
    pairs = match(first, second, SIZE)
    assert len(pairs.first) == 0
    assert (len(pairs.only_first), len(pairs.only_second)) == (len(first), len(second))


def test_twenty_thousand_of_one_class_take_seconds() -> None:
    first = many(20_000, 1)
    start = time.perf_counter()
    pairs = match(first, first, SIZE)
    assert time.perf_counter() - start < 10
    np.testing.assert_array_equal(pairs.first, pairs.second)
    assert len(pairs.first) == 20_000


def test_box_error_by_hand() -> None:
    first = np.array([[0.0, 0, 40, 40], [0, 0, 40, 40], [0, 0, 800, 100], [0, 0, np.nan, 1]])
    second = np.array([[4.0, 0, 40, 40], [0, 4, 40, 40], [8, 0, 808, 100], [0, 0, 1, 1]])
    # 4 of 400 wide; 4 of 200 high; 8 of the box's 800; not a number.
    np.testing.assert_allclose(box_error(first, second, SIZE), [0.01, 0.02, 0.01, np.inf])


def test_paired_iou_by_hand() -> None:
    first = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5], [0, 0, 1, 1]])
    second = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [5, 5, 5, 5], [3, 3, 4, 4]])
    np.testing.assert_allclose(paired_iou(first, second), [1, 1 / 3, 1, 0])
