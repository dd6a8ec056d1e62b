"""Activations and arithmetic: layers whose output has their input's shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from boxwright.importers.caffe.network import Layer
from boxwright.importers.caffe.writer import Blob, Writer

_OPERATIONS = {"PROD": 0, "SUM": 1, "MAX": 2}


def plain(operator: str) -> Callable[[Writer, Layer], list[Blob]]:
    """A layer that is one operator without parameters."""

    def convert(writer: Writer, layer: Layer) -> list[Blob]:
        (source,) = writer.bottoms(layer, 1)
        return [writer.op(layer, operator, [source], source.shape)]

    return convert


def relu(writer: Writer, layer: Layer) -> list[Blob]:
    """``ReLU``, leaky where it has a slope."""
    (source,) = writer.bottoms(layer, 1)
    slope = layer.param("relu_param", "negative_slope", "engine").number("negative_slope", 0.0)
    if slope:
        return [writer.op(layer, "LeakyRelu", [source], source.shape, alpha=slope)]
    return [writer.op(layer, "Relu", [source], source.shape)]


def relu6(writer: Writer, layer: Layer) -> list[Blob]:
    """``ReLU6``."""
    (source,) = writer.bottoms(layer, 1)
    return [_clip(writer, layer, source, 0.0, 6.0)]


def clip(writer: Writer, layer: Layer) -> list[Blob]:
    """``Clip``."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("clip_param", "min", "max")
    if not param.has("min") or not param.has("max"):
        layer.fail("clip_param needs min and max")
    return [_clip(writer, layer, source, param.number("min", 0.0), param.number("max", 0.0))]


def _clip(writer: Writer, layer: Layer, source: Blob, low: float, high: float) -> Blob:
    bounds = [writer.graph.scalar(low), writer.graph.scalar(high)]
    return writer.op(layer, "Clip", [source, *bounds], source.shape)


def prelu(writer: Writer, layer: Layer) -> list[Blob]:
    """``PReLU``: a slope for each channel, or one for all."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("prelu_param", "filler", "channel_shared")
    if len(source.shape) < 2:
        layer.fail(f"it takes (N, channels, ...), got {list(source.shape)}")
    count = 1 if param.flag("channel_shared", False) else source.shape[1]
    (slope,) = writer.weights(layer, (count,))
    constant = writer.constant(layer, "slope", slope.reshape(-1, *[1] * (len(source.shape) - 2)))
    return [writer.op(layer, "PRelu", [source, constant], source.shape)]


def elu(writer: Writer, layer: Layer) -> list[Blob]:
    """``ELU``."""
    (source,) = writer.bottoms(layer, 1)
    alpha = layer.param("elu_param", "alpha").number("alpha", 1.0)
    return [writer.op(layer, "Elu", [source], source.shape, alpha=alpha)]


def swish(writer: Writer, layer: Layer) -> list[Blob]:
    """``Swish``: x * sigmoid(beta * x)."""
    (source,) = writer.bottoms(layer, 1)
    beta = layer.param("swish_param", "beta").number("beta", 1.0)
    inner = _affine(writer, layer, source, beta, 0.0, "inner")
    gate = writer.op(layer, "Sigmoid", [inner], source.shape, "gate")
    return [writer.op(layer, "Mul", [source, gate], source.shape)]


def softmax(writer: Writer, layer: Layer) -> list[Blob]:
    """``Softmax`` along one axis."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("softmax_param", "engine", "axis")
    axis = writer.axis(layer, source, param.integer("axis", 1, -8, 8))
    return [writer.op(layer, "Softmax", [source], source.shape, axis=axis)]


def power(writer: Writer, layer: Layer) -> list[Blob]:
    """``Power``: (shift + scale * x) ^ power."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("power_param", "power", "scale", "shift")
    exponent = param.number("power", 1.0)
    inner = _affine(
        writer, layer, source, param.number("scale", 1.0), param.number("shift", 0.0), "inner"
    )
    if exponent == 1:
        return [inner]
    if exponent == 2:
        return [writer.op(layer, "Mul", [inner, inner], source.shape)]
    constant = writer.constant(layer, "power", np.array(exponent))
    return [writer.op(layer, "Pow", [inner, constant], source.shape)]


def exponential(writer: Writer, layer: Layer) -> list[Blob]:
    """``Exp``: base ^ (shift + scale * x); base -1 is e."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("exp_param", "base", "scale", "shift")
    log_base = _log_of_base(layer, param.number("base", -1.0))
    scale, shift = param.number("scale", 1.0), param.number("shift", 0.0)
    inner = _affine(writer, layer, source, scale * log_base, shift * log_base, "inner")
    return [writer.op(layer, "Exp", [inner], source.shape)]


