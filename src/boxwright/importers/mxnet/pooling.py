"""Pooling as MXNet does it: ``src/operator/nn/pooling-inl.h`` and ``pool.h``."""

from __future__ import annotations

import numpy as np

from boxwright.importers.mxnet.symbol import Node
from boxwright.importers.mxnet.values import Shape, Value, described
from boxwright.importers.mxnet.writer import Writer, operator


@operator("Pooling")
def pooling(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """``MaxPool`` and ``AveragePool``.

    What the `full` convention adds at the end (a last window that hangs over) is written as
    padding: ONNX's ``ceil_mode`` differs between runtimes, and leaves such a window out
    where it would begin in the padding.
    """
    x, settings = inputs[0], node.settings
    layout = settings.text("layout", "NCHW")
    if len(x.shape) != 4 or layout not in ("NCHW", "None"):
        raise settings.error(f"its input must be [N, C, H, W], got {described(x.shape)} ({layout})")
    kind = settings.text("pool_type", "max", ("max", "avg", "sum"))
    if settings.truth("global_pool"):
        return _global(writer, node, x, kind)
    kernel, stride = settings.pair("kernel"), settings.pair("stride", 1)
    pad = settings.pair("pad", 0)
    full = settings.text("pooling_convention", "valid", ("valid", "full")) == "full"
    if min(*kernel, *stride) < 1 or min(pad) < 0 or any(map(int.__ge__, pad, kernel)):
        raise settings.error(f"kernel {kernel}, stride {stride} and pad {pad} do not go together")
    room = [n + 2 * p - k for n, p, k in zip(x.shape[2:], pad, kernel, strict=True)]
    if min(room) < 0:
        raise settings.error(f"kernel {kernel} is larger than {described(x.shape)} with its pad")
    steps = [-(-r // s) if full else r // s for r, s in zip(room, stride, strict=True)]
    over = [max(n * s - r, 0) for n, s, r in zip(steps, stride, room, strict=True)]
    ends = [p + o for p, o in zip(pad, over, strict=True)]
    if any(map(int.__ge__, ends, kernel)):
        raise settings.error("its last window lies in the padding alone, which has no value")
    shape = (*x.shape[:2], *(n + 1 for n in steps))
    window = {"kernel_shape": list(kernel), "strides": list(stride), "pads": [*pad, *ends]}
    if kind == "max":
        return writer.op("MaxPool", [x], node.name, shape, **window)
    counts = kind == "sum" or settings.truth("count_include_pad", True)
    if not counts:
        return writer.op("AveragePool", [x], node.name, shape, count_include_pad=0, **window)
    mean = writer.op("AveragePool", [x], node.name, shape, count_include_pad=1, **window)
    if kind == "sum":
        return writer.scaled("Mul", mean, float(kernel[0] * kernel[1]), f"{node.name}/sum")
    if not any(over):
        return mean
    # MXNet divides by what of a window lies in the image and its padding.
    factor = _correction(x.shape, shape, kernel, stride, pad)
    return writer.binary("Mul", mean, writer.floats(f"{node.name}/part", factor), node.name)


def _correction(
    shape: Shape, result: Shape, kernel: Shape, stride: Shape, pad: Shape
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    lengths = []
    for axis in range(2):
        starts = np.arange(result[2 + axis]) * stride[axis] - pad[axis]
        ends = np.minimum(starts + kernel[axis], shape[2 + axis] + pad[axis])
        lengths.append(kernel[axis] / (ends - starts))
    return np.outer(*lengths).astype(np.float32)


def _global(writer: Writer, node: Node, x: Value, kind: str) -> Value:
    shape = (*x.shape[:2], 1, 1)
    if kind == "max":
        return writer.op("GlobalMaxPool", [x], node.name, shape)
    mean = writer.op("GlobalAveragePool", [x], node.name, shape)
    if kind == "sum":
        return writer.scaled("Mul", mean, float(x.shape[2] * x.shape[3]), f"{node.name}/sum")
    return mean


@operator("_contrib_AdaptiveAvgPooling2D")
def adaptive_average(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Only down to one value a plane, which is how detectors use it."""
    size = node.settings.wholes("output_size", (1,))
    if any(extent != 1 for extent in size):
        raise node.settings.error(f"output_size must be 1, got {size}")
    return _global(writer, node, inputs[0], "avg")
