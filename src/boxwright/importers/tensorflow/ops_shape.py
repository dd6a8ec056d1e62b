"""Operations that move numbers without changing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from boxwright.importers.tensorflow.fold import strided_slices
from boxwright.importers.tensorflow.lowering import Lowering, Operation, Tensor
from boxwright.importers.tensorflow.network import Node
from boxwright.importers.tensorflow.ops_math import reshape

_END = np.iinfo(np.int64).max


def _reshape(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    return [reshape(lo, node, x[0], lo.integers(node, x[1], "shape"))]


def _squeeze(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    shape, named = x[0].shape, node.attributes.get("squeeze_dims") or ()
    axes = {int(a) % len(shape) for a in named} or {i for i, e in enumerate(shape) if e == 1 and i}
    if any(shape[axis] != 1 for axis in axes):
        lo.network.fail(node, f"it leaves out axes {sorted(axes)} of {list(shape)}")
    return [reshape(lo, node, x[0], [e for i, e in enumerate(shape) if i not in axes])]


def _expand(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    (axis,) = lo.integers(node, x[1], "axis")
    return [reshape(lo, node, x[0], [int(e) for e in np.expand_dims(_like(x[0]), axis).shape])]


def _like(x: Tensor) -> Any:
    """An array of a tensor's shape that takes no memory."""
    return np.broadcast_to(np.zeros(1, np.float32), x.shape)


