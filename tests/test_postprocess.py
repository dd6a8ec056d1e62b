from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.boxes import cxcywh_to_xyxy, diou_xyxy, iou_xyxy
from boxwright.card import ModelCard, Nms, NmsKind
from boxwright.errors import InputError
from boxwright.nms import suppress
from boxwright.postprocess import Postprocessor, resolve_classes
from boxwright.preprocess import Geometry, Preprocessor

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]

NAMES = ("cat", "dog", "bird")
SQUARE = Geometry((100, 100), (100, 100), (100, 100))


def card(nms: Nms | None = None, names: tuple[str, ...] = NAMES) -> ModelCard:
    return ModelCard("test", names, (100, 100), nms=nms or Nms())


def random_boxes(count: int, seed: int = 0, size: tuple[float, float] = (5, 60)) -> Float32:
    rng = np.random.default_rng(seed)
    centre, extent = rng.uniform(0, 100, (count, 2)), rng.uniform(*size, (count, 2))
    return np.concatenate([centre - extent / 2, centre + extent / 2], axis=1).astype(np.float32)


def darknet_nms(
    boxes: Float32, scores: Float32, threshold: float, beta: float | None
) -> list[tuple[int, int]]:
    """``diounms_sort`` of Darknet's ``src/box.c`` as it stands: (box, class) that survive."""
    alive = scores.copy()
    for k in range(scores.shape[1]):
        order = sorted(range(len(boxes)), key=lambda i: -scores[i, k])
        for place, i in enumerate(order):
            if alive[i, k] == 0:
                continue
            for j in order[place + 1 :]:
                one, other = boxes[i : i + 1], boxes[j : j + 1]
                overlap = iou_xyxy(one, other) if beta is None else diou_xyxy(one, other, beta)
                if overlap[0, 0] > threshold:
                    alive[j, k] = 0
    return sorted((int(i), int(k)) for i, k in np.argwhere(alive > 0))


@pytest.mark.parametrize("beta", [None, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_suppression_is_darknets(beta: float | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(60, seed)
    scores = np.where(rng.random((60, 3)) < 0.7, rng.random((60, 3)), 0).astype(np.float32)
    rows, classes = np.nonzero(scores)
    nms = Nms("iou" if beta is None else "diou", 0.45, beta or 0.6)
    kept = suppress(boxes[rows], scores[rows, classes], classes.astype(np.int64), nms)
    found = sorted((int(rows[i]), int(classes[i])) for i in kept)
    assert found == darknet_nms(boxes, scores, 0.45, beta)
    assert len(found) < len(rows)


def test_suppression_is_opencvs() -> None:
    boxes = random_boxes(800, 3)
    scores = np.random.default_rng(3).random(800).astype(np.float32)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    theirs = np.ravel(cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), 0.0, 0.5))
    ours = suppress(boxes, scores, np.zeros(800, np.int64), Nms("iou", 0.5))
    assert ours.tolist() == theirs.tolist()


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = random_boxes(150, 5), np.random.default_rng(5).random(150).astype(np.float32)
    classes = np.zeros(150, np.int64)
    expected = suppress(boxes, scores, classes, Nms("diou", 0.3))
    for block, columns in ((1, 1), (3, 2), (1000, 7)):
        monkeypatch.setattr("boxwright.nms._BLOCK", block)
        monkeypatch.setattr("boxwright.nms._COLUMNS", columns)
        np.testing.assert_array_equal(suppress(boxes, scores, classes, Nms("diou", 0.3)), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 120),
    st.integers(0, 2**32 - 1),
    st.sampled_from(("iou", "diou")),
    st.floats(0, 1),
    st.booleans(),
)
def test_suppression_invariants(
    count: int, seed: int, kind: NmsKind, threshold: float, agnostic: bool
) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(count, seed), rng.random(count).astype(np.float32)
    classes = rng.integers(0, 3, count)
    nms = Nms(kind, threshold, class_agnostic=agnostic)
    kept = suppress(boxes, scores, classes, nms)
    assert len(set(kept.tolist())) == len(kept)
    assert (np.diff(scores[kept]) <= 0).all()
    overlap = (iou_xyxy if kind == "iou" else lambda a, b: diou_xyxy(a, b, nms.beta))(boxes, boxes)
    related = np.ones((count, count), bool) if agnostic else classes[:, None] == classes
    # Exact comparisons at the threshold differ in the last bit between formulas.
    above, below = related & (overlap > threshold + 1e-5), related & (overlap > threshold - 1e-5)
    survivors = np.isin(np.arange(count), kept)
    for i in range(count):
        better = survivors & (scores > scores[i])
        if survivors[i]:
            assert not (above[i] & better).any(), "a survivor overlaps a better one"
        else:
            assert (below[i] & better).any(), "a candidate fell without a reason"
    again = suppress(boxes[kept], scores[kept], classes[kept], nms)
    assert again.tolist() == list(range(len(kept)))


