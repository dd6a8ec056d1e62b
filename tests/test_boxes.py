from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from boxwright.boxes import (
    Floats,
    area_xyxy,
    clip_xyxy,
    cxcywh_to_xyxy,
    diou_xyxy,
    iou_xyxy,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)


def boxes(*rows: tuple[float, float, float, float]) -> Floats:
    return np.array(rows, np.float64).reshape(-1, 4)


coordinates = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 6), st.just(4)),
    elements=st.floats(-1e4, 1e4, allow_subnormal=False),
)


def test_formats() -> None:
    corners = boxes((10, 20, 40, 80))
    np.testing.assert_array_equal(xyxy_to_cxcywh(corners), boxes((25, 50, 30, 60)))
    np.testing.assert_array_equal(xyxy_to_xywh(corners), boxes((10, 20, 30, 60)))
    np.testing.assert_array_equal(cxcywh_to_xyxy(boxes((25, 50, 30, 60))), corners)
    np.testing.assert_array_equal(xywh_to_xyxy(boxes((10, 20, 30, 60))), corners)


@given(coordinates)
def test_formats_round_trip(corners: Floats) -> None:
    np.testing.assert_allclose(cxcywh_to_xyxy(xyxy_to_cxcywh(corners)), corners, atol=1e-8)
    np.testing.assert_allclose(xywh_to_xyxy(xyxy_to_xywh(corners)), corners, atol=1e-8)


def test_formats_keep_leading_shape_and_type() -> None:
    many = np.zeros((2, 3, 4), np.float32)
    for convert in (cxcywh_to_xyxy, xyxy_to_cxcywh, xyxy_to_xywh, xywh_to_xyxy):
        assert convert(many).shape == (2, 3, 4)
        assert convert(many).dtype == np.float32


def test_clip_is_height_then_width() -> None:
    clipped = clip_xyxy(boxes((-5, -6, 500, 600)), 100, 200)
    np.testing.assert_array_equal(clipped, boxes((0, 0, 200, 100)))


def test_clip_takes_infinite_corners() -> None:
    clipped = clip_xyxy(boxes((-np.inf, 5, np.inf, np.inf)), 100, 200)
    np.testing.assert_array_equal(clipped, boxes((0, 5, 200, 100)))


def test_area() -> None:
    assert area_xyxy(boxes((0, 0, 2, 3), (5, 5, 5, 9), (9, 9, 1, 1))).tolist() == [6, 0, 0]


# Worked out by hand.
@pytest.mark.parametrize(
    ("second", "iou"),
    [
        ((0, 0, 4, 2), 1.0),
        ((2, 0, 6, 2), 4 / 12),
        ((0, 0, 2, 1), 2 / 8),
        ((4, 0, 8, 2), 0.0),  # they share an edge
        ((9, 9, 10, 10), 0.0),
        ((3, 3, 3, 3), 0.0),  # a point
    ],
)
def test_iou(second: tuple[float, float, float, float], iou: float) -> None:
    assert iou_xyxy(boxes((0, 0, 4, 2)), boxes(second))[0, 0] == pytest.approx(iou)


def test_iou_of_two_empty_boxes_is_zero() -> None:
    point = boxes((3, 3, 3, 3))
    assert iou_xyxy(point, point).tolist() == [[0]]
    assert diou_xyxy(point, point).tolist() == [[0]]


def test_iou_is_one_row_per_first() -> None:
    assert iou_xyxy(boxes((0, 0, 1, 1), (0, 0, 2, 2)), boxes((0, 0, 1, 1))).shape == (2, 1)
    assert iou_xyxy(boxes(), boxes((0, 0, 1, 1))).shape == (0, 1)


def test_diou_by_hand() -> None:
    # Centres 2 apart, surrounding box 6 x 2: d² / c² is 4 / 40.
    first, second = boxes((0, 0, 4, 2)), boxes((2, 0, 6, 2))
    assert diou_xyxy(first, second)[0, 0] == pytest.approx(1 / 3 - 0.1)
    assert diou_xyxy(first, second, beta=0.6)[0, 0] == pytest.approx(1 / 3 - 0.1**0.6)


# Corners in order, on a grid: nothing is so small that its square vanishes.
sound_boxes = coordinates.map(
    lambda rows: np.concatenate(
        [np.rint(rows[:, :2]), np.rint(rows[:, :2]) + np.rint(np.abs(rows[:, 2:]))], axis=1
    )
)


@given(sound_boxes, sound_boxes)
def test_overlap_invariants(first: Floats, second: Floats) -> None:
    overlap = iou_xyxy(first, second)
    assert ((overlap >= 0) & (overlap <= 1 + 1e-9)).all()
    np.testing.assert_allclose(overlap, iou_xyxy(second, first).T, atol=1e-12)
    assert (diou_xyxy(first, second) <= overlap + 1e-12).all()
