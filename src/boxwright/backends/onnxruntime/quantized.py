"""A quantised graph as ONNX Runtime's CPU kernels run it in INT8.

ONNX Runtime computes a convolution in INT8 only between a DequantizeLinear and a
QuantizeLinear (``QLinearConv``), and likewise what follows it. The portable graph has no
pair between a convolution and its activation, so it would run there in float32 and round
on top: slower than without quantisation. Here pairs are added behind every quantised
convolution and behind whatever ONNX Runtime can then compute in INT8 too. All are UINT8
over the range that calibration saw (``boxwright.ranges``), which is finer than the
symmetric range of the portable graph.

ONNX Runtime also makes the bias an INT32 in steps of the input's scale times the channel's
weight scale. Where a channel's weights are next to nothing, or all zero, its bias is out of
that range or too coarse; such channels get another weight scale here (`_scales_for_bias`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from boxwright.backends.quantized import Pair, activation_pairs, count_reads, read_elsewhere

Ranges = Mapping[str, tuple[float, float]]

# What comes out has the values that go in, so one scale serves both.
_MOVING = frozenset(
    {
        *("Identity", "MaxPool", "Slice", "Split", "Reshape", "Transpose", "Flatten"),
        *("Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth"),
    }
)
# Operators that ONNX Runtime has in INT8 (`qdq_selector_action_transformer.cc`).
_COMPUTING = frozenset(
    {"LeakyRelu", "Sigmoid", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool"}
)
# They are dropped where the range of the QuantizeLinear behind them does their work.
_CLIPPING = frozenset({"Relu", "Clip"})
_LEVELS = 255
# A smaller scale is none: float32 has few digits left there.
_SMALLEST = 2.0**-100
# The largest bias as an integer, a bit below INT32's end: sums go on top of it.
_LARGEST_BIAS = 2.0**30
# Of a channel whose weights are all zero: whatever it is, they are 0.
_ZERO_CHANNEL = np.float32(2.0**-24)


@dataclass(frozen=True)
class _Scale:
    """What a UINT8 value stands for: ``scale * (value - zero)``."""

    scale: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> _Scale:
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / _LEVELS))
        step = scale if scale > _SMALLEST else 1.0
        return cls(step, int(np.clip(round(-low / step), 0, _LEVELS)))


def lower_quantized(proto: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """A copy of a quantised graph for ONNX Runtime's CPU kernels; see the module.

    Args:
        proto: With Q/DQ pairs as `boxwright.quantize` writes them.
        ranges: Lowest and highest value of tensors. Of a tensor that is not among them
            nothing is known, and it gets no pair that it did not have.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return _Lowering(copy, ranges).run()


