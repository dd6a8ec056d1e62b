"""Layers that move values about: joining, cutting, reshaping, permuting, resizing."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from boxwright.importers.caffe.network import Layer
from boxwright.importers.caffe.writer import Blob, Writer

if TYPE_CHECKING:
    from boxwright.importers.caffe.text import Message


def _axis(writer: Writer, layer: Layer, source: Blob, param: Message, old: str) -> int:
    """``axis``, or the name it had before."""
    if param.has(old):
        if param.has("axis"):
            param.fail(f"it has axis and {old}; Caffe takes one of them", old)
        return writer.axis(layer, source, param.integer(old, 1, 0, 8))
    return writer.axis(layer, source, param.integer("axis", 1, -8, 8))


def concat(writer: Writer, layer: Layer) -> list[Blob]:
    """``Concat``; of constants, one constant."""
    sources = writer.bottoms(layer, 1, 4096)
    param = layer.param("concat_param", "axis", "concat_dim")
    axis = _axis(writer, layer, sources[0], param, "concat_dim")
    first = sources[0].shape
    for source in sources:
        if len(source.shape) != len(first) or any(
            a != b for i, (a, b) in enumerate(zip(source.shape, first, strict=True)) if i != axis
        ):
            layer.fail(f"its bottoms do not fit: {[list(s.shape) for s in sources[:8]]}")
    shape = list(first)
    shape[axis] = sum(source.shape[axis] for source in sources)
    writer.check_shape(layer, tuple(shape))
    values = [source.value for source in sources if source.value is not None]
    if len(values) == len(sources):
        return [Blob(tuple(shape), value=np.concatenate(values, axis))]
    if len(sources) == 1:
        return [sources[0]]
    return [writer.op(layer, "Concat", list(sources), tuple(shape), axis=axis)]


def slice_(writer: Writer, layer: Layer) -> list[Blob]:
    """``Slice`` at given points, or into equal parts."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("slice_param", "axis", "slice_dim", "slice_point")
    axis = _axis(writer, layer, source, param, "slice_dim")
    extent, parts = source.shape[axis], len(layer.tops)
    points = param.integers("slice_point")
    if not points:
        if parts < 1 or extent % parts:
            layer.fail(f"{extent} on axis {axis} cannot be cut into {parts} equal parts")
        points = [extent // parts * number for number in range(1, parts)]
    bounds = [0, *points, extent]
    if len(points) != parts - 1 or any(a >= b for a, b in itertools.pairwise(bounds)):
        layer.fail(f"slice points {points[:16]} do not cut {extent} into {parts} parts")
    sizes = [b - a for a, b in itertools.pairwise(bounds)]
    shapes = [(*source.shape[:axis], size, *source.shape[axis + 1 :]) for size in sizes]
    if parts == 1:
        return [source]
    if source.value is not None:
        return [
            Blob(shape, value=value)
            for shape, value in zip(shapes, np.split(source.value, points, axis), strict=True)
        ]
    names = writer.graph.split(writer.tensor(layer, source), sizes, axis, writer.name(layer))
    return [Blob(shape, name) for shape, name in zip(shapes, names, strict=True)]


def split(writer: Writer, layer: Layer) -> list[Blob]:
    """``Split``: the same blob under several names."""
    (source,) = writer.bottoms(layer, 1)
    return [source] * len(layer.tops)


def flatten(writer: Writer, layer: Layer) -> list[Blob]:
    """``Flatten`` of the axes from one to another."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("flatten_param", "axis", "end_axis")
    first = writer.axis(layer, source, param.integer("axis", 1, -8, 8))
    last = writer.axis(layer, source, param.integer("end_axis", -1, -8, 8))
    if last < first:
        param.fail(f"end_axis {last} comes before axis {first}")
    shape = source.shape
    flat = math.prod(shape[first : last + 1])
    return [writer.reshape(layer, source, (*shape[:first], flat, *shape[last + 1 :]))]


def reshape(writer: Writer, layer: Layer) -> list[Blob]:
    """``Reshape``: 0 keeps an extent, -1 is worked out; a fixed batch is the file's own."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("reshape_param", "shape", "axis", "num_axes")
    count = len(source.shape)
    start = param.integer("axis", 0, -9, 8)
    start = start + count + 1 if start < 0 else start
    span = param.integer("num_axes", -1, -1, 8)
    end = count if span < 0 else start + span
    if not 0 <= start <= end <= count:
        param.fail(f"axis {start} and num_axes {span} do not fit {list(source.shape)}")
    wanted = param.message("shape").integers("dim", -1)
    if wanted.count(-1) > 1:
        param.fail("more than one dim is -1", "shape")
    middle = []
    for number, extent in enumerate(wanted):
        if extent == 0:
            if start + number >= count:
                param.fail(f"dim {number} is 0, and there is no such axis to keep", "shape")
            extent = source.shape[start + number]
        elif start + number == 0 and extent > 0 and source.value is None:
            batch = writer.network.image.shape[0]
            if extent % batch:
                param.unsupported(f"dim: {extent} fixes the batch, which is {batch}", "shape")
            extent //= batch
        middle.append(extent)
    before, after = source.shape[:start], source.shape[end:]
    known = math.prod(before) * math.prod(after) * math.prod(n for n in middle if n != -1)
    if -1 in middle:
        if source.size % known:
            param.fail(f"{list(source.shape)} cannot become {wanted}", "shape")
        middle[middle.index(-1)] = source.size // known
    return [writer.reshape(layer, source, (*before, *middle, *after))]


def permute(writer: Writer, layer: Layer) -> list[Blob]:
    """``Permute`` of SSD; axes that are not named follow in their order."""
    (source,) = writer.bottoms(layer, 1)
    order = layer.param("permute_param", "order").integers("order", 0, 7)
    order += [axis for axis in range(len(source.shape)) if axis not in order]
    if sorted(order) != list(range(len(source.shape))):
        layer.fail(f"order {order} is no order of the axes of {list(source.shape)}")
    shape = tuple(source.shape[axis] for axis in order)
    if source.value is not None:
        return [Blob(shape, value=source.value.transpose(order))]
    if order[0] != 0:
        layer.unsupported("it would move the batch to another axis")
    if order == sorted(order):
        return [source]
    return [writer.op(layer, "Transpose", [source], shape, perm=order)]


def crop(writer: Writer, layer: Layer) -> list[Blob]:
    """``Crop`` of the first bottom to the second's extents."""
    source, wanted = writer.bottoms(layer, 2)
    param = layer.param("crop_param", "axis", "offset")
    axis = writer.axis(layer, source, param.integer("axis", 2, -8, 8))
    count = len(source.shape) - axis
    offsets = param.integers("offset")
    if len(offsets) not in (0, 1, count) or len(wanted.shape) != len(source.shape):
        layer.fail(f"offset must have no, one or {count} values, got {len(offsets)}")
    offsets = (offsets or [0]) * (count if len(offsets) < 2 else 1)
    ends = [at + size for at, size in zip(offsets, wanted.shape[axis:], strict=True)]
    if any(end > size for end, size in zip(ends, source.shape[axis:], strict=True)):
        layer.fail(f"{list(wanted.shape)} at {offsets} is not within {list(source.shape)}")
    shape = (*source.shape[:axis], *wanted.shape[axis:])
    if shape == source.shape:
        return [source]
    axes = list(range(axis, len(source.shape)))
    places = {"starts": offsets, "ends": ends, "axes": axes}
    constants = [writer.integers(layer, key, values) for key, values in places.items()]
    return [writer.op(layer, "Slice", [source, *constants], shape)]


def shuffle_channel(writer: Writer, layer: Layer) -> list[Blob]:
    """``ShuffleChannel`` of ShuffleNet."""
    (source,) = writer.bottoms(layer, 1)
    batch, channels, height, width = writer.planes(layer, source)
    groups = layer.param("shuffle_channel_param", "group").integer("group", 1, 1)
    if channels % groups:
        layer.fail(f"{groups} groups do not divide {channels} channels")
    apart = (batch, groups, channels // groups, height * width)
    parts = writer.reshape(layer, source, apart, "groups")
    swapped = (batch, apart[2], groups, apart[3])
    parts = writer.op(layer, "Transpose", [parts], swapped, "swapped", perm=[0, 2, 1, 3])
    return [writer.reshape(layer, parts, source.shape)]


def upsample(writer: Writer, layer: Layer) -> list[Blob]:
    """``Upsample`` by a whole factor: every pixel is repeated.

    Caffe itself has no such layer; this is the one that converters of YOLOv3 write
    (``upsample_param { scale: 2 }``). SegNet's of the same name, which takes the places of
    maxima as a second bottom, is refused.
    """
    if len(layer.bottoms) != 1:
        layer.unsupported("upsampling by the positions of maxima is not supported")
    (source,) = writer.bottoms(layer, 1)
    param = layer.param("upsample_param", "scale", "scale_h", "scale_w")
    both = param.integer("scale", 2, 1, 64)
    factors = [param.integer("scale_h", both, 1, 64), param.integer("scale_w", both, 1, 64)]
    batch, channels, height, width = writer.planes(layer, source)
    shape = (batch, channels, height * factors[0], width * factors[1])
    scales = writer.constant(layer, "scales", np.array([1, 1, *factors]))
    return [
        writer.op(
            layer,
            "Resize",
            [source, "", scales],
            shape,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    ]


def interp(writer: Writer, layer: Layer) -> list[Blob]:
    """``Interp`` of DeepLab and PSPNet: bilinear, corner pixels on corner pixels."""
    (source,) = writer.bottoms(layer, 1)
    param = layer.param(
        *("interp_param", "height", "width", "zoom_factor", "shrink_factor"),
        *("pad_beg", "pad_end"),
    )
    batch, channels, height, width = writer.planes(layer, source)
    for name in ("pad_beg", "pad_end"):
        if param.integer(name, 0, -1024, 1024):
            param.unsupported(f"{name} is not supported", name)
    extents = [
        _interp_extent(param, name, size) for name, size in (("height", height), ("width", width))
    ]
    shape = (batch, channels, *extents)
    factors = [_factor(have, want) for have, want in zip((height, width), extents, strict=True)]
    scales = writer.constant(layer, "scales", np.array([1, 1, *factors], np.float32))
    return [
        writer.op(
            layer,
            "Resize",
            [source, "", scales],
            shape,
            mode="linear",
            coordinate_transformation_mode="align_corners",
        )
    ]


def _interp_extent(param: Message, name: str, size: int) -> int:
    """``interp_layer.cpp``: the extent given, or shrunk and then zoomed."""
    given = param.integer(name, 0)
    if given:
        return given
    shrink = param.integer("shrink_factor", 1, 1, 1024)
    zoom = param.integer("zoom_factor", 1, 1, 1024)
    size = (size - 1) // shrink + 1
    return size + (size - 1) * (zoom - 1)


def _factor(have: int, want: int) -> np.float32:
    """A factor by which runtimes, who round down, come to the extent that is wanted."""
    factor = np.float32(want / have)
    while math.floor(np.float32(have) * factor) < want:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor
