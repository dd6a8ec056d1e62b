"""Which layers INT8 hurts: the error of the heads when only these few are quantised.

One group at a time is in INT8, all others in float, and the raw heads are compared with the
float model's on a handful of images. That is cheap, needs no labels, and puts the layers in
an order; what keeping them in float is worth is then measured (:mod:`.budget`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.canonical import canonical_key

if TYPE_CHECKING:
    from boxwright.quantize.measurements import Measurements
    from boxwright.quantize.objective import HeadReference
    from boxwright.quantize.variants import Variant, Workshop

MOST_GROUPS = 40
"""With more layers, neighbours are taken together."""


@dataclass(frozen=True)
class LayerGroup:
    """Layers that are looked at together.

    Attributes:
        layers: Their names, in the order of the graph.
        sqnr: Signal to quantisation noise of the worst head with only these in INT8, in
            decibels: the less, the more they hurt.
    """

    layers: tuple[str, ...]
    sqnr: float = float("nan")

    @property
    def name(self) -> str:
        """For people."""
        if len(self.layers) == 1:
            return self.layers[0]
        return f"{self.layers[0]} … {self.layers[-1]} ({len(self.layers)} layers)"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"name": self.name, "layers": list(self.layers), "sqnr_db": round(self.sqnr, 2)}


def groups_of(layers: Sequence[str], most: int = MOST_GROUPS) -> list[LayerGroup]:
    """Layers one by one, or as many neighbours together as it takes for `most` groups.

    Sizes differ by one at most.
    """
    count = min(len(layers), most)
    ends = [len(layers) * number // count for number in range(count + 1)] if count else [0]
    return [LayerGroup(tuple(layers[start:end])) for start, end in itertools.pairwise(ends)]


def measure_sensitivity(
    workshop: Workshop,
    variant: Variant,
    reference: HeadReference,
    measurements: Measurements,
    *,
    layers: Sequence[str] | None = None,
    reference_key: str = "",
    most: int = MOST_GROUPS,
    progress: ProgressCallback = silent,
) -> tuple[LayerGroup, ...]:
    """How much each group of layers hurts alone.

    Args:
        workshop: Makes the models.
        variant: How ranges are had; its `keep` is not looked at.
        reference: The float model's heads.
        measurements: What was measured before is taken from here.
        layers: Which ones, in the order of the graph; by default all that may be in INT8.
        reference_key: Tells the images of `reference` from others.
        most: How many groups at most.
        progress: Told of the groups done.

    Returns:
        The groups in the order of the graph.
    """
    groups = groups_of(workshop.layers if layers is None else layers, most)
    found = []
    for done, group in enumerate(groups, start=1):
        others = frozenset(workshop.layers) - frozenset(group.layers)
        only = replace(variant, keep=others, bias=False)
        key = {
            **workshop.key(only),
            "measured": "sqnr",
            "images": reference_key,
            "versions": canonical_key(),
        }

        def measure(only: Variant = only) -> float:
            return reference.sqnr(workshop.make(only).model)

        found.append(replace(group, sqnr=measurements.value(key, measure)))
        progress("sensitivity of layers", done, len(groups))
    return tuple(found)


def worst_first(groups: Sequence[LayerGroup]) -> list[LayerGroup]:
    """In the order in which layers are kept in float; ties as in the graph."""
    return sorted(groups, key=lambda group: group.sqnr)
