"""The nodes under ``pre/``: from the contract's uint8 images to what a network was fed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import ModelError
from boxwright.graph.builder import GraphBuilder
from boxwright.model import IMAGES

Channels = Literal["rgb", "bgr", "grey"]
PixelLayout = Literal["nchw", "nhwc"]
Element = Literal["float32", "float16", "uint8"]


@dataclass(frozen=True)
class PixelFormat:
    """What a network wants to be fed: ``(pixel * scale - mean) / std``, channel by channel.

    Attributes:
        channels: Their order; ``grey`` is one channel, Rec. 601 luma.
        scale: Factor of the 0 to 255 of a pixel, such as 1 / 255.
        mean: One value, or one for each channel in the network's order.
        std: Likewise.
        layout: ``nchw`` or ``nhwc``.
        element: Type of the network's input.
    """

    channels: Channels = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: PixelLayout = "nchw"
    element: Element = "float32"

    def __post_init__(self) -> None:
        for name, words in (("channels", Channels), ("layout", PixelLayout), ("element", Element)):
            if getattr(self, name) not in get_args(words):
                raise ModelError(
                    f"{name} must be one of {', '.join(get_args(words))}, "
                    f"got {getattr(self, name)!r}"
                )
        count = 1 if self.channels == "grey" else 3
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) not in (1, count) or not all(map(math.isfinite, values)):
                raise ModelError(f"{name} must be 1 or {count} finite numbers, got {values!r}")
        if not (math.isfinite(self.scale) and self.scale > 0 and all(v > 0 for v in self.std)):
            raise ModelError(f"scale and std must be above 0, got {self.scale!r} and {self.std!r}")
        plain = self.scale == 1 and not any(self.mean) and set(self.std) == {1.0}
        if self.element == "uint8" and not plain:
            raise ModelError("a network that is fed uint8 takes pixels as they are: scale 1")


def add_pixels(graph: GraphBuilder, form: PixelFormat, images: str = IMAGES) -> str:
    """Add the nodes that make `form` of the contract's `images`; the last one's name."""
    from onnx import TensorProto

    x = images
    if form.element != "uint8" or form.channels == "grey":
        x = graph.add("Cast", [x], "pre/float", to=TensorProto.FLOAT)
    if form.channels == "grey":
        luma = np.array([0.299, 0.587, 0.114], np.float32)[:, None]
        x = graph.add("MatMul", [x, graph.constant("pre/luma", luma)], "pre/grey")
    elif form.channels == "bgr":
        order = graph.constant("pre/order", np.array([2, 1, 0], np.int64))
        x = graph.add("Gather", [x, order], "pre/bgr", axis=3)
    std = np.array(form.std, np.float64)
    # Channels are the last axis here.
    factor, offset = form.scale / std, -np.array(form.mean, np.float64) / std
    if (factor != 1).any():
        x = graph.add("Mul", [x, _per_channel(graph, "pre/factor", factor)], "pre/scale")
    if offset.any():
        x = graph.add("Add", [x, _per_channel(graph, "pre/offset", offset)], "pre/shift")
    if form.element == "float16":
        x = graph.add("Cast", [x], "pre/half", to=TensorProto.FLOAT16)
    elif form.element == "uint8" and form.channels == "grey":
        x = graph.add("Cast", [x], "pre/byte", to=TensorProto.UINT8)
    if form.layout == "nchw":
        x = graph.add("Transpose", [x], "pre/planes", perm=[0, 3, 1, 2])
    return x


def _per_channel(graph: GraphBuilder, name: str, values: NDArray[np.float64]) -> str:
    single = values[0] if len(set(values.tolist())) == 1 else values
    return graph.constant(name, np.array(single, np.float32))
