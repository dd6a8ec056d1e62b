"""The layers of a Darknet network, each with everything needed to build it elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from boxwright.darknet.cfg import Section

# A cfg is data from strangers; see also the bounds in network.py.
MAX_SIDE = 16_384
MAX_CHANNELS = 1 << 20

IMAGE = -1
"""The layer index that stands for the network's input."""


class Shape(NamedTuple):
    """Extents of one image's feature map."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """Number of values."""
        return self.channels * self.height * self.width

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Layer:
    """What all layers have.

    Attributes:
        index: Position in the network, 0 for the first section after ``[net]``.
        section: Where it was described.
        inputs: Indices of the layers it reads, ``IMAGE`` for the network's input.
        input_shape: Shape of its first input.
        shape: Shape of its output.
    """

    index: int
    section: Section
    inputs: tuple[int, ...]
    input_shape: Shape
    shape: Shape

    @property
    def weight_count(self) -> int:
        """How many float32 values it takes from the weights file."""
        return 0


@dataclass(frozen=True)
class Convolutional(Layer):
    """A convolution with folded-in batch normalisation and an activation.

    Attributes:
        padding: Zeros on each side, before dilation widens them.
        share: Index of the layer whose weights it uses instead of its own.
        flipped: The file holds the weights transposed.
        blur: ``(size, stride_x, stride_y, padding)`` of the blur that an antialiased
            convolution ends with.
    """

    size: int
    stride_x: int
    stride_y: int
    dilation: int
    padding: int
    groups: int
    batch_normalize: bool
    activation: str
    share: int | None
    flipped: bool
    blur: Blur | None

    @property
    def filters(self) -> int:
        """Number of output channels."""
        return self.shape.channels

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """``(filters, channels per group, size, size)``, as the weights are stored."""
        return (self.filters, self.input_shape.channels // self.groups, self.size, self.size)

    @property
    def weight_count(self) -> int:
        """Biases, then scales, means and variances with batch normalisation, then weights."""
        if self.share is not None:
            return 0
        filters, channels, rows, columns = self.kernel_shape
        return filters * (4 if self.batch_normalize else 1) + filters * channels * rows * columns


@dataclass(frozen=True)
class Blur:
    """The fixed low-pass filter of an antialiased layer (Zhang 2019)."""

    size: int
    stride_x: int
    stride_y: int
    padding: int


@dataclass(frozen=True)
class Connected(Layer):
    """A fully connected layer over the flattened input."""

    batch_normalize: bool
    activation: str

    @property
    def weight_count(self) -> int:
        """Biases, then weights, then scales, means and variances."""
        outputs = self.shape.size
        return outputs * (4 if self.batch_normalize else 1) + outputs * self.input_shape.size


@dataclass(frozen=True)
class Local(Layer):
    """A convolution whose kernel differs from place to place."""

    size: int
    stride: int
    padding: int
    activation: str

    @property
    def weight_count(self) -> int:
        """One bias per output value, then a kernel per place."""
        places = self.shape.height * self.shape.width
        kernel = self.size * self.size * self.input_shape.channels * self.shape.channels
        return self.shape.size + kernel * places


@dataclass(frozen=True)
class BatchNorm(Layer):
    """A batch normalisation of its own."""

    @property
    def weight_count(self) -> int:
        """Biases, scales, means, variances."""
        return 4 * self.shape.channels


@dataclass(frozen=True)
class Pool(Layer):
    """Maximum or average over a window; what lies outside the image does not count.

    Attributes:
        padding: Total padding per axis; ``padding // 2`` of it comes before.
    """

    kind: Literal["max", "average"]
    size: int
    stride_x: int
    stride_y: int
    padding: int
    blur: Blur | None

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Top, left, bottom and right padding.

        At the bottom and right, what the last window reaches beyond the image: less than
        the padding when the stride leaves a remainder.
        """
        before, source = self.padding // 2, self.input_shape
        after = []
        for extent, stride in ((source.height, self.stride_y), (source.width, self.stride_x)):
            outputs = (extent + self.padding - self.size) // stride + 1
            after.append(max((outputs - 1) * stride + self.size - extent - before, 0))
        return before, before, after[0], after[1]