def test_threshold_is_strict() -> None:
    # Two unit squares that share one third of their union: IoU is 0.5 exactly.
    boxes = np.array([[0, 0, 2, 3], [0, 1, 2, 4]], np.float32)
    scores, classes = np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64)
    assert iou_xyxy(boxes[:1], boxes[1:])[0, 0] == 0.5
    assert len(suppress(boxes, scores, classes, Nms("iou", 0.5))) == 2
    assert len(suppress(boxes, scores, classes, Nms("iou", 0.499))) == 1


def test_equal_scores_keep_their_order() -> None:
    scores = np.random.default_rng(0).integers(1, 4, 2000).astype(np.float32)
    kept = suppress(random_boxes(2000), scores, np.zeros(2000, np.int64), Nms("none"))
    assert kept.tolist() == sorted(range(2000), key=lambda i: -scores[i])


REAL = (
    "real_yolov4-tiny",
    "real_yolo-fastest-1.1",
    "real_yolo-fastest-1.1-xl",
    "real_MobileNetV2-YOLOv3-Nano-voc",
)


@pytest.mark.parametrize(("key", "threshold"), [("boxes_005", 0.005), ("boxes_025", 0.25)])
@pytest.mark.parametrize("name", [*REAL, "yolov2", "yolov2-tiny"])
def test_darknet_itself(oracle_dir: Path, name: str, key: str, threshold: float) -> None:
    """Darknet's candidates must give Darknet's detections, box by box."""
    with np.load(oracle_dir / f"{name}.npz") as content:
        raw, expected = content["boxes_raw_005"], content[key]
        meta = json.loads(str(content[f"head{content['head_index'][-1]}_meta"]))
        width, height = (int(side) for side in content["net_whc"][:2])
    assert len(raw) < 20000, "the dump holds all candidates"
    kind: NmsKind = "iou" if meta["nms_kind"] == "default" else "diou"
    names = tuple(f"class {i}" for i in range(meta["classes"]))
    model_card = ModelCard(
        name, names, (height, width), nms=Nms(kind, 0.45, meta["beta_nms"] or 0.6)
    )
    rows, classes = raw[:, 7].astype(int), raw[:, 0].astype(int)
    boxes = np.zeros((rows.max() + 1, 4), np.float32)
    boxes[rows] = cxcywh_to_xyxy(raw[:, 2:6]) * np.array([width, height, width, height])
    scores = np.zeros((len(boxes), len(names)), np.float32)
    scores[rows, classes] = raw[:, 1]

    geometry = Geometry((1000, 1000), (height, width), (height, width))
    postprocessor = Postprocessor(model_card, score_threshold=threshold, clip=False)
    detections = postprocessor(boxes, scores, geometry)

    ours = np.lexsort((detections.score, detections.class_id))
    theirs = np.lexsort((expected[:, 1], expected[:, 0]))
    np.testing.assert_array_equal(detections.class_id[ours], expected[theirs, 0])
    np.testing.assert_array_equal(detections.score[ours], expected[theirs, 1])
    corners = cxcywh_to_xyxy(expected[theirs, 2:6]) * 1000
    np.testing.assert_allclose(detections.xyxy[ours], corners, atol=5e-4)


