"""The accuracy budget: the fewest layers in float with which a model loses no more than stated.

1. Every layer but the heads' last convolutions is in INT8, with each way to choose ranges; the
   best is gone on with. One calibration serves them all. Where depthwise convolutions were
   seen to be faster in float (:mod:`.speed`), they are in float from here on.
2. Biases are corrected, where asked for or where the budget is missed; kept if it helps. Then
   the best is fine-tuned, where that is asked for; what follows goes on without that, for it
   would be a training for every set of layers.
3. Where the budget is still missed, all depthwise convolutions are put in float, unless that
   was seen to be slower than float: as a rule it is they that lose most.
4. Where that is not enough, the other layers are put in order by what they do to the heads
   alone (:mod:`.sensitivity`), and the shortest beginning of that order which meets the
   budget in float is found by bisection.
5. Layers are given back to INT8 wherever the budget holds without them, many at a time, then
   fewer; at last single layers of groups too. Depthwise ones are left where speed says that
   nothing is gained.
6. The heads' convolutions are put in INT8: all of them, with biases corrected where that
   misses the budget, else each of them that the budget allows.

Bisection takes it that more float layers lose less. AP on few images is not quite like that,
so the set found is one from which no single group can be given back, not proven the
smallest. Everything measured is in the result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from boxwright.errors import InputError
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.candidates import ALL_METHODS, BudgetResult, Candidate, Leaning, Place
from boxwright.quantize.layers import HEAD, refuse_none
from boxwright.quantize.measurements import Measurements
from boxwright.quantize.measuring import Measured
from boxwright.quantize.objective import HeadReference
from boxwright.quantize.sensitivity import (
    MOST_GROUPS,
    LayerGroup,
    groups_of,
    measure_sensitivity,
    worst_first,
)
from boxwright.quantize.variants import BUDGET, Variant, Workshop

if TYPE_CHECKING:
    from boxwright.quantize.objective import Objective

__all__ = [
    "ALL_METHODS",
    "DEFAULT_EVALUATIONS",
    "DEPTHWISE_NOT_FASTER",
    "HEAD_NOT_FASTER",
    "BudgetResult",
    "Candidate",
    "Leaning",
    "Place",
    "search",
]

DEFAULT_EVALUATIONS = 32
"""Most evaluations of a search, the float model's included."""

HEAD_NOT_FASTER = "gives a head's output, and INT8 is no faster there"
DEPTHWISE_NOT_FASTER = "depthwise, and INT8 is no faster there"

