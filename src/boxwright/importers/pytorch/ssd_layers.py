"""Layers of networks of which only the tensors' names and values are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boxwright.graph.builder import GraphBuilder
from boxwright.importers.pytorch.statedict import StateDict
from boxwright.importers.pytorch.writer import Value

_EPS = 1e-5  # torch.nn.BatchNorm2d's own
_MOBILE_EPS = 1e-3


class Layers:
    """Adds layers to a graph; a layer's name is that of its tensors.

    Args:
        graph: Where to.
        tensors: The state dict.
    """

    def __init__(self, graph: GraphBuilder, tensors: StateDict) -> None:
        self.graph = graph
        self.tensors = tensors

    def conv(
        self,
        name: str,
        x: Value,
        *,
        stride: int = 1,
        pad: int = 0,
        dilation: int = 1,
        norm: str = "",
        eps: float = _EPS,
        act: str = "",
    ) -> Value:
        """A convolution with its normalisation folded in, and an activation.

        Depthwise where the weights are; everything else takes all channels.

        Raises:
            WeightsError: A tensor is missing or does not fit.
        """
        key = f"{name}.weight"
        shape = self.tensors.shape(key)
        groups = x.channels if len(shape) == 4 and shape[1] == 1 and shape[0] == x.channels else 1
        if len(shape) != 4 or shape[1] * groups != x.channels or not all(shape):
            raise self.tensors.error(key, f"{list(shape)} does not fit {x.channels} channels")
        out, kernel = shape[0], shape[2:]
        if max(kernel) > 64:
            raise self.tensors.error(key, f"a window of {list(kernel)} is not known here")
        weights = self.tensors.read(key)
        bias: NDArray[np.float32] | None = None
        if f"{name}.bias" in self.tensors:
            bias = self.tensors.read(f"{name}.bias", out)
        if norm:
            scale, shift = self._norm(norm, out, eps)
            shift = shift if bias is None else shift + bias * scale
            weights = (weights * scale[:, None, None, None]).astype(np.float32)
            bias = shift.astype(np.float32)
        inputs = [x.name, self.graph.constant(f"{name}/weight", weights)]
        if bias is not None:
            inputs.append(self.graph.constant(f"{name}/bias", bias))
        self.graph.add(
            *("Conv", inputs, name),
            kernel_shape=list(kernel),
            strides=[stride, stride],
            pads=[pad] * 4,
            dilations=[dilation, dilation],
            group=groups,
        )
        height, width = (
            (extent + 2 * pad - dilation * (k - 1) - 1) // stride + 1
            for extent, k in zip((x.height, x.width), kernel, strict=True)
        )
        if height < 1 or width < 1:
            raise self.tensors.error(key, f"its window does not fit {x.height}x{x.width}")
        y = Value(name, out, height, width)
        return self.activate(y, act) if act else y

    def conv_norm(self, name: str, x: Value, *, stride: int = 1, act: str) -> Value:
        """Torchvision's ConvNormActivation: 0 is the convolution, 1 the normalisation."""
        kernel = self.tensors.shape(f"{name}.0.weight")[-1]
        return self.conv(
            f"{name}.0",
            x,
            stride=stride,
            pad=kernel // 2,
            norm=f"{name}.1",
            eps=_MOBILE_EPS,
            act=act,
        )

    def predict(self, name: str, x: Value) -> Value:
        """What makes boxes or classes: one convolution, or a depthwise one and another."""
        if f"{name}.0.0.weight" in self.tensors:
            x = self.conv_norm(f"{name}.0", x, act="Relu6")
            return self.conv(f"{name}.1", x)
        return self.conv(name, x, pad=1)

    def activate(self, x: Value, kind: str) -> Value:
        """``Relu``, ``Relu6`` or ``HardSwish``."""
        graph, name = self.graph, f"{x.name}/{kind.lower()}"
        if kind == "Relu":
            graph.add("Relu", [x.name], name)
        elif kind == "Relu6":
            graph.add("Clip", [x.name, graph.scalar(0.0), graph.scalar(6.0)], name)
        else:
            gate = graph.add("HardSigmoid", [x.name], f"{name}/gate", alpha=1 / 6, beta=0.5)
            graph.add("Mul", [x.name, gate], name)
        return Value(name, x.channels, x.height, x.width)

    def pool(
        self, x: Value, size: int, stride: int, *, pad: int = 0, ceil: bool = False, name: str
    ) -> Value:
        """The largest in each window."""
        height, width = (
            -(-(extent + 2 * pad - size) // stride) + 1
            if ceil
            else (extent + 2 * pad - size) // stride + 1
            for extent in (x.height, x.width)
        )
        # What rounding up takes in addition is padding at the end.
        ends = [
            (n - 1) * stride + size - extent - pad
            for n, extent in ((height, x.height), (width, x.width))
        ]
        pads = [pad, pad, *(max(end, pad) if ceil else pad for end in ends)]
        self.graph.add(
            *("MaxPool", [x.name], name),
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=pads,
        )
        return Value(name, x.channels, height, width)

    def add(self, a: Value, b: Value, name: str) -> Value:
        """A sum.

        Raises:
            WeightsError: The shapes differ.
        """
        if (a.channels, a.height, a.width) != (b.channels, b.height, b.width):
            raise self.tensors.error(name, "it adds values of different shapes")
        return Value(self.graph.add("Add", [a.name, b.name], name), a.channels, a.height, a.width)

    def rescaled(self, key: str, x: Value) -> Value:
        """Each position's channels divided by their Euclidean length, times learned factors."""
        factors = self.tensors.read(key, x.channels).reshape(1, -1, 1, 1)
        graph = self.graph
        length = graph.add("ReduceL2", [x.name], f"{key}/length", axes=[1], keepdims=1)
        # torch.nn.functional.normalize, eps.
        length = graph.add("Max", [length, graph.scalar(1e-12)], f"{key}/bounded")
        unit = graph.add("Div", [x.name, length], f"{key}/unit")
        name = graph.add("Mul", [unit, graph.constant(f"{key}/factors", factors)], key)
        return Value(name, x.channels, x.height, x.width)

    def excite(self, name: str, x: Value) -> Value:
        """Squeeze-and-excitation (Hu et al. 2017) with a hard sigmoid."""
        mean = self.graph.add("GlobalAveragePool", [x.name], f"{name}/mean")
        y = self.conv(f"{name}.fc1", Value(mean, x.channels, 1, 1), act="Relu")
        y = self.conv(f"{name}.fc2", y)
        gate = self.graph.add("HardSigmoid", [y.name], f"{name}/gate", alpha=1 / 6, beta=0.5)
        if y.channels != x.channels:
            raise self.tensors.error(f"{name}.fc2.weight", "it does not fit what it scales")
        scaled = self.graph.add("Mul", [x.name, gate], f"{name}/scaled")
        return Value(scaled, x.channels, x.height, x.width)

    def _norm(
        self, name: str, channels: int, eps: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        weight, bias, mean, var = (
            self.tensors.read(f"{name}.{part}", channels).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        if (var < 0).any():
            raise self.tensors.error(f"{name}.running_var", "variances must not be negative")
        scale = weight / np.sqrt(var + eps)
        return scale, bias - mean * scale
