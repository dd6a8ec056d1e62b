"""The ranges that a model keeps, and which of them a convolution's own results get.

The portable graph rounds nothing between a convolution and its activation. ONNX Runtime's
kernels do (``QLinearConv`` gives eight bits), and there a range is worth what is left of it
*behind* the activation: a LeakyRelu takes nine tenths off every negative value, a Swish
nearly all of it. So the range is not the one that was seen. It is the one with the least mean
squared error of the activated values, over the histogram that calibration kept, rounding in
front of the activation and behind it together. Above, it ends where the activation's result
ends in the portable graph, so that what a method clips is clipped here, or below that: two
roundings in a row want a finer step than one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boxwright.graph.view import View
from boxwright.quantize.histogram import TensorStatistics

if TYPE_CHECKING:
    import onnx

    from boxwright.quantize.calibration import Calibration
    from boxwright.quantize.placement import Placement

Doubles = NDArray[np.float64]
Function = Callable[[Doubles], Doubles]
Range = tuple[float, float]

_STEPS = 255
# How much of the negative part is tried, closer where a little of it makes the difference, and of
# the positive one; at the end as many lower ends as these around the best.
_PARTS = np.linspace(0.0, 1.0, 33) ** 2
_BETWEEN = 17
_UPPER_PARTS = np.linspace(1.0, 0.25, 31)
_TURNS = 2
_VALUES_A_STEP, _MOST_PARTS = 4, 8
# ONNX's, where a LeakyRelu states none.
_SLOPE = 0.01


@dataclass(frozen=True)
class Activated:
    """A tensor that only an activation reads.

    Attributes:
        tensor: Its name.
        result: What the activation gives.
        function: The activation; above 0 it grows.
    """

    tensor: str
    result: str
    function: Function


def kept_ranges(
    proto: onnx.ModelProto,
    placement: Placement,
    calibration: Calibration,
    amax: Mapping[str, float],
) -> dict[str, Range]:
    """Lowest and highest value of every tensor that was calibrated, for the model to keep.

    They are as they were seen, but for what a quantised convolution gives to an activation;
    see the module.

    Args:
        proto: The float graph, with the placement's names.
        placement: What is quantised.
        calibration: What was seen.
        amax: The symmetric range of each of the placement's tensors.
    """
    ranges = {name: calibration.range(name) for name in calibration.statistics}
    limits = placement.limits(amax)
    layers = {layer.name for layer in placement.quantized}
    for item in find_activated(View(proto), layers):
        if item.tensor not in ranges or item.result not in ranges:
            continue
        low, high = ranges[item.result]
        most = limits.get(item.result, math.inf)
        after = max(low, -most), min(high, most)
        ranges[item.tensor] = best_range(calibration.statistics[item.tensor], item.function, after)
    return ranges


def find_activated(view: View, layers: Collection[str]) -> Iterator[Activated]:
    """The outputs of some nodes that LeakyRelu, Swish or Mish reads, and nothing else."""
    for node in view.graph.node:
        if node.name not in layers:
            continue
        found = _activation(view, node.output[0])
        if found is not None:
            yield Activated(node.output[0], *found)


def _activation(view: View, tensor: str) -> tuple[str, Function] | None:
    readers = list(view.readers.get(tensor, ()))
    if len(readers) == 1 and readers[0].op_type == "LeakyRelu":
        slope = next((a.f for a in readers[0].attribute if a.name == "alpha"), _SLOPE)
        return readers[0].output[0], lambda x: np.where(x < 0, slope * x, x)
    kinds = {node.op_type: node for node in readers}
    if len(readers) != 2 or "Mul" not in kinds:
        return None
    product = kinds.pop("Mul")
    (kind, other), *_ = *kinds.items(), ("", product)
    factor = other.output[0]
    if kind == "Softplus":
        tanh = view.readers.get(factor, ())
        if len(tanh) != 1 or tanh[0].op_type != "Tanh":
            return None
        factor = tanh[0].output[0]
    if kind not in _FUNCTIONS or set(product.input) != {tensor, factor}:
        return None
    return product.output[0], _FUNCTIONS[kind]


def _swish(x: Doubles) -> Doubles:
    return x / (1.0 + np.exp(-np.maximum(x, -700.0)))


def _mish(x: Doubles) -> Doubles:
    return x * np.tanh(np.logaddexp(0.0, x))


_FUNCTIONS: dict[str, Function] = {"Sigmoid": _swish, "Softplus": _mish}


def best_range(statistics: TensorStatistics, function: Function, after: Range) -> Range:
    """The range of a tensor that leaves the least error behind an activation.

    Args:
        statistics: Of the tensor.
        function: The activation; above 0 it grows.
        after: The range of its results in eight bits. Its lower end is raised to what the
            activation makes of the tensor's own.

    Returns:
        Lower and upper end, 0 between them; the tensor's own where only these are known.
    """
    low, high = min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)
    # Of a calibration cache, which has no histogram, the values below 0 are not known.
    if low < 0 and not statistics.negatives.any():
        return low, high
    values, counts = statistics.signed(_parts_of_bins(statistics, min(high, after[1])))
    if not len(values):
        return low, high
    wanted = function(values)
    # Where the results end, what they are made of may end as well.
    beyond = (values > 0) & (wanted >= after[1])
    if beyond.any():
        high = min(high, float(values[beyond][0]) + statistics.bin_width / 2)
    if not low < 0 < high:
        return low, high

    def error(ends: Range) -> float:
        activated = function(rounded(values, ends))
        got = rounded(activated, (max(after[0], float(activated.min())), after[1]))
        return float((np.square(got - wanted) * counts).sum())

    def best_of(candidates: Sequence[Range]) -> Range:
        return candidates[int(np.argmin([error(ends) for ends in candidates]))]

    # One end after the other: both at once would take the product of their numbers.
    best = low, high
    for _ in range(_TURNS):
        best = best_of([best, *((end, best[1]) for end in low * _PARTS)])
        best = best_of([best, *((best[0], end) for end in high * _UPPER_PARTS)])
    width = low / len(_PARTS)
    around = np.clip(best[0] + np.linspace(-width, width, _BETWEEN), low, 0.0)
    found = best_of([best, *((end, best[1]) for end in around)])
    return float(found[0]), float(found[1])


def _parts_of_bins(statistics: TensorStatistics, high: float) -> int:
    """As many that a step has some values, where one far value made the bins wide."""
    step = high / _STEPS
    wanted = _VALUES_A_STEP * statistics.bin_width / step if step > 0 else 1
    return int(np.clip(math.ceil(wanted), 1, _MOST_PARTS))


def rounded(values: Doubles, ends: Range) -> Doubles:
    """Values in eight bits over a range, of which 0 is one of 256 levels."""
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    step = (high - low) / _STEPS
    if not step:
        return np.zeros_like(values)
    zero = np.rint(-low / step)
    result: Doubles = (np.clip(np.rint(values / step) + zero, 0, _STEPS) - zero) * step
    return result
