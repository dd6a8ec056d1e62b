"""Writing nodes that compute with UINT8 into a graph for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

LEVELS = 255
"""Steps of a UINT8."""

# A smaller scale is none: float32 has few digits left there.
_SMALLEST = 2.0**-100
# The domain of ONNX Runtime's own operators (ContribOperators.md), part of every build.
_OWN = "com.microsoft"


@dataclass(frozen=True)
class Scale:
    """What a UINT8 value stands for: ``scale * (value - zero)``."""

    scale: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> Scale:
        """That of a range, widened to have 0 in it."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / LEVELS))
        step = scale if scale > _SMALLEST else 1.0
        return cls(step, int(np.clip(round(-low / step), 0, LEVELS)))


class IntegerWriter:
    """Appends nodes to a graph.

    Args:
        proto: The model, which is changed.
        taken: Names of tensors that are not to be used.
    """

    def __init__(self, proto: onnx.ModelProto, taken: Iterable[str]) -> None:
        self._proto, self._graph, self._taken = proto, proto.graph, set(taken)

    def pair(
        self, tensor: str, name: str, scale: NDArray[Any], zero: NDArray[Any], **axis: Any
    ) -> str:
        """Q and DQ behind a tensor; returns the name of what comes out."""
        grid = self._constant(f"{name}/scale", scale), self._constant(f"{name}/zero", zero)
        integers = self._node("QuantizeLinear", [tensor, *grid], name, **axis)
        return self._node("DequantizeLinear", [integers, *grid], f"{name}/float", **axis)

    def scaled_pair(self, tensor: str, scale: Scale) -> str:
        """The pair of an activation; returns the name of what comes out."""
        grid = np.array(scale.scale, np.float32), np.array(scale.zero, np.uint8)
        return self.pair(tensor, f"{tensor}/uint8", *grid)

    def bias(self, name: str, bias: NDArray[Any], steps: NDArray[np.float32]) -> str:
        """A bias as INT32 with a DequantizeLinear; returns the name of what comes out.

        Versions before 1.21 run a convolution in INT8 only if its bias is such.

        Args:
            name: Of the new nodes.
            bias: ``(C,)``, float.
            steps: ``(C,)``, what 1 stands for: the input's scale times the weights'.
        """
        # In float32, as later versions do it, and to the same bits.
        values = np.rint(bias.astype(np.float32) / steps)
        integers = self._constant(f"{name}/int32", values.astype(np.int32))
        scale = self._constant(f"{name}/scale", steps)
        return self._node("DequantizeLinear", [integers, scale], f"{name}/float", axis=0)

    def leaky(
        self, undone: onnx.NodeProto, name: str, slope: float, before: Scale, after: Scale
    ) -> str:
        """A LeakyRelu of integers, as ``slope * x + (1 - slope) * max(x, 0)``.

        ``QLinearLeakyRelu`` looks every value up in a table. These two operators have vector
        instructions and take half the time (``benchmarks/int8_activations.py``). Either way
        it is rounded once.

        Args:
            undone: The DequantizeLinear of what is activated.
            name: Of the tensor that the LeakyRelu gives.
            slope: That of the negative half, above 0 and below 1.
            before: What the integers stand for.
            after: What the result's shall stand for.

        Returns:
            The name of the result, dequantised.
        """
        integers, _, zero = undone.input
        name = f"{name}/uint8"
        low = self._constant(f"{name}/slope", np.array(slope * before.scale, np.float32))
        rest = self._constant(f"{name}/rest", np.array((1 - slope) * before.scale, np.float32))
        grid = (
            self._constant(f"{name}/scale", np.array(after.scale, np.float32)),
            self._constant(f"{name}/zero", np.array(after.zero, np.uint8)),
        )
        # Max of UINT8 came later than version 1.18, which we support; Clip is as fast.
        positive = self._node("Clip", [integers, zero], f"{name}/positive")
        parts = [integers, low, zero, positive, rest, zero]
        total = self._node("QLinearAdd", [*parts, *grid], name, domain=_OWN)
        return self._node("DequantizeLinear", [total, *grid], f"{name}/float")

    def swish(self, tensor: str, name: str) -> None:
        """``tensor * Sigmoid(tensor)`` in float, as one node.

        Between DequantizeLinear and QuantizeLinear it takes two thirds of the time of
        ``QLinearSigmoid`` and ``QLinearMul``, and rounds nothing. ONNX Runtime makes this node
        itself of a Sigmoid and a Mul, but not where each has a DequantizeLinear of its own.
        """
        self._import_own()
        node = helper.make_node("QuickGelu", [tensor], [name], name=name, domain=_OWN, alpha=1.0)
        self._graph.node.append(node)

    def node_of(self, tensor: str) -> onnx.NodeProto:
        """The last node, which has given `tensor`."""
        node = self._graph.node[-1]
        assert node.output[0] == tensor  # noqa: S101  # a mistake of the caller's
        return node

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        name = self._unused(name)
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, operator: str, inputs: list[str], name: str, **more: Any) -> str:
        if more.get("domain"):
            self._import_own()
        name = self._unused(name)
        self._graph.node.append(helper.make_node(operator, inputs, [name], name=name, **more))
        return name

    def _import_own(self) -> None:
        if all(opset.domain != _OWN for opset in self._proto.opset_import):
            self._proto.opset_import.append(helper.make_opsetid(_OWN, 1))

    def _unused(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
