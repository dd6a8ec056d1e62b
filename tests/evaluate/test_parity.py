"""The parity check itself: each kind of difference is found, named and placed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from boxwright.card import Nms, NmsKind
from boxwright.errors import InputError
from boxwright.evaluate.parity import ParityReport, Tolerances, compare, suppress
from boxwright.evaluate.reference import Candidates, Reference, SampledTensor
from boxwright.model import BOXES, LANDMARKS, SCORES
from boxwright.postprocess import Postprocessor
from boxwright.preprocess import Preprocessor
from tests.evaluate.fakes import (
    HEIGHT,
    WIDTH,
    Arrays,
    FakeRunner,
    make_card,
    make_images,
    make_outputs,
)


def compare_changed(change: Callable[[Arrays], object], **options: object) -> ParityReport:
    """A runner whose outputs `change` has altered, judged by one that is unaltered."""
    changed = {name: value.copy() for name, value in make_outputs().items()}
    change(changed)
    return compare(
        FakeRunner(changed),
        FakeRunner(make_outputs()),
        make_images(),
        card=make_card(),
        **options,  # type: ignore[arg-type]
    )


def test_equal_outputs_agree_in_everything() -> None:
    report = compare_changed(lambda outputs: None)
    assert report.ok
    assert report.first_divergence is None
    assert [tensor.name for tensor in report.tensors] == ["raw", BOXES, SCORES]
    assert [tensor.nrmse for tensor in report.tensors] == [0, 0, 0]
    candidates, detections = report.boxes
    assert candidates.matched == candidates.count == candidates.reference_count == 20
    assert candidates.by_row
    assert 0 < detections.matched == detections.count < 20
    assert detections.min_iou == 1


def test_a_head_that_differs_is_named_and_placed() -> None:
    def change(outputs: Arrays) -> None:
        outputs["raw"][0, 2, 3, 1] += 1

    report = compare_changed(change)
    assert not report.ok
    diverges = report.first_divergence
    assert diverges is not None
    assert diverges.name == "raw"
    assert diverges.where == (0, 2, 3, 1)
    assert diverges.max_abs == pytest.approx(1)
    expected = 1 / np.linalg.norm(make_outputs()["raw"])
    assert diverges.nrmse == pytest.approx(expected)
    assert "raw" in report.summary()
    assert "[0, 2, 3, 1]" in report.summary()


def test_the_worst_of_several_images_is_placed() -> None:
    def respond(outputs: Arrays, images: NDArray[np.uint8]) -> Arrays:
        changed = {name: value.copy() for name, value in outputs.items()}
        if np.array_equal(images[0], make_images(3)[1]):
            changed["raw"][0, 0, 0, 4] = 9
        return changed

    report = compare(
        FakeRunner(make_outputs(), respond=respond),
        FakeRunner(make_outputs()),
        make_images(3),
        card=make_card(),
    )
    assert report.images == 3
    assert report.tensors[0].where == (1, 0, 0, 4)
    assert report.tensors[0].compared == 3 * 100


def spoil(value: float) -> Callable[[Arrays], None]:
    def change(outputs: Arrays) -> None:
        outputs["raw"][0, 0, 0, 0] = value

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_fails(value: float) -> None:
    report = compare_changed(spoil(value))
    assert not report.ok
    assert report.tensors[0].nonfinite == (1, 0)
    assert report.tensors[0].nonfinite_differ == 1
    assert report.tensors[0].nrmse == 0
    json.loads(report.to_json())


def test_equal_infinities_agree() -> None:
    outputs = make_outputs()
    outputs["raw"][0, 0, 0, 0] = np.inf
    report = compare(FakeRunner(outputs), FakeRunner(outputs), make_images(), card=make_card())
    assert report.ok
    assert report.tensors[0].nonfinite == (1, 1)


def test_shapes_that_differ_are_a_finding_not_an_error() -> None:
    report = compare_changed(lambda outputs: outputs.update(raw=outputs["raw"][:, :3]))
    assert not report.ok
    assert report.tensors[0].note == "shape [1, 3, 5, 5], reference [1, 4, 5, 5]"
    assert "shape" in report.summary()


def test_a_missing_head_is_noted() -> None:
    report = compare_changed(lambda outputs: outputs.pop("raw"))
    assert any("raw heads" in note for note in report.notes)


def test_errors_of_boxes_and_scores_are_measured() -> None:
    row = int(make_outputs()[SCORES][0].max(axis=1).argmax())
    class_id = int(make_outputs()[SCORES][0, row].argmax())

    def change(outputs: Arrays) -> None:
        outputs[BOXES][0, row, 0] += 0.3
        outputs[SCORES][0, row, class_id] -= 0.01

    report = compare_changed(change)
    candidates = report.boxes[0]
    assert not candidates.ok
    assert candidates.box_error == pytest.approx(0.3 / WIDTH, rel=1e-4)
    assert candidates.score_error == pytest.approx(0.01, rel=1e-4)
    assert compare_changed(change, tolerances=Tolerances(box=0.01, score=0.02)).boxes[0].ok


def test_missing_and_extra_candidates() -> None:
    scores = make_outputs()[SCORES][0]
    row, class_id = (int(i[0]) for i in np.nonzero(scores > 0.05))

    def drop(outputs: Arrays) -> None:
        outputs[SCORES][0, row, class_id] = 0

    def add(outputs: Arrays) -> None:
        outputs[SCORES][0, 49, 0] = 0.7
        outputs[BOXES][0, 49] = [52, 32, 59, 39]  # far from all others: it suppresses none

    missing = compare_changed(drop).boxes[0]
    assert (missing.missing, missing.extra, missing.ok) == (1, 0, False)
    (box,) = missing.unmatched
    assert (box.side, box.class_id, box.reason) == ("reference", class_id, "missing")
    assert box.score == pytest.approx(scores[row, class_id])
    assert box.margin == pytest.approx(box.score - 0.005)
    extra = compare_changed(add).boxes[0]
    assert (extra.missing, extra.extra, extra.ok) == (0, 1, False)
    assert extra.unmatched[0].side == "subject"
    # The subject's own list of candidates explains nothing: the other side never had it.
    shown = compare_changed(add).boxes[1]
    assert (shown.extra, shown.suppressed, shown.tied, shown.ok) == (1, 0, 0, False)


def test_a_candidate_on_the_threshold_is_borderline() -> None:
    def change(outputs: Arrays) -> None:
        outputs[SCORES][0, 49, 0] = 0.00505

    candidates = compare_changed(change).boxes[0]
    assert candidates.ok
    assert (candidates.borderline, candidates.extra) == (1, 0)
    assert candidates.unmatched[0].reason == "borderline"


def two_overlapping(first: float, second: float) -> Arrays:
    outputs = make_outputs()
    outputs[SCORES][:] = 0
    outputs[BOXES][0, :2] = [[5, 5, 25, 25], [6, 5, 26, 25]]
    outputs[SCORES][0, :2, 0] = [first, second]
    return outputs


def test_a_tie_of_suppression_is_told_from_a_finding() -> None:
    ours, theirs = two_overlapping(0.80003, 0.8), two_overlapping(0.8, 0.80005)
    report = compare(FakeRunner(ours), FakeRunner(theirs), make_images(), card=make_card())
    detections = report.boxes[1]
    assert (detections.matched, detections.tied, detections.suppressed) == (0, 2, 0)
    assert detections.ok


def test_a_box_that_only_one_side_suppressed() -> None:
    """Equal candidates, other rules: what a wrong NMS looks like."""
    outputs = two_overlapping(0.9, 0.8)
    boxes, scores = outputs[BOXES][0].astype(float), outputs[SCORES][0].astype(float)
    kept = Candidates(boxes[:2], scores[:2, 0], np.zeros(2, np.int64))
    reference = Reference(
        "other rules",
        (HEIGHT, WIDTH),
        candidates={0.005: (kept,)},
        detections={0.25: (kept,)},
    )
    report = compare(FakeRunner(outputs), reference, make_images(), card=make_card())
    detections = report.boxes[1]
    assert (detections.matched, detections.suppressed, detections.missing) == (1, 1, 0)
    assert not detections.ok


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("kind", ["iou", "diou", "none"])
def test_suppression_is_the_postprocessors(kind: NmsKind, multi_label: bool) -> None:
    """The report speaks of what a user of the detector sees."""
    random = np.random.default_rng(3)
    corner = random.uniform(0, 25, (400, 2))
    boxes = np.concatenate([corner, corner + random.uniform(3, 30, (400, 2))], axis=1)
    scores = random.uniform(0, 1, (400, 3)).astype(np.float32)
    nms = Nms(kind, 0.45, 0.6, multi_label=multi_label)
    card = dataclasses.replace(make_card(), nms=nms)
    ours = suppress(boxes.astype(np.float32), scores, card, 0.25)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    _, geometry = Preprocessor(card).prepare(pixels)
    processor = Postprocessor(card, score_threshold=0.25, clip=False)
    theirs = processor(boxes.astype(np.float32), scores, geometry)
    assert len(ours) == len(theirs) > 20
    np.testing.assert_array_equal(ours.class_id, theirs.class_id)
    np.testing.assert_allclose(ours.score, theirs.score)
    np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-4)


def test_a_score_on_the_threshold_is_out() -> None:
    boxes, scores = np.zeros((3, 4)), np.array([[0.25], [0.2500001], [np.nan]])
    assert Candidates.above(boxes, scores, 0.25).row is not None
    np.testing.assert_array_equal(Candidates.above(boxes, scores, 0.25).row, [1])


def test_a_cut_list_proves_no_absence() -> None:
    outputs = two_overlapping(0.9, 0.8)
    boxes = outputs[BOXES][0].astype(float)
    listed = Candidates(boxes[:1], np.array([0.9]), np.zeros(1, np.int64))
    for truncated in (True, False):
        candidates = dataclasses.replace(listed, truncated=truncated)
        reference = Reference("cut", (HEIGHT, WIDTH), candidates={0.005: (candidates,)})
        report = compare(FakeRunner(outputs), reference, make_images(), card=make_card())
        assert report.boxes[0].ok is truncated


def test_a_sampled_reference_is_compared_where_it_has_values() -> None:
    outputs = make_outputs()
    at = np.array([7, 99, 3])
    values = outputs["raw"].reshape(-1)[at].copy()
    values[1] += 1
    tensors = {"x": SampledTensor(outputs["raw"].shape, values, at)}
    reference = Reference("sampled", (HEIGHT, WIDTH), tensors=tensors, heads=("x",))
    report = compare(FakeRunner(outputs), reference, make_images(), card=make_card())
    (head,) = report.tensors
    assert (head.name, head.reference_name, head.compared) == ("raw", "x", 3)
    assert head.where == (0, 3, 4, 4)
    assert head.max_abs == pytest.approx(1)
    assert head.nrmse == pytest.approx(1 / np.linalg.norm(values))


def test_a_fixed_batch_is_filled() -> None:
    runner = FakeRunner(make_outputs(), batch=4)
    report = compare(runner, FakeRunner(make_outputs()), make_images(2), card=make_card())
    assert report.ok
    assert [len(images) for images in runner.fed] == [4, 4]


def test_both_sides_get_the_very_same_pixels() -> None:
    runners = FakeRunner(make_outputs()), FakeRunner(make_outputs())
    images = make_images(2)
    compare(*runners, images, card=make_card())
    for runner in runners:
        np.testing.assert_array_equal(np.concatenate(runner.fed), images)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, HEIGHT, WIDTH, 3), np.float32),
        np.zeros((1, HEIGHT, WIDTH + 1, 3), np.uint8),
        np.zeros((0, HEIGHT, WIDTH, 3), np.uint8),
        np.zeros((1, 3, HEIGHT, WIDTH), np.uint8),
        None,
    ],
)
def test_pixels_that_do_not_fit(images: NDArray[np.uint8] | None) -> None:
    with pytest.raises(InputError, match=r"images|uint8"):
        compare(FakeRunner(make_outputs()), FakeRunner(make_outputs()), images, card=make_card())


def test_comparing_nothing_is_no_agreement() -> None:
    reference = Reference("empty", (HEIGHT, WIDTH))
    runner = FakeRunner(make_outputs())
    assert not compare(runner, reference, make_images(), card=make_card()).ok


def test_the_report_as_json_and_as_rows() -> None:
    report = compare_changed(spoil(np.nan))
    content = json.loads(report.to_json())
    assert content["ok"] is False
    assert content["first_divergence"] == "raw"
    assert [tensor["ok"] for tensor in content["tensors"]] == [False, True, True]
    rows = report.rows()
    assert [row["verdict"] for row in rows] == ["FAILED", "ok", "ok", "ok", "ok"]
    assert rows[0]["check"] == "head raw"


def test_lower_precisions_get_wider_tolerances_in_order() -> None:
    found = [Tolerances.of_precision(name) for name in ("fp32", "tf32", "fp16", "bf16", "int8")]
    assert found[0] == Tolerances()
    for field in ("head_nrmse", "output_nrmse", "box", "score", "unmatched_share"):
        values = [getattr(item, field) for item in found]
        assert values == sorted(values)
        assert values[0] < values[1] == values[2] < values[3] <= values[4]
    # A box must not be both a partner and beyond the tolerance of one.
    assert all(item.box < item.match_box and item.score < item.match_score for item in found)


def test_landmarks_are_an_output_like_the_others() -> None:
    def points_of(error: float) -> FakeRunner:
        outputs = make_outputs()
        points = outputs[BOXES].reshape(*outputs[BOXES].shape[:2], 2, 2) + np.float32(error)
        return FakeRunner({**outputs, LANDMARKS: points})

    def compared(ours: FakeRunner) -> ParityReport:
        return compare(ours, points_of(0), make_images(), card=make_card())

    assert compared(points_of(0)).ok
    assert [tensor.name for tensor in compared(points_of(0)).tensors][-1] == LANDMARKS
    wrong = compared(points_of(1))
    assert not wrong.ok
    assert [tensor.name for tensor in wrong.tensors if not tensor.ok] == [LANDMARKS]
    # One side without them is no reason to stop.
    report = compared(FakeRunner(make_outputs()))
    assert LANDMARKS not in [tensor.name for tensor in report.tensors]
