"""From TensorFlow's operations to ONNX's: the state, and what every operation shares.

TensorFlow keeps images as NHWC, ONNX's convolutions want planes, NCHW. Each tensor is kept
in the layout it was computed in and transposed where an operation needs the other one, at
most once; what works in any layout (activations, sums, concatenation) takes what is there,
so that a network ends up with a handful of transpositions.

A file describes one image at a time, the contract any number. Every tensor that depends on
the images has the batch outermost, in its first axis, alone or multiplied with more. So an
operation along the first axis would mix images and is refused, and a reshape works out the
first extent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from boxwright.errors import ImportFailedError
from boxwright.graph.builder import GraphBuilder
from boxwright.importers.tensorflow.fold import fold
from boxwright.importers.tensorflow.network import (
    MAX_ELEMENTS,
    Array,
    Network,
    Node,
    Quantization,
    Value,
    short,
    size_of,
)
from boxwright.progress import ProgressCallback, silent

Layout = Literal["plain", "planes"]
TO_PLANES, FROM_PLANES = [0, 3, 1, 2], [0, 2, 3, 1]
# Where an axis of NHWC is in NCHW.
_PLANE_AXIS = (0, 2, 3, 1)


@dataclass
class Tensor:
    """A tensor on its way.

    Attributes:
        shape: As TensorFlow sees it, for one image.
        dtype: Type of its values once dequantised.
        data: Its values, where they are constant.
        names: Names in the ONNX graph, by layout.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data: Array | None = None
    names: dict[Layout, str] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """The layout it is there in already; planes, if in both."""
        return "planes" if "planes" in self.names else "plain"


Operation = Callable[["Lowering", Node, list[Tensor]], list[Tensor]]


