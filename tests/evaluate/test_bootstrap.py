from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from boxwright.datasets import GroundTruth
from boxwright.detections import Detections
from boxwright.evaluate.bootstrap import bootstrap_ap
from boxwright.evaluate.matches import ImageMatches, match_image

CLASSES = ("cat", "dog", "bird", "never")


def make_labels(rng: np.random.Generator, count: int) -> GroundTruth:
    corner = rng.uniform(0, 80, (count, 2))
    size = rng.uniform(5, 40, (count, 2))
    return GroundTruth.from_xywh(
        np.concatenate([corner, size], axis=1),
        rng.integers(0, 3, count),
        crowd=rng.uniform(size=count) < 0.15,
    )


def make_detections(
    rng: np.random.Generator, labels: GroundTruth, jitter: float, extra: int
) -> Detections:
    """Boxes near the labels, some of another class, some anywhere; scores that tie."""
    near = labels.xyxy + rng.normal(0, jitter, (len(labels), 4))
    doubled = np.concatenate([near, near[: len(near) // 2] + 1])
    numbers = np.concatenate([labels.class_id, labels.class_id[: len(near) // 2]])
    corner = rng.uniform(0, 80, (extra, 2))
    boxes = np.concatenate([doubled, np.hstack([corner, corner + rng.uniform(5, 40, (extra, 2))])])
    boxes = np.hstack(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])]
    )
    numbers = np.concatenate([numbers, rng.integers(0, 3, extra)])
    wrong = rng.uniform(size=len(numbers)) < 0.1
    numbers[wrong] = (numbers[wrong] + 1) % 3
    scores = (rng.integers(1, 40, len(boxes)) / 40).astype(np.float32)
    return Detections(boxes.astype(np.float32), scores, numbers, CLASSES)


def make_world(
    images: int, seed: int = 0, jitter: float = 2.0
) -> tuple[list[GroundTruth], list[Detections]]:
    rng = np.random.default_rng(seed)
    labels = [make_labels(rng, int(rng.integers(0, 9))) for _ in range(images)]
    return labels, [make_detections(rng, item, jitter, int(rng.integers(0, 6))) for item in labels]


def matched(labels: list[GroundTruth], found: list[Detections]) -> list[ImageMatches]:
    return [match_image(d, g, len(CLASSES)) for d, g in zip(found, labels, strict=True)]


def by_pycocotools(labels: list[GroundTruth], found: list[Detections]) -> Any:
    """AP as ``(thresholds, classes)``, -1 for a class without objects."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i, (truth, detections) in enumerate(zip(labels, found, strict=True), start=1):
        for k in range(len(truth)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": int(truth.class_id[k]) + 1,
                    "bbox": truth.xywh[k].tolist(),
                    "area": float(truth.area[k]),
                    "iscrowd": int(truth.crowd[k]),
                }
            )
        corners = detections.xyxy.astype(np.float64)
        for k in range(len(detections)):
            x1, y1, x2, y2 = corners[k].tolist()
            results.append(
                {
                    "image_id": i,
                    "category_id": int(detections.class_id[k]) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(detections.score[k]),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO()
        truth_set.dataset = {
            "images": [{"id": i + 1} for i in range(len(labels))],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        }
        truth_set.createIndex()
        judge = COCOeval(truth_set, truth_set.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, :, 0, 2].mean(axis=1)


@pytest.mark.parametrize("seed", range(4))
def test_ap_is_that_of_pycocotools(seed: int) -> None:
    labels, found = make_world(40, seed)
    matches = matched(labels, found)
    ours = bootstrap_ap(matches, matches, CLASSES, resamples=1)
    theirs = by_pycocotools(labels, found)
    valid = theirs[:, theirs[0] > -1]
    assert ours.subject_ap == pytest.approx(valid.mean(), abs=1e-12)
    assert ours.subject_ap50 == pytest.approx(valid[0].mean(), abs=1e-12)
    assert 0.05 < ours.subject_ap < 0.95
    for item in ours.classes:
        assert item.subject == pytest.approx(theirs[:, item.class_id].mean(), abs=1e-12)
    assert {item.name for item in ours.classes} == {"cat", "dog", "bird"}


def moved(found: Detections, rng: np.random.Generator) -> Detections:
    """The detections with corners shaken, without those that were turned inside out."""
    boxes = (found.xyxy + rng.normal(0, 3, found.xyxy.shape)).astype(np.float32)
    upright = np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    return Detections(
        boxes[upright], found.score[upright], found.class_id[upright], found.class_names
    )


def spread(scores: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return (scores + rng.uniform(0, 1e-3, len(scores))).astype(np.float32)


def test_a_weight_is_the_image_repeated() -> None:
    """A draw of the bootstrap gives what pycocotools gives on the images so drawn."""
    labels, found = make_world(12, 3)
    rng = np.random.default_rng(8)
    # No two detections of an image tie: their order among the repeated would be open.
    found = [Detections(d.xyxy, spread(d.score, rng), d.class_id, CLASSES) for d in found]
    matches = matched(labels, found)
    rng = np.random.default_rng(7)
    draw = rng.multinomial(12, np.full(12, 1 / 12), size=1)[0]
    chosen = [i for i in range(12) for _ in range(draw[i])]
    theirs = by_pycocotools([labels[i] for i in chosen], [found[i] for i in chosen])
    valid = theirs[:, theirs[0] > -1]
    none = [ImageMatches(m.score[:0], m.class_id[:0], m.hit[:, :0], m.ignored[:, :0], m.objects)
            for m in matches]  # fmt: skip
    ours = bootstrap_ap(matches, none, CLASSES, resamples=1, seed=7)
    # Against nothing, the difference is the AP; of one draw both bounds are its value.
    assert ours.ap.low == ours.ap.high == pytest.approx(valid.mean(), abs=1e-12)


def test_equal_sides_differ_by_nothing_and_a_worse_one_is_told() -> None:
    labels, found = make_world(60)
    matches = matched(labels, found)
    same = bootstrap_ap(matches, matches, CLASSES, resamples=50)
    assert (same.ap.value, same.ap.low, same.ap.high) == (0, 0, 0)
    assert not same.ap.excludes_zero
    rng = np.random.default_rng(1)
    worse = [moved(d, rng) for d in found]
    result = bootstrap_ap(matched(labels, worse), matches, CLASSES, resamples=300)
    assert result.ap.low < result.ap.value < result.ap.high < 0
    assert result.ap.excludes_zero
    assert result.ap.value == pytest.approx(result.subject_ap - result.reference_ap)
    losses = [item.difference.value for item in result.classes]
    assert losses == sorted(losses)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Difference of two sides that lose detections at random with equal chance: truth 0."""
    covered = 0
    for seed in range(40):
        labels, found = make_world(30, seed)
        rng = np.random.default_rng(seed + 100)
        sides = [
            matched(labels, [d[rng.uniform(size=len(d)) < 0.8] for d in found]) for _ in range(2)
        ]
        result = bootstrap_ap(sides[0], sides[1], CLASSES, resamples=100, confidence=0.9)
        covered += result.ap.low <= 0 <= result.ap.high
    assert 30 <= covered <= 40


def test_the_seed_decides_the_draws() -> None:
    labels, found = make_world(20)
    sides = matched(labels, found), matched(labels, make_world(20, jitter=5)[1])
    first, again, other = (
        bootstrap_ap(*sides, CLASSES, resamples=40, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.ap != other.ap
    assert first.ap.value == other.ap.value
