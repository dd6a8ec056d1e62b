"""What a search tries, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from boxwright.quantize.variants import Variant

if TYPE_CHECKING:
    from boxwright.backends.base import Runner
    from boxwright.model import Model
    from boxwright.quantize.quantizer import Quantized
    from boxwright.quantize.sensitivity import LayerGroup

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
        step: ``ranges``, ``bias correction``, ``fine-tuning``, ``depthwise``, ``layers``,
            ``give back`` or ``heads``.
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


Faster = Literal["int8", "float", "neither"]
"""In which of two a network was shown to be faster; ``neither`` is shown, too."""


@dataclass(frozen=True)
class Leaning:
    """What speed says of kinds of layers before a search.

    ``None`` where it was not measured, or cannot be told.

    Attributes:
        heads: Of the heads' convolutions, all others in INT8.
        depthwise: Of depthwise convolutions.
        float_depthwise_pays: Whether INT8 may be faster than float with all depthwise
            convolutions in float; ``False`` where it was seen to be slower.
    """

    heads: Faster | None = None
    depthwise: Faster | None = None
    float_depthwise_pays: bool = True


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
        why: Why layers stay in float where a candidate keeps them there.
    """

    objective: str
    float_value: float
    max_drop: float | None
    chosen: Candidate | None
    quantized: Quantized | None
    candidates: tuple[Candidate, ...]
    sensitivity: tuple[LayerGroup, ...]
    reason: str
    why: Mapping[str, str] = field(default_factory=dict)

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
