"""Q/DQ pairs into a graph, in the form that every runtime reads.

Symmetric INT8 with zero point 0; all three inputs of every pair present; scales in float32;
weights kept in float32 in front of their pair, one scale for each output channel (axis 0);
biases in float32. TensorRT 8.6's parser takes nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boxwright.graph.builder import GraphBuilder
from boxwright.quantize.layers import weight_values

if TYPE_CHECKING:
    import onnx

    from boxwright.quantize.placement import Placement

Scales = NDArray[np.float32]

LEVELS = 127
"""Largest INT8 value that is used: -128 is not, so that the range is symmetric."""

# A smaller scale would be 0 in float16, which TensorRT refuses. Values this small round to 0.
_SMALLEST = np.float32(2.0**-24)


def activation_scale(amax: float) -> Scales:
    """The scale of a tensor whose values lie within ``-amax .. amax``; a scalar."""
    scale = np.float32(amax / LEVELS)
    return np.array(max(scale, _SMALLEST) if scale else np.float32(1.0), np.float32)


def weight_scales(weights: NDArray[np.float32]) -> Scales:
    """One scale for each output channel: ``(channels,)`` for weights ``(channels, ...)``."""
    amax = np.abs(weights.reshape(len(weights), -1)).max(axis=1, initial=0.0)
    scales = (amax / LEVELS).astype(np.float32)
    return np.where(amax > 0, np.maximum(scales, _SMALLEST), np.float32(1.0)).astype(np.float32)


def insert(
    proto: onnx.ModelProto, placement: Placement, scales: Mapping[str, float]
) -> onnx.ModelProto:
    """A copy of the graph with the pairs of a placement.

    Args:
        proto: The float graph.
        placement: Where pairs go.
        scales: The largest magnitude of each of the placement's tensors.
    """
    copy = type(proto)()
    copy.CopyFrom(proto)
    builder = GraphBuilder.on(copy)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    _quantize_weights(builder, nodes, placement)
    wanted = {tensor.name: tensor for tensor in placement.tensors}
    pairs: dict[str, str] = {}
    for node in nodes:
        # What a node reads stands in front of it, so its pairs are there already.
        for name in (name for name in node.input if name in wanted):
            if node.name in wanted[name].readers:
                _redirect(node, name, pairs[name])
        copy.graph.node.append(node)
        for name in (name for name in node.output if name in wanted):
            pairs[name] = _pair(builder, name, activation_scale(scales[name]), axis=None)
    return copy


def _quantize_weights(
    builder: GraphBuilder, nodes: list[onnx.NodeProto], placement: Placement
) -> None:
    tensors = {tensor.name: tensor for tensor in builder.graph.initializer}
    pairs: dict[str, str] = {}
    layers = {layer.name: layer for layer in placement.quantized}
    for node in nodes:
        layer = layers.get(node.name)
        if layer is None:
            continue
        if layer.weights not in pairs:
            scales = weight_scales(weight_values(tensors[layer.weights]))
            pairs[layer.weights] = _pair(builder, layer.weights, scales, axis=0)
        node.input[1] = pairs[layer.weights]


def _pair(builder: GraphBuilder, tensor: str, scales: Scales, axis: int | None) -> str:
    """Q and DQ behind a tensor; returns the name of what comes out."""
    scale = builder.constant(f"{tensor}/scale", scales)
    zero = builder.constant(f"{tensor}/zero_point", np.zeros(scales.shape, np.int8))
    attributes = {} if axis is None else {"axis": axis}
    quantized = builder.add(
        "QuantizeLinear",
        [tensor, scale, zero],
        builder.unique(f"{tensor}/quantize"),
        **attributes,
    )
    return builder.add(
        "DequantizeLinear",
        [quantized, scale, zero],
        builder.unique(f"{tensor}/dequantize"),
        **attributes,
    )


def _redirect(node: onnx.NodeProto, old: str, new: str) -> None:
    """Let a node read `new` where it read `old`; an addition only once."""
    for number, name in enumerate(node.input):
        if name == old:
            node.input[number] = new
            return
