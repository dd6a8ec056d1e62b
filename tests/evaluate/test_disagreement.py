from __future__ import annotations

import numpy as np
import pytest

from boxwright.detections import Detections
from boxwright.evaluate.disagreement import disagreement


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Left, top, right, bottom, score, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


A = (0, 0, 10, 10, 0.9, 0)
B = (50, 50, 70, 70, 0.6, 1)


def test_the_same_twice_is_full_agreement() -> None:
    result = disagreement(found(A, B), found(A, B))
    assert result.badness == 0
    assert result.counts == (2, 0, 0)
    assert disagreement(found(), found()).badness == 0


def test_a_lone_box_counts_its_score() -> None:
    result = disagreement(found(A), found(A, B))
    assert result.only_reference.tolist() == [1]
    assert result.badness == pytest.approx(0.6)
    assert disagreement(found(A, B), found(A)).only_subject.tolist() == [1]


def test_a_moved_box_and_another_score_count_a_little() -> None:
    moved = (0, 0, 10, 8, 0.8, 0)
    result = disagreement(found(moved), found(A))
    assert result.pairs.tolist() == [[0, 0]]
    assert result.iou[0] == pytest.approx(0.8)
    assert result.score_delta[0] == pytest.approx(-0.1)
    assert result.badness == pytest.approx(0.2 + 0.1)


def test_another_class_at_the_same_place() -> None:
    result = disagreement(found((*A[:5], 3)), found(A))
    assert result.renamed.tolist() == [[0, 0]]
    assert len(result.only_subject) == len(result.only_reference) == 0
    assert result.badness == pytest.approx(0.9)
    assert result.counts == (0, 1, 1)


def test_rounding_at_the_threshold_is_borderline() -> None:
    weak = (*B[:4], 0.2500001, 1)
    result = disagreement(found(A, weak), found(A), threshold=0.25, score_tolerance=1e-4)
    assert (result.borderline, result.badness) == (1, 0)


def test_the_best_overlaps_are_paired_and_each_box_once() -> None:
    near = (0, 0, 10, 9, 0.9, 0)
    result = disagreement(found(near, A), found(A))
    assert result.pairs.tolist() == [[1, 0]]
    assert result.only_subject.tolist() == [0]


def test_values_that_are_not_numbers_count() -> None:
    assert disagreement(found(A), found(A), not_finite=2).badness == 2
