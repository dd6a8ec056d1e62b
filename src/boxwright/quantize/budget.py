"""The accuracy budget: the fewest layers in float with which a model loses no more than stated.

1. Every layer that may be in INT8 is, with each way to choose ranges; the best is gone on
   with. One calibration serves them all.
2. Biases are corrected, where asked for or where the budget is missed; kept if it helps.
3. Where the budget is still missed, layers are put in order by what they do to the heads
   alone (:mod:`.sensitivity`), and the shortest beginning of that order which meets the
   budget in float is found by bisection.
4. Of these, layers are given back to INT8 wherever the budget holds without them, many at a
   time, then fewer; at last single layers of groups too.

Bisection takes it that more float layers lose less. AP on few images is not quite like that,
so the set found is one from which no single group can be given back, not proven the
smallest. Everything measured is in the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from boxwright.errors import BuildError, EngineError, InputError
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.canonical import canonical_key
from boxwright.quantize.latency import ROUNDING
from boxwright.quantize.measurements import Measurements
from boxwright.quantize.objective import HeadReference
from boxwright.quantize.sensitivity import LayerGroup, measure_sensitivity, worst_first
from boxwright.quantize.variants import Variant, Workshop

if TYPE_CHECKING:
    from boxwright.backends.base import Runner
    from boxwright.model import Model
    from boxwright.quantize.objective import Objective
    from boxwright.quantize.quantizer import Quantized

DEFAULT_EVALUATIONS = 32
"""Most evaluations of a search, the float model's included."""

ALL_METHODS = (
    Variant("minmax"),
    Variant("percentile", 99.99),
    Variant("entropy"),
    Variant("mse"),
)


@dataclass(frozen=True)
class Candidate:
    """A variant that was measured.

    Attributes:
        step: ``ranges``, ``bias correction``, ``layers`` or ``give back``.
        variant: What it was.
        int8_layers: How many layers compute in INT8.
        value: Points of the objective; minus infinity where it does not run.
        drop: Points that the float model has more; infinite where it does not run.
        ok: Whether the budget holds; ``None`` where none is stated and it runs.
        seconds: What measuring it took; 0 where it had been measured before.
        failed: Why the runtime does not run it; ``None`` where it does.
    """

    step: str
    variant: Variant
    int8_layers: int
    value: float
    drop: float
    ok: bool | None
    seconds: float
    failed: str | None = None

    def to_dict(self, *, times: bool = True) -> dict[str, Any]:
        """JSON values; without `times`, the same for the same work."""
        return {
            "step": self.step,
            **self.variant.to_dict(),
            "int8_layers": self.int8_layers,
            "value": round(self.value, 4) if self.failed is None else None,
            "drop": round(self.drop, 4) if self.failed is None else None,
            "ok": self.ok,
            **({} if self.failed is None else {"failed": self.failed}),
            **({"seconds": round(self.seconds, 2)} if times else {}),
        }


@dataclass(frozen=True)
class Place:
    """A runtime that candidates are measured on.

    Attributes:
        name: For people.
        key: Tells it from others that round otherwise.
        load: Makes a quantised model ready to run.
    """

    name: str
    key: str
    load: Callable[[Model], Runner]


@dataclass(frozen=True)
class BudgetResult:
    """The end of a search.

    Attributes:
        objective: What was measured, for people.
        float_value: Points of the float model.
        max_drop: The budget; ``None`` where none was stated.
        chosen: The candidate to use; ``None`` where none meets the budget, or none runs.
        quantized: Its model.
        candidates: Everything that was measured, in order.
        sensitivity: The groups of layers in the graph's order; empty where it was not
            needed.
        reason: How it ended, in a sentence.
    """

    objective: str
    float_value: float
    max_drop: float | None
    chosen: Candidate | None
    quantized: Quantized | None
    candidates: tuple[Candidate, ...]
    sensitivity: tuple[LayerGroup, ...]
    reason: str

    @property
    def met(self) -> bool:
        """Whether a candidate meets the budget; where none was stated, whether one runs."""
        return self.chosen is not None

    def to_dict(self, *, times: bool = True) -> dict[str, Any]:
        """JSON values; without `times`, the same for the same work."""
        return {
            "objective": self.objective,
            "float_value": round(self.float_value, 4),
            "max_drop": self.max_drop,
            "met": self.met,
            "reason": self.reason,
            "chosen": None if self.chosen is None else self.chosen.to_dict(times=times),
            "candidates": [candidate.to_dict(times=times) for candidate in self.candidates],
            "sensitivity": [group.to_dict() for group in self.sensitivity],
        }


