"""Convolutions, inner products, and the per-channel layers that are folded into them.

Semantics are those of BVLC Caffe's ``base_conv_layer.cpp``, ``inner_product_layer.cpp``,
``batch_norm_layer.cpp``, ``scale_layer.cpp`` and ``bias_layer.cpp``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from boxwright.importers.caffe.network import Layer
from boxwright.importers.caffe.text import Message
from boxwright.importers.caffe.writer import Affine, Blob, Floats, Shape, Writer

_CONVOLUTION = (
    *("num_output", "bias_term", "pad", "kernel_size", "stride", "dilation", "group"),
    *("pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h", "stride_w"),
    *("weight_filler", "bias_filler", "engine", "axis", "force_nd_im2col"),
)
_MAX_WINDOW = 1 << 14
_MAX_OUTPUTS = 1 << 22
# A kernel that a filler makes needs no bytes in any file.
_MAX_FILLED = 1 << 26


def pair(param: Message, name: str, rows: str, columns: str, default: int, low: int) -> list[int]:
    """A window's extent, down and across: ``kernel_size`` or ``kernel_h`` and ``kernel_w``."""
    values = param.integers(name, low, _MAX_WINDOW)
    if rows and (param.has(rows) or param.has(columns)):
        if values:
            param.fail(f"it has {name} and {rows} or {columns}; Caffe takes one kind", rows)
        return [
            param.integer(rows, default, low, _MAX_WINDOW),
            param.integer(columns, default, low, _MAX_WINDOW),
        ]
    if len(values) > 2:
        param.unsupported(f"{name} has {len(values)} values; an image has two axes", name)
    return (values * 2)[:2] if len(values) == 1 else values or [default, default]


def convolution(writer: Writer, layer: Layer) -> list[Blob]:
    """``Convolution``, ``DepthwiseConvolution`` and ``Deconvolution``, any groups."""
    param = layer.param("convolution_param", *_CONVOLUTION)
    if param.integer("axis", 1, -4, 4) not in (1, -3):
        param.unsupported("channels must be on axis 1", "axis")
    outputs = param.integer("num_output", 0, 1, _MAX_OUTPUTS)
    if not outputs:
        param.fail("num_output is missing")
    kernel = pair(param, "kernel_size", "kernel_h", "kernel_w", 0, 1)
    if 0 in kernel:
        param.fail("kernel_size is missing")
    stride = pair(param, "stride", "stride_h", "stride_w", 1, 1)
    pads = pair(param, "pad", "pad_h", "pad_w", 0, 0)
    dilation = pair(param, "dilation", "", "", 1, 1)
    sources = [writer.blob(layer, name) for name in layer.bottoms]
    if len(sources) != len(layer.tops) or not sources:
        layer.fail(f"it takes as many bottoms as it has tops, got {len(sources)}")
    transposed = layer.kind == "Deconvolution"
    results = []
    for number, source in enumerate(sources):
        batch, channels, height, width = writer.planes(layer, source)
        # The depthwise layers of several forks are told the groups, or take them from here.
        depthwise = layer.kind in ("DepthwiseConvolution", "ConvolutionDepthwise")
        groups = param.integer("group", channels if depthwise else 1, 1)
        if channels % groups or outputs % groups:
            param.fail(f"{groups} groups do not divide {channels} and {outputs} channels")
        extents = []
        for size, k, s, p, d in zip((height, width), kernel, stride, pads, dilation, strict=True):
            reach = d * (k - 1) + 1
            extents.append(
                s * (size - 1) + reach - 2 * p if transposed else (size + 2 * p - reach) // s + 1
            )
        shape = (batch, outputs, *extents)
        writer.check_shape(layer, shape)
        weights, bias = _kernel(writer, layer, param, channels, outputs, groups, kernel)
        attributes = {
            "kernel_shape": kernel,
            "strides": stride,
            "pads": pads * 2,
            "dilations": dilation,
            "group": groups,
        }
        operator = "ConvTranspose" if transposed else "Conv"
        name = writer.name(layer) + (f"/{number}" if number else "")
        affine = Affine(operator, source, weights, bias, name, attributes)
        results.append(Blob(shape, affine=affine))
    return results


