"""Where quantisation goes: which layers, which tensors, and why the others not.

The placement is the one that TensorRT fuses (NVIDIA, "Working with Quantized Types",
Q/DQ placement recommendations) and that ONNX Runtime and OpenVINO read as well:

- a Q/DQ pair in front of every quantised convolution, on its input and on its weights;
- none between a convolution and its activation, so that both stay one kernel;
- of an addition after a convolution, a pair on the other branch only;
- none on pooling, resizing, concatenation: values pass through them as they are, which
  takes one scale for all that they connect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from boxwright.graph.view import View
from boxwright.quantize.layers import Layer, find_layers
from boxwright.quantize.rules import Rules
from boxwright.quantize.sets import DisjointSets

if TYPE_CHECKING:
    import onnx

# They move values, or pick some of them: what comes out has the range of what goes in.
_MOVING = frozenset(
    {
        *("Concat", "Identity", "MaxPool", "Slice", "Split", "Reshape", "Transpose", "Flatten"),
        *("Squeeze", "Unsqueeze", "SpaceToDepth", "DepthToSpace", "Tile", "Expand"),
    }
)
# Runtimes fuse these into the convolution in front of them.
_ACTIVATIONS = frozenset(
    {
        *("Relu", "LeakyRelu", "Clip", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Elu"),
        *("Softplus", "Tanh", "Mul", "Mish", "Swish", "BatchNormalization"),
    }
)
# Longest way from a convolution to the end of its activation: Mish is three nodes.
_ACTIVATION_LENGTH = 4


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor that passes through a Q/DQ pair.

    Attributes:
        name: Of the tensor.
        readers: Names of the nodes that read the pair's output.
        group: Number of the tensors that share its scale.
    """

    name: str
    readers: tuple[str, ...]
    group: int


@dataclass(frozen=True)
class Placement:
    """What is quantised.

    Attributes:
        layers: All convolutions, in the order of the graph; those that stay in float say why.
        tensors: Activations with a Q/DQ pair.
        scale_groups: By tensor, the number of the group whose scale its values get: those of
            `tensors`, and those without a pair that as a whole get to one.
    """

    layers: tuple[Layer, ...]
    tensors: tuple[QuantizedTensor, ...]
    scale_groups: Mapping[str, int] = field(default_factory=dict)

    @property
    def quantized(self) -> tuple[Layer, ...]:
        """The layers that compute in INT8."""
        return tuple(layer for layer in self.layers if layer.reason is None)

    def limits(self, amax: Mapping[str, float]) -> dict[str, float]:
        """The symmetric range of every tensor that has one, with a pair or without.

        Args:
            amax: That of each of `tensors`.
        """
        groups = {tensor.group: amax[tensor.name] for tensor in self.tensors}
        return {name: groups[group] for name, group in self.scale_groups.items()}


def place(
    proto: onnx.ModelProto, rules: Rules | None = None, keep: Collection[str] = ()
) -> Placement:
    """Decide where Q/DQ pairs go.

    Args:
        proto: A model of the contract, not quantised yet.
        rules: What may be quantised.
        keep: Names of layers (nodes) that stay in float; a mapping says why each does.

    Raises:
        InputError: `keep` names no layer of the graph.
    """
    rules = rules or Rules()
    view = View(proto)
    layers = find_layers(view, rules, keep)
    readers: dict[str, list[str]] = {}
    for layer in layers:
        if layer.reason is None:
            readers.setdefault(layer.input, []).append(layer.name)
    if rules.residual:
        for tensor, addition in _residuals(view, layers):
            readers.setdefault(tensor, []).append(addition)
    sets = _connected(view) if rules.shared_scales else DisjointSets[str]()
    numbers: dict[str, int] = {}
    tensors = tuple(
        QuantizedTensor(name, tuple(names), numbers.setdefault(sets.find(name), len(numbers)))
        for name, names in readers.items()
    )
    rounded = _rounded_later(view, readers) if rules.shared_scales else set(readers)
    made = [name for node in view.graph.node for name in node.output if name in rounded]
    return Placement(layers, tensors, {name: numbers[sets.find(name)] for name in made})


def _connected(view: View) -> DisjointSets[str]:
    """Tensors that hold the same values, whole or in part."""
    sets = DisjointSets[str]()
    for node in view.graph.node:
        data = _moved_by(view, node)
        moved = [*data, *(name for name in node.output if name and data)]
        for name in moved[1:]:
            sets.join(moved[0], name)
    return sets


def _moved_by(view: View, node: onnx.NodeProto) -> list[str]:
    """What is computed whose values a node passes on, as they are."""
    if node.op_type not in _MOVING and not _is_nearest(node):
        return []
    data = node.input if node.op_type == "Concat" else node.input[:1]
    return [name for name in data if name and view.tensor(name) is None]


def _rounded_later(view: View, pairs: Collection[str]) -> set[str]:
    """Tensors that have a pair, or all of whose values get to one without being computed with."""
    found = set(pairs)
    for node in reversed(view.graph.node):
        if node.op_type != "Slice" and all(name in found for name in node.output if name):
            found.update(_moved_by(view, node))
    return found


def _is_nearest(node: onnx.NodeProto) -> bool:
    """Whether a node copies pixels to enlarge an image."""
    if node.op_type not in ("Resize", "Upsample"):
        return False
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
    return bool(mode == b"nearest")


def _residuals(view: View, layers: tuple[Layer, ...]) -> Iterator[tuple[str, str]]:
    """Branches that an addition joins to a quantised convolution's result, and the additions.

    TensorRT adds within the convolution's kernel when what is added is INT8, and the
    convolution's own result must not be rounded on its way there.
    """
    order = {node.name: number for number, node in enumerate(view.graph.node)}
    quantized = {layer.name for layer in layers if layer.reason is None}
    fed = {layer.input for layer in layers if layer.reason is None}
    for node in view.graph.node:
        if node.op_type != "Add" or len(node.input) != 2 or node.name.startswith("decode/"):
            continue
        if any(view.tensor(name) is not None for name in node.input):
            continue
        made = [(_convolution_behind(view, name, quantized), name) for name in node.input]
        computed = [(order[layer], name) for layer, name in made if layer is not None]
        # Only where the sum is used in INT8 itself does rounding a branch save anything.
        if not computed or not _reaches(view, node.output[0], fed):
            continue
        fused = max(computed)[1]
        other = next((name for name in node.input if name != fused), None)
        if other is not None:
            yield other, node.name


def _convolution_behind(
    view: View, tensor: str, layers: Collection[str], length: int = _ACTIVATION_LENGTH
) -> str | None:
    """The quantised convolution whose (activated) output a tensor is.

    A product of two convolutions' outputs, as in a squeeze-and-excitation block, is neither's.
    """
    node = view.producers.get(tensor)
    if node is None:
        return None
    if node.name in layers:
        return node.name
    if node.op_type not in _ACTIVATIONS or not length:
        return None
    found = {
        _convolution_behind(view, name, layers, length - 1)
        for name in node.input
        if name and view.tensor(name) is None
    }
    return found.pop() if len(found) == 1 else None


def _reaches(view: View, tensor: str, wanted: Collection[str]) -> bool:
    """Whether a tensor's values get to one of `wanted` without being computed with."""
    pending, seen = [tensor], {tensor}
    while pending:
        current = pending.pop()
        if current in wanted:
            return True
        for node in view.readers.get(current, ()):
            passes = node.op_type in _MOVING or node.op_type in _ACTIVATIONS or _is_nearest(node)
            for output in node.output if passes else ():
                if output not in seen:
                    seen.add(output)
                    pending.append(output)
    return False
