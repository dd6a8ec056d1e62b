"""What was found in one image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_SCORE = 1 + 1e-5
"""A score of 1, with room for a runtime's rounding: onnxruntime's sigmoid gives 1.0000001."""


@dataclass(frozen=True, eq=False)  # comparing arrays has no one answer
class Detections:
    """The detections of one image, best first, checked when made.

    Attributes:
        xyxy: float32 ``(n, 4)``: left, top, right, bottom in pixels of the source image,
            left not beyond right, nor top beyond bottom.
        score: float32 ``(n,)``, 0 to 1.
        class_id: int64 ``(n,)``, an index into `class_names`.
        class_names: Names of all classes the detector knows.
        track_id: int64 ``(n,)`` when a tracker ran, else ``None``.
        attributes: One array of length `n` per attribute, such as ``age``.
        landmarks: float32 ``(n, L, 2)``: x and y of each point in pixels of the source image,
            in the order that the detector's card names them; ``None`` where it has none. A
            point may lie outside its box, and outside the image.

    Index with a boolean mask, a slice or an integer array to select rows.

    Raises:
        ValueError: A shape, a length or a value range is wrong.
    """

    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    class_id: NDArray[np.int64]
    class_names: tuple[str, ...] = ()
    track_id: NDArray[np.int64] | None = None
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    landmarks: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        as_array = object.__setattr__
        as_array(self, "xyxy", np.asarray(self.xyxy, np.float32))
        as_array(self, "score", np.asarray(self.score, np.float32))
        as_array(self, "class_id", _whole("class_id", self.class_id))
        if self.track_id is not None:
            as_array(self, "track_id", _whole("track_id", self.track_id))
        as_array(self, "attributes", {k: np.asarray(v) for k, v in self.attributes.items()})
        if self.landmarks is not None:
            as_array(self, "landmarks", np.asarray(self.landmarks, np.float32))
        self._validate()

    def _validate(self) -> None:
        if self.xyxy.ndim != 2 or self.xyxy.shape[1] != 4:
            raise ValueError(f"xyxy must have shape (n, 4), got {self.xyxy.shape}")
        count = len(self.xyxy)
        columns: dict[str, NDArray[Any]] = {"score": self.score, "class_id": self.class_id}
        if self.track_id is not None:
            columns["track_id"] = self.track_id
        for name, column in columns.items():
            if column.shape != (count,):
                raise ValueError(f"{name} must have shape ({count},), got {column.shape}")
        for name, column in self.attributes.items():
            if column.shape[:1] != (count,):
                rows = len(column) if column.ndim else "a single value"
                raise ValueError(f"attribute {name!r} must have {count} rows, got {rows}")
        if self.landmarks is not None:
            _check_landmarks(self.landmarks, count)
        if not np.isfinite(self.xyxy).all() or not np.isfinite(self.score).all():
            raise ValueError("xyxy and score must be finite numbers")
        if count and not 0 <= self.score.min() <= self.score.max() <= MAX_SCORE:
            raise ValueError(f"score must be 0 to 1, got {self.score.min()} to {self.score.max()}")
        inverted = (self.xyxy[:, 2:] < self.xyxy[:, :2]).any(axis=1)
        if inverted.any():
            raise ValueError(
                "xyxy must be left, top, right, bottom; left is beyond right, or top beyond "
                f"bottom, in {self.xyxy[inverted][0].tolist()}"
            )
        if count and self.class_id.min() < 0:
            raise ValueError(f"class_id must not be negative, got {self.class_id.min()}")
        if count and self.class_names and self.class_id.max() >= len(self.class_names):
            raise ValueError(
                f"class_id must be below {len(self.class_names)}, the number of class names, "
                f"got {self.class_id.max()}"
            )

    @classmethod
    def empty(cls, class_names: tuple[str, ...] = ()) -> Detections:
        """No detections."""
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
            class_names,
        )

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, index: NDArray[Any] | slice | int | np.integer[Any]) -> Detections:
        rows: Any = index
        if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
            if not -len(self) <= index < len(self):
                raise IndexError(f"index {index} is outside {len(self)} detections")
            rows = slice(int(index), int(index) + 1 or None)
        return Detections(
            self.xyxy[rows],
            self.score[rows],
            self.class_id[rows],
            self.class_names,
            None if self.track_id is None else self.track_id[rows],
            {name: column[rows] for name, column in self.attributes.items()},
            None if self.landmarks is None else self.landmarks[rows],
        )

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))

    def names(self) -> list[str]:
        """The class name of each detection; its number where the class has no name."""
        return [
            self.class_names[i] if i < len(self.class_names) else str(i)
            for i in self.class_id.tolist()
        ]

    def attribute_texts(self) -> list[tuple[str, ...]]:
        """For people, what attributes say of each detection: ``("male", "58")``.

        Scores of attributes and those of several values are left out.
        """
        shown = [
            [f"{v:.3g}" if isinstance(v, (int, float)) else str(v) for v in column.tolist()]
            for name, column in self.attributes.items()
            if column.ndim == 1 and not name.endswith("_score")
        ]
        return [tuple(column[i] for column in shown) for i in range(len(self))]

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON-ready dict per detection."""
        records: list[dict[str, Any]] = []
        for i, name in enumerate(self.names()):
            record: dict[str, Any] = {
                "class_id": int(self.class_id[i]),
                "class_name": name,
                "score": float(self.score[i]),
                "xyxy": [float(x) for x in self.xyxy[i]],
            }
            if self.track_id is not None:
                record["track_id"] = int(self.track_id[i])
            if self.landmarks is not None:
                record["landmarks"] = [[float(x), float(y)] for x, y in self.landmarks[i]]
            for key, column in self.attributes.items():
                record[key] = column[i].tolist()
            records.append(record)
        return records

    def __str__(self) -> str:
        if not len(self):
            return "no detections"
        width = max(len(name) for name in self.names())
        texts = self.attribute_texts()
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        padded = [
            [f"{text:<{size}}" for text, size in zip(row, widths, strict=True)] for row in texts
        ]
        rows = zip(self.names(), self.score, self.xyxy, padded, strict=True)
        return "\n".join(
            f"{name:<{width}}  {score:.3f}  "
            + " ".join(f"{value:7.1f}" for value in corners.tolist())
            + "".join(f"  {text}" for text in more)
            for name, score, corners, more in rows
        )


def _check_landmarks(landmarks: NDArray[np.float32], count: int) -> None:
    if landmarks.ndim != 3 or landmarks.shape[0] != count or landmarks.shape[2] != 2:
        raise ValueError(f"landmarks must have shape ({count}, L, 2), got {landmarks.shape}")
    if not np.isfinite(landmarks).all():
        raise ValueError("landmarks must be finite numbers")


def _whole(name: str, values: object) -> NDArray[np.int64]:
    """Whole numbers as int64; floats pass where nothing is lost."""
    given = np.asarray(values)
    if given.dtype.kind == "f" and not (np.isfinite(given) & (given == np.floor(given))).all():
        raise ValueError(f"{name} must be whole numbers, got {given.tolist()[:8]}")
    return given.astype(np.int64)
