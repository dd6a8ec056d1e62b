"""Arithmetic of Darknet's layers in plain numpy; see `numpy_darknet`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Section = dict[str, str]


def integer(section: Section, key: str, default: int) -> int:
    return int(float(section[key])) if key in section else default


def real(section: Section, key: str, default: float) -> float:
    return float(section[key].rstrip("f")) if key in section else default


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part]


def convolve(
    x: Array, kernel: Array, stride: tuple[int, int], pad: int, dilation: int, groups: int
) -> Array:
    """im2col.c and gemm.c in another order: one matrix product per kernel tap."""
    filters, per_group, size, _ = kernel.shape
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    reach = dilation * (size - 1) + 1
    height = (padded.shape[1] - reach) // stride[0] + 1
    width = (padded.shape[2] - reach) // stride[1] + 1
    out = np.zeros((filters, height * width), x.dtype)
    share = filters // groups
    for i in range(size):
        for j in range(size):
            top, left = i * dilation, j * dilation
            tap = padded[
                :,
                top : top + (height - 1) * stride[0] + 1 : stride[0],
                left : left + (width - 1) * stride[1] + 1 : stride[1],
            ].reshape(len(x), -1)
            if per_group == 1 and share == 1:
                out += kernel[:, 0, i, j, None] * tap
                continue
            for group in range(groups):
                rows = slice(group * share, (group + 1) * share)
                columns = slice(group * per_group, (group + 1) * per_group)
                out[rows] += kernel[rows, :, i, j] @ tap[columns]
    return out.reshape(filters, height, width)


def antialias(x: Array, kind: int, stride: tuple[int, int]) -> Array:
    """The blur that follows a layer with ``antialiasing`` (convolutional_layer.c)."""
    if kind == 2:
        kernel, pad = np.full((2, 2), 1 / 4), 0
    else:
        kernel, pad = np.outer([1, 2, 1], [1, 2, 1]) / 16, 1
    spread = np.broadcast_to(kernel, (len(x), 1, *kernel.shape)).astype(x.dtype)
    return convolve(x, spread, stride, pad, 1, len(x))


def pool_windows(section: Section, x: Array, stride: tuple[int, int], fill: float) -> Array:
    """Windows ``(C, out_h, out_w, size, size)``; `fill` stands where the image ends."""
    size = integer(section, "size", integer(section, "stride", 1))
    pad = integer(section, "padding", size - 1)
    begin = pad // 2
    # Darknet pads as far as a window reaches; out = (extent + pad - size) / stride + 1.
    extents = [(n + pad - size) // s + 1 for n, s in zip(x.shape[1:], stride, strict=True)]
    ends = [
        max(0, (out - 1) * s + size - begin - n)
        for out, s, n in zip(extents, stride, x.shape[1:], strict=True)
    ]
    padded = np.pad(
        x, ((0, 0), (begin, ends[0]), (begin, ends[1])), constant_values=x.dtype.type(fill)
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    return windows[:, :: stride[0], :: stride[1]][:, : extents[0], : extents[1]]


def normalise_factors(factors: Array, kind: str) -> Array:
    """blas.c, shortcut_multilayer_cpu: over the terms of the sum."""
    if kind == "none":
        return factors
    softmax = kind == "softmax"
    shares = np.exp(factors - factors.max(axis=0)) if softmax else np.maximum(factors, 0)
    result: Array = shares / (shares.sum(axis=0) + factors.dtype.type(0.0001))
    return result


def blocks_to_channels(x: Array, stride: int) -> Array:
    """blas.c, reorg_cpu: ``out[b * C + c, y, x] = in[c, y * s + b / s, x * s + b % s]``."""
    return np.concatenate(
        [x[:, b // stride :: stride, b % stride :: stride] for b in range(stride**2)]
    )


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        result: Array = 1 / (1 + np.exp(-x))
    return result


def mish(x: Array) -> Array:
    softplus = np.logaddexp(x, x.dtype.type(0))
    result: Array = x * np.tanh(softplus)
    return result


def hard_mish(x: Array) -> Array:
    return np.where(x > 0, x, np.where(x > -2, x * x / 2 + x, x.dtype.type(0)))


def exponential_minus_one(x: Array) -> Array:
    result: Array = np.expm1(np.minimum(x, 0))
    return result


def gelu(x: Array) -> Array:
    result: Array = x * (1 + np.tanh(0.797885 * x + 0.035677 * x**3)) / 2
    return result


def selu(x: Array) -> Array:
    result: Array = np.where(x >= 0, 1.0507 * x, 1.0507 * 1.6732 * exponential_minus_one(x))
    return result


def norm_chan(x: Array) -> Array:
    positive = np.maximum(x, 0)
    result: Array = positive / (positive.sum(axis=0, keepdims=True) + 0.0001)
    return result


def norm_chan_softmax(x: Array, shift: bool = False) -> Array:
    powers = np.exp(x - (x.max(axis=0, keepdims=True) if shift else 0))
    result: Array = powers / (powers.sum(axis=0, keepdims=True) + 0.0001)
    return result


# activations.h
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "logistic": sigmoid,
    "leaky": lambda x: np.where(x > 0, x, x.dtype.type(0.1) * x),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "mish": mish,
    "hard_mish": hard_mish,
    "swish": lambda x: x * sigmoid(x),
    "elu": lambda x: np.where(x >= 0, x, exponential_minus_one(x)),
    "selu": selu,
    "gelu": gelu,
    "tanh": np.tanh,
    "normalize_channels": norm_chan,
    "norm_chan": norm_chan,
    "norm_chan_softmax": norm_chan_softmax,
    "norm_chan_softmax_maxval": lambda x: norm_chan_softmax(x, shift=True),
}
