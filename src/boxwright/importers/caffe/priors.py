"""``PriorBox``: SSD's default boxes, worked out once while importing.

Semantics are those of ``prior_box_layer.cpp`` in SSD's Caffe, which cuts ``min_size`` and
``max_size`` to whole pixels (OpenCV does not, so the two differ for 35.84 of SSD512).
"""

from __future__ import annotations

import math

import numpy as np

from boxwright.importers.caffe.network import Layer
from boxwright.importers.caffe.text import Message
from boxwright.importers.caffe.writer import Blob, Floats, Writer

# Two ratios closer than this are one, as in the layer's set-up.
_SAME_RATIO = 1e-6
_MAX_VALUES = 1 << 24
_MAX_SIZES = 256
_FIELDS = (
    *("min_size", "max_size", "aspect_ratio", "flip", "clip", "variance", "offset"),
    *("img_size", "img_h", "img_w", "step", "step_h", "step_w"),
)


def prior_box(writer: Writer, layer: Layer) -> list[Blob]:
    """A constant ``(1, 2, rows * 4)``: boxes as fractions of the image, and variances."""
    feature, image = writer.bottoms(layer, 2)
    param = layer.param("prior_box_param", *_FIELDS)
    rows, columns = writer.planes(layer, feature)[2:]
    extents = writer.planes(layer, image)
    height, width = _pair(param, "img_size", "img_h", "img_w", (extents[2], extents[3]))
    sizes = _box_sizes(param)
    if rows * columns * len(sizes) * 8 > _MAX_VALUES:
        layer.fail(f"it would make {rows * columns * len(sizes)} boxes")
    step_h, step_w = _pair(param, "step", "step_h", "step_w", (0.0, 0.0))
    if step_h == 0 or step_w == 0:
        step_h, step_w = height / rows, width / columns
    offset = param.number("offset", 0.5)
    # The layer computes in float32, step by step.
    x = (np.arange(columns, dtype=np.float32) + np.float32(offset)) * np.float32(step_w)
    y = (np.arange(rows, dtype=np.float32) + np.float32(offset)) * np.float32(step_h)
    centres = np.stack(np.meshgrid(x, y), -1).astype(np.float64)[:, :, None]
    halves = np.array(sizes, np.float32).astype(np.float64) / 2
    extent = np.array([width, height], np.float64)
    boxes = np.concatenate([(centres - halves) / extent, (centres + halves) / extent], -1)
    if param.flag("clip", False):
        boxes = boxes.clip(0, 1)
    variances = np.broadcast_to(_variances(param), boxes.shape)
    value = np.stack([boxes.reshape(-1), variances.reshape(-1)])[None].astype(np.float32)
    return [Blob(value.shape, value=value)]


def _box_sizes(param: Message) -> list[tuple[float, float]]:
    """Width and height in pixels of the boxes of one cell, in the layer's order."""
    smallest, largest = param.numbers("min_size"), param.numbers("max_size")
    given = param.numbers("aspect_ratio")
    if not 0 < len(smallest) <= _MAX_SIZES or len(given) > _MAX_SIZES:
        param.fail(f"min_size must be there once at least, got {len(smallest)}", "min_size")
    if largest and len(largest) != len(smallest):
        param.fail(f"{len(largest)} max_size do not go with {len(smallest)} min_size", "max_size")
    if min([*smallest, *given]) <= 0:
        param.fail("sizes and ratios must be above 0", "min_size")
    flip = param.flag("flip", True)
    ratios = [1.0]
    for ratio in given:
        if all(abs(ratio - known) >= _SAME_RATIO for known in ratios):
            ratios += [ratio, 1 / ratio] if flip else [ratio]
    sizes = []
    for number, size in enumerate(smallest):
        side = int(size)
        sizes.append((float(side), float(side)))
        if largest:
            if largest[number] <= size:
                param.fail(f"max_size {largest[number]:g} must exceed min_size {size:g}")
            mean = math.sqrt(side * int(largest[number]))
            sizes.append((mean, mean))
        for ratio in ratios[1:]:
            root = math.sqrt(ratio)
            sizes.append((side * root, side / root))
    return sizes


def _variances(param: Message) -> Floats:
    values = param.numbers("variance") or [0.1]
    if len(values) not in (1, 4) or min(values) <= 0:
        param.fail(f"variance must have 1 or 4 values above 0, got {values[:8]}", "variance")
    return np.array(values * (4 // len(values)))


def _pair(
    param: Message, both: str, rows: str, columns: str, default: tuple[float, float]
) -> tuple[float, float]:
    if param.has(both):
        value = param.number(both, 0)
        found = (value, value)
    elif param.has(rows) or param.has(columns):
        found = (param.number(rows, 0), param.number(columns, 0))
    else:
        return default
    if min(found) <= 0 or max(found) > 1 << 20:
        param.fail(f"{both} must be above 0, got {found[0]:g} and {found[1]:g}", both)
    return found