def _kernel(
    writer: Writer,
    layer: Layer,
    param: Message,
    channels: int,
    outputs: int,
    groups: int,
    kernel: list[int],
) -> tuple[Floats, Floats]:
    has_bias = param.flag("bias_term", True)
    first, second = (outputs, channels) if layer.kind != "Deconvolution" else (channels, outputs)
    shape: Shape = (first, second // groups, *kernel)
    zeros: NDArray[np.float32] = np.zeros(outputs, np.float32)
    filler = param.message("weight_filler").text("type", "constant")
    if layer.kind == "Deconvolution" and filler == "bilinear" and not writer.stored(layer):
        if math.prod(shape) > _MAX_FILLED:
            param.fail(f"its filler would make {math.prod(shape)} weights")
        return np.broadcast_to(bilinear_kernel(param, kernel), shape), zeros
    blobs = writer.weights(layer, shape, *([(outputs,)] if has_bias else []))
    return blobs[0], blobs[1] if has_bias else zeros


def bilinear_kernel(param: Message, kernel: list[int]) -> Floats:
    """``BilinearFiller`` of ``filler.hpp``: the same tent for every pair of channels."""
    if kernel[0] != kernel[1]:
        param.fail("a bilinear filler needs a square kernel")
    half = math.ceil(kernel[0] / 2)
    centre = (2 * half - 1 - half % 2) / (2.0 * half)
    tent = 1 - np.abs(np.arange(kernel[0]) / half - centre)
    return np.outer(tent, tent)


def inner_product(writer: Writer, layer: Layer) -> list[Blob]:
    """``InnerProduct``."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param(
        *("inner_product_param", "num_output", "bias_term", "weight_filler", "bias_filler"),
        *("axis", "transpose"),
    )
    outputs = param.integer("num_output", 0, 1, _MAX_OUTPUTS)
    if not outputs:
        param.fail("num_output is missing")
    axis = writer.axis(layer, source, param.integer("axis", 1, -8, 8))
    inputs = math.prod(source.shape[axis:])
    transpose = param.flag("transpose", False)
    has_bias = param.flag("bias_term", True)
    shape = (inputs, outputs) if transpose else (outputs, inputs)
    weights, *rest = writer.weights(layer, shape, *([(outputs,)] if has_bias else []))
    bias = rest[0] if has_bias else np.zeros(outputs, np.float32)
    rows = math.prod(source.shape[:axis])
    flat = writer.reshape(layer, source, (rows, inputs), "flat")
    matrix = np.ascontiguousarray(weights.T) if transpose else weights
    affine = Affine("Gemm", flat, matrix, bias, writer.name(layer), {"transB": 1})
    result = Blob((rows, outputs), affine=affine)
    writer.check_shape(layer, result.shape)
    return [writer.reshape(layer, result, (*source.shape[:axis], outputs), "rows")]


def batch_norm(writer: Writer, layer: Layer) -> list[Blob]:
    """``BatchNorm`` with the statistics of training.

    The file keeps sums; they are divided by the third blob, which counts them. Caffe takes
    0 for a count of 0, and adds ``eps`` within the root.
    """
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("batch_norm_param", "use_global_stats", "moving_average_fraction", "eps")
    if not param.flag("use_global_stats", True):
        param.unsupported("the statistics of a batch change with the batch", "use_global_stats")
    eps = param.number("eps", 1e-5)
    if len(source.shape) < 2:
        layer.fail(f"it takes (N, channels, ...), got {list(source.shape)}")
    channels = source.shape[1]
    mean, variance, count = writer.weights(layer, (channels,), (channels,), (1,))
    scale = 0.0 if count[0] == 0 else 1.0 / float(count[0])
    spread = variance.astype(np.float64) * scale + eps
    if (spread <= 0).any():
        layer.fail("the variance of a channel is not above 0")
    factor = 1.0 / np.sqrt(spread)
    return [per_channel(writer, layer, source, factor, -mean.astype(np.float64) * scale * factor)]


def per_channel(writer: Writer, layer: Layer, source: Blob, factor: Floats, offset: Floats) -> Blob:
    """``factor * x + offset`` on axis 1, folded into the layer before it where possible."""
    affine = source.affine
    if affine is not None and source.uses == 1 and affine.bias.size == source.shape[1]:
        return Blob(source.shape, affine=affine.scaled(factor, offset))
    spread = (1, -1, *[1] * (len(source.shape) - 2))
    result = source
    if (factor != 1).any():
        constant = writer.constant(layer, "factor", factor.reshape(spread))
        result = writer.op(layer, "Mul", [source, constant], source.shape, "scaled")
    if (offset != 0).any() or result is source:
        constant = writer.constant(layer, "offset", offset.reshape(spread))
        result = writer.op(layer, "Add", [result, constant], source.shape)
    return result


def scale(writer: Writer, layer: Layer) -> list[Blob]:
    """``Scale``: a learned factor, or a second bottom's, and an optional learned bias."""
    sources = writer.bottoms(layer, 1, 2)
    param = layer.param(
        *("scale_param", "axis", "num_axes", "filler", "bias_term", "bias_filler"),
    )
    has_bias = param.flag("bias_term", False)
    source = sources[0]
    if len(sources) == 1:
        axis, shape = _learned(writer, layer, source, param)
        factor, *rest = writer.weights(layer, *[shape] * (2 if has_bias else 1))
        offset = rest[0] if has_bias else np.zeros(shape, np.float32)
        return [_broadcast(writer, layer, source, axis, factor, offset)]
    result = _two(writer, layer, sources, param, "Mul", "" if not has_bias else "product")
    if has_bias:
        axis = param.integer("axis", 1, -8, 8)
        axis = axis + len(source.shape) if axis < 0 else axis
        shape = sources[1].shape
        if axis == 0:
            # The bias has the second bottom's shape but for the batch.
            axis, shape = 1, shape[1:]
        (offset,) = writer.weights(layer, shape)
        spread = (*shape, *[1] * (len(source.shape) - axis - len(shape)))
        constant = writer.constant(layer, "bias", offset.reshape(spread))
        result = writer.op(layer, "Add", [result, constant], source.shape)
    return [result]


def bias(writer: Writer, layer: Layer) -> list[Blob]:
    """``Bias``: a learned summand, or a second bottom's."""
    sources = writer.bottoms(layer, 1, 2)
    param = layer.param("bias_param", "axis", "num_axes", "filler")
    if len(sources) == 2:
        return [_two(writer, layer, sources, param, "Add", "")]
    axis, shape = _learned(writer, layer, sources[0], param)
    (offset,) = writer.weights(layer, shape)
    return [_broadcast(writer, layer, sources[0], axis, np.ones_like(offset), offset)]


def _learned(writer: Writer, layer: Layer, source: Blob, param: Message) -> tuple[int, Shape]:
    """Where a learned factor begins, and the extents it covers."""
    axis = writer.axis(layer, source, param.integer("axis", 1, -8, 8))
    count = param.integer("num_axes", 1, -1, 8)
    end = len(source.shape) if count < 0 else axis + count
    if end > len(source.shape):
        param.fail(f"num_axes={count} from axis {axis} is more than {list(source.shape)} has")
    return axis, source.shape[axis:end]


def _broadcast(
    writer: Writer, layer: Layer, source: Blob, axis: int, factor: Floats, offset: Floats
) -> Blob:
    factor, offset = factor.astype(np.float64), offset.astype(np.float64)
    if axis == 1 and factor.ndim == 1:
        return per_channel(writer, layer, source, factor, offset)
    spread = (*factor.shape, *[1] * (len(source.shape) - axis - factor.ndim))
    constants = [
        writer.constant(layer, label, value.reshape(spread))
        for label, value in (("factor", factor), ("offset", offset))
    ]
    scaled = writer.op(layer, "Mul", [source, constants[0]], source.shape, "scaled")
    return writer.op(layer, "Add", [scaled, constants[1]], source.shape)


def _two(
    writer: Writer, layer: Layer, sources: list[Blob], param: Message, operator: str, suffix: str
) -> Blob:
    """The second bottom, stretched over the first's axes from `axis` on."""
    first, second = sources
    axis = param.integer("axis", 1, -8, 8)
    axis = axis + len(first.shape) if axis < 0 else axis
    if axis != 0:
        param.unsupported("a second bottom has a batch of its own: axis must be 0", "axis")
    # Caffe wants (N, channels); extents of 1 behind them, as pooling leaves, mean the same.
    given = second.shape
    while given[-1] == 1 and len(given) > 1:
        given = given[:-1]
    if first.shape[: len(given)] != given:
        layer.fail(f"its bottoms do not fit: {list(first.shape)} and {list(second.shape)}")
    spread = (*given, *[1] * (len(first.shape) - len(given)))
    second = writer.reshape(layer, second, spread, "spread")
    return writer.op(layer, operator, [first, second], first.shape, suffix)
