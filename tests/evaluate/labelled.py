"""Random labels with detections near them: crowds, ties, difficult objects, empty classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from boxwright.datasets import Dataset, GroundTruth, LabelledImage
from boxwright.detections import Detections

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
# Without objects: a class that is detected, and one that is not.
UNLABELLED, UNDETECTED = 4, 5


def make_labelled(
    seed: int, images: int = 12, *, most: int = 9, crowds: bool = True, difficult: bool = False
) -> tuple[Dataset, list[Detections]]:
    """Boxes on whole pixels with few different scores, so that IoUs and scores tie."""
    random = np.random.default_rng(seed)
    labelled, detections = [], []
    for number in range(images):
        count = int(random.integers(0, most))
        xywh = np.concatenate(
            [random.integers(0, 300, (count, 2)), random.integers(4, 160, (count, 2))], axis=1
        ).astype(np.float64)
        class_id = random.integers(0, UNLABELLED, count)
        labels = GroundTruth.from_xywh(
            xywh,
            class_id,
            crowd=(random.random(count) < 0.2) & crowds,
            area=xywh[:, 2] * xywh[:, 3] * random.choice([1.0, 0.6], count),
            difficult=(random.random(count) < 0.25) & difficult,
        )
        # Ids fall, so that the order of images is not that of their ids.
        path = Path(f"{number}.png")
        labelled.append(LabelledImage(path, 1000 - 7 * number, 500, 500, labels))
        detections.append(_near(random, labels))
    # So are category ids out of order and with gaps.
    dataset = Dataset("made", "coco", CLASSES, (11, 2, 7, 3, 5, 19), tuple(labelled))
    return dataset, detections


def _near(random: np.random.Generator, labels: GroundTruth) -> Detections:
    copies = np.repeat(np.arange(len(labels)), random.integers(0, 4, len(labels)))
    strays = int(random.integers(0, 6))
    shift = random.integers(-6, 7, (len(copies), 4))
    xywh = labels.xywh[copies] + shift
    other = np.concatenate(
        [random.integers(0, 300, (strays, 2)), random.integers(4, 160, (strays, 2))], axis=1
    )
    xywh = np.concatenate([xywh, other]).astype(np.float64)
    xywh[:, 2:] = np.maximum(xywh[:, 2:], 1)
    class_id = np.concatenate([labels.class_id[copies], random.integers(0, 5, strays)])
    wrong = random.random(len(class_id)) < 0.1
    class_id = np.where(wrong, random.integers(0, UNDETECTED, len(class_id)), class_id)
    score = random.integers(1, 12, len(class_id)) / 12
    order = np.argsort(-score, kind="stable")
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return Detections(
        xyxy[order].astype(np.float32),
        score[order].astype(np.float32),
        class_id[order],
        CLASSES,
    )
