"""What became of a graph that was made float16: counts, reasons, weights at risk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# In the card and in receipts, nodes and weights are named up to this many; counts hold all.
_MOST_NAMED = 20

REASONS: Mapping[str, str] = {
    "pre": "pixels are scaled before they are rounded",
    "decode": "boxes and scores are decoded in pixels, which float16 rounds to a quarter",
    "tail": "after the last convolution: it decodes what the network found",
    "expectation": "a convolution of a Softmax: boxes follow from this mean",
    "asked": "it was asked for",
    "overflow": "its result may exceed 65504 where its input does not",
    "accumulates": "it adds up many numbers, whose sum overflows or stops growing",
    "divides": "it divides by what was computed, which may have become 0",
    "exact": "it compares, counts, or computes coordinates",
    "shapes": "it follows from the shapes alone",
    "measured": "its values were measured to come near 65504",
    "weights overflow": "a weight of it exceeds 65504",
    "weights underflow": "too much of its weights is too small for float16",
    "scale": "its scale is not a constant that float16 can hold",
    "island": "no convolution or product around it would gain from float16",
    "no float16": "its operator is not defined for float16",
    "unknown": "nothing is known of it in float16",
}
"""Why a node stays in float32, by the word that stands for the reason."""


@dataclass(frozen=True)
class Kept:
    """A node that stays in float32.

    Attributes:
        node: Its name, or its first output where it has none.
        operator: What it is.
        reason: One of :data:`REASONS`.
        detail: Numbers or names that belong to this node; often empty.
    """

    node: str
    operator: str
    reason: str
    detail: str = ""

    @property
    def why(self) -> str:
        """The reason in words."""
        return REASONS[self.reason]


@dataclass(frozen=True)
class Weights:
    """What float16 does to the values of one constant.

    Attributes:
        name: Of the tensor.
        count: How many values it has.
        largest: The largest magnitude, infinities aside.
        overflowing: Values whose magnitude exceeds 65504.
        lost: Values other than 0 that become 0.
        subnormal: Values below 6.1e-5, which keep fewer than 11 bits; the lost ones too.
        share: Norm of what the subnormal values lose, over the norm of all values.
    """

    name: str
    count: int
    largest: float
    overflowing: int
    lost: int
    subnormal: int
    share: float

    @property
    def at_risk(self) -> bool:
        """Whether anything is lost beyond rounding."""
        return self.overflowing > 0 or self.lost > 0


@dataclass(frozen=True)
class HalfReport:
    """What :func:`boxwright.graph.precision.to_half` did.

    Attributes:
        converted: Nodes that compute in float16 now.
        kept: Nodes that stay in float32, in the order of the graph.
        weights: Constants that were converted or looked at, and of which values were lost.
        scales_raised: Scales of quantisation that float16 would have made 0.
        casts: Casts between the two types that were inserted.
        opset: Before and after.
        bytes: Size of the graph before and after.
        differences: What else was done to the graph first, by the name of the pass: the
            largest difference it made, relative to an output's largest value; ``None``
            where that could not be run.
    """

    converted: int
    kept: tuple[Kept, ...]
    weights: tuple[Weights, ...]
    scales_raised: int
    casts: int
    opset: tuple[int, int]
    bytes: tuple[int, int]
    differences: Mapping[str, float | None] = field(default_factory=dict)

    def reasons(self) -> dict[str, list[Kept]]:
        """The kept nodes by reason, in the order of :data:`REASONS`."""
        found: dict[str, list[Kept]] = {}
        for item in self.kept:
            found.setdefault(item.reason, []).append(item)
        return {reason: found[reason] for reason in REASONS if reason in found}

    def to_dict(self, most: int | None = _MOST_NAMED) -> dict[str, Any]:
        """JSON values; nodes and weights are named up to `most` of each, or all."""
        kept = {
            reason: {
                "why": REASONS[reason],
                "count": len(some),
                "operators": dict(sorted(Counter(item.operator for item in some).items())),
                "nodes": [
                    {"node": item.node, "operator": item.operator}
                    | ({"detail": item.detail} if item.detail else {})
                    for item in some[:most]
                ],
            }
            for reason, some in self.reasons().items()
        }
        worst = sorted(self.weights, key=lambda item: item.share, reverse=True)
        return {
            "converted": self.converted,
            "kept": kept,
            "weights_at_risk": {
                "count": len(worst),
                "largest_losses": [vars(item) for item in worst[:most]],
            },
            "scales_raised": self.scales_raised,
            "casts": self.casts,
            "opset": list(self.opset),
            "bytes": list(self.bytes),
            "passes": dict(self.differences),
        }

    def effect(self) -> dict[str, Any]:
        """As :meth:`to_dict`, in few values, for a card."""
        return {
            "converted": self.converted,
            "kept": {reason: len(some) for reason, some in self.reasons().items()},
            "weights_at_risk": len(self.weights),
            "casts": self.casts,
            "opset": list(self.opset),
            "bytes": list(self.bytes),
        }
