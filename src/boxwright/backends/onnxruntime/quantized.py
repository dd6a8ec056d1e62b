"""A quantised graph as ONNX Runtime's CPU kernels run it in INT8.

ONNX Runtime computes a convolution in INT8 only between a DequantizeLinear and a
QuantizeLinear (``QLinearConv``), and likewise what follows it. The portable graph has no
pair between a convolution and its activation, so it would run there in float32 and round
on top: slower than without quantisation. Here pairs are added behind every quantised
convolution and behind whatever ONNX Runtime can then compute in INT8 too. All are UINT8
over the range that the model keeps (``boxwright.ranges``), which is finer than the
symmetric range of the portable graph: what calibration saw or, between a convolution and its
activation, the part of it that matters behind the activation.

What follows a convolution takes as long as the convolution itself in a small network, so
what it is written as matters:

- a LeakyRelu is a sum of two integers, and not a table (`IntegerWriter.leaky`);
- a Swish is float between two pairs, and not a table and a product (`IntegerWriter.swish`);
- what a concatenation joins has one scale, so that it copies (`_Lowering._share`).

Such a convolution's bias is an INT32 in steps of the input's scale times the channel's weight
scale. Where a channel's weights are next to nothing, or all zero, its bias is out of that range or
too coarse; such channels get another weight scale here (`_scales_for_bias`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from boxwright.backends.onnxruntime.integers import LEVELS, IntegerWriter, Scale
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
# ONNX's, where a LeakyRelu states none.
_SLOPE = 0.01
# The largest bias as an integer, a bit below INT32's end: sums go on top of it.
_LARGEST_BIAS = 2.0**30
# Of a channel whose weights are all zero: whatever it is, they are 0.
_ZERO_CHANNEL = np.float32(2.0**-24)


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
        elsewhere = self._outside = read_elsewhere(proto)
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
        self._scales: dict[str, Scale] = {}
        self._makers = {name: node for node in self._nodes for name in node.output if name}
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        used = (name for node in self._nodes for name in (*node.input, *node.output))
        self._writer = IntegerWriter(proto, (*used, *self._constants))
        self._shared = self._share()

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
        elif node.op_type in ("Sigmoid", "Mul") and any(map(self._is_activated, data)):
            if node.op_type == "Mul":  # the Sigmoid's is no tensor of its own
                self._add(output)
        elif node.op_type in _COMPUTING and all(name in self._scales for name in data):
            self._add(output)

    def _add(self, name: str) -> None:
        if name in self._shared:
            self._scales[name] = self._shared[name]
        elif name in self._ranges:
            self._scales[name] = Scale.of(*self._range_of(name))

    def _range_of(self, name: str) -> tuple[float, float]:
        """A tensor's range; behind a LeakyRelu no more of it than what is in front leaves."""
        low, high = self._ranges[name]
        node = self._makers.get(name)
        if node is not None and node.op_type == "LeakyRelu" and _slope_of(node) > 0:
            source = self._behind.get(node.input[0], node.input[0])
            made_by = self._makers.get(source)
            if source in self._ranges and made_by is not None and made_by.op_type == "Conv":
                low = max(low, _slope_of(node) * min(self._ranges[source][0], 0.0))
        return low, high

    def _share(self) -> dict[str, Scale]:
        """One scale for what a concatenation joins, so that integers pass as they are.

        With a scale each, `QLinearConcat` looks every value up in a table and rounds it a second
        time; with one it copies.
        """
        found: dict[str, Scale] = {}
        rounded = self._rounded_later(whole=True)
        for members in self._joined():
            sources = [n for n in members if not self._is_moved(n)]
            pairs = {self._pairs[name].scale for name in members if name in self._pairs}
            known = sources and all(name in self._ranges for name in sources)
            if len(pairs) != 1 or not known:
                continue
            most = 127 * pairs.pop()
            ends = {name: self._range_of(name) for name in sources}
            # Of what a pair rounds a part of only, it may not clip the rest.
            if any(max(-ends[n][0], ends[n][1]) > most for n in ends if n not in rounded):
                continue
            low = max(min(low for low, _ in ends.values()), -most)
            high = min(max(high for _, high in ends.values()), most)
            if all(self._keeps_clip(name, low, high) for name in sources):
                found.update(dict.fromkeys(members, Scale.of(low, high)))
        return found

    def _joined(self) -> list[list[str]]:
        """Tensors whose values get into one concatenation, or come out of it."""
        sets: dict[str, list[str]] = {}
        concatenated: set[str] = set()
        # What is concatenated for float has no use for one scale, and is coarser in it.
        rounded = self._rounded_later(whole=False)
        for node in self._nodes:
            inputs = self._moved_by(node)
            if not inputs or rounded.isdisjoint(node.output):
                continue
            if node.op_type == "Concat":
                concatenated.update(node.output)
            joined: list[str] = []
            for name in (*inputs, *filter(None, node.output)):
                members = sets.get(name, [name])
                if members is not joined:
                    joined.extend(members)
                    sets.update(dict.fromkeys(members, joined))
        unique = {id(members): members for members in sets.values()}
        return [members for members in unique.values() if concatenated & set(members)]

    def _moved_by(self, node: onnx.NodeProto) -> list[str]:
        """The tensors whose values a node passes on, as they are."""
        data = [self._behind.get(name, name) for name in node.input if name]
        if node.op_type == "Concat" and not node.name.startswith("decode/"):
            return data
        return data[:1] if node.op_type in _MOVING or self._is_nearest(node) else []

    def _rounded_later(self, *, whole: bool) -> set[str]:
        """Tensors that have a pair, or whose values get to one: any of them, or all."""
        found = set(self._pairs)
        for node in reversed(self._nodes):
            data = [] if whole and node.op_type == "Slice" else self._moved_by(node)
            inside = [name in found for name in node.output if name]
            if all(inside) if whole else any(inside):
                found.update(data)
        return found

    def _is_moved(self, name: str) -> bool:
        node = self._makers.get(name)
        return node is not None and bool(self._moved_by(node))

    def _keeps_clip(self, name: str, low: float, high: float) -> bool:
        """Whether a range still does the work of the Relu or Clip that a tensor comes from."""
        node = self._makers.get(name)
        if node is None or node.op_type not in _CLIPPING:
            return True
        return low >= 0 and (node.op_type == "Relu" or high <= max(self._ranges[name][1], 0.0))

    def _scale_of(self, name: str, pair: Pair) -> Scale:
        """For a tensor that has a pair: within its symmetric range."""
        if name in self._shared:
            return self._shared[name]
        most = 127 * pair.scale
        low, high = self._range_of(name) if name in self._ranges else (-most, most)
        return Scale.of(max(low, -most), min(high, most))

    def _clipped_by(self, name: str) -> onnx.NodeProto | None:
        """The Relu or Clip that alone reads a tensor."""
        readers = self._readers.get(name, [])
        single = len(readers) == 1 and readers[0].op_type in _CLIPPING
        return readers[0] if single else None

    def _is_activated(self, name: str) -> bool:
        """Whether a tensor is in INT8 and read by a Swish alone, which is computed in float."""
        return name in self._scales and self._is_swish(name)

    def _is_swish(self, name: str) -> bool:
        """Whether a tensor is read by a Swish alone."""
        readers = {node.op_type: node for node in self._readers.get(name, ())}
        if len(self._readers.get(name, ())) != 2 or set(readers) != {"Mul", "Sigmoid"}:
            return False
        gate = readers["Sigmoid"].output[0]
        alone = len(self._readers.get(gate, ())) == 1 and gate not in self._outside
        return alone and set(readers["Mul"].input) <= {name, gate}

    def _is_squashed(self, name: str) -> bool:
        """Whether a tensor is read by a Swish or (as `lower_mish` writes it) a Mish alone."""
        readers = {node.op_type: node for node in self._readers.get(name, ())}
        mish = len(self._readers.get(name, ())) == 2 and "Min" in readers
        mish = mish and readers["Min"].name.endswith("/mish/min")
        return (mish and "Mul" in readers) or self._is_swish(name)

    def _squashed(self, name: str) -> Scale:
        """A scale that leaves out what the activation makes nothing of.

        Swish and Mish of x below 0 are smaller than ``|x| * exp(x)``: where that is half a
        step at most, x may as well be larger. It is most of the range often: convolutions
        give -100 as easily as 10.
        """
        low, high = self._ranges[name]
        end = -2.0
        while -end * math.exp(end) > (max(high, 0.0) - end) / (2 * LEVELS):
            end -= 0.25
        return Scale.of(max(low, end), high)

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
        # By tensor, the DequantizeLinear behind it.
        pairs: dict[str, onnx.NodeProto] = {}
        for node in self._nodes:
            if node.op_type == "Conv":
                self._write_bias(node)
            if self._write_activation(node, pairs):
                continue
            for number, name in enumerate(node.input):
                tensor = self._behind.get(name, name)
                node.input[number] = pairs[tensor].output[0] if tensor in pairs else tensor
            self._graph.node.append(node)
            self._write_pairs(node, pairs)
        self._drop_unread()

    def _write_pairs(self, node: onnx.NodeProto, pairs: dict[str, onnx.NodeProto]) -> None:
        for name in node.output:
            if name in self._scales:
                result = self._writer.scaled_pair(name, self._scales[name])
                pairs[name] = self._writer.node_of(result)

    def _write_activation(self, node: onnx.NodeProto, pairs: dict[str, onnx.NodeProto]) -> bool:
        """Write a LeakyRelu or Swish of integers, where a node is one or a part of one."""
        if node.op_type not in ("LeakyRelu", "Sigmoid", "Mul"):
            return False
        data = [self._behind.get(name, name) for name in node.input]
        name = node.output[0]
        if node.op_type == "LeakyRelu":
            source, slope = data[0], _slope_of(node)
            wanted_in_float = name in self._outside or name not in self._scales
            if source not in pairs or wanted_in_float or not 0 < slope < 1:
                return False
            scales = self._scales[source], self._scales[name]
            result = self._writer.leaky(pairs[source], name, slope, *scales)
            pairs[name] = self._writer.node_of(result)
            return True
        source = next((tensor for tensor in data if tensor in pairs and self._is_swish(tensor)), "")
        if source and node.op_type == "Mul":
            self._writer.swish(pairs[source].output[0], name)
            self._write_pairs(node, pairs)
        return bool(source)

    def _write_bias(self, node: onnx.NodeProto) -> None:
        """Give a convolution an INT32 bias, and the weight scales that it needs."""
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
            node.input[1] = self._writer.pair(pair.input[0], name, fitting, zeros, axis=0)
        with np.errstate(over="ignore"):
            steps = np.float32(scale.scale) * fitting
        if np.isfinite(steps).all():
            node.input[2] = self._writer.bias(f"{node.output[0]}/bias", bias, steps)

    def _array(self, name: str) -> NDArray[Any] | None:
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def _drop_unread(self) -> None:
        """Weights' pairs and biases that others stand for now."""
        for operator in ("DequantizeLinear", "QuantizeLinear"):
            nodes = list(self._graph.node)
            used = count_reads(self._proto)
            kept = [n for n in nodes if n.op_type != operator or used[n.output[0]]]
            if len(kept) < len(nodes):
                del self._graph.node[:]
                self._graph.node.extend(kept)
        # A constant that is an input too is its default.
        read = {*count_reads(self._proto), *(value.name for value in self._graph.input)}
        constants = [tensor for tensor in self._graph.initializer if tensor.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(constants)


def _slope_of(leaky: onnx.NodeProto) -> float:
    return float(next((a.f for a in leaky.attribute if a.name == "alpha"), _SLOPE))


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
