"""A quantised graph in PyTorch, from the images to some of its tensors, to be differentiated.

A Q/DQ pair becomes one operator that rounds, and passes gradients on as if it did not (Bengio
et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013, the
straight-through estimator). The gradient by its scale is that of Esser et al., "Learned Step
Size Quantization" (ICLR 2020), equation 3.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boxwright.errors import InputError
from boxwright.extras import require
from boxwright.graph.torch_operators import (
    OPERATORS,
    attributes_of,
    constant_argument,
    refusal,
)
from boxwright.graph.view import View, input_name, tensor_of_constant
from boxwright.model import IMAGES
from boxwright.quantize.insert import LEVELS

if TYPE_CHECKING:
    import onnx

Tensor = Any
"""A ``torch.Tensor``; PyTorch is not there in every installation."""

EXTRA = "train"

_INT8 = 3  # onnx.TensorProto.INT8
# What QuantizeLinear saturates to; our scales leave -128 to values beyond the range.
_LOWEST = -LEVELS - 1
# Of a step, with room for what float32 makes of it.
_HALF = 0.5 + 1e-3


def import_torch() -> Any:
    """PyTorch.

    Raises:
        MissingExtraError: It is not installed.
    """
    return require("torch", EXTRA)


@dataclass(frozen=True)
class Rounding:
    """A Q/DQ pair.

    Attributes:
        tensor: What is rounded.
        output: What comes out.
        scale: The initializer that its scale is in.
        weights: Whether an initializer is rounded, with a scale for each of axis 0.
    """

    tensor: str
    output: str
    scale: str
    weights: bool


class Network:
    """The part of a graph that some of its tensors follow from.

    Args:
        proto: A float graph, or one with the pairs that `boxwright.quantize` writes.
        targets: Names of the tensors that :meth:`run` gives.
        device: A ``torch.device`` or its name.

    Attributes:
        roundings: The pairs, by the tensor that they round.
        constants: Initializers that are data, float32 tensors on the device, by name.

    Raises:
        MissingExtraError: PyTorch is not installed.
        InputError: A node is of an operator, or of a form of it, that is not known here.
    """

    def __init__(self, proto: onnx.ModelProto, targets: Sequence[str], device: Any = "cpu") -> None:
        self._torch = torch = import_torch()
        self._view = View(proto)
        self._targets = tuple(dict.fromkeys(targets))
        self._nodes = list(self._needed())
        self.roundings = {rounding.tensor: rounding for rounding in self._pairs()}
        self._rounded = {rounding.output: rounding for rounding in self.roundings.values()}
        for node in self._nodes:
            _refuse(node)
        self.constants, self._arguments = self._load(torch.device(device))
        self._attributes = {id(node): attributes_of(node) for node in self._nodes}
        self._last_use = self._last_uses()

    @property
    def convolutions(self) -> Sequence[onnx.NodeProto]:
        """Its convolutions, in the graph's order."""
        return [node for node in self._nodes if node.op_type == "Conv"]

    def source(self, name: str) -> str:
        """The tensor in front of the pair that gives `name`; else `name` itself."""
        return self._rounded[name].tensor if name in self._rounded else name

    def run(self, images: Tensor, changed: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """The targets on some images.

        Args:
            images: uint8 ``(N, H, W, 3)`` on the device.
            changed: Values for initializers of these names instead of their own. Weights
                among them that pass through a pair get the scales that follow from them.

        Raises:
            InputError: A node has inputs that PyTorch cannot run it with.
        """
        changed = changed or {}
        values: dict[str, Any] = {**self.constants, **self._arguments, **changed, IMAGES: images}
        for at, node in enumerate(self._nodes):
            if node.op_type == "DequantizeLinear":
                rounding = self._rounded[node.output[0]]
                values[rounding.output] = self._round(rounding, values, rounding.tensor in changed)
            elif node.op_type != "QuantizeLinear":
                values.update(zip(node.output, self._call(node, values), strict=False))
            for name in self._last_use.get(at, ()):
                values.pop(name, None)
        return [values[name] for name in self._targets]

    def _call(self, node: onnx.NodeProto, values: Mapping[str, Any]) -> Sequence[Tensor]:
        try:
            inputs = [values[name] if name else None for name in node.input]
            found = OPERATORS[node.op_type](self._torch, inputs, self._attributes[id(node)])
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Such as a constant of a type that is not loaded.
            raise InputError(
                f"the model cannot be fine-tuned: at {node.name or node.output[0]!r}, PyTorch "
                f"cannot run this {node.op_type} ({type(error).__name__}: {error}); leave "
                "--finetune out"
            ) from error
        return found if isinstance(found, (tuple, list)) else (found,)

    def _round(self, rounding: Rounding, values: Mapping[str, Any], changed: bool) -> Tensor:
        x, scale = values[rounding.tensor], values[rounding.scale]
        if not rounding.weights:
            return fake_quantize(self._torch, x, scale)
        if changed:
            scale = scales_of(self._torch, x)
        return fake_quantize(self._torch, x, scale)

    def _needed(self) -> Iterator[onnx.NodeProto]:
        """The nodes that the targets follow from, in the graph's order."""
        wanted, found = set(self._targets), []
        for node in reversed(self._view.graph.node):
            if tensor_of_constant(node) is not None:  # loaded as initializers are
                continue
            if not wanted.isdisjoint(node.output):
                wanted.update(filter(None, node.input))
                found.append(node)
        made = {name for node in found for name in node.output}
        missing = [name for name in self._targets if name not in made]
        if missing:
            raise InputError(f"the graph computes no tensor {missing[0]!r}")
        return reversed(found)

    def _pairs(self) -> Iterator[Rounding]:
        quantized = {n.output[0]: n for n in self._nodes if n.op_type == "QuantizeLinear"}
        for node in self._nodes:
            if node.op_type != "DequantizeLinear":
                continue
            first = quantized.get(node.input[0])
            if first is None or list(first.input[1:]) != list(node.input[1:]):
                raise InputError(f"{node.name!r} is no end of a Q/DQ pair of one scale")
            scale, zero = (input_name(node, at) for at in (1, 2))
            tensor, weights = first.input[0], first.input[0] in self._view.initializers
            if not self._is_symmetric(scale, zero) or self._is_odd(first, scale, weights):
                raise InputError(
                    f"the pair behind {tensor!r} is not symmetric INT8 with one scale for "
                    "activations and one for each output channel of weights"
                )
            yield Rounding(tensor, node.output[0], scale, weights)

    def _is_symmetric(self, scale: str, zero: str) -> bool:
        from onnx import numpy_helper

        tensors = self._view.initializers
        if scale not in tensors or zero not in tensors or tensors[zero].data_type != _INT8:
            return False
        return not numpy_helper.to_array(tensors[zero]).any()

    def _is_odd(self, node: onnx.NodeProto, scale: str, weights: bool) -> bool:
        rank = len(self._view.initializers[scale].dims)
        return rank != int(weights) or (weights and attributes_of(node).get("axis", 1) != 0)

    def _load(self, device: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from onnx import numpy_helper

        tensors: dict[str, Tensor] = {}
        arguments: dict[str, Any] = {}
        for name in dict.fromkeys(name for node in self._nodes for name in node.input if name):
            tensor = self._view.tensor(name)
            if tensor is None:
                continue
            values = numpy_helper.to_array(tensor)
            argument = constant_argument(values)
            if argument is not None:
                arguments[name] = argument
            elif values.dtype.kind == "f":
                tensor = self._torch.from_numpy(values.copy()).float().to(device)
                if tensor.ndim == 4:
                    tensor = tensor.contiguous(memory_format=self._torch.channels_last)
                tensors[name] = tensor
        return tensors, arguments

    def _last_uses(self) -> dict[int, list[str]]:
        """After which node a tensor is not read any more, so that its memory is free again."""
        last = {name: at for at, node in enumerate(self._nodes) for name in node.input}
        found: dict[int, list[str]] = {}
        made = {name for node in self._nodes for name in node.output} - set(self._targets)
        for name in made:
            # What passes a pair is read under its own name by the second node.
            found.setdefault(last.get(name, len(self._nodes)), []).append(name)
        for rounding in self.roundings.values():
            at = next(n for n, node in enumerate(self._nodes) if rounding.output in node.output)
            if rounding.tensor in made and last[rounding.tensor] < at:
                found[last[rounding.tensor]].remove(rounding.tensor)
                found.setdefault(at, []).append(rounding.tensor)
        return found


def _refuse(node: onnx.NodeProto) -> None:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return
    reason = refusal(node)
    if reason is not None:
        raise InputError(
            f"the model cannot be fine-tuned: at {node.name or node.output[0]!r}, {reason}; "
            "leave --finetune out"
        )


def scales_of(torch: Any, weights: Tensor) -> Tensor:
    """One scale for each output channel, as :func:`boxwright.quantize.insert.weight_scales`.

    No gradient goes through them: they follow the weights.
    """
    amax = weights.detach().abs().flatten(1).amax(1)
    scales = torch.clamp(amax / LEVELS, min=2.0**-24)
    return torch.where(amax > 0, scales, torch.ones_like(scales))


def fake_quantize(torch: Any, x: Tensor, scale: Tensor) -> Tensor:
    """Round to INT8 and back; gradients go to `x` and, where it wants one, to `scale`.

    Args:
        torch: PyTorch.
        x: What is rounded.
        scale: One for all, a scalar; or one for each of axis 0, ``(channels,)``.
    """
    return _function(torch).apply(x, scale)


@functools.cache
def _function(torch: Any) -> Any:
    class FakeQuantize(torch.autograd.Function):  # type: ignore[misc]  # of an optional package
        @staticmethod
        def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
            if scale.ndim:
                # Exactly as QuantizeLinear: a weight is rounded once and for all images.
                steps = scale.reshape(-1, *[1] * (x.ndim - 1))
                out = torch.div(x, steps).round_().clamp_(_LOWEST, LEVELS).mul_(steps)
            else:
                # In one pass. It multiplies by 1 / scale, so that what is next to a half may
                # round apart, as it does between any two ways to add up in float32.
                zero = torch.zeros_like(scale, dtype=torch.int32)
                run = torch.fake_quantize_per_tensor_affine
                out = run(x, scale, zero, _LOWEST, LEVELS)
            ctx.save_for_backward(x, out, scale)
            return out

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
            x, out, scale = ctx.saved_tensors
            steps = scale.reshape(-1, *[1] * (x.ndim - 1)) if scale.ndim else scale
            moved = out - x
            # Rounding moves a value by half a step at most; clipping further.
            to_x = gradient * (moved.abs() <= steps * _HALF)
            if not ctx.needs_input_grad[1]:
                return to_x, None
            # By the scale: inside, what rounding moved, in steps; beyond, the end of the range.
            total = (to_x * moved).sum() + ((gradient - to_x) * out).sum()
            return to_x, total / scale

    return FakeQuantize
