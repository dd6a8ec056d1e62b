"""Layers with weights, and pooling: MXNet's ``src/operator/nn`` as ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.importers.mxnet.symbol import Entry, Node
from boxwright.importers.mxnet.values import OMITTED, Shape, Value, count, described
from boxwright.importers.mxnet.writer import Writer, axis_of, operator

Floats = NDArray[Any]


@operator("Convolution", "Convolution_v1")
def convolution(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """``Conv``, the batch normalisation that alone reads it folded in."""
    x, settings = inputs[0], node.settings
    _planes(node, x)
    kernel, stride = settings.pair("kernel"), settings.pair("stride", 1)
    pad, dilate = settings.pair("pad", 0), settings.pair("dilate", 1)
    filters, groups = settings.whole("num_filter"), settings.whole("num_group", 1)
    _positive(node, kernel=kernel, stride=stride, dilate=dilate, groups=(groups, filters))
    if min(pad) < 0 or x.shape[1] % groups or filters % groups:
        raise settings.error(
            f"{filters} filters in {groups} groups with pad {pad} do not fit {described(x.shape)}"
        )
    weights = _array(writer, node, inputs, 1, "weight", (filters, x.shape[1] // groups, *kernel))
    bias = _bias(writer, node, inputs, filters, no_bias=False)
    extents = _extents(x.shape[2:], kernel, stride, pad, dilate)
    if min(extents) < 1:
        raise settings.error(
            f"its kernel {kernel} does not fit {described(x.shape)}; is the input too small?"
        )
    norm = _following_norm(writer, node)
    if norm is not None:
        scale, shift = _affine(writer, norm, filters)
        weights = weights * scale[:, None, None, None]
        bias = shift if bias is None else scale * bias + shift
    constants = [_constant(writer, node, "weights", weights)]
    if bias is not None:
        constants.append(_constant(writer, node, "bias", bias))
    result = writer.op(
        "Conv",
        [x, *constants],
        node.name,
        (x.shape[0], filters, *extents),
        kernel_shape=list(kernel),
        strides=list(stride),
        pads=[*pad, *pad],
        dilations=list(dilate),
        group=groups,
    )
    if norm is not None:
        writer.folded[norm.index] = result
    return result


@operator("Deconvolution")
def deconvolution(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """``ConvTranspose``."""
    x, settings = inputs[0], node.settings
    _planes(node, x)
    kernel, stride = settings.pair("kernel"), settings.pair("stride", 1)
    dilate = settings.pair("dilate", 1)
    filters, groups = settings.whole("num_filter"), settings.whole("num_group", 1)
    _positive(node, kernel=kernel, stride=stride, dilate=dilate, groups=(groups, filters))
    whole = [
        s * (n - 1) + (k - 1) * d + 1
        for n, k, s, d in zip(x.shape[2:], kernel, stride, dilate, strict=True)
    ]
    pad, adjust = settings.pair("pad", 0), settings.pair("adj", 0)
    if settings.has("target_shape") and any(settings.wholes("target_shape")):
        # DeconvolutionParam::InferPad in deconvolution-inl.h.
        cut = [w - t for w, t in zip(whole, settings.pair("target_shape"), strict=True)]
        pad = ((cut[0] + 1) // 2, (cut[1] + 1) // 2)
        adjust = (cut[0] % 2, cut[1] % 2)
    extents = [w - 2 * p + a for w, p, a in zip(whole, pad, adjust, strict=True)]
    if min(*pad, *adjust) < 0 or min(extents) < 1 or x.shape[1] % groups or filters % groups:
        raise settings.error(f"its settings do not fit {described(x.shape)}")
    weights = _array(writer, node, inputs, 1, "weight", (x.shape[1], filters // groups, *kernel))
    bias = _bias(writer, node, inputs, filters, no_bias=True)
    constants = [writer.floats(f"{node.name}/weights", weights)]
    if bias is not None:
        constants.append(writer.floats(f"{node.name}/bias", bias))
    # Less padding at the end rather than output_padding where that can be: it is the same,
    # and every runtime has it.
    shortened = all(p >= a for p, a in zip(pad, adjust, strict=True))
    ends = [p - a for p, a in zip(pad, adjust, strict=True)] if shortened else pad
    return writer.op(
        "ConvTranspose",
        [x, *constants],
        node.name,
        (x.shape[0], filters, *extents),
        kernel_shape=list(kernel),
        strides=list(stride),
        pads=[*pad, *ends],
        output_padding=[0, 0] if shortened else list(adjust),
        dilations=list(dilate),
        group=groups,
    )


@operator("FullyConnected")
def fully_connected(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """``Gemm``; without `flatten`, a product along the last axis."""
    x, settings = inputs[0], node.settings
    hidden = settings.whole("num_hidden")
    flatten = settings.truth("flatten", True)
    if flatten and len(x.shape) > 2:
        x = writer.reshape(x, (x.shape[0], count(x.shape[1:])), f"{node.name}/flat")
    weights = _array(writer, node, inputs, 1, "weight", (hidden, x.shape[-1]))
    bias = _bias(writer, node, inputs, hidden, no_bias=False)
    norm = _following_norm(writer, node) if len(x.shape) == 2 else None
    if norm is not None:
        scale, shift = _affine(writer, norm, hidden)
        weights = weights * scale[:, None]
        bias = shift if bias is None else scale * bias + shift
    shape = (*x.shape[:-1], hidden)
    if len(x.shape) == 2:
        constants = [_constant(writer, node, "weights", weights)]
        if bias is not None:
            constants.append(_constant(writer, node, "bias", bias))
        result = writer.op("Gemm", [x, *constants], node.name, shape, transB=1)
    else:
        turned = writer.floats(f"{node.name}/weights", np.ascontiguousarray(weights.T))
        result = writer.op("MatMul", [x, turned], f"{node.name}/product", shape)
        if bias is not None:
            added = writer.floats(f"{node.name}/bias", bias)
            result = writer.op("Add", [result, added], node.name, shape)
    if norm is not None:
        writer.folded[norm.index] = result
    return result


@operator("BatchNorm", "BatchNorm_v1", "_contrib_SyncBatchNorm", "CuDNNBatchNorm")
def batch_norm(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """With the moving statistics; folded, where a convolution before it took it in."""
    if node.index in writer.folded:
        return writer.folded[node.index]
    x = inputs[0]
    axis = axis_of(node, node.settings.whole("axis", 1), len(x.shape))
    channels = x.shape[axis]
    scale, shift = _affine(writer, node, channels)
    spread = (channels, *[1] * (len(x.shape) - axis - 1))
    name = node.name
    result = writer.binary(
        "Mul", x, _constant(writer, node, "scale", scale.reshape(spread)), f"{name}/scaled"
    )
    return writer.binary(
        "Add", result, _constant(writer, node, "shift", shift.reshape(spread)), name
    )


def _following_norm(writer: Writer, node: Node) -> Node | None:
    """The batch normalisation that is the only reader of a node, else ``None``."""
    readers = writer.readers.get(Entry(node.index, 0), [])
    if len(readers) != 1 or readers[0].operator not in (
        *("BatchNorm", "BatchNorm_v1", "_contrib_SyncBatchNorm", "CuDNNBatchNorm"),
    ):
        return None
    norm = readers[0]
    first = bool(norm.inputs) and norm.inputs[0] == Entry(node.index, 0)
    return norm if first and norm.settings.whole("axis", 1) == 1 else None


def _affine(writer: Writer, norm: Node, channels: int) -> tuple[NDArray[np.float64], ...]:
    """Scale and shift of a batch normalisation, in double precision.

    The defaults are those of ``BatchNormParam`` in ``batch_norm-inl.h``: gamma counts as 1
    unless `fix_gamma` is off.
    """
    settings = norm.settings
    arrays = []
    for position, name in enumerate(("gamma", "beta", "moving_mean", "moving_var"), start=1):
        weight = _weight_array(writer, norm, position, name)
        if weight.shape != (channels,):
            raise settings.error(f"its {name} must be {channels} numbers, got {list(weight.shape)}")
        arrays.append(weight.astype(np.float64))
    gamma, beta, mean, variance = arrays
    if settings.truth("fix_gamma", True):
        gamma = np.ones(channels)
    divisor = variance + settings.number("eps", 1e-3)
    if not (divisor > 0).all():
        raise settings.error("a variance is negative; the parameters are damaged")
    with np.errstate(over="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(divisor)
        return scale, beta - mean * scale


def _constant(writer: Writer, node: Node, name: str, array: Floats) -> Value:
    """What a normalisation was folded into; in double precision until here."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise node.settings.error(f"its {name}, normalised, are too large; they are damaged")
    return writer.floats(f"{node.name}/{name}", narrow)


