"""From a detector's outputs to detections in the source image.

The order of the steps is Darknet's: score filter, suppression on boxes that are not
clipped, and only then clipping to the image.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from boxwright.boxes import clip_xyxy
from boxwright.card import ModelCard, NmsKind
from boxwright.detections import MAX_SCORE, Detections
from boxwright.errors import InputError
from boxwright.nms import suppress
from boxwright.values import real, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from boxwright.preprocess import Geometry

_log = logging.getLogger(__name__)

MAX_CANDIDATES = 100_000
"""More candidates than this above the score threshold are cut, the best kept: the time of
suppression grows with their square."""

# Coordinates beyond this many input pixels are brought to it, so that areas stay finite.
_FAR = 1e7


@dataclass(frozen=True)
class Outcome:
    """Detections, and what was left out on the way to them.

    Attributes:
        detections: The result, best score first.
        candidates: How many (box, class) pairs exceeded the score threshold.
        cut: Candidates left out because there were more than `max_candidates`.
        not_finite: Candidates left out because a coordinate was NaN or a score was not a
            number; a score of NaN anywhere in the output counts as one.
        degenerate: Detections left out because no area of them lies in the image.
    """

    detections: Detections
    candidates: int = 0
    cut: int = 0
    not_finite: int = 0
    degenerate: int = 0


class Postprocessor:
    """Filters, suppresses, and maps candidates back to the source image.

    Every argument but `card` overrides the card, or sets what no card says.

    Args:
        card: Class names, score threshold and suppression.
        score_threshold: 0 to 1; a score must exceed it.
        nms_kind: ``iou``, ``diou`` or ``none``.
        iou_threshold: 0 to 1; an overlap above it suppresses.
        beta: Exponent of the distance term of ``diou``.
        class_agnostic: Compare candidates across classes.
        multi_label: One detection per class above the threshold, not only the best class.
        max_detections: Keep this many of the best; ``None`` keeps all, as Darknet does.
        classes: Names or numbers of the only classes wanted; the others take no part.
        clip: Limit boxes to the image. Darknet does so only when it draws.
        max_candidates: Bound on the work of suppression; ``None`` for no bound.

    Raises:
        InputError: An argument is out of its range, or a class is unknown.
    """

    def __init__(
        self,
        card: ModelCard,
        *,
        score_threshold: float | None = None,
        nms_kind: NmsKind | None = None,
        iou_threshold: float | None = None,
        beta: float | None = None,
        class_agnostic: bool | None = None,
        multi_label: bool | None = None,
        max_detections: int | None = None,
        classes: Sequence[str | int] | None = None,
        clip: bool = True,
        max_candidates: int | None = MAX_CANDIDATES,
    ) -> None:
        self.class_names = card.class_names
        self.landmark_names = card.landmarks
        self.score_threshold = card.score_threshold if score_threshold is None else score_threshold
        given: dict[str, Any] = {
            "kind": nms_kind,
            "iou_threshold": iou_threshold,
            "beta": beta,
            "class_agnostic": class_agnostic,
            "multi_label": multi_label,
        }
        self.nms = dataclasses.replace(
            card.nms, **{name: value for name, value in given.items() if value is not None}
        )
        self.max_detections = max_detections
        self.max_candidates = max_candidates
        self.clip = clip
        self._check()
        # numpy's numbers become Python's, which JSON knows.
        self.score_threshold = float(self.score_threshold)
        self.nms = dataclasses.replace(
            self.nms, iou_threshold=float(self.nms.iou_threshold), beta=float(self.nms.beta)
        )
        self.max_detections = whole(self.max_detections)
        self.max_candidates = whole(self.max_candidates)
        self.class_ids = None if classes is None else resolve_classes(classes, card.class_names)

    def _check(self) -> None:
        _check_fraction("score_threshold", self.score_threshold)
        _check_fraction("iou_threshold", self.nms.iou_threshold)
        if self.nms.kind not in get_args(NmsKind):
            raise InputError(
                f"nms_kind must be one of {', '.join(get_args(NmsKind))}, got {self.nms.kind!r}"
            )
        beta = real(self.nms.beta)
        if beta is None or not beta > 0:
            raise InputError(f"beta must be above 0, got {self.nms.beta}")
        for name in ("max_detections", "max_candidates"):
            value = getattr(self, name)
            if value is not None and (whole(value) or 0) < 1:
                raise InputError(
                    f"{name} must be a whole number of 1 or more, or None, got {value!r}"
                )

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings, as JSON values."""
        return {
            "score_threshold": self.score_threshold,
            "nms": dataclasses.asdict(self.nms),
            "max_detections": self.max_detections,
            "max_candidates": self.max_candidates,
            "classes": None if self.class_ids is None else self.class_ids.tolist(),
            "clip": self.clip,
        }

    def __call__(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        geometry: Geometry,
        landmarks: NDArray[np.float32] | None = None,
    ) -> Detections:
        """The detections alone; see :meth:`process`."""
        return self.process(boxes, scores, geometry, landmarks).detections

    def process(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        geometry: Geometry,
        landmarks: NDArray[np.float32] | None = None,
    ) -> Outcome:
        """Turn one image's outputs into detections.

        Args:
            boxes: float32 ``(A, 4)``, `xyxy` in input pixels.
            scores: float32 ``(A, C)``, final scores.
            geometry: From the preprocessor, for this image.
            landmarks: float32 ``(A, L, 2)``, points in input pixels, of a detector that has
                them. They take no part in suppression and are not clipped.

        Raises:
            InputError: The shapes do not fit each other, the class names or the landmarks'.
        """
        self._check_shapes(boxes, scores, landmarks)
        rows, class_ids, score, not_finite = self._candidates(scores)
        found = len(rows) + not_finite
        sound = ~np.isnan(boxes[rows]).any(axis=1) & np.isfinite(score)
        if landmarks is not None:
            sound &= ~np.isnan(landmarks[rows]).any(axis=(1, 2))
        if not sound.all():
            not_finite += int((~sound).sum())
            rows, class_ids, score = rows[sound], class_ids[sound], score[sound]
        if not_finite:
            _log.warning("the detector gave %d candidates that are not numbers", not_finite)
        rows, class_ids, score, cut = self._cut(rows, class_ids, score)
        corners = np.clip(boxes[rows], -_FAR, _FAR).astype(np.float32, copy=False)
        # Darknet maps boxes to fractions of the source image before it suppresses, and
        # DIoU depends on that ratio of the axes. Where the content lies changes nothing.
        height, width = geometry.content_size
        extent = np.array([width, height, width, height], np.float32)
        relative = np.divide(corners, extent, dtype=np.float32)
        kept = suppress(relative, score, class_ids, self.nms)
        xyxy = geometry.to_source(corners[kept])
        if self.clip:
            xyxy = clip_xyxy(xyxy, *geometry.source_size)
        solid = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
        kept = kept[solid]
        limit = slice(self.max_detections)
        if score[kept].max(initial=0) > MAX_SCORE:
            raise InputError(
                f"scores must be 0 to 1, got {score[kept].max():g}; "
                "the model does not give final scores"
            )
        kept = kept[limit]
        detections = Detections(
            xyxy[solid][limit],
            np.minimum(score[kept], 1),
            class_ids[kept],
            self.class_names,
            landmarks=None if landmarks is None else _points(landmarks[rows[kept]], geometry),
        )
        return Outcome(detections, found, cut, not_finite, int((~solid).sum()))

    def _candidates(
        self, scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float32], int]:
        """Rows, classes and scores above the threshold; and 1 if any score is NaN."""
        if self.class_ids is not None:
            scores = scores[:, self.class_ids]
        best = scores.max(axis=1, initial=-np.inf)
        threshold = np.float32(self.score_threshold)
        rows = np.flatnonzero(best > threshold)
        # A row that holds a NaN has a NaN as its maximum: tell, do not pass over it.
        spoilt = np.isnan(best)
        if spoilt.any():
            rows = np.flatnonzero(spoilt | (best > threshold))
        few = scores[rows]
        if self.nms.multi_label:
            inner, columns = np.nonzero(few > threshold)
        else:
            columns = np.argmax(np.where(np.isnan(few), -np.inf, few), axis=1)
            inner = np.flatnonzero(few[np.arange(len(few)), columns] > threshold)
            columns = columns[inner]
        score = few[inner, columns]
        class_ids = columns.astype(np.int64)
        if self.class_ids is not None:
            class_ids = self.class_ids[class_ids]
        return rows[inner], class_ids, score, int(np.isnan(few).sum())

    def _cut(
        self, rows: NDArray[np.intp], class_ids: NDArray[np.int64], score: NDArray[np.float32]
    ) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float32], int]:
        excess = 0 if self.max_candidates is None else len(rows) - self.max_candidates
        if excess <= 0:
            return rows, class_ids, score, 0
        _log.warning(
            "%d candidates exceed the score threshold of %g; the best %d are looked at",
            len(rows),
            self.score_threshold,
            self.max_candidates,
        )
        best = np.sort(np.argsort(-score, kind="stable")[: self.max_candidates])
        return rows[best], class_ids[best], score[best], excess

    def _check_shapes(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        landmarks: NDArray[np.float32] | None,
    ) -> None:
        expected = (len(boxes), len(self.class_names))
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != expected:
            raise InputError(
                f"boxes must be (A, 4) and scores (A, {expected[1]}) for {expected[1]} classes, "
                f"got {boxes.shape} and {scores.shape}; the model and its card do not fit"
            )
        points = (len(boxes), len(self.landmark_names), 2)
        if landmarks is not None and landmarks.shape != points:
            raise InputError(
                f"landmarks must be {points} for {points[1]} points of {points[0]} boxes, "
                f"got {landmarks.shape}; the model and its card do not fit"
            )