class _Lowering:
    def __init__(self, proto: onnx.ModelProto, ranges: Ranges) -> None:
        self._proto, self._graph, self._ranges = proto, proto.graph, ranges
        elsewhere = read_elsewhere(proto)
        self._pairs = {
            pair.tensor: pair
            for pair in activation_pairs(proto)
            if pair.scale and elsewhere.isdisjoint(n.output[0] for n in pair.dequantize)
        }
        # What a DequantizeLinear gives stands for the tensor in front of its pair.
        self._behind = {
            node.output[0]: pair.tensor for pair in self._pairs.values() for node in pair.dequantize
        }
        dropped = {id(n) for p in self._pairs.values() for n in (p.quantize, *p.dequantize)}
        self._nodes = [node for node in self._graph.node if id(node) not in dropped]
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            for name in node.input:
                self._readers.setdefault(self._behind.get(name, name), []).append(node)
        self._scales: dict[str, _Scale] = {}
        self._makers = {name: node for node in self._nodes for name in node.output if name}
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._taken = {name for node in self._nodes for name in (*node.input, *node.output)}
        self._taken.update(self._constants)

    def run(self) -> onnx.ModelProto:
        for name, pair in self._pairs.items():
            self._scales[name] = self._scale_of(name, pair)
        # A node's results can be INT8 where its operands are: from the images to the heads.
        for node in self._nodes:
            self._try(node)
        for node in reversed(self._nodes):
            for name in node.output:
                if name in self._scales and not self._is_useful(name, node):
                    del self._scales[name]
        self._write()
        return self._proto

    def _try(self, node: onnx.NodeProto) -> None:
        """Give a pair to what a node computes, where ONNX Runtime computes that in INT8."""
        if node.name.startswith("decode/") or not node.output:
            return
        output = node.output[0]
        data = [self._behind.get(name, name) for name in node.input if name]
        moves = node.op_type in _MOVING or self._is_nearest(node)
        if not data:
            return
        if moves and data[0] in self._scales:
            for name in filter(None, node.output):
                self._scales[name] = self._scales[data[0]]
        elif output in self._scales:
            return
        elif node.op_type == "Conv":
            if node.input[0] in self._behind and self._clipped_by(output) is None:
                self._add(output)
                if output in self._scales and self._is_squashed(output):
                    self._scales[output] = self._squashed(output)
        elif node.op_type in _CLIPPING:
            made_by = self._makers.get(data[0])
            if made_by is None or made_by.op_type != "Conv" or data[0] in self._scales:
                return
            if made_by.input[0] in self._behind:
                self._add(output)
        elif node.op_type in _COMPUTING and all(name in self._scales for name in data):
            self._add(output)

    def _add(self, name: str) -> None:
        if name in self._ranges:
            self._scales[name] = _Scale.of(*self._ranges[name])

    def _scale_of(self, name: str, pair: Pair) -> _Scale:
        """For a tensor that has a pair: within its symmetric range."""
        most = 127 * pair.scale
        low, high = self._ranges.get(name, (-most, most))
        return _Scale.of(max(low, -most), min(high, most))

    def _clipped_by(self, name: str) -> onnx.NodeProto | None:
        """The Relu or Clip that alone reads a tensor."""
        readers = self._readers.get(name, [])
        single = len(readers) == 1 and readers[0].op_type in _CLIPPING
        return readers[0] if single else None

    def _is_squashed(self, name: str) -> bool:
        """Whether a tensor is read by a Swish or (as `lower_mish` writes it) a Mish alone."""
        readers = {node.op_type: node for node in self._readers.get(name, ())}
        if len(self._readers.get(name, ())) != 2 or "Mul" not in readers:
            return False
        if "Sigmoid" in readers:
            return set(readers["Mul"].input) == {name, readers["Sigmoid"].output[0]}
        return "Min" in readers and readers["Min"].name.endswith("/mish/min")

    def _squashed(self, name: str) -> _Scale:
        """A scale that leaves out what the activation makes nothing of.

        Swish and Mish of x below 0 are smaller than ``|x| * exp(x)``: where that is half a
        step at most, x may as well be larger. It is most of the range often: convolutions
        give -100 as easily as 10.
        """
        low, high = self._ranges[name]
        end = -2.0
        while -end * math.exp(end) > (max(high, 0.0) - end) / (2 * _LEVELS):
            end -= 0.25
        return _Scale.of(max(low, end), high)

    def _is_useful(self, name: str, producer: onnx.NodeProto) -> bool:
        """Whether INT8 is computed with on one side of a tensor's pair at least."""
        if name not in self._readers:  # it only leaves the graph
            return False
        if name in self._pairs or producer.op_type == "Conv" or producer.op_type in _CLIPPING:
            return True
        readers = self._readers.get(name, ())
        return any(output in self._scales for reader in readers for output in reader.output)

    @staticmethod
    def _is_nearest(node: onnx.NodeProto) -> bool:
        if node.op_type not in ("Resize", "Upsample"):
            return False
        return all(a.s == b"nearest" for a in node.attribute if a.name == "mode")

    def _write(self) -> None:
        """The nodes anew, a pair behind every tensor that has a scale."""
        del self._graph.node[:]
        pairs: dict[str, str] = {}
        for node in self._nodes:
            if node.op_type == "Conv":
                self._fit_bias(node)
            for number, name in enumerate(node.input):
                tensor = self._behind.get(name, name)
                node.input[number] = pairs.get(tensor, tensor)
            self._graph.node.append(node)
            for name in node.output:
                if name in self._scales:
                    scale = self._scales[name]
                    scales = np.array(scale.scale, np.float32), np.array(scale.zero, np.uint8)
                    pairs[name] = self._append_pair(name, f"{name}/uint8", *scales)
        self._drop_unread()

    def _fit_bias(self, node: onnx.NodeProto) -> None:
        """Give a convolution the weight scales that its bias needs."""
        maker = self._makers.get(node.input[1])
        scale = self._scales.get(self._behind.get(node.input[0], ""))
        if scale is None or maker is None or maker.op_type != "DequantizeLinear":
            return
        pair = self._makers.get(maker.input[0])
        if pair is None or pair.op_type != "QuantizeLinear" or pair.input[1:] != maker.input[1:]:
            return
        arrays = [self._array(name) for name in (*pair.input, *node.input[2:3])]
        if len(arrays) != 4 or any(array is None for array in arrays):
            return
        weights, scales, zeros, bias = (array for array in arrays if array is not None)
        if scales.shape != bias.shape or scales.shape != weights.shape[:1] or zeros.any():
            return
        fitting = _scales_for_bias(weights, scales, bias, scale.scale)
        if not np.array_equal(fitting, scales):
            name = f"{node.output[0]}/weights"
            node.input[1] = self._append_pair(pair.input[0], name, fitting, zeros, axis=0)

    def _array(self, name: str) -> NDArray[Any] | None:
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def _append_pair(
        self, tensor: str, name: str, scale: NDArray[Any], zero: NDArray[Any], **axis: Any
    ) -> str:
        """Q and DQ behind a tensor; returns the name of what comes out."""
        parts = [self._unused(f"{name}{end}") for end in ("/scale", "/zero", "", "/float")]
        for part, value in zip(parts[:2], (scale, zero), strict=True):
            self._graph.initializer.append(numpy_helper.from_array(value, part))
        chain = (("QuantizeLinear", tensor, parts[2]), ("DequantizeLinear", parts[2], parts[3]))
        for operator, source, result in chain:
            inputs = [source, *parts[:2]]
            self._graph.node.append(
                helper.make_node(operator, inputs, [result], name=result, **axis)
            )
        return parts[3]

    def _unused(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _drop_unread(self) -> None:
        """Weights' pairs that others stand for now; ONNX Runtime would keep their bytes."""
        for operator in ("DequantizeLinear", "QuantizeLinear"):
            nodes = list(self._graph.node)
            used = count_reads(self._proto)
            kept = [n for n in nodes if n.op_type != operator or used[n.output[0]]]
            if len(kept) < len(nodes):
                del self._graph.node[:]
                self._graph.node.extend(kept)


def _scales_for_bias(
    weights: NDArray[Any], scales: NDArray[Any], bias: NDArray[Any], input_scale: float
) -> NDArray[np.float32]:
    """Weight scales, one for each channel, in which the bias fits into INT32.

    A channel needs another one only where its bias is more than 2**30 steps of its weights
    and the input. With steps of 2**-30 of the bias, weights are off by less than 2**-31 of
    it, and as the input is at most 255 steps large, a sum of k of them by k * 2**-23.
    """
    zero = ~weights.reshape(len(weights), -1).any(axis=1)
    needed = np.abs(bias.astype(np.float64)) / (_LARGEST_BIAS * input_scale)
    usual = np.where(zero, _ZERO_CHANNEL, scales.astype(np.float64))
    return np.maximum(usual, needed).astype(np.float32)