def _weight_array(writer: Writer, node: Node, position: int, name: str) -> Floats:
    """A weight of a node that may not have been written yet."""
    wanted = f"{node.name}_{name}"
    if position < len(node.inputs):
        source = writer.symbol.nodes[node.inputs[position].node]
        wanted = source.name if source.is_variable else ""
        value = writer.values.get(node.inputs[position])
        if value is not None and value.array is not None:
            return value.array
    if wanted not in writer.weights:
        raise node.settings.error(
            f"its {name} {wanted!r} is not in the parameters; are they those of this symbol?"
        )
    return writer.weights[wanted]


@operator("InstanceNorm")
def instance_norm(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """``InstanceNormalization``."""
    x = inputs[0]
    channels = (x.shape[1],)
    scale = _array(writer, node, inputs, 1, "gamma", channels)
    shift = _array(writer, node, inputs, 2, "beta", channels)
    constants = [writer.floats(f"{node.name}/scale", scale), writer.floats(f"{node.name}/b", shift)]
    eps = node.settings.number("eps", 1e-3)
    return writer.op("InstanceNormalization", [x, *constants], node.name, x.shape, epsilon=eps)


@operator("LRN")
def local_response(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """``LRN``, whose definition is the same."""
    settings = node.settings
    return writer.op(
        "LRN",
        inputs[:1],
        node.name,
        inputs[0].shape,
        alpha=settings.number("alpha", 1e-4),
        beta=settings.number("beta", 0.75),
        bias=settings.number("knorm", 2.0),
        size=settings.whole("nsize"),
    )


@operator("UpSampling")
def upsampling(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """``Resize``, or for `bilinear` the transposed convolution that MXNet uses."""
    settings = node.settings
    scale = settings.whole("scale")
    _positive(node, scale=(scale,))
    if settings.text("sample_type", "nearest", ("nearest", "bilinear")) == "bilinear":
        return _bilinear_upsampling(writer, node, inputs, scale)
    for x in inputs:
        _planes(node, x)
    rows, columns = (extent * scale for extent in inputs[0].shape[2:])
    parts = []
    for i, x in enumerate(inputs):
        if rows % x.shape[2] or columns % x.shape[3]:
            raise settings.error(f"{described(x.shape)} does not divide {rows} x {columns}")
        shape = (*x.shape[:2], rows, columns)
        name = node.name if len(inputs) == 1 else f"{node.name}/{i}"
        parts.append(nearest(writer, x, (rows // x.shape[2], columns // x.shape[3]), name, shape))
    if len(parts) == 1:
        return parts[0]
    if settings.text("multi_input_mode", "concat", ("concat", "sum")) == "concat":
        return writer.concat(parts, 1, node.name)
    total = parts[0]
    for part in parts[1:]:
        total = writer.binary("Add", total, part, node.name)
    return total


def nearest(writer: Writer, x: Value, scale: tuple[int, int], name: str, shape: Shape) -> Value:
    """Each pixel repeated down and across."""
    scales = writer.floats(f"{name}/scales", [1, 1, *scale])
    return writer.op(
        "Resize",
        [x, OMITTED, scales],
        name,
        shape,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _bilinear_upsampling(writer: Writer, node: Node, inputs: list[Value], scale: int) -> Value:
    """The settings are those of ``UpSamplingBilinear`` in ``upsampling.cc``."""
    x = inputs[0]
    _planes(node, x)
    kernel = 2 * scale - scale % 2
    pad = scale // 2
    channels = x.shape[1]
    weights = _array(writer, node, inputs, 1, "weight", (channels, 1, kernel, kernel))
    shape = (*x.shape[:2], *((n - 1) * scale + kernel - 2 * pad for n in x.shape[2:]))
    return writer.op(
        "ConvTranspose",
        [x, writer.floats(f"{node.name}/weights", weights)],
        node.name,
        shape,
        kernel_shape=[kernel, kernel],
        strides=[scale, scale],
        pads=[pad] * 4,
        group=channels,
    )


def _planes(node: Node, x: Value) -> None:
    layout = node.settings.text("layout", "NCHW")
    if layout not in ("NCHW", "None"):
        raise node.settings.error(f"layout must be NCHW, got {layout}; export it with planes first")
    if len(x.shape) != 4 or not x.name:
        raise node.settings.error(f"its input must be [N, C, H, W], got {described(x.shape)}")


def _positive(node: Node, **settings: tuple[int, ...]) -> None:
    for name, values in settings.items():
        if min(values) < 1:
            raise node.settings.error(f"{name} must be 1 or more, got {values}")


def _extents(
    size: Shape, kernel: Shape, stride: Shape, pad: Shape, dilate: Shape
) -> tuple[int, ...]:
    return tuple(
        (n + 2 * p - (k - 1) * d - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, pad, dilate, strict=True)
    )


def _array(
    writer: Writer, node: Node, inputs: list[Value], position: int, name: str, shape: Shape
) -> Floats:
    """A weight as an array of the shape that the node's settings ask for."""
    array = writer.parameter(node, inputs, position, name).array
    if array is None or array.shape != shape:
        got = "nothing" if array is None else described(array.shape)
        raise node.settings.error(
            f"its {name} must be {described(shape)}, got {got}; "
            "are the parameters those of this symbol, and is the input size right?"
        )
    return array


def _bias(
    writer: Writer, node: Node, inputs: list[Value], length: int, *, no_bias: bool
) -> Floats | None:
    if node.settings.truth("no_bias", no_bias):
        return None
    return _array(writer, node, inputs, 2, "bias", (length,))