def logarithm(writer: Writer, layer: Layer) -> list[Blob]:
    """``Log``: log_base(shift + scale * x); base -1 is e."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("log_param", "base", "scale", "shift")
    log_base = _log_of_base(layer, param.number("base", -1.0))
    if log_base == 0:
        layer.fail("base must not be 1")
    scale, shift = param.number("scale", 1.0), param.number("shift", 0.0)
    inner = _affine(writer, layer, source, scale, shift, "inner")
    if log_base == 1:
        return [writer.op(layer, "Log", [inner], source.shape)]
    natural = writer.op(layer, "Log", [inner], source.shape, "natural")
    return [_affine(writer, layer, natural, 1 / log_base, 0.0, "based")]


def _log_of_base(layer: Layer, base: float) -> float:
    if base != -1 and base <= 0:
        layer.fail(f"base must be above 0, or -1 for e, got {base:g}")
    return 1.0 if base == -1 else math.log(base)


def _affine(
    writer: Writer, layer: Layer, source: Blob, factor: float, offset: float, suffix: str
) -> Blob:
    result = source
    if factor != 1:
        constant = writer.constant(layer, f"{suffix}/scale", np.array(factor))
        result = writer.op(layer, "Mul", [result, constant], source.shape, f"{suffix}/scaled")
    if offset != 0:
        constant = writer.constant(layer, f"{suffix}/shift", np.array(offset))
        result = writer.op(layer, "Add", [result, constant], source.shape, f"{suffix}/shifted")
    return result


def eltwise(writer: Writer, layer: Layer) -> list[Blob]:
    """``Eltwise``: product, weighted sum or maximum of blobs of one shape."""
    sources = writer.bottoms(layer, 2, 256)
    param = layer.param("eltwise_param", "operation", "coeff", "stable_prod_grad")
    shape = sources[0].shape
    if any(source.shape != shape for source in sources):
        layer.fail(f"its bottoms differ in shape: {[list(source.shape) for source in sources]}")
    operation = param.choice("operation", "SUM", _OPERATIONS)
    factors = param.numbers("coeff")
    if factors and (operation != "SUM" or len(factors) != len(sources)):
        param.fail(f"coeff is for sums, one for each of {len(sources)} bottoms", "coeff")
    terms = [
        _affine(writer, layer, source, factor, 0.0, f"term{number}")
        for number, (source, factor) in enumerate(
            zip(sources, factors or [1.0] * len(sources), strict=True)
        )
    ]
    operator = {"PROD": "Mul", "SUM": "Add", "MAX": "Max"}[operation]
    result = terms[0]
    for number, term in enumerate(terms[1:], start=2):
        suffix = "" if number == len(terms) else f"first{number}"
        result = writer.op(layer, operator, [result, term], shape, suffix)
    return [result]


def axpy(writer: Writer, layer: Layer) -> list[Blob]:
    """``Axpy`` of SENet: a * x + y, with one `a` for each channel."""
    a, x, y = writer.bottoms(layer, 3)
    batch, channels, _, _ = writer.planes(layer, x)
    if x.shape != y.shape or a.size != batch * channels:
        layer.fail(f"it takes a per channel, x and y, got {[list(b.shape) for b in (a, x, y)]}")
    factor = writer.reshape(layer, a, (batch, channels, 1, 1), "a")
    product = writer.op(layer, "Mul", [factor, x], x.shape, "product")
    return [writer.op(layer, "Add", [product, y], x.shape)]


def dropout(writer: Writer, layer: Layer) -> list[Blob]:
    """``Dropout``: nothing, unless it was not scaled in training."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("dropout_param", "dropout_ratio", "scale_train", "sample_weights_test")
    if param.flag("sample_weights_test", False):
        param.unsupported("sampling at test time is random", "sample_weights_test")
    if param.flag("scale_train", True):
        return [source]
    kept = 1 - param.number("dropout_ratio", 0.5)
    return [_affine(writer, layer, source, kept, 0.0, "kept")]