@dataclass(frozen=True)
class MaxPoolDepth(Layer):
    """Maximum over channels that are equal modulo the number of output channels."""


@dataclass(frozen=True)
class GlobalAverage(Layer):
    """The mean of each channel."""


@dataclass(frozen=True)
class Route(Layer):
    """Channels of several layers, one after the other.

    Attributes:
        groups: Each input is cut into this many groups of channels ...
        group_id: ... of which only this one is taken.
    """

    groups: int
    group_id: int


@dataclass(frozen=True)
class Shortcut(Layer):
    """The sum of the previous layer and others, over the channels that both have.

    Attributes:
        weights_per_layer: 0 without weights, 1, or one per channel.
        normalization: How the weights are normalised across the summands.
        channels: Channels of each summand after the first.
    """

    weights_per_layer: int
    normalization: Literal["none", "relu", "softmax"]
    channels: tuple[int, ...]
    activation: str

    @property
    def weight_count(self) -> int:
        """One set of weights for each summand, the previous layer first."""
        return self.weights_per_layer * len(self.inputs)


@dataclass(frozen=True)
class Upsample(Layer):
    """Nearest-neighbour enlargement, or with `reverse` the sum over blocks."""

    stride: int
    reverse: bool
    scale: float


@dataclass(frozen=True)
class Reorg(Layer):
    """Space to channels and back.

    Attributes:
        three_d: ``[reorg3d]``, the ordinary space-to-depth; without it ``[reorg]``, which
            shuffles blocks of channels (YOLOv2).
    """

    stride: int
    reverse: bool
    three_d: bool


@dataclass(frozen=True)
class Scale(Layer):
    """The product of another layer with this one's input: ``[scale_channels]`` or ``[sam]``."""

    activation: str


@dataclass(frozen=True)
class Crop(Layer):
    """The middle of the image, brought from 0..1 to -1..1 unless `noadjust` says not to."""

    noadjust: bool


@dataclass(frozen=True)
class Activation(Layer):
    """An activation of its own."""

    activation: str


@dataclass(frozen=True)
class Identity(Layer):
    """A layer that does nothing at inference, such as ``[dropout]``."""


@dataclass(frozen=True)
class Inert(Layer):
    """A layer for training only, whose output nothing may read."""


@dataclass(frozen=True)
class Head(Layer):
    """A detection head: `count` boxes in every cell.

    Attributes:
        kind: Which head.
        classes: Number of classes.
        anchors: ``(width, height)`` of each box's anchor, in the head's own unit: input
            pixels for ``yolo``, cells for ``region``, unused for ``detection``.
        scale_x_y: How far beyond its cell a centre may lie (1 for not at all).
        new_coords: Sizes as ``(2t)²`` on values the network already activated.
        softmax: Class scores share a softmax (``region``, ``detection``).
        square_root: ``detection`` predicts the square roots of sizes.
        point: Which point of the box the coordinates mean (``gaussian_yolo``).
        objectness_floor: ``region``: an objectness below it counts as 0.
        tree: Class hierarchy (YOLO9000), or ``None``.
    """

    kind: Literal["yolo", "gaussian_yolo", "region", "detection"]
    classes: int
    anchors: tuple[tuple[float, float], ...]
    scale_x_y: float = 1.0
    new_coords: bool = False
    softmax: bool = False
    square_root: bool = False
    point: Literal["center", "left_top", "right_bottom"] = "center"
    objectness_floor: float = 0.0
    tree: Tree | None = None

    @property
    def count(self) -> int:
        """Boxes per cell."""
        return len(self.anchors)

    @property
    def rows(self) -> int:
        """Rows of `boxes` and `scores` it contributes."""
        return self.shape.height * self.shape.width * self.count


@dataclass(frozen=True)
class Tree:
    """A hierarchy of classes (``src/tree.c``), as parents and groups of siblings.

    Attributes:
        parents: The parent of each class, -1 for a root.
        group_sizes: Sizes of the groups of siblings; groups follow one another.
    """

    parents: tuple[int, ...]
    group_sizes: tuple[int, ...]