def search(
    workshop: Workshop,
    objective: Objective,
    max_drop: float | None,
    *,
    variants: Sequence[Variant] = ALL_METHODS,
    bias: bool | None = None,
    heads: Callable[[], HeadReference] | None = None,
    heads_key: str = "",
    measurements: Measurements | None = None,
    place: Place | None = None,
    most: int = DEFAULT_EVALUATIONS,
    progress: ProgressCallback = silent,
) -> BudgetResult:
    """Find the variant with the fewest float layers that meets a budget.

    The same arguments give the same result; what `measurements` holds is not done again. A
    candidate that `place` refuses to build or to run counts as one that misses the budget.

    Args:
        workshop: Makes variants of the model.
        objective: Measures them.
        max_drop: Most points that may be lost; ``None`` takes the variant that loses least.
        variants: The ways to choose ranges, tried in order.
        bias: Try correcting biases: always, never, or (``None``) where the budget is missed
            without.
        heads: Gives the float model's heads on a few images, for the order of layers;
            without it, layers are not searched.
        heads_key: Tells these images from others.
        measurements: What was measured before, and where to keep more.
        place: What runs the candidates; by default they are computed as their graphs say.
        most: Evaluations at most; the search ends with the best it has.
        progress: Told of evaluations done, of at most how many.

    Raises:
        InputError: `variants` is empty, a number is out of its range, or the model has no
            layer that may be quantised.
    """
    if not variants or most < len(variants) + 1:
        raise InputError(
            f"a search needs one variant at least and {len(variants) + 1} evaluations, got {most}"
        )
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise InputError(f"max_drop must be 0 to 100 points, got {max_drop}")
    if not workshop.layers:
        raise InputError(
            "the model has no layer that may be quantised under these rules; "
            "`boxwright quantize --list` says why, layer by layer"
        )
    kept = measurements or Measurements()
    work = _Search(workshop, objective, max_drop, kept, place, most, progress)
    work.choose_ranges(variants, bias)
    groups: tuple[LayerGroup, ...] = ()
    if max_drop is not None and not work.best.ok and heads is not None:
        groups = measure_sensitivity(
            workshop,
            work.best.variant,
            heads(),
            kept,
            reference_key=heads_key,
            progress=progress,
        )
        work.choose_layers(worst_first(groups))
    return work.result(groups)


class _RefusedError(Exception):
    """A runtime does not build a candidate, or does not run it."""