def test_diou_compares_in_fractions_of_the_source() -> None:
    # Two flat boxes in a wide image. As fractions of the image they are square, their
    # distance is smaller against the diagonal around both, and the second falls.
    nms = Nms("diou", 0.3, 0.6)
    geometry = Preprocessor(card(), interpolation="darknet", resize="letterbox").geometry((25, 100))
    assert geometry.content_size == (25, 100)
    side_by_side = np.array([[0, 40, 40, 50], [12, 40, 52, 50]], np.float32)
    in_fractions = (side_by_side - [0, 37.5, 0, 37.5]) / [100, 25, 100, 25]
    expected = diou_xyxy(in_fractions[:1], in_fractions[1:], 0.6)[0, 0]
    in_pixels = diou_xyxy(side_by_side[:1], side_by_side[1:], 0.6)[0, 0]
    assert in_pixels < 0.39 < expected
    scores = np.array([[0.9, 0, 0], [0.8, 0, 0]], np.float32)
    postprocessor = Postprocessor(card(nms), iou_threshold=0.39)
    assert len(postprocessor(side_by_side, scores, geometry)) == 1


def detect(boxes: Any, scores: Any, geometry: Geometry = SQUARE, **arguments: Any) -> Any:
    nms = arguments.pop("nms", None)
    return Postprocessor(card(nms), **arguments).process(
        np.array(boxes, np.float32), np.array(scores, np.float32), geometry
    )


def test_best_first_and_mapped_to_the_source() -> None:
    geometry = Geometry((50, 200), (100, 100), (25, 100), (37.0, 0.0))
    outcome = detect([[10, 47, 20, 57], [50, 42, 60, 52]], [[0.5, 0, 0], [0, 0, 0.9]], geometry)
    assert outcome.detections.names() == ["bird", "cat"]
    assert outcome.detections.xyxy.tolist() == [[100, 10, 120, 30], [20, 20, 40, 40]]
    assert outcome.detections.score.tolist() == pytest.approx([0.9, 0.5])


def test_score_threshold_is_strict() -> None:
    box = [[0, 0, 10, 10]]
    assert len(detect(box, [[0.25, 0, 0]], score_threshold=0.25).detections) == 0
    assert len(detect(box, [[0.2500001, 0, 0]], score_threshold=0.25).detections) == 1
    assert len(detect(box, [[0.3, 0, 0]]).detections) == 1  # the card says 0.25
    assert detect(box, [[0.25, 0.9, 0]], score_threshold=0.25).detections.names() == ["dog"]


def test_multi_label_and_best_class() -> None:
    box, scores = [[0, 0, 10, 10]], [[0.6, 0.7, 0.1]]
    assert detect(box, scores).detections.names() == ["dog", "cat"]
    assert detect(box, scores, multi_label=False).detections.names() == ["dog"]
    assert detect(box, scores, class_agnostic=True).detections.names() == ["dog"]


def test_kinds_of_suppression() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]]
    scores = [[0.9, 0, 0], [0.8, 0, 0], [0, 0.7, 0]]
    assert len(detect(boxes, scores).detections) == 2
    assert len(detect(boxes, scores, class_agnostic=True).detections) == 1
    assert len(detect(boxes, scores, nms_kind="none").detections) == 3
    assert len(detect(boxes, scores, iou_threshold=0.95).detections) == 3


def test_suppression_comes_before_clipping() -> None:
    # Clipped to the image, these two are the same box; as predicted, they hardly overlap.
    boxes = [[-300, 0, 20, 10], [0, 0, 20, 10]]
    outcome = detect(boxes, [[0.9, 0, 0], [0.8, 0, 0]])
    assert outcome.detections.xyxy.tolist() == [[0, 0, 20, 10], [0, 0, 20, 10]]
    unclipped = detect(boxes, [[0.9, 0, 0], [0.8, 0, 0]], clip=False)
    assert unclipped.detections.xyxy[0].tolist() == [-300, 0, 20, 10]


def test_class_filter() -> None:
    boxes, scores = [[0, 0, 10, 10], [50, 50, 60, 60]], [[0.9, 0.8, 0.7], [0.6, 0, 0.5]]
    outcome = detect(boxes, scores, classes=["bird", 1])
    assert outcome.detections.names() == ["dog", "bird", "bird"]
    assert outcome.candidates == 3
    best = detect(boxes, scores, classes=["bird", 1], multi_label=False)
    assert best.detections.names() == ["dog", "bird"]


