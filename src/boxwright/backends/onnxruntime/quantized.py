"""A quantised graph as ONNX Runtime's CPU kernels run it in INT8.

ONNX Runtime computes a convolution in INT8 only between a DequantizeLinear and a
QuantizeLinear (``QLinearConv``), and likewise what follows it. The portable graph has no
pair between a convolution and its activation, so it would run there in float32 and round
on top: slower than without quantisation. Here pairs are added behind every quantised
convolution and behind whatever ONNX Runtime can then compute in INT8 too. All are UINT8
over the range that calibration saw (``boxwright.ranges``), which is finer than the
symmetric range of the portable graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from boxwright.backends.quantized import Pair, activation_pairs

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


@dataclass(frozen=True)
class _Scale:
    """What a UINT8 value stands for: ``scale * (value - zero)``."""

    scale: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> _Scale:
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / _LEVELS)) or 1.0
        return cls(scale, int(np.clip(round(-low / scale), 0, _LEVELS)))


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
        self._pairs = {pair.tensor: pair for pair in activation_pairs(proto) if pair.scale}
        # What a DequantizeLinear gives stands for the tensor in front of its pair.
        self._behind = {
            node.output[0]: pair.tensor for pair in self._pairs.values() for node in pair.dequantize
        }
        dropped = {id(n) for p in self._pairs.values() for n in (p.quantize, *p.dequantize)}
        self._nodes = [node for node in self._graph.node if id(node) not in dropped]
        self._producers = {name: node for node in self._nodes for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            for name in node.input:
                self._readers.setdefault(self._behind.get(name, name), []).append(node)
        self._scales: dict[str, _Scale] = {}

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
        if moves and data[0] in self._scales:
            for name in node.output:
                self._scales[name] = self._scales[data[0]]
        elif output in self._scales:
            return
        elif node.op_type == "Conv":
            if node.input[0] in self._behind and self._clipped_by(output) is None:
                self._add(output)
        elif node.op_type in _CLIPPING:
            made_by = self._producers.get(data[0])
            if (
                made_by is not None
                and made_by.op_type == "Conv"
                and made_by.input[0] in self._behind
                and data[0] not in self._scales
            ):
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

    def _is_useful(self, name: str, producer: onnx.NodeProto) -> bool:
        """Whether INT8 is computed with on one side of a tensor's pair at least."""
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
        outputs = {value.name for value in self._graph.output}
        for node in self._nodes:
            for number, name in enumerate(node.input):
                tensor = self._behind.get(name, name)
                node.input[number] = _dequantized(tensor) if tensor in self._scales else tensor
            self._graph.node.append(node)
            for name in node.output:
                if name in self._scales and name not in outputs:
                    self._append_pair(name, self._scales[name])

    def _append_pair(self, tensor: str, scale: _Scale) -> None:
        names = [f"{tensor}/uint8/scale", f"{tensor}/uint8/zero"]
        values: tuple[NDArray[Any], ...] = (
            np.array(scale.scale, np.float32),
            np.array(scale.zero, np.uint8),
        )
        for name, value in zip(names, values, strict=True):
            self._graph.initializer.append(numpy_helper.from_array(value, name))
        quantized = f"{tensor}/uint8"
        self._graph.node.extend(
            [
                helper.make_node("QuantizeLinear", [tensor, *names], [quantized], name=quantized),
                helper.make_node(
                    "DequantizeLinear",
                    [quantized, *names],
                    [_dequantized(tensor)],
                    name=_dequantized(tensor),
                ),
            ]
        )


def _dequantized(tensor: str) -> str:
    return f"{tensor}/uint8/float"