# One by one, heads of more convolutions than this are tried several at a time.
_MOST_HEADS = 8


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
    leaning: Leaning | None = None,
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
        leaning: What speed says of kinds of layers; by default it was not measured.
        most: Evaluations at most; the search ends with the best it has.
        progress: Told of evaluations done, of at most how many.

    Raises:
        InputError: `variants` is empty, a number is out of its range, or the model has no
            layer that may be quantised.
    """
    _check(workshop, max_drop, variants, most)
    kept = measurements or Measurements()
    expected = 1 + len(variants) + bool(bias)
    measured = Measured(workshop, objective, max_drop, kept, place, most, expected, progress)

    rank = (
        None
        if heads is None
        else _ranker(workshop, functools.cache(heads), kept, heads_key, progress)
    )
    work = _Search(workshop, measured, leaning or Leaning(), rank)
    work.choose_ranges(variants, bias)
    if max_drop is not None:
        if work.best.ok is False:
            work.choose_layers(variants)
        work.extend_to_heads(bias)
    chosen = None if work.best.ok is False else work.best
    why = work.reasons()
    return BudgetResult(
        objective.name if place is None else f"{objective.name}, run by {place.name}",
        measured.float_value,
        max_drop,
        chosen,
        None if chosen is None else workshop.make(chosen.variant, progress, why),
        tuple(measured.candidates),
        tuple(work.groups),
        work.reason(max_drop, place),
        why,
    )


def _check(
    workshop: Workshop, max_drop: float | None, variants: Sequence[Variant], most: int
) -> None:
    if not variants or most < len(variants) + 1:
        raise InputError(
            f"a search needs one variant at least and {len(variants) + 1} evaluations, got {most}"
        )
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise InputError(f"max_drop must be 0 to 100 points, got {max_drop}")
    refuse_none(set(workshop.layers) - set(workshop.heads))


_Rank = Callable[[Variant, Sequence[str], int], tuple[LayerGroup, ...]]


def _ranker(
    workshop: Workshop,
    reference: Callable[[], HeadReference],
    kept: Measurements,
    key: str,
    progress: ProgressCallback,
) -> _Rank:
    """Tells how much layers hurt alone, in so many groups at most."""

    def rank(variant: Variant, layers: Sequence[str], most: int) -> tuple[LayerGroup, ...]:
        return measure_sensitivity(
            *(workshop, variant, reference(), kept),
            layers=layers,
            most=most,
            reference_key=key,
            progress=progress,
        )

    return rank


class _Search:
    """One search: its steps, and the best that they found."""

    def __init__(
        self, workshop: Workshop, measured: Measured, leaning: Leaning, rank: _Rank | None
    ) -> None:
        self._workshop, self._measured, self._leaning = workshop, measured, leaning
        self._rank = rank
        self._heads = frozenset(workshop.heads)
        self._depthwise = frozenset(workshop.depthwise)
        if leaning.depthwise == "float":
            self._base = self._heads | self._depthwise
        else:
            self._base = self._heads
        # Heads without which the budget was seen to be missed.
        self._needed: set[str] = set()
        self.groups: list[LayerGroup] = []

    @property
    def best(self) -> Candidate:
        """The one with the most layers in INT8 that meets the budget; else the least drop."""
        return self._best_of(self._measured.candidates)

    @property
    def _untuned(self) -> Candidate:
        """The best of those that were not fine-tuned."""
        return self._best_of([c for c in self._measured.candidates if not c.variant.tuned])

    def _best_of(self, candidates: Sequence[Candidate]) -> Candidate:
        met = [item for item in candidates if item.ok]
        if met:
            return min(met, key=lambda item: (-item.int8_layers, item.drop))
        whole = [item for item in candidates if item.variant.keep == self._base]
        return min(whole, key=lambda item: item.drop)

    def choose_ranges(self, variants: Sequence[Variant], bias: bool | None) -> None:
        """All layers in INT8 but for the heads': which ranges, and whether biases are corrected."""
        # Until layers have to be searched, this is all there is to do.
        self._measured.expect(
            len(variants) + bool(bias) + self._workshop.can_tune + self._trials_of_heads()
        )
        for variant in variants:
            self._evaluate("ranges", replace(variant, keep=self._base))
        missed = self.best.ok is False and self.best.failed is None
        wanted = missed if bias is None else bias
        if wanted and self._workshop.can_correct and self._measured.room():
            self._evaluate("bias correction", replace(self.best.variant, bias=True))
        if self._workshop.can_tune and self.best.failed is None and self._measured.room():
            self._evaluate("fine-tuning", replace(self.best.variant, tuned=True))

    def choose_layers(self, variants: Sequence[Variant]) -> None:
        """As few layers in float as it takes."""
        whole = self._untuned
        found = self._with_depthwise_in_float(variants)
        enough = found is not None and bool(found.ok)
        if self._rank is None or (enough and not self._may_give_back):
            return
        body = [name for name in self._workshop.layers if name not in whole.variant.keep]
        if found is None or found.drop >= whole.drop:
            order = self._ranked(whole.variant, body, MOST_GROUPS)
            self._minimise(whole.variant, self._bisect(whole.variant, order))
            return
        best, held, given = found.variant, [], []
        most = MOST_GROUPS if enough else MOST_GROUPS // 2
        if self._may_give_back:
            apart = [name for name in body if name in self._depthwise]
            given = self._ranked(best, apart, most)
        if not enough:
            others = [name for name in body if name not in self._depthwise]
            held = self._bisect(best, self._ranked(best, others, most))
        always = self._base if self._may_give_back else self._base | self._depthwise
        self._minimise(replace(best, keep=always), worst_first([*held, *given]))

    def _with_depthwise_in_float(self, variants: Sequence[Variant]) -> Candidate | None:
        """The best with depthwise convolutions in float, the first that is within the budget."""
        base = self._base | self._depthwise
        body = frozenset(self._workshop.layers) - self._heads
        if base == self._base or not body - base or not self._leaning.float_depthwise_pays:
            return None
        best = self._untuned.variant
        ways = dict.fromkeys([best, *(replace(v, keep=self._base) for v in variants)])
        self._measured.expect(len(ways) + self._trials_of_heads())
        found: list[Candidate] = []
        for variant in ways:
            if not self._measured.room():
                break
            found.append(self._evaluate("depthwise", replace(variant, keep=base)))
            if found[-1].ok:
                break
        return min(found, key=lambda item: item.drop, default=None)

    @property
    def _may_give_back(self) -> bool:
        """Whether depthwise convolutions in INT8 are worth having, as far as is known."""
        return self._leaning.depthwise in (None, "int8")

    def _ranked(self, variant: Variant, layers: Sequence[str], most: int) -> list[LayerGroup]:
        if self._rank is None or not layers:
            return []
        found = self._rank(variant, layers, most)
        order = {name: number for number, name in enumerate(self._workshop.layers)}
        self.groups = sorted([*self.groups, *found], key=lambda group: order[group.layers[0]])
        return worst_first(found)

    def _bisect(self, base: Variant, order: Sequence[LayerGroup]) -> list[LayerGroup]:
        """The shortest beginning of an order that meets the budget in float."""
        bisection = math.ceil(math.log2(max(len(order), 2)))
        missing, enough = 0, len(order)
        while enough - missing > 1 and self._measured.room():
            self._measured.expect(bisection + _passes(enough) + self._trials_of_heads())
            bisection -= 1
            middle = (missing + enough) // 2
            variant = replace(base, keep=base.keep | _names(order[:middle]))
            found = self._evaluate("layers", variant)
            missing, enough = (missing, middle) if found.ok else (middle, enough)
        # Where the layer that costs most is the last in the order, no beginning is enough but
        # all of it, and giving back starts from there.
        return list(order[:enough])

    def _minimise(self, base: Variant, held: Sequence[LayerGroup]) -> None:
        """Give back what need not be in float: groups, then single layers of them."""
        left = self._give_back(base, list(held))
        single = [LayerGroup((name,), group.sqnr) for group in left for name in group.layers]
        if len(single) > len(left):
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
                self._measured.expect(
                    -(-end // size) + _passes(len(held), size // 2) + self._trials_of_heads()
                )
                start = max(end - size, 0)
                rest = held[:start] + held[end:]
                end = start
                # Nothing at all in float is known to miss the budget.
                if not rest:
                    continue
                if not self._measured.room():
                    return held
                variant = replace(base, keep=base.keep | _names(rest))
                if self._evaluate("give back", variant).ok:
                    held = rest
            size //= 2
        return held

    def extend_to_heads(self, bias: bool | None) -> None:
        """The heads' convolutions in INT8 as well, as many as the budget allows."""
        if not self._tries_heads or not self.best.ok or self.best.variant.tuned:
            return
        start = self.best.variant
        self._measured.expect(self._trials_of_heads())
        whole = replace(start, keep=start.keep - self._heads)
        ways = [whole]
        if bias is not False and self._workshop.can_correct and not start.bias:
            ways.append(replace(whole, bias=True))
        for variant in ways:
            if not self._measured.room() or self._evaluate("heads", variant).ok:
                return
        groups = groups_of(self._workshop.heads, _MOST_HEADS)
        if len(groups) == 1:
            self._needed.update(self._heads)
            return
        kept = start.keep
        for number, group in enumerate(groups):
            self._measured.expect(len(groups) - number)
            # All but those that were accepted are known to be too many.
            if not self._measured.room():
                return
            if self._evaluate("heads", replace(start, keep=kept - _names([group]))).ok:
                kept -= _names([group])
            else:
                self._needed.update(group.layers)

    @property
    def _tries_heads(self) -> bool:
        return bool(self._heads) and self._leaning.heads in (None, "int8")

    def _trials_of_heads(self) -> int:
        """How many evaluations the heads may take."""
        if not self._tries_heads:
            return 0
        singly = min(len(self._heads), _MOST_HEADS)
        return 2 + (singly if singly > 1 else 0)

    def _evaluate(self, step: str, variant: Variant) -> Candidate:
        return self._measured.evaluate(step, variant)

    def reasons(self) -> dict[str, str]:
        """Why layers stay in float where a candidate keeps them there."""
        found = {}
        for name in self._workshop.layers:
            if name in self._heads and name not in self._needed:
                found[name] = HEAD if self._tries_heads else HEAD_NOT_FASTER
            elif name in self._depthwise and not self._may_give_back:
                found[name] = DEPTHWISE_NOT_FASTER
            else:
                found[name] = BUDGET
        return found

    def reason(self, max_drop: float | None, place: Place | None) -> str:
        """How it ended, in a sentence."""
        best, layers = self.best, len(self._workshop.layers)
        ended = ""
        if self._measured.exhausted:
            ended = f"; the search ended after {self._measured.done} evaluations"
        if best.failed is not None and place is not None:
            return f"{place.name} runs no candidate{ended}: {best.failed}"
        lost = f"{best.drop:.2f} points lost"
        if best.ok is None or max_drop is None:
            return f"{lost} with {best.variant.ranges} ranges; no budget was stated"
        if best.ok and not best.variant.keep:
            return f"all {layers} layers are in INT8: {lost}, {max_drop:g} allowed"
        if best.ok:
            heads = len(best.variant.keep & self._heads)
            of_heads = f", {heads} of which give heads' outputs" if heads else ""
            return (
                f"{len(best.variant.keep)} of {layers} layers stay in float{of_heads}: {lost}, "
                f"{max_drop:g} allowed{ended}"
            )
        tried = "no mixture of INT8 and float layers" if self.groups else "INT8"
        return (
            f"{tried} that was tried keeps within {max_drop:g} points; with {best.int8_layers} of "
            f"{layers} layers in INT8, the best loses {best.drop:.2f}{ended}. Calibrate on more "
            "images, or allow more"
        )


def _passes(held: int, size: int | None = None) -> int:
    """How many evaluations giving back takes at most."""
    size = held // 2 if size is None else size
    total = 0
    while size:
        total += -(-held // size)
        size //= 2
    return total


def _names(groups: Sequence[LayerGroup]) -> frozenset[str]:
    return frozenset(name for group in groups for name in group.layers)
