"""Can INT8 be faster here at all? A look before a search that may take long.

A few forms are timed in turns with the float precisions of the target: all layers in INT8,
with the heads' last convolutions and without, with depthwise convolutions and without. What the
ranges are does not matter for speed, so no form has to be any good. Where none of them is shown
to be faster than float, nothing is searched, for mixtures are as a rule slower still; else the
search begins with the kinds of layers that gain something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from boxwright.evaluate.timing import Interval
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.candidates import BudgetResult, Faster, Leaning
from boxwright.quantize.latency import (
    INT8,
    Choice,
    Latency,
    choose_precision,
    measure_latency,
    precisions_of,
)
from boxwright.quantize.variants import Variant, Workshop

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Shorter than where a precision is chosen: kinds of layers that matter differ by more.
_SECONDS = 1.0

# A gain that is shown to be less than this is none; on a busy machine that cannot be shown.
_GAIN = 1.02

USUAL = "int8"
_HEADS, _PLAIN = "int8 with heads", "int8 without depthwise"
_BOTH = "int8 with heads, without depthwise"


@dataclass(frozen=True)
class Form:
    """A way to mix INT8 and float, for its speed alone.

    Attributes:
        name: For people.
        keep: Layers in float.
        ratio: How many times as fast as the fastest float precision; ``None`` where one of
            the two does not run.
    """

    name: str
    keep: frozenset[str]
    ratio: Interval | None


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        latency: Everything timed, forms by their names.
        floats: The fastest precision that is not INT8; ``None`` where none runs.
        forms: The forms that were tried.
        leaning: What follows for kinds of layers.
    """

    latency: Latency
    floats: str | None
    forms: tuple[Form, ...]
    leaning: Leaning = field(default_factory=Leaning)

    @property
    def fastest(self) -> Form | None:
        """The fastest form that runs."""
        ran = [form for form in self.forms if form.ratio is not None]
        return max(ran, key=lambda form: form.ratio.median if form.ratio else 0.0, default=None)

    @property
    def hopeless(self) -> bool:
        """Whether every form that runs was timed, and none was shown to be faster."""
        ran = [form.ratio for form in self.forms if form.ratio is not None]
        return bool(ran) and not any(ratio.low > 1.0 for ratio in ran)

    @property
    def undecided(self) -> bool:
        """Whether it is hopeless only as far as could be told: some form may be faster."""
        return self.hopeless and any(f.ratio is not None and f.ratio.high > 1.0 for f in self.forms)

    @property
    def reason(self) -> str:
        """What came out, in a sentence."""
        best = self.fastest
        if best is None or best.ratio is None:
            return f"no form of INT8 could be timed beside float on {self.latency.backend}"
        shown = (
            f"{best.name} is {best.ratio.median:.2f} times as fast as {str(self.floats).upper()} "
            f"({best.ratio.low:.2f} to {best.ratio.high:.2f}, on {self.latency.backend})"
        )
        if not self.hopeless:
            return f"of the forms of INT8 tried for speed, {shown}"
        return f"INT8 was not shown to be faster: the best of {len(self.forms)} forms, {shown}"

    def lossy(self, budget: BudgetResult) -> list[str]:
        """Forms that are faster than float and that the budget does not allow, in sentences."""
        told = []
        for form in self.forms:
            drops = [
                item.drop
                for item in budget.candidates
                if item.variant.keep == form.keep and item.failed is None
            ]
            if form.ratio is None or form.ratio.low <= 1.0 or not drops or budget.max_drop is None:
                continue
            if min(drops) > budget.max_drop:
                told.append(
                    f"{form.name} ({len(form.keep)} layers in float) is {form.ratio.median:.2f} "
                    f"times as fast as {str(self.floats).upper()}, and loses {min(drops):.2f} "
                    f"points, where {budget.max_drop:g} are allowed"
                )
        return told

    def choice(self, max_drop: float | None) -> Choice:
        """What to hand out where INT8 is hopeless: a precision that needs no measuring of loss."""
        plain = {name: item for name, item in self.latency.timed.items() if self._is_float(name)}
        latency = Latency(self.latency.backend, self.latency.batch, plain, self.latency.failed)
        found = choose_precision(latency, {}, max_drop)
        forms = {
            name: {"precision": name, "drop": None, "median_ms": round(item.milliseconds.p50, 4)}
            for name, item in self.latency.timed.items()
            if not self._is_float(name)
        }
        rows = [
            *(row for row in found.tried if row["precision"] in plain),
            *({**row, "within_budget": None} for row in forms.values()),
        ]
        return Choice(found.precision, f"{self.reason}; no layers were searched", rows)

    def _is_float(self, name: str) -> bool:
        return name not in {form.name for form in self.forms}

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        timed = self.latency.timed
        return {
            "backend": self.latency.backend,
            "batch": self.latency.batch,
            "against": self.floats,
            "against_ms": None
            if self.floats is None
            else round(timed[self.floats].milliseconds.p50, 4),
            "forms": [
                {
                    "form": form.name,
                    "layers_in_float": len(form.keep),
                    "median_ms": round(timed[form.name].milliseconds.p50, 4)
                    if form.name in timed
                    else None,
                    "times_as_fast": None if form.ratio is None else form.ratio.to_dict(),
                    **(
                        {"failed": self.latency.failed[form.name]}
                        if form.name in self.latency.failed
                        else {}
                    ),
                }
                for form in self.forms
            ],
            "faster_heads": self.leaning.heads,
            "faster_depthwise": self.leaning.depthwise,
            "float_depthwise_pays": self.leaning.float_depthwise_pays,
            "reason": self.reason,
        }


