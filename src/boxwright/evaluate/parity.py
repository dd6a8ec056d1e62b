"""Parity: does a model or engine compute what its reference computes, on the same pixels?

Compared in three steps, so that a failure says where it begins: raw heads (the network),
`boxes` and `scores` above a low threshold (the decoding), detections (the suppression).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boxwright import nms
from boxwright.errors import InputError
from boxwright.evaluate.pairing import BoxDifference
from boxwright.evaluate.parity_report import BoxParity, ParityReport, TensorParity, UnmatchedBox
from boxwright.evaluate.reference import Candidates
from boxwright.evaluate.subject import Answer, Comparable, Side, open_side, read_images
from boxwright.evaluate.tensors import TensorDifference
from boxwright.evaluate.tolerances import Tolerances
from boxwright.model import BOXES, SCORES
from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boxwright.card import ModelCard

# Coordinates beyond this many pixels are brought to it, so that areas stay finite.
FAR = 1e7

Images = NDArray[np.uint8] | str | Path | list[str | Path]


def compare(
    subject: Comparable,
    reference: Comparable | None = None,
    images: Images | None = None,
    tolerances: Tolerances | None = None,
    *,
    backend: str | None = None,
    reference_backend: str | None = None,
    card: ModelCard | None = None,
    progress: ProgressCallback = silent,
) -> ParityReport:
    """Feed the same pixels to both sides and compare what comes out.

    Args:
        subject: What is judged: a path (``.bw``, ``.onnx``), a Model, an Engine or a Runner.
        reference: What it is judged by: a path (also an ``.npz`` dump), a Reference, a
            Model, an Engine, a Runner or an OpenCV oracle. Default: the subject itself,
            on `reference_backend`.
        images: uint8 ``(N, H, W, 3)`` RGB at network size, or paths of such pictures,
            lossless. Default: those in the dump.
        tolerances: Default: :class:`Tolerances` for trained float32 networks.
        backend: Backend the subject runs on.
        reference_backend: Backend the reference runs on.
        card: The card of a subject that has none (a bare runner).
        progress: Told about each image.

    Returns:
        The report. Shapes that differ, NaN, and heads that one side lacks are
        findings in it, not errors.

    Raises:
        InputError: No pixels are given, or they do not fit; a file cannot be read.
    """
    tolerances = tolerances or Tolerances()
    if reference is None:
        if reference_backend is None:
            raise InputError("give a reference, or a reference_backend to run the subject on")
        reference = subject
    with (
        open_side(subject, backend, card) as a,
        open_side(reference, reference_backend, card) as b,
    ):
        pixels = _pixels(images, a, b)
        comparison = Comparison(a, b, tolerances, card, (pixels.shape[1], pixels.shape[2]))
        for index, image in enumerate(pixels):
            progress("comparing", index, len(pixels))
            comparison.add(index, image)
        progress("comparing", len(pixels), len(pixels))
        return comparison.report(len(pixels))


def _pixels(images: Images | None, a: Side, b: Side) -> NDArray[np.uint8]:
    if images is None:
        kept = b.images if b.images is not None else a.images
        if kept is None:
            raise InputError("parity needs images: neither side brings its own pixels")
        return kept
    if not isinstance(images, np.ndarray):
        images = read_images([images] if isinstance(images, str | Path) else list(images))
    if images.ndim == 3:
        images = images[None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise InputError(
            f"images must be uint8 (N, H, W, 3) and at least one, got {images.dtype} {images.shape}"
        )
    return images


@dataclass
class Comparison:
    """A parity check that is fed image by image, for sets that do not fit in memory.

    Attributes:
        subject: What is judged.
        reference: What it is judged by.
        tolerances: How much difference is accepted.
        given_card: The card of a subject that has none.
        size: ``(height, width)`` of the network input in pixels.
        tensors: What was found per tensor so far.
        boxes: What was found per stage and score threshold so far.
        notes: What could not be compared and why; the keys, in order.
    """

    subject: Side
    reference: Side
    tolerances: Tolerances
    given_card: ModelCard | None
    size: tuple[int, int]
    tensors: dict[str, TensorDifference] = field(default_factory=dict)
    boxes: dict[tuple[str, float], BoxDifference] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    @property
    def card(self) -> ModelCard | None:
        """Whose rules of suppression hold for both sides: the subject's."""
        return self.given_card or self.subject.card or self.reference.card

    def add(self, index: int, image: NDArray[np.uint8]) -> tuple[Answer, Answer]:
        """Compare one image more.

        Args:
            index: Its number.
            image: uint8 ``(H, W, 3)`` at network size.

        Returns:
            What the subject and the reference gave.
        """
        ours, theirs = self.subject.answer(index, image), self.reference.answer(index, image)
        for name, reference_name in self._tensor_pairs(ours, theirs):
            head = name in self.subject.heads
            if name not in self.tensors:
                self.tensors[name] = TensorDifference(
                    name,
                    reference_name,
                    "head" if head else "output",
                    self.tolerances.head_nrmse if head else self.tolerances.output_nrmse,
                )
            self.tensors[name].add(index, ours.tensors[name], theirs.tensors[reference_name])
        self._add_boxes(index, ours, theirs)
        return ours, theirs

    def _tensor_pairs(self, ours: Answer, theirs: Answer) -> Iterator[tuple[str, str]]:
        """Heads first and by position, for names differ between frameworks; outputs by name."""
        mine, other = self.subject.heads, self.reference.heads
        if mine and other and len(mine) != len(other):
            self.notes[f"{len(mine)} heads, the reference has {len(other)}"] = None
        if other and not mine:
            self.notes["the subject does not return its raw heads: they were not compared"] = None
        if mine and not other:
            self.notes["the reference has no raw heads: they were not compared"] = None
        yield from zip(mine, other, strict=False)
        for name in ours.tensors:
            if name in theirs.tensors and name not in mine:
                yield name, name

    def _add_boxes(self, index: int, ours: Answer, theirs: Answer) -> None:
        threshold = self.tolerances.candidate_threshold
        before = (ours.candidates_above(threshold), theirs.candidates_above(threshold))
        if before[0] is not None and before[1] is not None:
            a, b = before[0], before[1]
            if not self._same_rows(ours, theirs):
                a = Candidates(a.xyxy, a.score, a.class_id, None, a.truncated)
            self._difference("candidates", threshold).add(index, a, b)
            both = (a, b)
        else:
            both = None
            self.notes["candidates were not compared: a side does not give them"] = None
        for threshold in self.tolerances.detection_thresholds:
            a_after = self._detections(ours, threshold)
            b_after = self._detections(theirs, threshold)
            if a_after is None or b_after is None:
                note = f"detections over {threshold:g} were not compared: a side has none"
                self.notes[note] = None
                continue
            self._difference("detections", threshold).add(index, a_after, b_after, both)

    @staticmethod
    def _same_rows(ours: Answer, theirs: Answer) -> bool:
        """Row numbers mean the same on both sides: same layout of the same outputs."""
        return all(
            name in ours.tensors
            and name in theirs.tensors
            and ours.tensors[name].shape == theirs.tensors[name].shape
            for name in (BOXES, SCORES)
        )

    def _difference(self, stage: str, threshold: float) -> BoxDifference:
        key = (stage, threshold)
        if key not in self.boxes:
            self.boxes[key] = BoxDifference(
                "candidates" if stage == "candidates" else "detections",
                threshold,
                self.tolerances,
                self.size,
            )
        return self.boxes[key]

    def _detections(self, answer: Answer, threshold: float) -> Candidates | None:
        if threshold in answer.detections:
            return answer.detections[threshold]
        boxes, scores = answer.tensors.get(BOXES), answer.tensors.get(SCORES)
        if self.card is None or boxes is None or scores is None:
            return None
        if boxes.at is not None or scores.at is not None:
            return None
        return suppress(boxes.values[0], scores.values[0], self.card, threshold)

    def report(self, images: int) -> ParityReport:
        """What was found over all `images`."""
        order = sorted(self.tensors.values(), key=lambda tensor: tensor.kind != "head")
        return ParityReport(
            self.subject.name,
            self.reference.name,
            images,
            tuple(tensor.result() for tensor in order),
            tuple(difference.result() for difference in self.boxes.values()),
            tuple(self.notes),
        )


def suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], card: ModelCard, threshold: float
) -> Candidates:
    """The detections of one image in network input pixels, by the card's own rules.

    Args:
        boxes: ``(A, 4)`` `xyxy`.
        scores: ``(A, C)``.
        card: Says how overlapping candidates are suppressed.
        threshold: Score threshold, strict.
    """
    rows = Candidates.above(boxes, scores, threshold)
    if not card.nms.multi_label and len(rows):
        rows = rows[_best_of_row(rows)]
    # As the postprocessor does: Darknet suppresses on coordinates relative to the image.
    height, width = card.input_size
    corners = np.clip(rows.xyxy, -FAR, FAR).astype(np.float32)
    scale: NDArray[np.float32] = np.array([width, height, width, height], np.float32)
    relative = corners / scale
    sound = ~np.isnan(relative).any(axis=1)
    kept = nms.suppress(
        relative[sound], rows.score[sound].astype(np.float32), rows.class_id[sound], card.nms
    )
    return rows[np.flatnonzero(sound)[kept]]


def _best_of_row(rows: Candidates) -> NDArray[np.intp]:
    """Of each row of `boxes` the class with the highest score."""
    row = np.zeros(len(rows), np.int64) if rows.row is None else rows.row
    order = np.lexsort((rows.class_id, -rows.score, row))
    _, first = np.unique(row[order], return_index=True)
    return order[first]


__all__ = [
    "BoxParity",
    "Comparison",
    "ParityReport",
    "TensorParity",
    "Tolerances",
    "UnmatchedBox",
    "compare",
    "suppress",
]
