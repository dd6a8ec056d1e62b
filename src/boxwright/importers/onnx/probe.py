"""What a foreign graph says that it takes: its one input of images, and sizes in reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boxwright.errors import ImportFailedError
from boxwright.graph.pixels import Element, PixelLayout
from boxwright.graph.view import View, dims_of

if TYPE_CHECKING:
    import onnx

# Inputs beside the image that say how it was resized; a graph made for one size has them
# as constants. (Paddle's detectors, RT-DETR's and Hugging Face's exports.)
SIDE_INPUTS = frozenset(
    {"orig_target_sizes", "im_shape", "scale_factor", "pixel_mask", "image_shape"}
)
# TensorProto's FLOAT, FLOAT16 and UINT8.
_ELEMENTS: Mapping[int, Element] = {1: "float32", 10: "float16", 2: "uint8"}
_MOST_ELEMENTS = 1 << 31


@dataclass(frozen=True)
class ImageInput:
    """The graph's image input.

    Attributes:
        name: Its name.
        element: numpy's name of its type.
        layout: ``nchw`` or ``nhwc``.
        channels: How many.
        size: ``(height, width)``; ``None`` for one that is free.
        batch: How many images at a time, or ``None`` where that is free.
    """

    name: str
    element: Element
    layout: PixelLayout
    channels: int
    size: tuple[int | None, int | None]
    batch: int | None


def image_input(proto: onnx.ModelProto, origin: str) -> ImageInput:
    """The one input that takes images.

    Raises:
        ImportFailedError: There is none, or there are several.
    """
    from onnx import TensorProto

    values = [v for v in View(proto).inputs if v.name not in SIDE_INPUTS]
    pictures = [v for v in values if len(dims_of(v) or ()) == 4]
    if len(pictures) != 1 or len(values) != 1:
        shown = ", ".join(f"{v.name} {list(dims_of(v) or ())}" for v in values) or "none"
        raise ImportFailedError(
            f"{origin}: expected one input of images with four extents, got {shown}"
        )
    value = pictures[0]
    dims: tuple[int | None, ...] = tuple(extent or None for extent in dims_of(value) or ())
    kind = value.type.tensor_type.elem_type
    if kind not in _ELEMENTS:
        known = TensorProto.DataType.items()
        name = next((n.lower() for n, number in known if number == kind), f"type {kind}")
        raise ImportFailedError(
            f"{origin}: input {value.name!r} must be of {', '.join(_ELEMENTS.values())}, got {name}"
        )
    if any(extent is not None and extent < 0 for extent in dims):
        raise ImportFailedError(f"{origin}: input {value.name!r} has the shape {list(dims)}")
    layout: PixelLayout
    if dims[1] in (1, 3) or (dims[1] is None and dims[3] not in (1, 3)):
        layout, channels, size = "nchw", dims[1] or 3, (dims[2], dims[3])
    elif dims[3] in (1, 3):
        layout, channels, size = "nhwc", dims[3] or 3, (dims[1], dims[2])
    else:
        raise ImportFailedError(
            f"{origin}: input {value.name!r} must have 1 or 3 channels, second or last, "
            f"got {list(dims)}"
        )
    return ImageInput(value.name, _ELEMENTS[kind], layout, channels, size, dims[0])


def check_extents(proto: onnx.ModelProto, origin: str) -> None:
    """Refuse a graph with a tensor that no detector has, before it is made.

    Raises:
        ImportFailedError: A shape that is known beforehand has more than 2^31 values.
    """
    for name, shape in View(proto).shapes.items():
        known = [extent for extent in shape or () if extent]
        if known and math.prod(known) > _MOST_ELEMENTS:
            raise ImportFailedError(
                f"{origin}: tensor {name[:80]!r} would have the shape {list(shape or ())}, "
                "more than any detector's"
            )
