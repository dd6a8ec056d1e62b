"""How far one network's answers are from another's.

Heads: the mean of ``(quantised - float)^2 / variance`` over a head's values, with the variance
that the float head's channel has on calibration images; heads count alike. So the few channels
that hold boxes weigh as much each as those of objectness and of classes, whatever their numbers
are in. It is 0 for the float model, and 1 where nothing is left of a head.

Detections, where the decoding can be run too: most of what a head says is about places where
nothing is, and whether a score there is 0.001 or 0.0001 matters to nobody. So the *scores* are
compared as well, ``sum (quantised - float)^2 / sum float^2``, and the *boxes*, as a share of the
box's own diagonal, each with its best score in the float model as its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from boxwright.quantize.finetune.network import Tensor

# Of the mean of a head's channels a variance counts as this much at least: one that says the
# same everywhere does not weigh more than all others.
_LEAST_VARIANCE = 0.05
# Where an image has no object, rounding noise in its scores shall not be all that counts.
_LEAST_SCORES = 0.1
_LEAST_DIAGONAL = 8.0


@dataclass(frozen=True)
class Loss:
    """The loss of a network's answers: heads, and then perhaps boxes and scores.

    Attributes:
        variances: Of each head's channels, as they can be broadcast to it.
        detections: Whether the last two answers are `boxes` and `scores`.
    """

    variances: tuple[Tensor, ...]
    detections: bool

    @classmethod
    def of(cls, torch: Any, seen: Sequence[Sequence[Tensor]], detections: bool) -> Loss:
        """The loss for a float network that gave these answers, batch by batch."""
        heads = len(seen[0]) - (2 if detections else 0)
        found = []
        for parts in list(zip(*seen, strict=True))[:heads]:
            values = torch.cat(parts)
            axes = [axis for axis in range(values.ndim) if axis != 1]
            variance = values.var(dim=axes, correction=0, keepdim=True)
            # Of one value to a channel there is none: then by the values' own size.
            mean = float(variance.mean()) or float(values.square().mean())
            found.append(variance.clamp(min=max(_LEAST_VARIANCE * mean, 1e-12)))
        return cls(tuple(found), detections)

    def __call__(self, got: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
        """A scalar: the loss of heads, or the mean of those of heads, scores and boxes."""
        # Boxes and scores, where there are any, come behind the heads.
        parts = [
            ((g - e).square() / variance).mean()
            for g, e, variance in zip(got, expected, self.variances, strict=False)
        ]
        heads = sum(parts) / len(parts)
        if not self.detections:
            return heads
        (*_, got_boxes, got_scores), (*_, boxes, scores) = got, expected
        found = _of_scores(got_scores, scores) + _of_boxes(got_boxes, boxes, scores)
        return (heads + found) / 3


def _of_scores(got: Tensor, expected: Tensor) -> Tensor:
    least = _LEAST_SCORES * len(expected)
    return (got - expected).square().sum() / expected.square().sum().clamp(min=least)


def _of_boxes(got: Tensor, expected: Tensor, scores: Tensor) -> Tensor:
    """``(N, A, 4)``, corners; of the float model's scores the best of each counts."""
    extent = expected[..., 2:] - expected[..., :2]
    diagonal = extent.square().sum(-1).clamp(min=_LEAST_DIAGONAL**2)
    weight = scores.amax(-1).square()
    # As a share of its diagonal no box is further off than by that: one wild box is one.
    off = ((got - expected).square().sum(-1) / diagonal).clamp(max=1.0)
    return (weight * off).sum() / weight.sum().clamp(min=_LEAST_SCORES * len(expected))
