"""Candidates of a search, measured one by one: nothing twice, and with progress that is true."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from boxwright.errors import BuildError, EngineError
from boxwright.progress import ProgressCallback
from boxwright.quantize.candidates import Candidate, Place
from boxwright.quantize.canonical import canonical_key
from boxwright.quantize.latency import ROUNDING

if TYPE_CHECKING:
    from boxwright.quantize.measurements import Measurements
    from boxwright.quantize.objective import Objective
    from boxwright.quantize.variants import Variant, Workshop


class _RefusedError(Exception):
    """A runtime does not build a candidate, or does not run it."""


class Measured:
    """Measures variants against the float model.

    Args:
        workshop: Makes them.
        objective: Measures them.
        max_drop: Most points that may be lost.
        measurements: What was measured before, and where to keep more.
        place: What runs them; by default they are computed as their graphs say.
        most: How many evaluations there may be, the float model's included.
        expected: How many it takes if the first ones are good enough.
        progress: Told of the images done, of as many as there will be at most.

    Attributes:
        candidates: What was measured, in order.
        float_value: Points of the float model.
        done: How many evaluations there were.
        exhausted: Whether one more was wanted than there may be.
    """

    def __init__(
        self,
        workshop: Workshop,
        objective: Objective,
        max_drop: float | None,
        measurements: Measurements,
        place: Place | None,
        most: int,
        expected: int,
        progress: ProgressCallback,
    ) -> None:
        self._workshop, self._objective, self._max_drop = workshop, objective, max_drop
        self._measurements, self._most, self._progress = measurements, most, progress
        self._objective_key, self._place = objective.key, place
        self._expected = expected
        self.candidates: list[Candidate] = []
        self.exhausted = False
        self.done = 0
        self._told(0)
        key = {
            "model": workshop.calibration.model_sha256,
            "measured": "objective",
            "objective": self._objective_key,
            "variant": "float",
            "versions": canonical_key(),
        }
        self.float_value = measurements.value(
            key, lambda: objective.measure(workshop.model, progress=self._inside)
        )
        self._told(1)

    def expect(self, more: int) -> None:
        """How many evaluations there will be from now on, at most."""
        self._expected = min(self._most, self.done + more)

    def room(self) -> bool:
        """Whether one more evaluation is allowed."""
        self.exhausted = self.done >= self._most
        return not self.exhausted

    def known(self, variant: Variant) -> Candidate | None:
        """A variant's measurement, if it was measured."""
        return next((item for item in self.candidates if item.variant == variant), None)

    def evaluate(self, step: str, variant: Variant) -> Candidate:
        """Measure a variant, unless it was."""
        found = self.known(variant)
        if found is not None:
            return found
        key = {
            **self._workshop.key(variant),
            "measured": "objective",
            "objective": self._objective_key,
            "versions": canonical_key(),
            **({} if self._place is None else {"place": self._place.key}),
        }
        started = time.perf_counter()
        before = self._measurements.reused
        failed = None
        try:
            value = self._measurements.value(key, lambda: self._measure(variant))
        except _RefusedError as error:
            # Not kept: another time there may be memory enough.
            failed, value = str(error), -math.inf
        reused = self._measurements.reused > before
        drop = self.float_value - value
        ok = None if self._max_drop is None else drop <= self._max_drop + ROUNDING
        found = Candidate(
            step,
            variant,
            len(self._workshop.layers) - len(variant.keep),
            value,
            drop,
            ok if failed is None else False,
            0.0 if reused else time.perf_counter() - started,
            failed,
        )
        self.candidates.append(found)
        self._told(self.done + 1)
        return found

    def _measure(self, variant: Variant) -> float:
        model = self._workshop.make(variant, self._progress).model
        if self._place is None:
            return self._objective.measure(model, None, self._inside)
        try:
            return self._objective.measure(model, self._place.load(model), self._inside)
        except (BuildError, EngineError) as error:
            raise _RefusedError(str(error)) from error

    def _inside(self, stage: str, done: int, total: int | None) -> None:
        """Progress of one evaluation, as a part of that of all."""
        self._told(self.done, done if total else 0)

    def _told(self, done: int, images: int = 0) -> None:
        self.done = done
        each = max(len(self._objective.images), 1)
        self._progress(
            "measure candidates (images, at most)",
            done * each + min(images, each),
            max(self._expected, done + bool(images)) * each,
        )
