"""From the sections of a cfg to a checked list of layers with shapes.

Defaults and geometry follow ``src/parser.c`` and the ``make_*_layer`` functions of
AlexeyAB's Darknet. Whatever cannot be computed as Darknet computes it is refused here,
with its section and line, before any weight is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwright.darknet.cfg import Section, read_cfg
from boxwright.darknet.layers import (
    IMAGE,
    MAX_CHANNELS,
    MAX_SIDE,
    Head,
    Inert,
    Layer,
    Shape,
)
from boxwright.darknet.sections import READERS, REFUSED

# With MAX_SIDE and MAX_CHANNELS, the bounds within which every shape fits any runtime.
MAX_VALUES = 1 << 31
MAX_CANDIDATES = 1 << 22


@dataclass(frozen=True)
class Network:
    """A Darknet network.

    Attributes:
        path: The cfg it was read from.
        net: The ``[net]`` section.
        shape: Shape of the input.
        layers: All layers in order.
        letterbox: The cfg asks for letterboxed input (``letter_box=1``).
    """

    path: str
    net: Section
    shape: Shape
    layers: tuple[Layer, ...]
    letterbox: bool

    @property
    def heads(self) -> tuple[Head, ...]:
        """The detection heads in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Head))

    @property
    def weight_count(self) -> int:
        """How many float32 values the weights file must hold."""
        return sum(layer.weight_count for layer in self.layers)


def read_network(path: str | Path, size: tuple[int, int] | None = None) -> Network:
    """Read a cfg and work out every layer.

    Args:
        path: The cfg file.
        size: ``(height, width)`` to use instead of the cfg's own.

    Raises:
        ImportFailedError: The file cannot be read.
        CfgError: The network is malformed; its subclass `UnsupportedError` when it is
            sound but cannot be converted faithfully.
    """
    return build_network(read_cfg(path), size)


def build_network(sections: list[Section], size: tuple[int, int] | None = None) -> Network:
    """As :func:`read_network`, from sections already read."""
    net = sections[0]
    shape = _input_shape(net, size)
    builder = NetworkBuilder(net, shape, len(sections) - 1)
    for section in sections[1:]:
        builder.add(section)
    found = [layer for layer in builder.layers if isinstance(layer, Head)]
    if not found:
        net.unsupported(
            "the network has no detection head "
            "([yolo], [Gaussian_yolo], [region] or [detection]), so it is no detector"
        )
    for head in found[1:]:
        if head.classes != found[0].classes:
            head.section.unsupported(
                f"classes={head.classes} differs from the first head's {found[0].classes}; "
                "one class list must serve all heads"
            )
    if sum(head.rows for head in found) > MAX_CANDIDATES:
        net.fail(f"the heads give more than {MAX_CANDIDATES} candidates")
    letterbox = net.flag("letter_box")
    return Network(net.path, net, shape, tuple(builder.layers), letterbox)


def _input_shape(net: Section, size: tuple[int, int] | None) -> Shape:
    channels = net.integer("channels", 3, 1, MAX_CHANNELS)
    if channels not in (1, 3):
        net.unsupported(
            f"channels={channels}: an image has 3 channels (RGB) or 1 (grey)", "channels"
        )
    if size is not None:
        return Shape(channels, *size)
    for key in ("height", "width"):
        if not net.has(key):
            net.fail(f"{key}= is missing; give the size on import")
    height = net.integer("height", None, 1, MAX_SIDE)
    return Shape(channels, height, net.integer("width", None, 1, MAX_SIDE))


class NetworkBuilder:
    """Adds one layer after another, each seeing those before it."""

    def __init__(self, net: Section, shape: Shape, count: int) -> None:
        self.net = net
        self.shape = shape
        self.count = count
        self.layers: list[Layer] = []

    def add(self, section: Section) -> None:
        """Read one section into a layer."""
        reader = READERS.get(section.name)
        if reader is None:
            reason = REFUSED.get(section.name)
            if reason is None:
                section.unsupported("unknown section")
            section.unsupported(reason)
        layer = reader(self, section)
        self._check_shape(section, layer.shape)
        self.layers.append(layer)

    @property
    def index(self) -> int:
        """Index of the layer being added."""
        return len(self.layers)

    @property
    def previous(self) -> Shape:
        """Shape of what the next layer reads."""
        return self.output_of(self.index - 1, None)

    def output_of(self, index: int, section: Section | None) -> Shape:
        """Shape of an earlier layer's output; `section` is who asks."""
        if index == IMAGE:
            return self.shape
        layer = self.layers[index]
        if isinstance(layer, (Head, Inert)) and section is not None:
            section.unsupported(
                f"reads layer {index}, [{layer.section.name}], "
                "which has no output that another layer can read"
            )
        return layer.shape

    def resolve(self, section: Section, key: str) -> tuple[int, ...]:
        """Absolute indices of the layers named by `key`, negative ones counted back."""
        given = section.integers(key)
        if not given:
            section.fail(f"{key}= names no layer", key)
        if len(given) > self.count + 1:
            section.fail(f"{key}= names {len(given)} layers, more than there are", key)
        indices = []
        for value in given:
            index = value if value >= 0 else self.index + value
            if not 0 <= index < self.index:
                earlier = f"one from 0 to {self.index - 1}" if self.index else "none: it is first"
                section.fail(f"{key}={value} is layer {index}; expected {earlier}", key)
            self.output_of(index, section)
            indices.append(index)
        return tuple(indices)

    def common(self, section: Section, inputs: tuple[int, ...] | None = None) -> dict[str, Any]:
        """The fields that every layer starts with, all but its shape."""
        inputs = (self.index - 1,) if inputs is None else inputs
        shape = self.output_of(inputs[0], section)
        return {"index": self.index, "section": section, "inputs": inputs, "input_shape": shape}

    def _check_shape(self, section: Section, shape: Shape) -> None:
        if min(shape) < 1:
            section.fail(f"its output would be {shape} (channels x height x width)")
        if max(shape.height, shape.width) > MAX_SIDE or shape.channels > MAX_CHANNELS:
            section.fail(
                f"its output would be {shape}; at most {MAX_CHANNELS} channels "
                f"and {MAX_SIDE} a side are possible"
            )
        if shape.size > MAX_VALUES:
            section.fail(f"its output would be {shape}, more than {MAX_VALUES} values")
