"""Other candidates, where the chosen one turns out to miss the budget on its target.

A target that takes minutes to build for (TensorRT) is not searched on: candidates are computed as
their graphs say, and only the chosen one is built. Its kernels round in other places, and what
the graph keeps within the budget may miss it there: yolov4-tiny with percentile ranges loses 0.30
points as its graph says and 0.60 on TensorRT 8.6, with min-max ranges 0.36 and 0.25
(``benchmarks/results/int8_tensorrt_h200.md``). So the next best ones are tried too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.candidates import BudgetResult, Candidate
from boxwright.quantize.latency import INT8, Choice, Latency
from boxwright.quantize.quantizer import Quantized
from boxwright.quantize.variants import Workshop

# Each is a build, of minutes.
_MOST = 2

Compare = Callable[[Quantized, BudgetResult], tuple[Latency, Choice]]


def settle(
    found: BudgetResult,
    first: tuple[Latency, Choice],
    workshop: Workshop,
    compare: Compare,
    progress: ProgressCallback = silent,
) -> tuple[BudgetResult, tuple[Latency, Choice], list[str]]:
    """The first candidate that keeps to the budget on the target, of the best few.

    Args:
        found: What a search found, its choice measured on the target.
        first: What that measured.
        workshop: Makes the others.
        compare: Measures one on the target.
        progress: Told of what is made.

    Returns:
        The result with the candidate that was settled on, what was measured of it, and what a
        user should know. Where none keeps to the budget, that is the first.
    """
    notes: list[str] = []
    preferred, choice = found.chosen, first[1]
    if choice.allows(INT8) or preferred is None or found.max_drop is None:
        return found, first, notes
    tried = preferred
    for candidate in _others(found):
        notes.append(f"{_told(tried)}: {choice.reason}; so next: {_told(candidate)}")
        made = workshop.make(candidate.variant, progress, found.why)
        reason = (
            f"settled on {_told(candidate)}, because {_told(preferred)} did not keep to the "
            "budget on the target"
        )
        result = replace(found, chosen=candidate, quantized=made, reason=reason)
        latency, choice = compare(made, result)
        if choice.allows(INT8):
            return result, (latency, choice), notes
        tried = candidate
    return found, first, notes


def _others(found: BudgetResult) -> list[Candidate]:
    """What else meets the budget, the most faithful first."""
    others = [item for item in found.candidates if item.ok and item is not found.chosen]
    return sorted(others, key=lambda item: item.drop)[:_MOST]


def _told(candidate: Candidate) -> str:
    variant = candidate.variant
    biases = ", biases corrected" if variant.bias else ""
    tuned = ", fine-tuned" if variant.tuned else ""
    layers = f", {len(variant.keep)} layers in float" if variant.keep else ""
    lost = f"{candidate.drop:.2f} points lost by its graph"
    return f"{variant.ranges} ranges{biases}{tuned}{layers} ({lost})"
