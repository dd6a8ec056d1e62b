"""Operators that move, cut, join and repeat: MXNet's ``src/operator/tensor/matrix_op.cc``."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from boxwright.importers.mxnet.symbol import Node
from boxwright.importers.mxnet.values import (
    BATCH,
    OMITTED,
    Shape,
    Value,
    count,
    described,
    has_batch,
    product,
)
from boxwright.importers.mxnet.writer import Writer, axis_of, operator


@operator("Reshape", "reshape")
def reshape(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """With MXNet's codes 0, -1, -2, -3 and -4."""
    x, settings = inputs[0], node.settings
    codes = settings.wholes("shape", ())
    if not codes:
        # Before 0.9: 0 is what is left over, unless the first extent is to be kept.
        target = settings.wholes("target_shape")
        codes = tuple(-1 if n == 0 else n for n in target)
        if settings.truth("keep_highest"):
            codes = (0, *codes[1:])
    if settings.truth("reverse"):
        turned = reshaped(node, x.shape[::-1], codes[::-1])
        return writer.reshape(x, turned[::-1], node.name)
    return writer.reshape(x, reshaped(node, x.shape, codes), node.name)


def reshaped(node: Node, shape: Shape, codes: Shape) -> Shape:
    """The shape that codes ask for (``InferReshapeShape`` in ``matrix_op-inl.h``)."""
    result: list[int] = []
    unknown: int | None = None
    at = i = 0
    while i < len(codes):
        code = codes[i]
        if code == 0:
            result.append(shape[at])
        elif code == -1:
            if unknown is not None:
                raise node.settings.error(f"shape {codes} leaves more than one extent open")
            unknown = len(result)
            result.append(1)
        elif code == -2:
            result.extend(shape[at:])
            at = len(shape) - 1
        elif code == -3:
            result.append(product(shape[at : at + 2]))
            at += 1
        elif code == -4:
            result.extend(_split(node, shape[at], codes[i + 1 : i + 3]))
            i += 2
        elif code > 0:
            result.append(code)
        else:
            raise node.settings.error(f"shape {codes} holds {code}, which has no meaning")
        at += 1
        i += 1
    return _complete(node, shape, result, unknown)


def _complete(node: Node, shape: Shape, result: list[int], unknown: int | None) -> Shape:
    """The extent left open; and whose extents a given batch of 1 stands for."""
    if unknown is not None:
        rest = count(tuple(result))
        if count(shape) % rest:
            raise node.settings.error(f"{described(shape)} cannot be cut into {result}")
        result[unknown] = count(shape) // rest
        if has_batch(shape) and not has_batch(tuple(result)):
            result[unknown] = -result[unknown]
    if has_batch(shape) and not has_batch(tuple(result)) and result[:1] == [1]:
        # Exported for a batch of 1, which is what the number says.
        result[0] = BATCH
    return tuple(result)


def _split(node: Node, extent: int, parts: Shape) -> tuple[int, int]:
    first, second = parts
    if first == -1:
        first = abs(extent) // max(second, 1)
    elif second == -1:
        second = abs(extent) // max(first, 1)
    if first < 1 or second < 1 or first * second != abs(extent):
        raise node.settings.error(f"an extent of {abs(extent)} cannot be split into {parts}")
    return (-first, second) if extent < 0 else (first, second)