def forms_of(workshop: Workshop) -> dict[str, frozenset[str]]:
    """The forms of a model, by name, and the layers that each has in float."""
    heads, depthwise = frozenset(workshop.heads), frozenset(workshop.depthwise)
    forms = {USUAL: heads}
    if heads:
        forms[_HEADS] = frozenset()
    if depthwise and set(workshop.layers) - heads - depthwise:
        forms[_PLAIN] = heads | depthwise
        if heads:
            forms[_BOTH] = depthwise
    return forms


def look(
    workshop: Workshop,
    variant: Variant,
    backend: str,
    pixels: NDArray[Any],
    *,
    device: str = "auto",
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Look:
    """Time the forms of a model and its float precisions on a backend, in turns.

    Args:
        workshop: Makes the forms.
        variant: How their ranges are had.
        backend: The runtime.
        pixels: One batch, uint8 ``(N, H, W, 3)``.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        seed: Of the order of turns, and of the resampling behind "shown".
        progress: Told of rounds done.
    """
    forms = forms_of(workshop)
    floats = dict.fromkeys(("fp32", *precisions_of(backend)))
    floats.pop(INT8, None)
    models = dict.fromkeys(floats, workshop.model) | {
        name: workshop.make(replace(variant, keep=keep)).model for name, keep in forms.items()
    }

    def judged(latency: Latency) -> Look:
        return judge(latency, forms, list(floats), seed)

    return judged(
        measure_latency(
            *(models, backend),
            pixels=pixels,
            device=device,
            seconds=_SECONDS,
            seed=seed,
            settled=lambda timed: not judged(Latency(backend, len(pixels), timed)).undecided,
            progress=progress,
        )
    )


def judge(
    latency: Latency, forms: Mapping[str, frozenset[str]], floats: Sequence[str], seed: int = 0
) -> Look:
    """What follows from the times of forms and float precisions."""
    timed = latency.timed
    ran = [name for name in floats if name in timed]
    best = min(ran, key=lambda name: timed[name].milliseconds.p50, default=None)
    found = tuple(
        Form(
            name,
            keep,
            timed[name].faster_than(timed[best], seed) if best and name in timed else None,
        )
        for name, keep in forms.items()
    )
    depthwise = _faster(latency, USUAL, _PLAIN, seed)
    # Heads are judged beside what they would be with.
    with_heads, without = (_BOTH, _PLAIN) if depthwise == "float" else (_HEADS, USUAL)
    heads = _faster(latency, with_heads, without, seed)
    plain = [form.ratio for form in found if form.name in (_PLAIN, _BOTH) and form.ratio]
    # Nothing is handed out for this, so the likelier is good enough.
    pays = not plain or any(ratio.median > 1.0 for ratio in plain)
    return Look(latency, best, found, Leaning(heads, depthwise, pays))


def _faster(latency: Latency, int8: str, floats: str, seed: int) -> Faster | None:
    """In which a kind of layers was shown to be faster; ``None`` where it cannot be told."""
    if int8 not in latency.timed or floats not in latency.timed:
        return None
    ratio = latency.timed[int8].faster_than(latency.timed[floats], seed)
    if ratio.low > 1.0:
        return "int8"
    if ratio.high < 1.0:
        return "float"
    return "neither" if ratio.high < _GAIN else None
