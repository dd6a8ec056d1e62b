"""The images to look at: where labels and engine, or source and engine, differ most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boxwright.detections import Detections
from boxwright.evaluate.confusion import confusion
from boxwright.evaluate.disagreement import disagreement
from boxwright.evaluate.report.pictures import Picture, draw, load_pixels

if TYPE_CHECKING:
    from boxwright.datasets import Dataset, GroundTruth
    from boxwright.drawing import Colour
    from boxwright.evaluate.disagreement import ImageDisagreement
    from boxwright.images import Pixels

_SHOWN = 6

# Okabe and Ito's colours, which the colour-blind tell apart, on grey for what is agreed.
AGREED: Colour = (150, 150, 150)
MISSING: Colour = (213, 94, 0)
EXTRA: Colour = (0, 114, 178)
RENAMED: Colour = (204, 121, 167)
MOVED: Colour = (240, 228, 66)

# A pair is drawn as moved where a person would see it: below this overlap.
_MOVED_IOU = 0.9


def worst_images(
    dataset: Dataset, detections: Sequence[Detections], score: float, count: int = _SHOWN
) -> list[Picture]:
    """The images with the most errors at a score threshold, labels beside detections."""
    errors = [
        (missed + wrong, index, missed, wrong)
        for index, (missed, wrong) in enumerate(_errors(dataset, detections, score))
    ]
    errors.sort(key=lambda item: (-item[0], item[1]))
    pictures = []
    for total, index, missed, wrong in errors[:count]:
        image = dataset.images[index]
        pixels = load_pixels(image.path) if total else None
        if pixels is None:
            continue
        shown = detections[index]
        shown = shown[shown.score > np.float32(score)]
        labels = _as_detections(image.boxes, dataset.class_names)
        objects, found = len(labels), len(shown)
        pictures.append(
            Picture(
                image.path.name,
                f"{missed} of {objects} objects missed, {wrong} of {found} detections wrong "
                f"(score above {score:g}, IoU from 0.5)",
                (("labels", draw(pixels, labels, scores=False)), ("engine", draw(pixels, shown))),
                "accurate",
            )
        )
    return pictures


def side_by_side(
    sample: Sequence[tuple[Path, Pixels]],
    source: Sequence[Detections],
    engine: Sequence[Detections],
    count: int = 4,
) -> list[Picture]:
    """What source and engine find in the same images, those they disagree on most first."""
    found = [
        (disagreement(after, before), image, before, after)
        for image, before, after in zip(sample, source, engine, strict=True)
    ]
    found.sort(key=lambda item: -item[0].badness)
    pictures = []
    for difference, (path, pixels), before, after in found[:count]:
        before_colours = disagreement_colours(difference, 1, len(before))
        after_colours = disagreement_colours(difference, 0, len(after))
        both, only_engine, only_source = difference.counts
        pictures.append(
            Picture(
                path.name,
                f"{both} found by both, {only_source} by the source alone, "
                f"{only_engine} by the engine alone",
                (
                    ("source", draw(pixels, before, colours=before_colours)),
                    ("engine", draw(pixels, after, colours=after_colours)),
                ),
                "faithful",
            )
        )
    return pictures


def disagreement_colours(found: ImageDisagreement, side: int, count: int) -> list[Colour]:
    """A colour for each detection of one side, by what became of it.

    Args:
        found: What the two sides differ in.
        side: 0 for the subject, 1 for the reference.
        count: How many detections that side has.

    Returns:
        Grey where the two agree, yellow where a box moved to an overlap below 0.9,
        purple where it has another class; of those only one side has, blue for the
        subject's and orange for the reference's. Borderline boxes are grey.
    """
    rows = (found.only_subject, found.only_reference)[side]
    special = [
        (found.pairs[found.iou < _MOVED_IOU, side], MOVED),
        (found.renamed[:, side], RENAMED),
        (rows, (EXTRA, MISSING)[side]),
    ]
    colours = [AGREED] * count
    for chosen, colour in special:
        for row in chosen.tolist():
            colours[row] = colour
    return colours


def _errors(
    dataset: Dataset, detections: Sequence[Detections], score: float
) -> Iterator[tuple[int, int]]:
    """Objects missed and detections wrong, for each image; a wrong class is both."""
    for image, found in zip(dataset.images, detections, strict=True):
        matrix = confusion(replace(dataset, images=(image,)), [found], score=score).matrix
        right = int(np.trace(matrix))
        yield int(matrix[:-1].sum()) - right, int(matrix[:, :-1].sum()) - right


def _as_detections(labels: GroundTruth, names: tuple[str, ...]) -> Detections:
    counted = ~labels.crowd
    return Detections(
        labels.xyxy[counted],
        np.ones(int(counted.sum()), np.float32),
        labels.class_id[counted],
        names,
    )