def test_max_detections() -> None:
    boxes = [[10 * i, 0, 10 * i + 9, 9] for i in range(5)]
    outcome = detect(boxes, [[0.5 + i / 20, 0, 0] for i in range(5)], max_detections=2)
    assert outcome.detections.xyxy[:, 0].tolist() == [40, 30]


def test_max_candidates_keeps_the_best(caplog: pytest.LogCaptureFixture) -> None:
    boxes = [[10 * i, 0, 10 * i + 9, 9] for i in range(5)]
    with caplog.at_level(logging.WARNING):
        outcome = detect(boxes, [[0.5 + i / 20, 0, 0] for i in range(5)], max_candidates=3)
    assert outcome.detections.xyxy[:, 0].tolist() == [40, 30, 20]
    assert (outcome.candidates, outcome.cut) == (5, 2)
    assert "5 candidates" in caplog.text


def test_values_that_are_not_numbers(caplog: pytest.LogCaptureFixture) -> None:
    nan, inf = np.nan, np.inf
    boxes = [[nan, 0, 10, 10], [-inf, -inf, inf, inf], [0, 0, 10, 10], [20, 20, 30, 30]]
    scores = [[0.9, 0, 0], [0.8, 0, 0], [0, nan, 0.7], [inf, 0, 0]]
    for multi_label in (True, False):
        with caplog.at_level(logging.WARNING):
            outcome = detect(boxes, scores, multi_label=multi_label)
        assert outcome.detections.names() == ["cat", "bird"]
        assert outcome.detections.xyxy.tolist() == [[0, 0, 100, 100], [0, 0, 10, 10]]
        assert outcome.not_finite == 3
        assert "not numbers" in caplog.text


def test_boxes_without_end_are_compared_and_kept_finite() -> None:
    inf = np.inf
    boxes = [[-inf, -inf, inf, inf], [-inf, -inf, inf, 1e30], [0, 0, 10, 10]]
    outcome = detect(boxes, [[0.9, 0, 0], [0.8, 0, 0], [0.7, 0, 0]], clip=False)
    assert outcome.detections.xyxy.tolist() == [[-1e7, -1e7, 1e7, 1e7], [0, 0, 10, 10]]


def test_an_output_of_nothing_but_nan_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        outcome = detect(np.full((4, 4), np.nan), np.full((4, 3), np.nan))
    assert len(outcome.detections) == 0
    assert outcome.not_finite == 12
    assert "not numbers" in caplog.text


def test_boxes_without_area_in_the_image() -> None:
    boxes = [[10, 10, 10, 20], [20, 20, 10, 30], [150, 0, 160, 10], [0, 0, 5, 5]]
    outcome = detect(boxes, [[0.9, 0, 0], [0.8, 0, 0], [0.7, 0, 0], [0.6, 0, 0]])
    assert outcome.detections.xyxy.tolist() == [[0, 0, 5, 5]]
    assert outcome.degenerate == 3


def test_nothing_found() -> None:
    for count in (0, 3):
        for multi_label in (True, False):
            outcome = detect(np.zeros((count, 4)), np.zeros((count, 3)), multi_label=multi_label)
            assert len(outcome.detections) == 0
            assert outcome.detections.class_names == NAMES


def test_inputs_are_not_changed() -> None:
    boxes = random_boxes(50)
    scores = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    before = boxes.copy(), scores.copy()
    Postprocessor(card())(boxes, scores, SQUARE)
    np.testing.assert_array_equal(boxes, before[0])
    np.testing.assert_array_equal(scores, before[1])