class _Search:
    """One search: what was measured so far, and the best of it."""

    def __init__(
        self,
        workshop: Workshop,
        objective: Objective,
        max_drop: float | None,
        measurements: Measurements,
        place: Place | None,
        most: int,
        progress: ProgressCallback,
    ) -> None:
        self._workshop, self._objective, self._max_drop = workshop, objective, max_drop
        self._measurements, self._most, self._progress = measurements, most, progress
        self._objective_key, self._place = objective.key, place
        self._done = 0
        self._expected = most
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
        self.candidates: list[Candidate] = []
        self.exhausted = False

    @property
    def best(self) -> Candidate:
        """The one with the most layers in INT8 that meets the budget; else the least drop."""
        met = [item for item in self.candidates if item.ok]
        if met:
            return min(met, key=lambda item: (-item.int8_layers, item.drop))
        whole = [item for item in self.candidates if not item.variant.keep]
        return min(whole, key=lambda item: item.drop)

    def choose_ranges(self, variants: Sequence[Variant], bias: bool | None) -> None:
        """All layers in INT8: which ranges, and whether biases are corrected."""
        # Until layers have to be searched, this is all there is to do.
        self._expected = 1 + len(variants) + bool(bias)
        for variant in variants:
            self.evaluate("ranges", variant)
        missed = self.best.ok is False and self.best.failed is None
        wanted = missed if bias is None else bias
        if wanted and self._workshop.can_correct and self._room():
            self.evaluate("bias correction", replace(self.best.variant, bias=True))

    def choose_layers(self, order: Sequence[LayerGroup]) -> None:
        """Keep the worst groups in float, as few as it takes."""
        base = self.best.variant
        bisection = math.ceil(math.log2(max(len(order), 2)))
        self._expected = min(self._most, self._done + bisection + len(order))
        missing, enough = 0, len(order)
        while enough - missing > 1 and self._room():
            middle = (missing + enough) // 2
            found = self.evaluate("layers", replace(base, keep=_names(order[:middle])))
            missing, enough = (missing, middle) if found.ok else (middle, enough)
        # Where the layer that costs most is the last in the order, no beginning is enough but
        # all of it, and giving back starts from there.
        held = self._give_back(base, list(order[:enough]))
        single = [LayerGroup((name,), group.sqnr) for group in held for name in group.layers]
        if len(single) > len(held):
            self._give_back(base, single)

    def _give_back(self, base: Variant, held: list[LayerGroup]) -> list[LayerGroup]:
        """Without those groups that need not be in float, the least sensitive first.

        Half of them at a time, then a quarter, and so on to single ones, as delta debugging
        goes about it (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing
        Input", 2002).
        """
        size = len(held) // 2
        while size:
            end = len(held)
            while end > 0 and len(held) > 1:
                start = max(end - size, 0)
                rest = held[:start] + held[end:]
                end = start
                # Nothing at all in float is known to miss the budget.
                if not rest:
                    continue
                if not self._room():
                    return held
                if self.evaluate("give back", replace(base, keep=_names(rest))).ok:
                    held = rest
            size //= 2
        return held

    def evaluate(self, step: str, variant: Variant) -> Candidate:
        """Measure a variant, unless it was."""
        known = next((item for item in self.candidates if item.variant == variant), None)
        if known is not None:
            return known
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
        self._told(self._done + 1)
        return found

    def _measure(self, variant: Variant) -> float:
        model = self._workshop.make(variant, self._progress).model
        if self._place is None:
            return self._objective.measure(model, None, self._inside)
        try:
            return self._objective.measure(model, self._place.load(model), self._inside)
        except (BuildError, EngineError) as error:
            raise _RefusedError(str(error)) from error

    def _room(self) -> bool:
        self.exhausted = self._done >= self._most
        return not self.exhausted

    def _inside(self, stage: str, done: int, total: int | None) -> None:
        """Progress of one evaluation, as a part of that of all."""
        self._told(self._done, done if total else 0)

    def _told(self, done: int, images: int = 0) -> None:
        self._done = done
        each = max(len(self._objective.images), 1)
        self._progress(
            "measure candidates, images",
            done * each + min(images, each),
            max(self._expected, done + bool(images)) * each,
        )

    def result(self, groups: tuple[LayerGroup, ...]) -> BudgetResult:
        """What came out."""
        best = self.best
        chosen = None if best.ok is False else best
        name = self._objective.name
        return BudgetResult(
            name if self._place is None else f"{name}, run by {self._place.name}",
            self.float_value,
            self._max_drop,
            chosen,
            None if chosen is None else self._workshop.make(chosen.variant, self._progress),
            tuple(self.candidates),
            groups,
            self._reason(best, searched=bool(groups)),
        )

    def _reason(self, best: Candidate, *, searched: bool) -> str:
        layers = len(self._workshop.layers)
        ended = f"; the search ended after {self._done} evaluations" if self.exhausted else ""
        if best.failed is not None and self._place is not None:
            return f"{self._place.name} runs no candidate{ended}: {best.failed}"
        lost = f"{best.drop:.2f} points lost"
        if best.ok is None:
            return f"{lost} with {best.variant.ranges} ranges; no budget was stated"
        if best.ok and not best.variant.keep:
            return f"all {layers} layers are in INT8: {lost}, {self._max_drop:g} allowed"
        if best.ok:
            return (
                f"{len(best.variant.keep)} of {layers} layers stay in float: {lost}, "
                f"{self._max_drop:g} allowed{ended}"
            )
        tried = "no mixture of INT8 and float layers" if searched else "INT8"
        return (
            f"{tried} that was tried keeps within {self._max_drop:g} points; all in INT8, the "
            f"best loses {best.drop:.2f}{ended}. Calibrate on more images, or allow more"
        )


def _names(groups: Sequence[LayerGroup]) -> frozenset[str]:
    return frozenset(name for group in groups for name in group.layers)