@operator("Flatten", "flatten")
def flatten(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """All but the first axis in one."""
    x = inputs[0]
    return writer.reshape(x, (x.shape[0], product(x.shape[1:])), node.name)


@operator("transpose")
def transpose(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Axes in another order; turned round, where none is given."""
    rank = len(inputs[0].shape)
    axes = node.settings.wholes("axes", ()) or tuple(reversed(range(rank)))
    resolved = [axis_of(node, axis, rank) for axis in axes]
    if sorted(resolved) != list(range(rank)):
        raise node.settings.error(f"axes {axes} are not those of {described(inputs[0].shape)}")
    return writer.transpose(inputs[0], resolved, node.name)


@operator("SwapAxis", "swapaxes")
def swap_axis(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Two axes in each other's place."""
    rank = len(inputs[0].shape)
    first, second = (axis_of(node, node.settings.whole(f"dim{i}", 0), rank) for i in (1, 2))
    axes = list(range(rank))
    axes[first], axes[second] = axes[second], axes[first]
    return writer.transpose(inputs[0], axes, node.name)


@operator("expand_dims")
def expand_dims(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """A new axis of one."""
    x = inputs[0]
    axis = axis_of(node, node.settings.whole("axis"), len(x.shape) + 1)
    return _reaxed(writer, x, (*x.shape[:axis], 1, *x.shape[axis:]), "Unsqueeze", [axis], node.name)


@operator("squeeze")
def squeeze(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Axes of one left out."""
    x = inputs[0]
    rank = len(x.shape)
    wanted = node.settings.wholes("axis", ())
    axes = [axis_of(node, a, rank) for a in wanted] or [i for i in range(rank) if x.shape[i] == 1]
    if any(x.shape[axis] != 1 for axis in axes):
        raise node.settings.error(f"axes {axes} of {described(x.shape)} are not all 1 long")
    shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    return _reaxed(writer, x, shape, "Squeeze", axes, node.name)


def _reaxed(writer: Writer, x: Value, shape: Shape, kind: str, axes: list[int], name: str) -> Value:
    return writer.op(kind, [x, writer.integers(f"{name}/axes", axes)], name, shape)


@operator("Concat", "concat")
def concat(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Parts one after another."""
    axis = axis_of(node, node.settings.whole("dim", 1), len(inputs[0].shape))
    return inputs[0] if len(inputs) == 1 else writer.concat(inputs, axis, node.name)


@operator("stack")
def stack(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Parts along a new axis."""
    axis = axis_of(node, node.settings.whole("axis", 0), len(inputs[0].shape) + 1)
    parts = []
    for i, x in enumerate(inputs):
        shape = (*x.shape[:axis], 1, *x.shape[axis:])
        parts.append(_reaxed(writer, x, shape, "Unsqueeze", [axis], f"{node.name}/{i}"))
    return writer.concat(parts, axis, node.name)


@operator("slice", "crop")
def slice_(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Python's slices, one for each of the first axes."""
    x, settings = inputs[0], node.settings
    begins, ends = settings.optional_wholes("begin"), settings.optional_wholes("end")
    steps = settings.optional_wholes("step") if settings.has("step") else ()
    if len(begins) != len(ends) or len(begins) > len(x.shape):
        raise settings.error(f"begin {begins} and end {ends} do not fit {described(x.shape)}")
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        step = (steps[axis] if axis < len(steps) else None) or 1
        x = _cut(writer, x, axis, slice(begin, end, step), f"{node.name}/axis{axis}")
    return x


@operator("slice_axis")
def slice_axis(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """A part along one axis."""
    settings = node.settings
    axis = axis_of(node, settings.whole("axis"), len(inputs[0].shape))
    end = settings.whole("end") if settings.has("end") else None
    return _cut(writer, inputs[0], axis, slice(settings.whole("begin", 0), end), node.name)


def _cut(writer: Writer, x: Value, axis: int, part: slice, name: str) -> Value:
    if x.shape[axis] < 0:
        # Of the batch, only all of it can be meant.
        if (part.start or 0, part.stop, part.step or 1) == (0, None, 1):
            return x
        raise writer.symbol.error(f"{name!r} cuts the batch, whose size is open")
    start, end, step = part.indices(x.shape[axis])
    return writer.slice(x, axis, start, end, name, step)


@operator("slice_like")
def slice_like(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """The first part, as long as another tensor is; all of it along the batch."""
    x, like = inputs
    rank = len(x.shape)
    axes = node.settings.wholes("axes", ()) or tuple(range(rank))
    for axis in (axis_of(node, a, rank) for a in axes):
        if x.shape[axis] < 0 and like.shape[axis] == x.shape[axis]:
            continue
        length = like.shape[axis]
        if not 0 < length <= x.shape[axis]:
            raise node.settings.error(
                f"axis {axis} of {described(x.shape)} cannot be cut to {described(like.shape)}; "
                "the network was exported for a smaller input size"
            )
        x = writer.slice(x, axis, 0, length, f"{node.name}/axis{axis}")
    return x


@operator("SliceChannel", "split", "_split_v2")
def split(writer: Writer, node: Node, inputs: list[Value]) -> Value | list[Value]:
    """Equal parts along an axis; ``_split_v2`` also cuts at given places."""
    x, settings = inputs[0], node.settings
    default = 0 if node.operator == "_split_v2" else 1
    axis = axis_of(node, settings.whole("axis", default), len(x.shape))
    length = x.shape[axis]
    if node.operator != "_split_v2" or settings.whole("sections", 0):
        parts = settings.whole("num_outputs" if default else "sections")
        if parts < 1 or length % parts:
            raise settings.error(f"{described(x.shape)} has no {parts} equal parts, axis {axis}")
        edges = [length // parts * i for i in range(parts + 1)]
    else:
        edges = [*settings.wholes("indices"), length]
    sizes = [end - begin for begin, end in pairwise(edges)]
    if min(sizes, default=0) < 1:
        raise settings.error(f"{described(x.shape)} cannot be cut at {edges}")
    names = [node.name if len(sizes) == 1 else f"{node.name}/{i}" for i in range(len(sizes))]
    shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
    results = [x]
    if len(sizes) > 1:
        lengths = writer.integers(f"{node.name}/sizes", sizes)
        results = writer.ops("Split", [x, lengths], names, shapes, axis=axis)
    if settings.truth("squeeze_axis"):
        kept = (*x.shape[:axis], *x.shape[axis + 1 :])
        results = [
            _reaxed(writer, part, kept, "Squeeze", [axis], f"{name}/squeezed")
            for part, name in zip(results, names, strict=True)
        ]
    return results


@operator("tile")
def tile(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """The whole repeated along each axis."""
    x = inputs[0]
    reps = node.settings.wholes("reps")
    rank = max(len(reps), len(x.shape))
    reps = (1,) * (rank - len(reps)) + reps
    x = writer.reshape(x, (1,) * (rank - len(x.shape)) + x.shape, f"{node.name}/axes")
    if min(reps) < 1:
        raise node.settings.error(f"reps must be 1 or more, got {reps}")
    if all(times == 1 for times in reps):
        return x
    shape = tuple(n * times for n, times in zip(x.shape, reps, strict=True))
    return writer.op("Tile", [x, writer.integers(f"{node.name}/reps", reps)], node.name, shape)


@operator("repeat")
def repeat(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Each element repeated, along an axis or of all in one row."""
    x, settings = inputs[0], node.settings
    if not settings.has("axis"):
        x = writer.reshape(x, (product(x.shape),), f"{node.name}/flat")
    axis = axis_of(node, settings.whole("axis", 0), len(x.shape))
    times = settings.whole("repeats")
    if times < 1:
        raise settings.error(f"repeats must be 1 or more, got {times}")
    before, after = x.shape[: axis + 1], x.shape[axis + 1 :]
    apart = writer.reshape(x, (*before, 1, *after), f"{node.name}/apart")
    reps = [1] * len(before) + [times] + [1] * len(after)
    shape = (*before, times, *after)
    many = writer.op(
        "Tile", [apart, writer.integers(f"{node.name}/reps", reps)], f"{node.name}/tiled", shape
    )
    return writer.reshape(many, (*before[:-1], before[-1] * times, *after), node.name)


@operator("broadcast_to", "broadcast_like", "broadcast_axis", "broadcast_axes")
def broadcast_to(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Axes of one stretched; by a product with ones, which keeps the batch open."""
    x, settings = inputs[0], node.settings
    if node.operator == "broadcast_like":
        return writer.binary("Add", x, _zeros_like(writer, inputs[1], node.name), node.name)
    if node.operator == "broadcast_to":
        wanted = settings.wholes("shape")
        shape = tuple(
            n if want in (0, n) else want for n, want in zip(x.shape, wanted, strict=True)
        )
    else:
        sizes = dict(zip(settings.wholes("axis"), settings.wholes("size"), strict=True))
        shape = tuple(sizes.get(i, n) for i, n in enumerate(x.shape))
    ones = tuple(1 if n < 0 else n for n in shape)
    return writer.binary("Mul", x, writer.floats(f"{node.name}/ones", np.ones(ones)), node.name)


@operator("zeros_like", "ones_like")
def filled_like(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """A constant of a tensor's shape; of its values nothing is used."""
    zeros = _zeros_like(writer, inputs[0], node.name)
    return zeros if node.operator == "zeros_like" else writer.scaled("Add", zeros, 1.0, node.name)


def _zeros_like(writer: Writer, x: Value, name: str) -> Value:
    """Zeros; where the batch is open, of values that are limited first, so that 0 comes out."""
    if not has_batch(x.shape):
        return writer.floats(f"{name}/zeros", np.zeros(x.shape))
    bounds = [writer.floats(f"{name}/{key}", 0.0) for key in ("low", "high")]
    return writer.op("Clip", [x, *bounds], f"{name}/zeros", x.shape)


@operator("reverse", "flip")
def reverse(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Back to front along some axes."""
    x = inputs[0]
    for axis in node.settings.wholes("axis"):
        at = axis_of(node, axis, len(x.shape))
        x = writer.slice(x, at, x.shape[at] - 1, -1, f"{node.name}/axis{at}", -1)
    return x


@operator("Pad", "pad")
def pad(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """``Pad`` of the last two axes."""
    x, settings = inputs[0], node.settings
    mode = settings.text("mode", "constant", ("constant", "edge", "reflect"))
    width = settings.wholes("pad_width")
    begins, ends = width[::2], width[1::2]
    if len(begins) != len(x.shape) or len(ends) != len(begins) or min(width) < 0:
        raise settings.error(f"pad_width {width} does not fit {described(x.shape)}")
    if begins[0] or ends[0]:
        raise settings.error("the batch cannot be padded")
    shape = tuple(n + b + e if n > 0 else n for n, b, e in zip(x.shape, begins, ends, strict=True))
    inputs = [x, writer.integers(f"{node.name}/pads", [*begins, *ends])]
    if mode == "constant":
        value = settings.number("constant_value", 0.0)
        inputs.append(writer.floats(f"{node.name}/value", value))
    return writer.op("Pad", inputs, node.name, shape, mode=mode)


@operator("Crop")
def crop(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """A window of the planes, as large as a second input or as `h_w` says."""
    x, settings = inputs[0], node.settings
    rows, columns = inputs[1].shape[2:] if len(inputs) > 1 else settings.pair("h_w")
    top, left = settings.pair("offset", 0)
    if settings.truth("center_crop"):
        top, left = (x.shape[2] - rows) // 2, (x.shape[3] - columns) // 2
    if not (0 <= top <= x.shape[2] - rows and 0 <= left <= x.shape[3] - columns):
        raise settings.error(
            f"{rows} x {columns} cannot be cropped from {described(x.shape)}; "
            "is the input size one that the network can take?"
        )
    x = writer.slice(x, 2, top, top + rows, f"{node.name}/rows")
    return writer.slice(x, 3, left, left + columns, f"{node.name}/columns")


@operator("_contrib_BilinearResize2D")
def bilinear_resize(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """``Resize`` with aligned corners; to a size, by a factor, or as large as another."""
    x, settings = inputs[0], node.settings
    mode = settings.text("mode", "size", ("size", "like"))
    if mode == "like":
        rows, columns = inputs[1].shape[2:]
    elif settings.has("scale_height"):
        factors = (settings.number("scale_height"), settings.number("scale_width"))
        rows, columns = (int(n * f) for n, f in zip(x.shape[2:], factors, strict=True))
    else:
        rows, columns = settings.whole("height"), settings.whole("width")
    if not settings.truth("align_corners", True):
        raise settings.error("align_corners must be True")
    if x.shape[0] != BATCH or min(rows, columns) < 1:
        raise settings.error(f"{described(x.shape)} cannot become {rows} x {columns}")
    factors32 = [1, 1, rows / x.shape[2], columns / x.shape[3]]
    # A factor that float32 rounds down would lose a row.
    scales = [np.nextafter(np.float32(f), np.float32(np.inf)) if f % 1 else f for f in factors32]
    return writer.op(
        "Resize",
        [x, OMITTED, writer.floats(f"{node.name}/scales", scales)],
        node.name,
        (*x.shape[:2], rows, columns),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    )