def _points(points: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Landmarks in source pixels."""
    near = np.clip(points, -_FAR, _FAR).astype(np.float32, copy=False)
    return geometry.points_to_source(near).astype(np.float32, copy=False)


def resolve_classes(wanted: Sequence[str | int], class_names: tuple[str, ...]) -> NDArray[np.int64]:
    """The sorted numbers of classes given by name or number.

    Raises:
        InputError: A class is unknown, or none is given.
    """
    if isinstance(wanted, str) or not len(wanted):
        raise InputError(f"classes must be a list of one or more names or numbers, got {wanted!r}")
    numbers = set()
    for item in wanted:
        if isinstance(item, str) and item in class_names:
            numbers.add(class_names.index(item))
        elif (isinstance(item, str) and item.isdecimal() and int(item) < len(class_names)) or (
            isinstance(item, (int, np.integer)) and 0 <= item < len(class_names)
        ):
            numbers.add(int(item))
        else:
            raise InputError(_unknown_class(item, class_names))
    return np.array(sorted(numbers), np.int64)


def _unknown_class(item: object, class_names: tuple[str, ...]) -> str:
    import difflib

    close = difflib.get_close_matches(str(item), class_names, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else ""
    shown = ", ".join(class_names[:8]) + (", ..." if len(class_names) > 8 else "")
    return (
        f"unknown class {item!r}; expected a number below {len(class_names)} or one of {shown}"
        + (f"; {hint}" if hint else "")
    )


def _check_fraction(name: str, value: float) -> None:
    number = real(value)
    if number is None or not 0 <= number <= 1:
        raise InputError(f"{name} must be a number from 0 to 1, got {value!r}")
