"""What a parity check compares with: tensors and boxes somebody else computed.

A :class:`Reference` is plain data. It may be complete (every tensor in full) or sampled
(some values of each tensor, at known places), so that a reference for a large network
still fits a small file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class SampledTensor:
    """A tensor, or a sample of one.

    Attributes:
        shape: The whole tensor's shape, batch first.
        values: ``(k,)`` values at the places `at`, or the whole tensor, shaped `shape`.
        at: int64 ``(k,)`` flat (C order) indices into the whole tensor; ``None`` when
            `values` is the whole tensor.
    """

    shape: tuple[int, ...]
    values: NDArray[Any]
    at: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        size = int(np.prod(self.shape, dtype=np.int64))
        if self.at is None:
            if self.values.shape != self.shape:
                raise InputError(
                    f"a full tensor must hold {self.shape} values, got {self.values.shape}"
                )
            return
        if self.at.ndim != 1 or self.values.shape != self.at.shape:
            raise InputError(
                f"a sampled tensor needs one place per value, got {self.at.shape} places "
                f"and {self.values.shape} values"
            )
        if len(self.at) and not (self.at.min() >= 0 and self.at.max() < size):
            raise InputError(f"places must lie in a tensor of {size} values, got {self.at.max()}")

    @classmethod
    def full(cls, values: NDArray[Any]) -> SampledTensor:
        """The whole tensor."""
        return cls(values.shape, values)

    def of_image(self, index: int) -> SampledTensor:
        """Row `index` of the batch, with a batch of 1."""
        rest = self.shape[1:]
        if self.at is None:
            return SampledTensor((1, *rest), self.values[index : index + 1])
        size = int(np.prod(rest, dtype=np.int64))
        inside = (self.at >= index * size) & (self.at < (index + 1) * size)
        return SampledTensor((1, *rest), self.values[inside], self.at[inside] - index * size)


@dataclass(frozen=True)
class Candidates:
    """Boxes of one image, each with one class and one score.

    Used before suppression (candidates) and after it (detections).

    Attributes:
        xyxy: float64 ``(n, 4)``: left, top, right, bottom in network input pixels.
        score: float64 ``(n,)``.
        class_id: int64 ``(n,)``.
        row: int64 ``(n,)``, the row of `boxes` each came from; ``None`` where unknown.
        truncated: The list was cut at some length, so a box that is absent from it
            proves nothing.
    """

    xyxy: NDArray[np.float64]
    score: NDArray[np.float64]
    class_id: NDArray[np.int64]
    row: NDArray[np.int64] | None = None
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: NDArray[Any]) -> Candidates:
        return Candidates(
            self.xyxy[index],
            self.score[index],
            self.class_id[index],
            None if self.row is None else self.row[index],
            self.truncated,
        )

    @classmethod
    def above(cls, boxes: NDArray[Any], scores: NDArray[Any], threshold: float) -> Candidates:
        """Every (row, class) whose score exceeds `threshold`, in row order.

        Args:
            boxes: ``(A, 4)``, `xyxy` in input pixels.
            scores: ``(A, C)``.
            threshold: Strict: a score equal to it is out, as in Darknet.
        """
        # NaN compares false: it is counted with the tensors, and is no candidate.
        row, class_id = np.nonzero(scores > threshold)
        return cls(
            boxes[row].astype(np.float64),
            scores[row, class_id].astype(np.float64),
            class_id.astype(np.int64),
            row.astype(np.int64),
        )


@dataclass(frozen=True)
class Reference:
    """What somebody else computed from given pixels.

    Attributes:
        name: Where it came from, for reports.
        input_size: ``(height, width)`` of the network input.
        images: uint8 ``(N, H, W, 3)`` RGB, or ``None`` where the pixels are kept elsewhere.
        tensors: By name. Names are the graph's own in a native dump.
        heads: Names in `tensors` of the raw head tensors, in the order of the heads.
        candidates: Score threshold to one list per image, before suppression.
        detections: Score threshold to one list per image, after suppression.
    """

    name: str
    input_size: tuple[int, int]
    images: NDArray[np.uint8] | None = None
    tensors: Mapping[str, SampledTensor] = field(default_factory=dict)
    heads: tuple[str, ...] = ()
    candidates: Mapping[float, tuple[Candidates, ...]] = field(default_factory=dict)
    detections: Mapping[float, tuple[Candidates, ...]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of images it answers for."""
        if self.images is not None:
            return len(self.images)
        return max((tensor.shape[0] for tensor in self.tensors.values()), default=1)
