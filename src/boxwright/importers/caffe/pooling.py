"""Pooling, normalisation over regions, and reductions, as Caffe rounds and pads them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from boxwright.importers.caffe.affine import pair
from boxwright.importers.caffe.network import Layer
from boxwright.importers.caffe.writer import Blob, Writer

_METHODS = {"MAX": 0, "AVE": 1, "STOCHASTIC": 2}
_REGIONS = {"ACROSS_CHANNELS": 0, "WITHIN_CHANNEL": 1}
_REDUCTIONS = {"SUM": 1, "ASUM": 2, "SUMSQ": 3, "MEAN": 4}


def pooling(writer: Writer, layer: Layer) -> list[Blob]:
    """``Pooling``: ``pooling_layer.cpp``.

    Caffe rounds the number of windows up, and where there is padding leaves out a last
    window that would begin in it. An average's divisor counts padding, but not what a
    window reaches beyond it.
    """
    (source,) = writer.bottoms(layer, 1)
    param = layer.param(
        *("pooling_param", "pool", "pad", "pad_h", "pad_w", "kernel_size", "kernel_h"),
        *("kernel_w", "stride", "stride_h", "stride_w", "engine", "global_pooling"),
        *("round_mode", "ceil_mode"),
    )
    if len(layer.tops) != 1:
        layer.unsupported("positions of maxima (a second top) cannot be converted")
    method = param.choice("pool", "MAX", _METHODS)
    if method == "STOCHASTIC":
        param.unsupported("stochastic pooling is not supported", "pool")
    batch, channels, height, width = writer.planes(layer, source)
    if param.flag("global_pooling", False):
        operator = "GlobalMaxPool" if method == "MAX" else "GlobalAveragePool"
        return [writer.op(layer, operator, [source], (batch, channels, 1, 1))]
    kernel = pair(param, "kernel_size", "kernel_h", "kernel_w", 0, 1)
    if 0 in kernel:
        param.fail("kernel_size is missing")
    stride = pair(param, "stride", "stride_h", "stride_w", 1, 1)
    pads = pair(param, "pad", "pad_h", "pad_w", 0, 0)
    ceil = param.choice("round_mode", "CEIL", {"CEIL": 0, "FLOOR": 1}) == "CEIL"
    ceil = ceil and param.flag("ceil_mode", True)
    counts, beyond = [], []
    for size, k, s, p in zip((height, width), kernel, stride, pads, strict=True):
        count, overhang = _windows(size, k, s, p, ceil, any(pads))
        if p >= k or overhang - p >= k or count < 1:
            layer.unsupported(f"a window of {k} with padding {p} would hold no pixel of {size}")
        counts.append(count)
        beyond.append(overhang)
    shape = (batch, channels, *counts)
    windows: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    ends = [p + b for p, b in zip(pads, beyond, strict=True)]
    if method == "MAX":
        return [writer.op(layer, "MaxPool", [source], shape, pads=[*pads, *ends], **windows)]
    if any(beyond) and any(pads):
        # Zeros that count are put on first; what lies beyond them does not count.
        extents = writer.integers(layer, "pads", [0, 0, *pads] * 2)
        grown = (batch, channels, height + 2 * pads[0], width + 2 * pads[1])
        source = writer.op(layer, "Pad", [source, extents], grown, "padded")
        pads, ends = [0, 0], beyond
    included = int(not any(beyond))
    everything = [*pads, *ends]
    return [
        writer.op(
            *(layer, "AveragePool", [source], shape),
            pads=everything,
            count_include_pad=included if any(everything) else 0,
            **windows,
        )
    ]


def _windows(
    size: int, kernel: int, stride: int, pad: int, ceil: bool, padded: bool
) -> tuple[int, int]:
    """How many windows there are, and how far the last reaches beyond the padding."""
    room = size + 2 * pad - kernel
    count = (-(-room // stride) if ceil else room // stride) + 1
    if padded and (count - 1) * stride >= size + pad:
        count -= 1
    return count, max(0, (count - 1) * stride + kernel - size - 2 * pad)


def lrn(writer: Writer, layer: Layer) -> list[Blob]:
    """``LRN`` across channels (ONNX has the same), or within a channel."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("lrn_param", "local_size", "alpha", "beta", "norm_region", "k", "engine")
    size = param.integer("local_size", 5, 1, 1 << 12)
    if size % 2 == 0:
        param.fail(f"local_size must be odd, got {size}", "local_size")
    alpha, beta = param.number("alpha", 1.0), param.number("beta", 0.75)
    writer.planes(layer, source)
    if param.choice("norm_region", "ACROSS_CHANNELS", _REGIONS) == "ACROSS_CHANNELS":
        attributes: dict[str, Any] = {
            "size": size,
            "alpha": alpha,
            "beta": beta,
            "bias": param.number("k", 1.0),
        }
        return [writer.op(layer, "LRN", [source], source.shape, **attributes)]
    # lrn_layer.cpp makes it of other layers: x * (1 + alpha * mean(x²)) ^ -beta. `k` is 1 there.
    shape = source.shape
    square = writer.op(layer, "Mul", [source, source], shape, "square")
    mean = writer.op(
        *(layer, "AveragePool", [square], shape, "mean"),
        kernel_shape=[size, size],
        strides=[1, 1],
        pads=[size // 2] * 4,
        count_include_pad=1,
    )
    scaled = writer.op(
        layer, "Mul", [mean, writer.constant(layer, "alpha", _scalar(alpha))], shape, "scaled"
    )
    shifted = writer.op(layer, "Add", [scaled, writer.graph.scalar(1.0)], shape, "shifted")
    power = writer.op(
        layer, "Pow", [shifted, writer.constant(layer, "beta", _scalar(-beta))], shape, "power"
    )
    return [writer.op(layer, "Mul", [source, power], shape)]


def normalize(writer: Writer, layer: Layer) -> list[Blob]:
    """``Normalize`` of SSD: the L2 norm over channels, or over everything, times a scale."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("norm_param", "across_spatial", "scale_filler", "channel_shared", "eps")
    _, channels, _, _ = writer.planes(layer, source)
    shared = param.flag("channel_shared", True)
    (factor,) = writer.weights(layer, (1,) if shared else (channels,))
    everything = param.flag("across_spatial", True)
    summed = (source.shape[0], 1, *((1, 1) if everything else source.shape[2:]))
    axes = writer.integers(layer, "axes", [1, 2, 3] if everything else [1])
    square = writer.op(layer, "Mul", [source, source], source.shape, "square")
    total = writer.op(layer, "ReduceSum", [square, axes], summed, "sum", keepdims=1)
    eps = writer.constant(layer, "eps", _scalar(param.number("eps", 1e-10)))
    total = writer.op(layer, "Add", [total, eps], summed, "above_zero")
    norm = writer.op(layer, "Sqrt", [total], summed, "norm")
    unit = writer.op(layer, "Div", [source, norm], source.shape, "unit")
    constant = writer.constant(layer, "scale", factor.reshape(1, -1, 1, 1))
    return [writer.op(layer, "Mul", [unit, constant], source.shape)]


def mvn(writer: Writer, layer: Layer) -> list[Blob]:
    """``MVN``: mean 0 and variance 1; ``eps`` is added to the root, not within."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("mvn_param", "normalize_variance", "across_channels", "eps")
    batch, channels, _, _ = writer.planes(layer, source)
    across = param.flag("across_channels", False)
    shape = source.shape
    reduced = (batch, 1 if across else channels, 1, 1)
    over: dict[str, Any] = {"axes": [1, 2, 3] if across else [2, 3], "keepdims": 1}
    mean = writer.op(layer, "ReduceMean", [source], reduced, "mean", **over)
    if not param.flag("normalize_variance", True):
        return [writer.op(layer, "Sub", [source, mean], shape)]
    centred = writer.op(layer, "Sub", [source, mean], shape, "centred")
    square = writer.op(layer, "Mul", [centred, centred], shape, "square")
    variance = writer.op(layer, "ReduceMean", [square], reduced, "variance", **over)
    root = writer.op(layer, "Sqrt", [variance], reduced, "root")
    eps = writer.constant(layer, "eps", _scalar(param.number("eps", 1e-9)))
    spread = writer.op(layer, "Add", [root, eps], reduced, "above_zero")
    return [writer.op(layer, "Div", [centred, spread], shape)]


def reduction(writer: Writer, layer: Layer) -> list[Blob]:
    """``Reduction`` of all axes from one on."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("reduction_param", "operation", "axis", "coeff")
    axis = writer.axis(layer, source, param.integer("axis", 0, -8, 8))
    operation = param.choice("operation", "SUM", _REDUCTIONS)
    shape = source.shape[:axis]
    count = math.prod(source.shape[axis:])
    if operation == "ASUM":
        source = writer.op(layer, "Abs", [source], source.shape, "absolute")
    elif operation == "SUMSQ":
        source = writer.op(layer, "Mul", [source, source], source.shape, "square")
    axes = writer.integers(layer, "axes", list(range(axis, len(source.shape))))
    factor = param.number("coeff", 1.0) / (count if operation == "MEAN" else 1)
    if factor == 1:
        return [writer.op(layer, "ReduceSum", [source, axes], shape, keepdims=0)]
    total = writer.op(layer, "ReduceSum", [source, axes], shape, "sum", keepdims=0)
    return [
        writer.op(layer, "Mul", [total, writer.constant(layer, "coeff", _scalar(factor))], shape)
    ]


def _scalar(value: float) -> np.ndarray[tuple[()], np.dtype[np.float64]]:
    return np.array(value, np.float64)