@pytest.mark.parametrize(
    ("boxes", "scores"), [((3, 4), (2, 3)), ((3, 4), (3, 2)), ((3, 5), (3, 3)), ((4,), (4, 3))]
)
def test_wrong_shapes(boxes: tuple[int, ...], scores: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="do not fit"):
        detect(np.zeros(boxes), np.zeros(scores))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score_threshold": 25}, r"score_threshold must be a number from 0 to 1, got 25"),
        ({"iou_threshold": -0.1}, "iou_threshold"),
        ({"iou_threshold": float("nan")}, "iou_threshold"),
        ({"nms_kind": "soft"}, "nms_kind must be one of iou, diou, none"),
        ({"beta": 0.0}, "beta must be above 0"),
        ({"max_detections": 0}, "max_detections must be a whole number of 1 or more"),
        ({"classes": ["catt"]}, r"unknown class 'catt'.*did you mean 'cat'"),
        ({"classes": [3]}, "unknown class 3; expected a number below 3"),
        ({"classes": []}, "one or more"),
        ({"classes": "cat"}, "must be a list"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Postprocessor(card(), **arguments)


def test_resolve_classes_sorts_and_drops_duplicates() -> None:
    assert resolve_classes(["bird", 0, "cat"], NAMES).tolist() == [0, 2]


def test_settings_are_the_resolved_ones() -> None:
    chosen = Postprocessor(card(), score_threshold=0.5, iou_threshold=0.6, classes=["dog"])
    assert chosen.settings["score_threshold"] == 0.5
    assert chosen.settings["nms"]["iou_threshold"] == 0.6
    assert chosen.settings["nms"]["kind"] == "iou"
    assert chosen.settings["classes"] == [1]
    json.dumps(chosen.settings)


def test_suppression_of_many_is_fast() -> None:
    # 0.1 s on one core when written; comparing all pairs in Python would take minutes.
    boxes = random_boxes(20000, size=(3, 30))
    scores = np.random.default_rng(0).random(20000).astype(np.float32)
    start = time.perf_counter()
    kept = suppress(boxes, scores, np.zeros(20000, np.int64), Nms("diou"))
    assert time.perf_counter() - start < 2
    assert 1000 < len(kept) < 10000


def test_a_class_number_may_come_as_text() -> None:
    assert resolve_classes(["1", 0], ("a", "b")).tolist() == [0, 1]
    assert resolve_classes(["1"], ("1", "b")).tolist() == [0]  # a name comes first
    with pytest.raises(InputError, match="unknown class '2'"):
        resolve_classes(["2"], ("a", "b"))


def test_scores_above_1_are_refused() -> None:
    with pytest.raises(InputError, match=r"scores must be 0 to 1, got 1\.5"):
        detect([[0, 0, 9, 9]], [[1.5, 0, 0]])


def test_a_score_rounded_beyond_1_is_1() -> None:
    found = detect([[0, 0, 9, 9]], [[1.0000002, 0, 0]])
    assert found.detections.score.tolist() == [1.0]


def test_landmarks_stay_with_their_boxes() -> None:
    """Through the threshold, suppression, the limit and the map to the source."""
    faces = ModelCard("faces", NAMES, (100, 100), landmarks=("a", "b"))
    boxes = random_boxes(300, seed=4)
    scores = np.random.default_rng(5).uniform(0, 1, (300, 3)).astype(np.float32)
    # Each box's points are its corners, so they must end where the box does.
    points = boxes.reshape(-1, 2, 2)
    geometry = Geometry((50, 200), (100, 100), (25, 100), (37.5, 0.0))
    finish = Postprocessor(faces, score_threshold=0.6, max_detections=20, clip=False)
    found = finish(boxes, scores, geometry, points)
    assert len(found) == 20
    assert found.landmarks is not None
    assert found.landmarks.reshape(-1, 4) == pytest.approx(found.xyxy)
    assert np.array_equal(finish(boxes, scores, geometry).xyxy, found.xyxy)
    assert finish(boxes, scores, geometry).landmarks is None
    clipped = Postprocessor(faces, score_threshold=0.6, max_detections=20)
    outside = clipped(boxes, scores, geometry, points).landmarks
    assert outside is not None
    assert outside.min() < 0, "points are not clipped with their boxes"
    with pytest.raises(InputError, match=r"landmarks must be \(300, 2, 2\) .*got \(300, 5, 2\)"):
        finish(boxes, scores, geometry, np.zeros((300, 5, 2), np.float32))


def test_landmarks_that_are_not_numbers() -> None:
    faces = ModelCard("faces", ("face",), (100, 100), landmarks=("a",))
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]], np.float32)
    scores = np.full((3, 1), 0.9, np.float32)
    points = np.array([[[1, 1]], [[np.nan, 1]], [[np.inf, 1]]], np.float32)
    outcome = Postprocessor(faces).process(boxes, scores, SQUARE, points)
    assert outcome.not_finite == 1
    assert outcome.detections.xyxy[:, 0].tolist() == [0, 80]
