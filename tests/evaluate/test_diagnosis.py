"""Each kind of broken runner is named as what it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from boxwright.evaluate.diagnosis import diagnose
from boxwright.evaluate.parity import ParityReport, compare
from boxwright.model import BOXES, SCORES
from tests.evaluate.fakes import Arrays, FakeRunner, make_card, make_images, make_outputs


def judged(change: Callable[[Arrays], object]) -> ParityReport:
    changed = {name: value.copy() for name, value in make_outputs().items()}
    change(changed)
    runners = FakeRunner(changed), FakeRunner(make_outputs())
    return compare(*runners, make_images(), card=make_card())


def swap_classes(outputs: Arrays) -> None:
    outputs[SCORES] = outputs[SCORES][..., [1, 2, 0]]


def scale_boxes(outputs: Arrays) -> None:
    outputs[BOXES] = outputs[BOXES] * np.float32(1.02)


def lower_scores(outputs: Arrays) -> None:
    outputs[SCORES] = outputs[SCORES] * np.float32(0.99)


def one_nan(outputs: Arrays) -> None:
    outputs[SCORES][0, 0, 0] = np.nan


def another_head(outputs: Arrays) -> None:
    outputs["raw"] = outputs["raw"] * np.float32(1.1)
    scale_boxes(outputs)


def lose_a_box(outputs: Arrays) -> None:
    outputs[SCORES][0, outputs[SCORES][0].max(axis=1).argmax()] = 0


def cut_rows(outputs: Arrays) -> None:
    outputs[BOXES] = outputs[BOXES][:, :-1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swap_classes, "classes: "),
        (scale_boxes, "box corners"),
        (lower_scores, "scores"),
        (one_nan, "NaN or infinite values in scores"),
        (another_head, "the network: head raw"),
        (lose_a_box, "candidates: 1 missing, 0 extra"),
        (cut_rows, "boxes: shape [1, 49, 4], reference [1, 50, 4]"),
    ],
)
def test_a_fault_is_named(change: Callable[[Arrays], None], said: str) -> None:
    report = judged(change)
    assert not report.ok
    assert (diagnose(report) or "").startswith(said)


def test_one_box_of_another_class_is_counted_and_a_lost_one_is_not() -> None:
    def lone(class_id: int) -> Arrays:
        outputs = make_outputs()
        outputs[SCORES][:] = 0
        outputs[BOXES][0, :2] = [[2, 2, 12, 12], [30, 20, 50, 35]]
        outputs[SCORES][0, 0, class_id] = 0.7
        outputs[SCORES][0, 1, 2] = 0.6
        return outputs

    sides = FakeRunner(lone(0)), FakeRunner(lone(1))
    report = compare(*sides, make_images(), card=make_card())
    assert diagnose(report) == "classes: the same place, another class (1 times)"
    # One class on both sides, in other rows: nothing was renamed.
    moved = lone(0)
    moved[SCORES][0] = np.roll(moved[SCORES][0], 1, axis=0)
    moved[BOXES][0] = np.roll(moved[BOXES][0], 1, axis=0)
    report = compare(FakeRunner(moved), FakeRunner(lone(0)), make_images(), card=make_card())
    assert not report.ok
    assert not (diagnose(report) or "").startswith("classes")


def test_nothing_to_name() -> None:
    assert diagnose(judged(lambda outputs: None)) is None