class Lowering:
    """Writes a network's operations into a graph.

    Args:
        network: What was read.
        graph: Where to write.
        operations: How each kind is written.
        keep_quantization: Write the file's scales as QuantizeLinear and DequantizeLinear;
            otherwise the graph is float32 throughout.
    """

    def __init__(
        self,
        network: Network,
        graph: GraphBuilder,
        operations: dict[str, Operation],
        *,
        keep_quantization: bool = True,
    ) -> None:
        self.network = network
        self.graph = graph
        self.operations = operations
        self.keep_quantization = keep_quantization
        self.tensors: dict[str, Tensor] = {}
        self._folded = 0

    def feed(self, name: str, tensor: Tensor) -> None:
        """Say what an input of the network is."""
        value = self.network.values.get(name)
        consumers = [node for node in self.network.nodes if name in node.inputs]
        if value is not None and any(node.kind != "Quantize" for node in consumers):
            self._requantize(value, tensor, "input")
        self.tensors[name] = tensor

    def run(self, wanted: Sequence[str], progress: ProgressCallback = silent) -> list[Tensor]:
        """Write what is needed for the values `wanted`; returns them.

        Raises:
            ImportFailedError: An operation is unknown, or cannot be converted faithfully.
        """
        needed = self._needed(wanted)
        for number, node in enumerate(needed):
            self._write(node)
            progress("import", number + 1, len(needed))
        return [self.tensor(name) for name in wanted]

    def tensor(self, name: str) -> Tensor:
        """The tensor of a value: computed already, or a constant of the file."""
        if name not in self.tensors:
            value = self.network.values.get(name)
            if value is None or value.data is None:
                raise ImportFailedError(
                    f"{self.network.path}: {short(name)!r} is used, but nothing computes it"
                )
            data = real_values(value)
            self.tensors[name] = Tensor(data.shape, data.dtype, data)
        return self.tensors[name]

    def _needed(self, wanted: Sequence[str]) -> list[Node]:
        producers = self.network.producers()
        pending, marked = list(wanted), set()
        while pending:
            name = pending.pop()
            node = producers.get(name)
            if name in self.tensors or node is None or id(node) in marked:
                continue
            marked.add(id(node))
            pending.extend(name for name in node.inputs if name)
        return [node for node in self.network.nodes if id(node) in marked]

    def _write(self, node: Node) -> None:
        inputs = [self.tensor(name) if name else _ABSENT for name in node.inputs]
        outputs = self._fold(node, inputs)
        if outputs is None:
            operation = self.operations.get(node.kind)
            if operation is None:
                self.network.fail(
                    node,
                    "this operation is not known; what cannot be computed exactly is not imported",
                )
            try:
                outputs = operation(self, node, inputs)
            except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError) as error:
                self.network.fail(node, f"its inputs or settings do not fit it ({error})")
            outputs = self._activated(node, outputs)
        for name, tensor in zip(node.outputs, outputs, strict=False):
            value = self.network.values.get(name)
            if value is not None and tensor.data is None:
                self._requantize(value, tensor, node.name)
            self.tensors[name] = tensor

    def _fold(self, node: Node, inputs: list[Tensor]) -> list[Tensor] | None:
        if node.kind in ("Shape", "Size", "Rank") and inputs:
            arrays: list[Array] = [np.broadcast_to(np.zeros((), np.float32), inputs[0].shape)]
        else:
            arrays = [tensor.data for tensor in inputs if tensor.data is not None]
            if len(arrays) != len(inputs) or not arrays:
                return None
        try:
            folded = fold(node.kind, node.attributes, arrays)
        except ValueError as error:
            self.network.fail(node, str(error))
        if folded is None:
            return None
        # A chain of doublings stays within each bound, and not within all of them.
        self._folded += sum(array.size for array in folded)
        if self._folded > 4 * MAX_ELEMENTS:
            self.network.fail(node, "the file's constants are larger than any network's")
        return [Tensor(array.shape, array.dtype, array) for array in folded]

    def _activated(self, node: Node, outputs: list[Tensor]) -> list[Tensor]:
        name = node.attributes.get("activation")
        if not name:
            return outputs
        operation = self.operations.get(name)
        if operation is None:
            self.network.fail(node, f"its {short(str(name))} is not known")
        return [operation(self, node, outputs[:1])[0], *outputs[1:]]

    # Names and nodes.

    def name(self, node: Node, suffix: str = "") -> str:
        """A free name for a node's result."""
        return self.graph.unique(f"{node.name}{'/' if suffix else ''}{suffix}")

    def emit(
        self,
        node: Node,
        operator: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        layout: Layout,
        **attributes: Any,
    ) -> Tensor:
        """Add an ONNX node whose result has `shape` (as TensorFlow sees it) in `layout`."""
        extents = tuple(int(extent) for extent in shape)
        if size_of(extents) > MAX_ELEMENTS or any(extent < 1 for extent in extents):
            self.network.fail(node, f"its result would have the shape {list(extents)}")
        name = self.graph.add(operator, inputs, self.name(node), **attributes)
        return Tensor(extents, np.dtype(np.float32), None, {layout: name})

    def get(self, tensor: Tensor, layout: Layout) -> str:
        """The name of a tensor in a layout; transposes it, or writes a constant, if need be.

        Constants of less than four axes are brought to where they act on planes.
        """
        if layout not in tensor.names:
            tensor.names[layout] = self._make(tensor, layout)
        return tensor.names[layout]

    def _make(self, tensor: Tensor, layout: Layout) -> str:
        if tensor.data is not None:
            data = tensor.data
            if layout == "planes" and data.size > 1:
                data = data.reshape((1,) * (4 - data.ndim) + data.shape).transpose(TO_PLANES)
            return self.constant(f"constant_{len(self.graph.graph.initializer)}", data)
        (source,) = tensor.names.values()
        if len(tensor.shape) != 4:
            raise ValueError(f"a shape of four axes is expected, not {list(tensor.shape)}")
        perm = TO_PLANES if layout == "planes" else FROM_PLANES
        return self.graph.add(
            "Transpose", [source], self.graph.unique(f"{source}/{layout}"), perm=perm
        )

    def constant(self, name: str, data: Array) -> str:
        """An initializer under a free name."""
        if data.dtype == np.float64:
            data = data.astype(np.float32)
        return self.graph.constant(self.graph.unique(name) + "/value", np.asarray(data, order="C"))

    def common(self, node: Node, tensors: Sequence[Tensor]) -> Layout:
        """The layout in which tensors can act together with the fewest transpositions."""
        moving = [tensor for tensor in tensors if tensor.data is None]
        ranks = {len(tensor.shape) for tensor in moving}
        if len(ranks) > 1:
            self.network.fail(node, "tensors of different rank act on each other")
        if ranks != {4} or any(len(t.shape) > 4 for t in tensors):
            return "plain"
        return "planes" if any("planes" in t.names for t in moving) else "plain"

    def axis(self, node: Node, tensor: Tensor, axis: int) -> int:
        """An axis counted from the front; the first is refused, for it holds the images."""
        rank = len(tensor.shape)
        if not -rank <= axis < rank:
            self.network.fail(node, f"axis {axis} of {rank} axes")
        axis %= rank
        if axis == 0:
            self.network.fail(node, "it works along the first axis, and would mix images")
        return axis

    def place(self, axis: int, layout: Layout) -> int:
        """Where an axis is in a layout."""
        return _PLANE_AXIS[axis] if layout == "planes" else axis

    def integers(self, node: Node, tensor: Tensor, what: str) -> list[int]:
        """The whole numbers of an input that must be constant."""
        if tensor.data is None or tensor.data.dtype.kind not in "iu":
            self.network.fail(node, f"its {what} must be constant whole numbers")
        return [int(value) for value in tensor.data.reshape(-1)]

    def floats(self, node: Node, tensor: Tensor, what: str) -> Array:
        """The values of an input that must be constant."""
        if tensor.data is None:
            self.network.fail(node, f"its {what} must be constant")
        return tensor.data

    # Quantisation.

    def _requantize(self, value: Value, tensor: Tensor, where: str) -> None:
        """Round a tensor to what the file's integers can hold."""
        scales = value.quantization
        if scales is None or not self.keep_quantization or value.dtype not in (np.int8, np.uint8):
            # 16-bit activations are finer than they matter; ONNX has them from opset 21 on.
            return
        if len(scales.scales) != 1:
            raise ImportFailedError(
                f"{self.network.path}: {short(value.name)!r} has {len(scales.scales)} scales, "
                "and only weights may have several"
            )
        layout = tensor.layout
        pair = self._pair(scales, value.dtype, f"{where}/quantization")
        stored = self.graph.unique(f"{where}/quantized")
        self.graph.add("QuantizeLinear", [tensor.names[layout], *pair], stored)
        restored = self.graph.unique(f"{where}/dequantized")
        tensor.names = {layout: self.graph.add("DequantizeLinear", [stored, *pair], restored)}

    def weights(
        self, node: Node, index: int, permute: Callable[[Array], Array], axis: int = 0
    ) -> str:
        """A kernel as an initializer; a quantised one keeps its integers and scales.

        Args:
            node: The convolution.
            index: Which of its inputs.
            permute: Brings the kernel to ONNX's layout.
            axis: Which axis the scales follow there.
        """
        value = self.network.values.get(node.inputs[index])
        scales = None if value is None else value.quantization
        kept = self.keep_quantization and scales is not None
        if not kept or value is None or value.dtype not in (np.int8, np.uint8):
            data = permute(self.floats(node, self.tensor(node.inputs[index]), "weights"))
            return self.constant(f"{node.name}/weights", data)
        assert scales is not None  # noqa: S101  # as `kept` says
        assert value.data is not None  # noqa: S101  # floats() would have refused it
        data = permute(value.data)
        if len(scales.scales) not in (1, data.shape[axis]):
            self.network.fail(node, "the scales of its weights follow another axis than filters")
        stored = self.constant(f"{node.name}/weights", data)
        pair = self._pair(scales, value.dtype, f"{node.name}/weights")
        name = self.graph.unique(f"{node.name}/weights/dequantized")
        along = {"axis": axis} if len(scales.scales) > 1 else {}
        return self.graph.add("DequantizeLinear", [stored, *pair], name, **along)

    def _pair(self, scales: Quantization, dtype: np.dtype[Any], name: str) -> tuple[str, str]:
        single = len(scales.scales) == 1
        scale, zero = scales.scales, scales.zeros.astype(dtype)
        if not np.array_equal(zero, scales.zeros):
            raise ValueError(f"a zero point is outside of {dtype}")
        return (
            self.constant(f"{name}/scale", scale[0].reshape(()) if single else scale),
            self.constant(f"{name}/zero", zero[0].reshape(()) if single else zero),
        )


_ABSENT = Tensor((), np.dtype(np.float32), np.zeros((), np.float32))


def absent(tensor: Tensor) -> bool:
    """Whether an optional input is not there."""
    return tensor is _ABSENT


def real_values(value: Value) -> Array:
    """What a constant's stored values mean."""
    data = value.data
    assert data is not None  # noqa: S101  # callers have seen it
    scales = value.quantization
    if scales is None:
        return data.astype(np.float32) if data.dtype == np.float16 else data
    extent = [1] * data.ndim
    if len(scales.scales) > 1:
        extent[scales.axis] = len(scales.scales)
    zeros = scales.zeros.reshape(extent) if data.ndim else scales.zeros[0]
    steps = scales.scales.reshape(extent) if data.ndim else scales.scales[0]
    # In float64, so that a bias of 32 bits keeps them up to the one rounding at the end.
    return np.asarray((data.astype(np.int64) - zeros) * np.float64(steps)).astype(np.float32)
