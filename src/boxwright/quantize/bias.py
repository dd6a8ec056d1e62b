"""Bias correction: what rounding adds to a convolution's outputs on average is taken off again.

Rounding weights shifts the mean of an output channel, because few weights feed it and their
errors do not cancel: most of all in depthwise convolutions. Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), section 4.2:
``E[y] = E[W x] = E[Wq x] - E[(Wq - W) x]``, so the last term is taken from the bias.

Here the expectation is measured, on calibration images. Both convolutions get the *same*
input, the float model's: the float one as it is, the quantised one rounded. So the rounding
and clipping of the input and the borders of the image count as well, and the correction of
a layer does not depend on which of the layers before it are quantised or corrected: one
pass serves every choice of layers. (The paper's appendix D instead compares float and
quantised network, layer after layer, which takes one pass for each.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from boxwright.graph.builder import GraphBuilder
from boxwright.model import IMAGES, Model
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.canonical import canonical_runner
from boxwright.quantize.insert import LEVELS, activation_scale, weight_scales
from boxwright.quantize.layers import weight_values
from boxwright.quantize.quantizer import Quantized, prepare

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from boxwright.quantize.layers import Layer

Corrections = Mapping[str, "NDArray[np.float32]"]

MOST_IMAGES = 64
"""Means settle long before a calibration set ends."""

_PREFIX = "boxwright/bias/"


def bias_corrections(
    model: Model,
    quantized: Quantized,
    pixels: NDArray[np.uint8],
    *,
    progress: ProgressCallback = silent,
) -> dict[str, NDArray[np.float32]]:
    """What is to be added to the bias of each quantised layer.

    Args:
        model: The float model that `quantized` was made from.
        quantized: Which layers, and the ranges of their inputs.
        pixels: uint8 ``(N, H, W, 3)`` at the model's input size.
        progress: Told of the images done.

    Returns:
        By layer: float32 ``(output channels,)``, mean over images and pixels of float
        output less quantised output.

    Raises:
        BuildError: ONNX Runtime refuses the graph.
    """
    proto = prepare(model).proto
    layers = quantized.placement.quantized
    if not layers:
        return {}
    _add_twins(proto, {layer.name: layer for layer in layers}, quantized.amax)
    sums = {layer.name: np.zeros(layer.shape[0], np.float64) for layer in layers}
    names = {f"{_PREFIX}{number}": layer.name for number, layer in enumerate(layers)}
    with canonical_runner(Model(proto, model.card)) as runner:
        fixed = runner.inputs[0].shape[0] or 1
        for done, image in enumerate(pixels, start=1):
            outputs = runner.infer({IMAGES: np.repeat(image[None], fixed, axis=0)})
            for output, layer in names.items():
                sums[layer] += outputs[output][0].reshape(-1)
            progress("correct biases", done, len(pixels))
    return {name: (total / len(pixels)).astype(np.float32) for name, total in sums.items()}


def corrected(quantized: Quantized, corrections: Corrections, images: int) -> Quantized:
    """The quantised model with its biases corrected.

    Args:
        quantized: The model; it is not changed.
        corrections: What is to be added, by layer; of a layer that stays in float, or whose
            bias is not constant, it is left out.
        images: How many images they were measured on, for the card.
    """
    from onnx import numpy_helper

    proto = type(quantized.model.proto)()
    proto.CopyFrom(quantized.model.proto)
    builder = GraphBuilder.on(proto)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    layers = {layer.name for layer in quantized.placement.quantized}
    replaced: set[str] = set()
    applied = 0
    for node in proto.graph.node:
        if node.name not in layers or node.name not in corrections:
            continue
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and bias not in constants:
            continue
        old = np.asarray(numpy_helper.to_array(constants[bias])) if bias else np.float32(0)
        new = (old + corrections[node.name]).astype(np.float32)
        # A tensor of its own: other layers may read the old one.
        name = builder.constant(f"{node.name}/bias_corrected", new)
        replaced.add(bias)
        del node.input[2:]
        node.input.append(name)
        applied += 1
    _drop_unread(proto, [constants[name] for name in sorted(replaced - {""})])
    card = quantized.model.card
    last = card.transforms[-1]
    parameters = {**last.parameters, "bias_correction": {"images": images, "layers": applied}}
    transforms = (*card.transforms[:-1], dataclasses.replace(last, parameters=parameters))
    model = Model(proto, dataclasses.replace(card, transforms=transforms))
    model.check("the model with corrected biases")
    return dataclasses.replace(quantized, model=model)


def _add_twins(
    proto: onnx.ModelProto, layers: Mapping[str, Layer], amax: Mapping[str, float]
) -> None:
    """Beside each layer its quantised twin, and as outputs the means of their differences."""
    builder = GraphBuilder.on(proto)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes = {node.name: node for node in proto.graph.node if node.name in layers}
    rounded: dict[str, str] = {}
    del proto.graph.output[:]
    for number, (name, layer) in enumerate(layers.items()):
        node = nodes[name]
        if layer.input not in rounded:
            rounded[layer.input] = _rounded(builder, layer.input, amax[layer.input])
        values = _rounded_weights(weight_values(weights[layer.weights]))
        constant = builder.constant(builder.unique(f"{_PREFIX}weights"), values)
        twin = type(node)()
        twin.CopyFrom(node)
        twin.name = builder.unique(f"{_PREFIX}twin")
        twin.input[0], twin.input[1] = rounded[layer.input], constant
        twin.output[0] = twin.name
        proto.graph.node.append(twin)
        difference = builder.add(
            "Sub", [node.output[0], twin.output[0]], builder.unique(f"{_PREFIX}difference")
        )
        proto.graph.output.add(
            name=builder.add("GlobalAveragePool", [difference], f"{_PREFIX}{number}")
        )


def _rounded(builder: GraphBuilder, tensor: str, amax: float) -> str:
    scale = builder.constant(builder.unique(f"{_PREFIX}scale"), activation_scale(amax))
    zero = builder.constant(f"{_PREFIX}zero", np.zeros((), np.int8))
    levels = builder.add(
        "QuantizeLinear", [tensor, scale, zero], builder.unique(f"{_PREFIX}quantize")
    )
    return builder.add(
        "DequantizeLinear", [levels, scale, zero], builder.unique(f"{_PREFIX}dequantize")
    )


def _rounded_weights(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """As a Q/DQ pair gives them: halves to even, one scale for each output channel."""
    scales = weight_scales(weights).reshape(-1, *[1] * (weights.ndim - 1))
    levels = np.clip(np.rint(weights / scales), -LEVELS - 1, LEVELS)
    return np.asarray(levels * scales, np.float32)


def _drop_unread(proto: onnx.ModelProto, tensors: Sequence[onnx.TensorProto]) -> None:
    """Remove those of some initializers that nothing reads any more."""
    read = {name for node in proto.graph.node for name in node.input}
    read.update(value.name for value in proto.graph.output)
    for tensor in tensors:
        if tensor.name not in read:
            proto.graph.initializer.remove(tensor)
