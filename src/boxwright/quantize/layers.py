"""The layers that INT8 is for: convolutions with constant weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.errors import InputError
from boxwright.graph.view import all_places, input_name, subgraphs

if TYPE_CHECKING:
    import onnx

    from boxwright.graph.view import View
    from boxwright.quantize.rules import Rules

# Of matrix products most are small heads of classifiers; TensorRT wants other scales there.
_CANDIDATES = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FLOAT = 1  # onnx.TensorProto.FLOAT
KEPT = "asked to stay in float"
HEAD = "gives a head's output"


@dataclass(frozen=True)
class Layer:
    """A convolution.

    Attributes:
        name: Of its node.
        operator: ``Conv``, ...
        input: The tensor it reads.
        weights: The tensor its weights are in.
        shape: Of the weights; empty where they are not constant.
        group: Number of groups.
        reason: Why it stays in float; ``None`` where it is quantised.
    """

    name: str
    operator: str
    input: str
    weights: str
    shape: tuple[int, ...]
    group: int
    reason: str | None = None

    @property
    def channels(self) -> tuple[int, int]:
        """Of its input and its output, all groups together; zeros where unknown."""
        if len(self.shape) < 2:
            return 0, 0
        return self.shape[1] * self.group, self.shape[0]

    @property
    def depthwise(self) -> bool:
        """Whether each output channel reads one input channel."""
        return len(self.shape) >= 2 and self.group > 1 and self.shape[1] == 1


def find_layers(view: View, rules: Rules, keep: Collection[str] = ()) -> tuple[Layer, ...]:
    """All layers of a graph, each quantised or with the reason why not.

    Args:
        view: The graph.
        rules: What may be quantised.
        keep: Names of layers that stay in float all the same; a mapping says why they do.

    Raises:
        InputError: `keep` names something that is no layer.
    """
    found = [_read(view, node) for node in view.graph.node if node.op_type in _CANDIDATES]
    _check_names(found, keep)
    why = dict(keep) if isinstance(keep, Mapping) else dict.fromkeys(keep, KEPT)
    last = last_layers(view, found)
    first = next((layer.name for layer in found if layer.operator == "Conv"), None)
    return tuple(
        dataclasses.replace(
            layer,
            reason=_why_not(view, layer, rules, layer.name == first, layer.name in last)
            or why.get(layer.name),
        )
        for layer in found
    )


def refuse_none(layers: Collection[object]) -> None:
    """Refuse a model that has nothing to quantise.

    Args:
        layers: Those that may be quantised.

    Raises:
        InputError: There is none.
    """
    if not layers:
        raise InputError(
            "the model has no layer that may be quantised under these rules; "
            "`boxwright quantize --list` says why, layer by layer"
        )


def _check_names(layers: Collection[Layer], keep: Collection[str]) -> None:
    known = {layer.name for layer in layers}
    unknown = sorted(set(keep) - known)
    if unknown:
        some = ", ".join(sorted(known)[:3])
        raise InputError(
            f"cannot keep {', '.join(map(repr, unknown[:3]))} in float: no layer is called that; "
            f"layers are called {some}, ... (boxwright quantize --list)"
        )


def _read(view: View, node: onnx.NodeProto) -> Layer:
    weights = input_name(node, 1)
    tensor = view.initializers.get(weights)
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    shape = tuple(tensor.dims) if tensor is not None else ()
    return Layer(node.name, node.op_type, input_name(node, 0), weights, shape, int(group))


def _why_not(view: View, layer: Layer, rules: Rules, first: bool, last: bool) -> str | None:
    """The first reason against quantising a layer."""
    if layer.name.startswith("decode/"):
        return "part of the decoding"
    if layer.operator != "Conv":
        return f"{layer.operator}: only convolutions are quantised"
    if not layer.shape:
        return "its weights are not constant"
    if view.tensor(layer.input) is not None:
        return "its input is constant"
    kind = view.initializers[layer.weights].data_type
    if kind != _FLOAT:
        return f"its weights are {_numpy_type(kind).name}"
    if {node.op_type for node in view.readers.get(layer.weights, ())} != {"Conv"}:
        return "another operator reads its weights"
    if last and not rules.heads:
        return HEAD
    if first:
        return None if rules.first else "the first convolution"
    if layer.depthwise and not rules.depthwise:
        return "depthwise"
    fewest = min(layer.channels)
    if fewest < rules.min_channels:
        return f"{fewest} channels, fewer than {rules.min_channels}"
    return None


def last_layers(view: View, layers: Collection[Layer]) -> set[str]:
    """Layers after which no other comes outside of the decoding: they make the raw heads."""
    inside = {layer.name for layer in layers if not layer.name.startswith("decode/")}
    # Tensors that a layer reads, or that come to one.
    wanted: set[str] = set()
    last = set()
    # Backwards, so that what comes after a node is known when it is met.
    for node in reversed(view.graph.node):
        reaching = not wanted.isdisjoint(node.output)
        if node.name in inside and not reaching:
            last.add(node.name)
        if reaching or node.name in inside:
            wanted.update(_read_by(node))
    return last


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, and what the nodes inside of it do."""
    yield from filter(None, node.input)
    for inner in subgraphs(node):
        for place in all_places(inner):
            yield from filter(None, place.node.input)


def weight_values(tensor: onnx.TensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A layer's weights as float32.

    Raises:
        InputError: One is not finite.
    """
    from onnx import numpy_helper

    values = np.asarray(numpy_helper.to_array(tensor), np.float32)
    if not np.isfinite(values).all():
        raise InputError(
            f"the weights {tensor.name!r} are not all finite, and no scale covers that; "
            "is the model sound in float?"
        )
    return values


def _numpy_type(kind: int) -> np.dtype[Any]:
    from onnx import helper

    return helper.tensor_dtype_to_np_dtype(kind)
