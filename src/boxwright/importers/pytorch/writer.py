"""Torch's own modules as ONNX nodes, with the shape of every value known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.graph.builder import GraphBuilder
from boxwright.importers.pytorch.modules import Module
from boxwright.importers.pytorch.records import Tensor

Floats = NDArray[np.float32]

_MAX_VALUES = 1 << 30
_MAX_MODULES = 20_000
_MAX_DEPTH = 40


@dataclass(frozen=True)
class Value:
    """A tensor ``(N, channels, height, width)`` of the graph."""

    name: str
    channels: int
    height: int
    width: int


class Writer:
    """Adds modules to a graph.

    Args:
        graph: Where to.
        numbers: Reads a tensor of the checkpoint.
    """

    def __init__(self, graph: GraphBuilder, numbers: Callable[[Tensor], Floats]) -> None:
        self.graph = graph
        self.numbers = numbers
        self._depth = 0
        self._count = 0

    def enter(self, module: Module) -> None:
        """Count a module that is being written: a record may hold itself, or others many times.

        Raises:
            ImportFailedError: There are more, or they are nested deeper, than in any network.
        """
        self._count += 1
        self._depth += 1
        if self._count > _MAX_MODULES or self._depth > _MAX_DEPTH:
            raise module.error(
                f"the network has more than {_MAX_MODULES} modules or is nested more than "
                f"{_MAX_DEPTH} deep"
            )

    def leave(self) -> None:
        """The counterpart of :meth:`enter`."""
        self._depth -= 1

    def conv(self, module: Module, norm: Module | None, x: Value, name: str) -> Value:
        """A Conv2d, with the batch normalisation behind it folded in."""
        module.check(
            "in_channels out_channels kernel_size stride padding dilation transposed "
            "output_padding groups padding_mode",
            "",
            "weight bias",
        )
        if module.kind != "Conv2d" or module.get("padding_mode", "zeros") != "zeros":
            raise module.error("expected a Conv2d that pads with zeros")
        stride = module.pair("stride", 1, 64)
        padding = module.pair("padding", 0, 512)
        dilation = module.pair("dilation", 1, 64)
        groups = module.whole("groups", 1, 1 << 16)
        weight = module.need("weight", 4)
        out, kernel = weight.shape[0], (weight.shape[2], weight.shape[3])
        if weight.shape[1] * groups != x.channels or out % groups or not weight.count:
            raise module.error(
                f"its weights {list(weight.shape)} in {groups} groups do not fit the "
                f"{x.channels} channels they get"
            )
        values, bias = self._folded(module, norm, weight)
        height, width = (
            _window(module, extent, *numbers)
            for extent, *numbers in zip(
                (x.height, x.width), kernel, stride, padding, dilation, strict=True
            )
        )
        inputs = [x.name, self.graph.constant(f"{name}/weight", values)]
        if bias is not None:
            inputs.append(self.graph.constant(f"{name}/bias", bias))
        self.graph.add(
            *("Conv", inputs, name),
            kernel_shape=list(kernel),
            strides=list(stride),
            pads=[*padding, *padding],
            dilations=list(dilation),
            group=groups,
        )
        return self.sized(module, Value(name, out, height, width))

    def _folded(
        self, module: Module, norm: Module | None, weight: Tensor
    ) -> tuple[Floats, Floats | None]:
        values = self.numbers(weight)
        out = weight.shape[0]
        bias_tensor = module.tensor("bias")
        bias = None if bias_tensor is None else self._vector(module, "bias", out)
        if norm is None:
            return values, bias
        norm.check(
            "num_features eps momentum affine track_running_stats",
            "",
            "weight bias running_mean running_var num_batches_tracked",
        )
        if norm.kind != "BatchNorm2d":
            raise norm.error("expected a BatchNorm2d")
        scale, shift = self.norm(norm, out)
        # In double precision, as everything that is folded; the result is rounded once.
        folded = values * scale[:, None, None, None]
        if bias is not None:
            shift = shift + bias * scale
        return folded.astype(np.float32), shift.astype(np.float32)

    def norm(self, norm: Module, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and shift of a BatchNorm2d at inference: ``(x - mean) / sqrt(var + eps)``."""
        mean = self._vector(norm, "running_mean", channels).astype(np.float64)
        var = self._vector(norm, "running_var", channels).astype(np.float64)
        eps = norm.number("eps", 0.0, 1.0)
        if (var < 0).any() or not (var + eps > 0).all():
            raise norm.error("its variances must be positive")
        scale = 1 / np.sqrt(var + eps)
        if norm.tensor("weight") is not None:
            scale = scale * self._vector(norm, "weight", channels)
        shift = -mean * scale
        if norm.tensor("bias") is not None:
            shift = shift + self._vector(norm, "bias", channels)
        return scale, shift

    def _vector(self, module: Module, name: str, length: int) -> Floats:
        tensor = module.need(name, 1)
        if tensor.shape != (length,):
            raise module.error(f"its {name} has {tensor.shape[0]} values instead of {length}")
        return self.numbers(tensor)

    def activation(self, module: Module, x: Value, name: str) -> Value:
        """One of torch's activations."""
        attributes, write = _ACTIVATIONS.get(module.kind, ("", None))
        if write is None or module.ours:
            raise module.error("this activation is not known here")
        module.check(attributes, "", "")
        return self._like(x, write(self, module, x.name, name))

    def pool(self, module: Module, x: Value, name: str) -> Value:
        """A MaxPool2d."""
        module.check("kernel_size stride padding dilation return_indices ceil_mode", "", "")
        if module.kind != "MaxPool2d" or module.get("ceil_mode") or module.get("return_indices"):
            raise module.error("expected a MaxPool2d that neither rounds up nor gives indices")
        kernel = module.pair("kernel_size", 1, 64)
        stride = module.pair("stride", 1, 64) if module.get("stride") is not None else kernel
        padding = module.pair("padding", 0, 32)
        dilation = module.pair("dilation", 1, 1, 1)
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            raise module.error("its padding is more than half its window")
        height, width = (
            _window(module, extent, *numbers)
            for extent, *numbers in zip(
                (x.height, x.width), kernel, stride, padding, dilation, strict=True
            )
        )
        self.graph.add(
            *("MaxPool", [x.name], name),
            kernel_shape=list(kernel),
            strides=list(stride),
            pads=[*padding, *padding],
        )
        return self.sized(module, Value(name, x.channels, height, width))

    def upsample(self, module: Module, x: Value, name: str) -> Value:
        """An Upsample that repeats pixels."""
        module.check("size scale_factor mode align_corners recompute_scale_factor", "", "")
        factor = module.get("scale_factor")
        factors = factor if isinstance(factor, (tuple, list)) else (factor, factor)
        if (
            module.get("mode") != "nearest"
            or module.get("size") is not None
            or len(factors) != 2
            or any(type(f) not in (int, float) or f not in range(1, 17) for f in factors)
        ):
            raise module.error("expected one that repeats pixels a whole number of times")
        tall, wide = int(factors[0]), int(factors[1])
        scales = self.graph.constant(f"{name}/scales", np.array([1, 1, tall, wide], np.float32))
        self.graph.add(
            *("Resize", [x.name, "", scales], name),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return self.sized(module, Value(name, x.channels, x.height * tall, x.width * wide))

    def pad(self, module: Module, x: Value, name: str) -> Value:
        """A ZeroPad2d."""
        module.check("padding value", "", "")
        sides = module.get("padding")
        if (
            not isinstance(sides, (tuple, list))
            or len(sides) != 4
            or any(type(side) is not int or not 0 <= side <= 512 for side in sides)
            or module.get("value", 0) != 0
        ):
            raise module.error("expected four sides to be padded with zeros")
        left, right, top, bottom = sides
        pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
        inputs = [x.name, self.graph.constant(f"{name}/pads", pads), self.graph.scalar(0.0)]
        self.graph.add("Pad", inputs, name)
        padded = Value(name, x.channels, x.height + top + bottom, x.width + left + right)
        return self.sized(module, padded)

    def add(self, module: Module, a: Value, b: Value, name: str) -> Value:
        """The sum of two values of one shape."""
        if (a.channels, a.height, a.width) != (b.channels, b.height, b.width):
            raise module.error(f"it adds {_shape(a)} and {_shape(b)}")
        return self._like(a, self.graph.add("Add", [a.name, b.name], name))

    def concat(self, module: Module, parts: list[Value], name: str) -> Value:
        """Channels of several values, one after the other."""
        first = parts[0]
        if any((p.height, p.width) != (first.height, first.width) for p in parts):
            shapes = ", ".join(map(_shape, parts))
            raise module.error(f"it joins {shapes}; sides must be multiples of the largest stride")
        self.graph.add("Concat", [part.name for part in parts], name, axis=1)
        channels = sum(part.channels for part in parts)
        return self.sized(module, Value(name, channels, first.height, first.width))

    def split(self, module: Module, x: Value, sizes: list[int], name: str) -> list[Value]:
        """A value cut into runs of channels."""
        if sum(sizes) != x.channels or min(sizes) < 1:
            raise module.error(f"it cuts {x.channels} channels into {sizes}")
        names = self.graph.split(x.name, sizes, 1, name)
        return [
            Value(part, size, x.height, x.width) for part, size in zip(names, sizes, strict=True)
        ]

    def sized(self, module: Module, value: Value) -> Value:
        """`value`, if it is not larger than any network's.

        Raises:
            ImportFailedError: It is.
        """
        if value.channels * value.height * value.width > _MAX_VALUES:
            raise module.error(f"it makes {_shape(value)}, more than any network")
        return value

    def _like(self, x: Value, name: str) -> Value:
        return Value(name, x.channels, x.height, x.width)


def _shape(value: Value) -> str:
    return f"{value.channels}x{value.height}x{value.width}"


def _window(module: Module, extent: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """How often a window fits (``torch.nn.Conv2d``, "Shape")."""
    positions = (extent + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
    if positions < 1:
        raise module.error(f"its window of {kernel} does not fit into {extent}")
    return positions


def _silu(writer: Writer, module: Module, x: str, name: str) -> str:
    gate = writer.graph.add("Sigmoid", [x], f"{name}/sigmoid")
    return writer.graph.add("Mul", [x, gate], name)


def _mish(writer: Writer, module: Module, x: str, name: str) -> str:
    soft = writer.graph.add("Softplus", [x], f"{name}/softplus")
    return writer.graph.add("Mul", [x, writer.graph.add("Tanh", [soft], f"{name}/tanh")], name)


def _hard_sigmoid(writer: Writer, module: Module, x: str, name: str) -> str:
    return writer.graph.add("HardSigmoid", [x], name, alpha=1 / 6, beta=0.5)


def _hard_swish(writer: Writer, module: Module, x: str, name: str) -> str:
    gate = _hard_sigmoid(writer, module, x, f"{name}/gate")
    return writer.graph.add("Mul", [x, gate], name)


def _leaky(writer: Writer, module: Module, x: str, name: str) -> str:
    slope = module.number("negative_slope", 0.0, 1.0)
    return writer.graph.add("LeakyRelu", [x], name, alpha=slope)


def _elu(writer: Writer, module: Module, x: str, name: str) -> str:
    return writer.graph.add("Elu", [x], name, alpha=module.number("alpha", 0.0, 100.0))


def _relu6(writer: Writer, module: Module, x: str, name: str) -> str:
    if not math.isclose(module.number("max_val", 0, 100), 6) or module.number("min_val", 0, 0):
        raise module.error("expected bounds of 0 and 6")
    return writer.graph.add("Clip", [x, writer.graph.scalar(0.0), writer.graph.scalar(6.0)], name)


def _plain(operator: str) -> Callable[[Writer, Module, str, str], str]:
    return lambda writer, module, x, name: writer.graph.add(operator, [x], name)


_ACTIVATIONS: dict[str, tuple[str, Callable[[Writer, Module, str, str], str] | None]] = {
    "SiLU": ("", _silu),
    "Mish": ("", _mish),
    "Hardswish": ("", _hard_swish),
    "Hardsigmoid": ("", _hard_sigmoid),
    "LeakyReLU": ("negative_slope", _leaky),
    "ReLU": ("", _plain("Relu")),
    "ReLU6": ("min_val max_val", _relu6),
    "ELU": ("alpha", _elu),
    "Sigmoid": ("", _plain("Sigmoid")),
    "Tanh": ("", _plain("Tanh")),
    "Identity": ("", lambda writer, module, x, name: x),
}
