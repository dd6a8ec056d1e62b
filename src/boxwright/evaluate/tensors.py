"""Differences of one tensor, gathered image by image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from boxwright.evaluate.parity_report import TensorParity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.evaluate.reference import SampledTensor


class TensorDifference:
    """Running comparison of a tensor with its reference; see :class:`TensorParity`."""

    def __init__(
        self, name: str, reference_name: str, kind: Literal["head", "output"], tolerance: float
    ) -> None:
        self.name = name
        self.reference_name = reference_name
        self.kind = kind
        self.tolerance = tolerance
        self._shape: tuple[int, ...] = ()
        self._reference_shape: tuple[int, ...] = ()
        self._compared = 0
        self._error = self._energy = 0.0
        self._max_abs = self._max_rel = 0.0
        self._where: tuple[int, ...] = ()
        self._values = (math.nan, math.nan)
        self._nonfinite = [0, 0]
        self._differ = 0
        self._note = ""

    def add(self, image: int, subject: SampledTensor, reference: SampledTensor) -> None:
        """Count one image (a batch of 1) in."""
        self._shape, self._reference_shape = subject.shape, reference.shape
        paired = _pair(subject, reference)
        if isinstance(paired, str):
            self._note = paired
            return
        a, b, at = paired
        self._compared += len(a)
        finite_a, finite_b = np.isfinite(a), np.isfinite(b)
        self._nonfinite[0] += int((~finite_a).sum())
        self._nonfinite[1] += int((~finite_b).sum())
        both = finite_a & finite_b
        equal = (a == b) | (np.isnan(a) & np.isnan(b))
        self._differ += int((~both & ~equal).sum())
        a, b, at = a[both], b[both], at[both]
        if not len(a):
            return
        difference = np.abs(a - b)
        self._error += float(np.dot(difference, difference))
        self._energy += float(np.dot(b, b))
        floor = max(math.sqrt(float(np.mean(b * b))) / 1000, float(np.finfo(np.float32).tiny))
        relative = difference / np.maximum(np.abs(b), floor)
        self._max_rel = max(self._max_rel, float(relative.max()))
        worst = int(difference.argmax())
        if difference[worst] > self._max_abs or not self._where:
            self._max_abs = float(difference[worst])
            place = np.unravel_index(int(at[worst]), reference.shape)
            self._where = (image, *(int(i) for i in place[1:]))
            self._values = (float(a[worst]), float(b[worst]))

    def result(self) -> TensorParity:
        """The comparison over all images counted in."""
        if self._energy > 0:
            nrmse = math.sqrt(self._error / self._energy)
        else:
            nrmse = math.inf if self._error > 0 else 0.0
        return TensorParity(
            name=self.name,
            reference_name=self.reference_name,
            kind=self.kind,
            shape=self._shape,
            reference_shape=self._reference_shape,
            compared=self._compared,
            nrmse=math.nan if self._note else nrmse,
            max_abs=self._max_abs,
            max_rel=self._max_rel,
            where=self._where,
            value=self._values[0],
            reference_value=self._values[1],
            nonfinite=(self._nonfinite[0], self._nonfinite[1]),
            nonfinite_differ=self._differ,
            tolerance=self.tolerance,
            note=self._note,
        )


def nrmse(values: NDArray[Any], reference: NDArray[Any]) -> float:
    """``||values - reference|| / ||reference||`` in float64.

    Returns:
        NaN where any value is; infinite where only the reference is all zero.
    """
    a, b = values.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    error, energy = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    if energy == 0:
        return math.inf if error > 0 else error
    return error / energy


def _pair(
    subject: SampledTensor, reference: SampledTensor
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]] | str:
    """Values at the same places, with the places, or why there are none."""
    if subject.shape != reference.shape:
        return f"shape {list(subject.shape)}, reference {list(reference.shape)}"
    if subject.at is not None:
        return "the subject's tensor is a sample; only a reference may be"
    a = subject.values.reshape(-1)
    b = reference.values.reshape(-1)
    if reference.at is None:
        at = np.arange(len(b), dtype=np.int64)
    else:
        at = reference.at
        a = a[at]
    if not len(a):
        return "no value to compare"
    return a.astype(np.float64), b.astype(np.float64), at
