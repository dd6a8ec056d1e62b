"""The images two detectors disagree about most, drawn side by side."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boxwright.drawing import Colour, draw_caption, draw_detections, save_image
from boxwright.evaluate.disagreement import ImageDisagreement

if TYPE_CHECKING:
    from boxwright.detections import Detections

Pixels = NDArray[np.uint8]

AGREED: Colour = (150, 150, 150)
MISSING: Colour = (213, 94, 0)
EXTRA: Colour = (0, 114, 178)
RENAMED: Colour = (204, 121, 167)
MOVED: Colour = (240, 228, 66)
"""Okabe and Ito's colours, which the colour-blind tell apart."""

# A pair is drawn as moved where a person would see it: below this overlap.
_MOVED_IOU = 0.9
_MAX_SIDE = 960
_GAP = 8


@dataclass(frozen=True)
class Case:
    """One image with both results; its pixels are loaded again when it is drawn."""

    index: int
    name: str
    load: Callable[[], Pixels]
    subject: Detections
    reference: Detections
    found: ImageDisagreement


@dataclass
class WorstCases:
    """Keeps the `count` worst images of however many are offered.

    Attributes:
        count: How many to keep.
    """

    count: int
    _heap: list[tuple[float, int, Case]] = field(default_factory=list)

    def offer(self, case: Case) -> None:
        """Keep it if it is among the worst so far; images that agree in full never are."""
        if self.count < 1 or case.found.badness <= 0:
            return
        # Of equally bad images the earlier stays, so that a second run keeps the same.
        entry = (case.found.badness, -case.index, case)
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def cases(self) -> list[Case]:
        """Worst first."""
        return [entry[2] for entry in sorted(self._heap, key=lambda e: e[:2], reverse=True)]


def draw_case(case: Case, subject_name: str, reference_name: str) -> Pixels:
    """Reference left, subject right; grey is agreed, colours say what is not.

    Orange: only the reference has it. Blue: only the subject. Purple: another class.
    Yellow: moved, the overlap is below 0.9.

    Returns:
        uint8 ``(H, W, 3)``, both pictures and a caption over each.
    """
    pixels = case.load()
    found = case.found
    moved = found.pairs[found.iou < _MOVED_IOU]
    sides = []
    for column, detections, lone, colour, name in (
        (1, case.reference, found.only_reference, MISSING, f"reference: {reference_name}"),
        (0, case.subject, found.only_subject, EXTRA, f"subject: {subject_name}"),
    ):
        colours = [AGREED] * len(detections)
        for rows, chosen in (
            (moved[:, column], MOVED),
            (found.renamed[:, column], RENAMED),
            (lone, colour),
        ):
            for row in rows.tolist():
                colours[row] = chosen
        small, scaled = _shrink(pixels, detections)
        drawn = draw_detections(small, scaled, colours=colours)
        sides.append(draw_caption(drawn, name))
    height = sides[0].shape[0]
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    return np.concatenate([sides[0], gap, sides[1]], axis=1)


def save_worst(
    cases: list[Case], folder: str | Path, subject_name: str, reference_name: str
) -> list[Path]:
    """Draw the cases into a folder as ``1-NAME.jpg``, ``2-NAME.jpg``, ..., worst first.

    Raises:
        InputError: A file cannot be written.
        ImageError: An image can no longer be read.
    """
    paths = []
    for rank, case in enumerate(cases, start=1):
        path = Path(folder) / f"{rank}-{Path(case.name).stem}.jpg"
        save_image(path, draw_case(case, subject_name, reference_name))
        paths.append(path)
    return paths


def _shrink(pixels: Pixels, detections: Detections) -> tuple[Pixels, Detections]:
    """Before drawing, so that lines and letters keep their size; small images grow."""
    from PIL import Image

    from boxwright.detections import Detections

    height, width = pixels.shape[:2]
    scale = _MAX_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    factor = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    scaled = Detections(
        detections.xyxy * factor, detections.score, detections.class_id, detections.class_names
    )
    return resized, scaled
