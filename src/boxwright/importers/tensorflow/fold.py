"""What TensorFlow computes from constants alone, computed once, in numpy.

Frozen graphs hold much of it: shapes put together from numbers, normalisations of weights,
weights kept as bytes. Results are bounded, for a few bytes can ask for a huge array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from boxwright.importers.tensorflow.network import MAX_ELEMENTS, MAX_RANK, Array, size_of

Attributes = dict[str, Any]
_Fold = Callable[[Attributes, list[Array]], list[Array]]


def fold(kind: str, attributes: Attributes, inputs: Sequence[Array]) -> list[Array] | None:
    """The outputs of an operation on constants, or ``None`` where it is not known here.

    Raises:
        ValueError: The inputs do not fit the operation, or the result would be too large.
    """
    function = _FOLDS.get(kind)
    if function is None:
        return None
    try:
        with np.errstate(all="ignore"):
            results = function(attributes, list(inputs))
    except (TypeError, IndexError, OverflowError, KeyError, MemoryError) as error:
        raise ValueError(f"its constants do not fit it: {error}") from error
    return results


def strided_slices(
    rank: int, attributes: Attributes, begin: Array, end: Array, step: Array
) -> list[Any]:
    """What numpy is indexed with to do a ``StridedSlice``: slices, indices and new axes.

    Raises:
        ValueError: They name more axes than there are.
    """
    masks = {
        name: int(attributes.get(f"{name}_mask") or 0)
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    begin, end, step = (x.reshape(-1) for x in (begin, end, step))
    if not len(begin) == len(end) == len(step) <= 2 * MAX_RANK:
        raise ValueError("begin, end and strides are not as many as each other")
    index: list[Any] = []
    for i in range(len(begin)):
        bit = 1 << i
        if masks["ellipsis"] & bit:
            index.append(Ellipsis)
        elif masks["new_axis"] & bit:
            index.append(None)
        elif masks["shrink_axis"] & bit:
            index.append(int(begin[i]))
        else:
            stop = int(end[i]) + (int(begin[i]) if attributes.get("offset") else 0)
            index.append(
                slice(
                    None if masks["begin"] & bit else int(begin[i]),
                    None if masks["end"] & bit else stop,
                    int(step[i]),
                )
            )
    used = sum(part is not None and part is not Ellipsis for part in index)
    if used > rank or index.count(Ellipsis) > 1 or any(i == slice(None, None, 0) for i in index):
        raise ValueError(f"it cuts {used} axes of {rank}")
    return index


def dequantize(attributes: Attributes, stored: Array, low: Array, high: Array) -> Array:
    """TensorFlow's ``Dequantize``: bytes to the range from `low` to `high`.

    The three modes are those of ``tensorflow/core/kernels/dequantize_op.cc``; in
    ``MIN_FIRST`` the lowest value is rounded to a multiple of the step, as
    ``QuantizedToFloat`` in ``quantization_utils.h`` does.
    """
    if low.size != 1 or high.size != 1 or stored.dtype.kind not in "iu":
        raise ValueError("a range of its own for each channel is not supported")
    info = np.iinfo(stored.dtype)
    mode = attributes.get("mode") or "MIN_COMBINED"
    first, last = float(low.reshape(-1)[0]), float(high.reshape(-1)[0])
    if mode == "SCALED":
        if info.min < 0:
            step = max(-first, last) / (info.max if attributes.get("narrow_range") else -info.min)
        else:
            step = last / info.max
        return (stored * np.float32(step)).astype(np.float32)
    step = (last - first) / (info.max - info.min)
    if mode == "MIN_FIRST" and step > 0:
        first = float(np.round(first / step)) * step
    shifted = stored.astype(np.float64) - info.min
    return (shifted * step + first).astype(np.float32)


def _bounded(shape: Sequence[int]) -> tuple[int, ...]:
    extents = tuple(int(extent) for extent in shape)
    if len(extents) > MAX_RANK or any(e < 0 for e in extents) or size_of(extents) > MAX_ELEMENTS:
        raise ValueError(f"the shape {list(extents)[:9]} is not possible, or too large")
    return extents


def _binary(function: Callable[[Array, Array], Array]) -> _Fold:
    def run(_: Attributes, inputs: list[Array]) -> list[Array]:
        a, b = inputs
        _bounded(np.broadcast_shapes(a.shape, b.shape))
        return [np.asarray(function(a, b))]

    return run


def _unary(function: Callable[[Array], Array]) -> _Fold:
    return lambda _, inputs: [np.asarray(function(inputs[0]), inputs[0].dtype)]


def _reducing(function: Callable[..., Any]) -> _Fold:
    def run(attributes: Attributes, inputs: list[Array]) -> list[Array]:
        x, axes = inputs
        axis = tuple(int(a) for a in axes.reshape(-1))
        result = function(x, axis=axis, keepdims=bool(attributes.get("keep_dims")))
        return [np.asarray(result, x.dtype)]

    return run


def _divide(a: Array, b: Array) -> Array:
    return np.asarray(a / b if a.dtype.kind == "f" else a // np.where(b == 0, 1, b), a.dtype)


def _reshape(_: Attributes, inputs: list[Array]) -> list[Array]:
    return [inputs[0].reshape([int(x) for x in inputs[1].reshape(-1)])]


def _squeeze(attributes: Attributes, inputs: list[Array]) -> list[Array]:
    return [np.squeeze(inputs[0], tuple(attributes.get("squeeze_dims") or ()) or None)]


def _transpose(_: Attributes, inputs: list[Array]) -> list[Array]:
    return [np.transpose(inputs[0], [int(x) for x in inputs[1].reshape(-1)])]


def _concat(attributes: Attributes, inputs: list[Array]) -> list[Array]:
    if "axis" in attributes:
        return [np.concatenate(inputs, axis=int(attributes["axis"]))]
    *parts, axis = inputs
    return [np.concatenate(parts, axis=int(axis.reshape(-1)[0]))]


def _pack(attributes: Attributes, inputs: list[Array]) -> list[Array]:
    return [np.stack(inputs, axis=int(attributes.get("axis") or 0))]


def _unpack(attributes: Attributes, inputs: list[Array]) -> list[Array]:
    axis = int(attributes.get("axis") or 0)
    return [np.take(inputs[0], i, axis) for i in range(inputs[0].shape[axis])]


def _strided(attributes: Attributes, inputs: list[Array]) -> list[Array]:
    x, begin, end, step = inputs
    return [np.asarray(x[tuple(strided_slices(x.ndim, attributes, begin, end, step))])]


def _slice(_: Attributes, inputs: list[Array]) -> list[Array]:
    x, begin, size = inputs
    index = tuple(
        slice(int(b), None if n == -1 else int(b + n))
        for b, n in zip(begin.reshape(-1), size.reshape(-1), strict=True)
    )
    return [x[index]]


def _gather(attributes: Attributes, inputs: list[Array]) -> list[Array]:
    x, index = inputs[:2]
    axis = int(inputs[2].reshape(-1)[0]) if len(inputs) > 2 else int(attributes.get("axis") or 0)
    _bounded((*x.shape[:axis], *index.shape, *x.shape[axis:][1:]))
    return [np.take(x, index.astype(np.int64), axis)]


def _range(_: Attributes, inputs: list[Array]) -> list[Array]:
    start, limit, step = (x.reshape(-1)[0] for x in inputs)
    if step == 0 or abs((limit - start) / step) > MAX_ELEMENTS:
        raise ValueError("a range without end")
    return [np.arange(start, limit, step, dtype=inputs[0].dtype)]


def _fill(_: Attributes, inputs: list[Array]) -> list[Array]:
    return [np.full(_bounded(inputs[0].reshape(-1).tolist()), inputs[1].reshape(-1)[0])]


def _tile(_: Attributes, inputs: list[Array]) -> list[Array]:
    x, times = inputs[0], inputs[1].reshape(-1).tolist()
    if len(times) != x.ndim:
        raise ValueError(f"{len(times)} repetitions for {x.ndim} axes")
    _bounded([extent * n for extent, n in zip(x.shape, times, strict=True)])
    return [np.tile(x, times)]


def _broadcast(_: Attributes, inputs: list[Array]) -> list[Array]:
    return [np.broadcast_to(inputs[0], _bounded(inputs[1].reshape(-1).tolist()))]


def _cast(attributes: Attributes, inputs: list[Array]) -> list[Array]:
    return [inputs[0].astype(attributes.get("DstT") or inputs[0].dtype)]


def _dequantize(attributes: Attributes, inputs: list[Array]) -> list[Array]:
    if len(inputs) == 1:
        # TensorFlow Lite's, whose ranges were applied when the constant was read.
        return [inputs[0].astype(np.float32)]
    return [dequantize(attributes, *inputs)]


_FOLDS: dict[str, _Fold] = {
    **dict.fromkeys(("Identity", "Quantize", "StopGradient"), _unary(lambda x: x)),
    **dict.fromkeys(("Add", "AddV2", "BiasAdd"), _binary(np.add)),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    **dict.fromkeys(("RealDiv", "Div", "FloorDiv"), _binary(_divide)),
    "Maximum": _binary(np.maximum),
    "Minimum": _binary(np.minimum),
    "Pow": _binary(lambda a, b: np.asarray(np.power(a, b), a.dtype)),
    "Rsqrt": _unary(lambda x: 1 / np.sqrt(x)),
    "Sqrt": _unary(np.sqrt),
    "Exp": _unary(np.exp),
    "Log": _unary(np.log),
    "Neg": _unary(np.negative),
    "Square": _unary(np.square),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Cast": _cast,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "ExpandDims": lambda _, x: [np.expand_dims(x[0], int(x[1].reshape(-1)[0]))],
    "Transpose": _transpose,
    "ConcatV2": _concat,
    "Pack": _pack,
    "Unpack": _unpack,
    "StridedSlice": _strided,
    "Slice": _slice,
    "GatherV2": _gather,
    "Gather": _gather,
    "Range": _range,
    "Fill": _fill,
    "Tile": _tile,
    "BroadcastTo": _broadcast,
    "Prod": _reducing(np.prod),
    "Sum": _reducing(np.sum),
    "Max": _reducing(np.max),
    "Min": _reducing(np.min),
    "Mean": _reducing(np.mean),
    "Dequantize": _dequantize,
    "Shape": lambda _, x: [np.array(x[0].shape, np.int32)],
    "Size": lambda _, x: [np.array(x[0].size, np.int32)],
    "Rank": lambda _, x: [np.array(x[0].ndim, np.int32)],
}