def _flatten(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    return [reshape(lo, node, x[0], [x[0].shape[0], -1])]


def _transpose(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    perm = lo.integers(node, x[1], "order")
    if sorted(perm) != list(range(len(x[0].shape))) or perm[0] != 0:
        lo.network.fail(node, f"it puts the axes into the order {perm}")
    shape = [x[0].shape[axis] for axis in perm]
    return [lo.emit(node, "Transpose", [lo.get(x[0], "plain")], shape, "plain", perm=perm)]


def _concat(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    if node.kind == "ConcatV2" and "axis" not in node.attributes:
        *x, last = x
        (number,) = lo.integers(node, last, "axis")
    else:
        number = int(node.attributes["axis"])
    layout = lo.common(node, x)
    moving = next(tensor for tensor in x if tensor.data is None)
    if any(t.data is not None for t in x):
        lo.network.fail(node, "it joins constants to what depends on the images")
    axis = lo.axis(node, moving, number)
    shape = list(moving.shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in x)
    for tensor in x:
        if [e for i, e in enumerate(tensor.shape) if i != axis] != [
            e for i, e in enumerate(shape) if i != axis
        ]:
            lo.network.fail(node, f"it joins {tensor.shape} to {moving.shape} along {axis}")
    inputs = [lo.get(tensor, layout) for tensor in x]
    return [lo.emit(node, "Concat", inputs, shape, layout, axis=lo.place(axis, layout))]


def _pack(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    rank = len(x[0].shape) + 1
    axis = int(node.attributes.get("axis") or 0) % rank
    if axis == 0 or any(t.data is not None or t.shape != x[0].shape for t in x):
        lo.network.fail(node, "it stacks images, constants or different shapes")
    shape = list(x[0].shape)
    shape.insert(axis, 1)
    parts = [lo.get(reshape(lo, node, tensor, shape), "plain") for tensor in x]
    shape[axis] = len(x)
    return [lo.emit(node, "Concat", parts, shape, "plain", axis=axis)]


def _cut(
    lo: Lowering, node: Node, x: Tensor, cuts: Sequence[tuple[int, int, int, int]], shape: list[int]
) -> Tensor:
    """Parts of a tensor: for each ``(axis, start, end, step)``."""
    if not cuts:
        return Tensor(x.shape, x.dtype, x.data, dict(x.names))
    layout = x.layout if len(x.shape) == 4 else "plain"
    columns = {
        "starts": [cut[1] for cut in cuts],
        "ends": [cut[2] for cut in cuts],
        "axes": [lo.place(cut[0], layout) for cut in cuts],
        "steps": [cut[3] for cut in cuts],
    }
    inputs = [
        lo.constant(f"{node.name}/{name}", np.array(values, np.int64))
        for name, values in columns.items()
    ]
    return lo.emit(node, "Slice", [lo.get(x, layout), *inputs], shape, layout)


def _strided(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    begin, end, step = (np.array(lo.integers(node, t, "bounds")) for t in x[1:4])
    image = x[0]
    index = strided_slices(len(image.shape), node.attributes, begin, end, step)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        used = sum(part is not None for part in index) - 1
        index[at : at + 1] = [slice(None)] * (len(image.shape) - used)
    result = list(_like(image)[tuple(index)].shape)
    cuts, inner, axis = [], [], 0
    for part in index:
        if part is None:
            continue
        extent = image.shape[axis]
        if isinstance(part, slice):
            start, stop, stride = part.indices(extent)
            length = len(range(start, stop, stride))
            # Counted from the end, numpy's -1 for "before the first" would mean the last.
            stop = stop if stop >= 0 else -_END
        else:
            start, stop, stride, length = part % extent, part % extent + 1, 1, 1
        if (start, length, stride) != (0, extent, 1):
            if axis == 0:
                lo.network.fail(node, "it works along the first axis, and would mix images")
            cuts.append((axis, start, stop, stride))
        inner.append(length)
        axis += 1
    inner.extend(image.shape[axis:])
    return [reshape(lo, node, _cut(lo, node, image, cuts, inner), [int(e) for e in result])]


def _slice(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    image, begin, size = x[0], lo.integers(node, x[1], "begin"), lo.integers(node, x[2], "size")
    cuts, shape = [], []
    for axis, (start, count, extent) in enumerate(zip(begin, size, image.shape, strict=True)):
        length = extent - start if count == -1 else count
        if not (0 <= start < extent and 1 <= length <= extent - start):
            lo.network.fail(node, f"it takes {length} from {start} of {extent}")
        if length != extent:
            cuts.append((lo.axis(node, image, axis), start, start + length, 1))
        shape.append(length)
    return [_cut(lo, node, image, cuts, shape)]


def _split(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    if node.kind == "SplitV":
        image, lengths = x[0], lo.integers(node, x[1], "sizes")
        (number,) = lo.integers(node, x[2], "axis")
    else:
        (number,), image = lo.integers(node, x[0], "axis"), x[1]
        lengths = [-1] * int(node.attributes.get("num_split") or len(node.outputs))
    axis = lo.axis(node, image, number)
    extent = image.shape[axis]
    if node.kind == "SplitV" and lengths.count(-1) == 1:
        lengths[lengths.index(-1)] = extent - sum(length for length in lengths if length != -1)
    elif node.kind != "SplitV":
        lengths = [extent // len(lengths)] * len(lengths)
    if sum(lengths) != extent or min(lengths) < 1:
        lo.network.fail(node, f"it cuts {extent} into {lengths}")
    parts, start = [], 0
    for length in lengths:
        shape = list(image.shape)
        shape[axis] = length
        parts.append(_cut(lo, node, image, [(axis, start, start + length, 1)], shape))
        start += length
    return parts


def _unpack(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    image = x[0]
    axis = lo.axis(node, image, int(node.attributes.get("axis") or 0))
    whole = [1 if i == axis else e for i, e in enumerate(image.shape)]
    left = [e for i, e in enumerate(image.shape) if i != axis]
    return [
        reshape(lo, node, _cut(lo, node, image, [(axis, i, i + 1, 1)], whole), left)
        for i in range(image.shape[axis])
    ]


def _gather(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    image = x[0]
    index = lo.integers(node, x[1], "indices")
    number = lo.integers(node, x[2], "axis")[0] if len(x) > 2 else node.attributes.get("axis") or 0
    axis = lo.axis(node, image, int(number))
    if node.attributes.get("batch_dims"):
        lo.network.fail(node, "it gathers within batches")
    if not all(0 <= i < image.shape[axis] for i in index):
        lo.network.fail(node, f"it takes places outside of {image.shape[axis]}")
    shape = [*image.shape[:axis], *x[1].shape, *image.shape[axis + 1 :]]
    places = lo.constant(f"{node.name}/indices", np.array(index, np.int64).reshape(x[1].shape))
    inputs = [lo.get(image, "plain"), places]
    return [lo.emit(node, "Gather", inputs, shape, "plain", axis=axis)]


def _tile(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    times = lo.integers(node, x[1], "repetitions")
    if len(times) != len(x[0].shape) or min(times) < 1 or times[0] != 1:
        lo.network.fail(node, f"it repeats {list(x[0].shape)} {times} times")
    shape = [e * n for e, n in zip(x[0].shape, times, strict=True)]
    repeats = lo.constant(f"{node.name}/repeats", np.array(times, np.int64))
    return [lo.emit(node, "Tile", [lo.get(x[0], "plain"), repeats], shape, "plain")]


OPERATIONS: dict[str, Operation] = {
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "ExpandDims": _expand,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "ConcatV2": _concat,
    "Pack": _pack,
    "StridedSlice": _strided,
    "Slice": _slice,
    "Split": _split,
    "SplitV": _split,
    "Unpack": _unpack,
    "GatherV2": _gather,
    "Tile": _tile,
}
