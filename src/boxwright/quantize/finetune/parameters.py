"""What is trained of a quantised graph: weights, biases and the scales of activations.

Each is trained as its distance from where it began, in a unit of its own, so that one learning
rate is right for all: weights in units of the largest of their output channel (a step of INT8
is 1/127 of it), biases in units of what their channel's output spreads over, and scales as a
logarithm. Adam's steps are of the size of the learning rate whatever the gradient's size, so
the factor that "Learned Step Size Quantization" (section 2.2) puts on the scales' gradient would
change nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from boxwright.graph.view import input_name
from boxwright.quantize.finetune.network import Network, Tensor, import_torch

if TYPE_CHECKING:
    import onnx

Kind = Literal["weights", "biases", "scales"]


@dataclass(frozen=True)
class Parameter:
    """Something that is trained.

    Attributes:
        kind: What it is.
        names: The initializers that have its value.
        start: Their value at the beginning.
        unit: What a distance of 1 is; can be broadcast to `start`; of scales, 1.
        distance: What is trained; 0 at the beginning.
    """

    kind: Kind
    names: tuple[str, ...]
    start: Tensor
    unit: Tensor
    distance: Tensor

    @property
    def value(self) -> Tensor:
        """As it is now."""
        if self.kind == "scales":
            return self.start * self.distance.exp()
        return self.start + self.unit * self.distance


def parameters_of(
    network: Network,
    proto: onnx.ModelProto,
    groups: Mapping[str, int],
    spread: Mapping[str, Tensor],
) -> list[Parameter]:
    """What can be trained of a network.

    Weights and biases that anything but the network's own convolutions reads stay as they are.

    Args:
        network: Of the quantised graph.
        proto: The graph.
        groups: By tensor with a pair, a number; tensors of one number keep one scale.
        spread: By the name of a convolution's output, the standard deviation of each of its
            channels, ``(channels,)``.
    """
    torch = import_torch()
    reads = Counter(name for node in proto.graph.node for name in node.input)
    reads.update(value.name for value in proto.graph.output)
    layers = network.convolutions
    readers = Counter(network.source(node.input[1]) for node in layers)
    biases = Counter(input_name(node, 2) for node in layers)
    found: dict[str, Parameter] = {}
    for node in layers:
        weights, bias = network.source(node.input[1]), input_name(node, 2)
        start = network.constants.get(weights)
        # A pair is one reader, whoever reads the pair.
        own = reads[weights] == (1 if weights in network.roundings else readers[weights])
        if start is not None and own and weights not in found:
            largest = start.abs().flatten(1).amax(1).reshape(-1, *[1] * (start.ndim - 1))
            found[weights] = _parameter(torch, "weights", (weights,), start, largest)
        start = network.constants.get(bias)
        if start is not None and reads[bias] == biases[bias] and bias not in found:
            found[bias] = _parameter(torch, "biases", (bias,), start, spread[node.output[0]])
    return [*found.values(), *_scales(torch, network, groups)]


def _scales(torch: Any, network: Network, groups: Mapping[str, int]) -> Iterable[Parameter]:
    """One for each group of tensors, at the scale that all of them have."""
    members: dict[int, list[str]] = {}
    for tensor, rounding in network.roundings.items():
        if not rounding.weights and tensor in groups:
            members.setdefault(groups[tensor], []).append(rounding.scale)
    for names in members.values():
        start = network.constants[names[0]]
        yield _parameter(torch, "scales", tuple(names), start, torch.ones_like(start))


def _parameter(
    torch: Any, kind: Kind, names: tuple[str, ...], start: Tensor, unit: Tensor
) -> Parameter:
    distance = torch.zeros_like(start, requires_grad=True)
    return Parameter(kind, names, start, unit, distance)


def values_of(parameters: Iterable[Parameter]) -> dict[str, Tensor]:
    """The values of all initializers that are trained, by name; gradients go through."""
    return {name: value for item in parameters for value in [item.value] for name in item.names}
