"""Small models that keep the contract, for tests that need no real detector.

Every operator that a Darknet import writes is there at least once: grouped and strided
convolutions, asymmetric pooling, nearest resizing, Mish, Swish, leaky ReLU, and a decode
that ends in boxes and scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from boxwright.card import ModelCard
from boxwright.model import BOXES, IMAGES, LANDMARKS, SCORES, Model

CLASSES = ("cat", "dog", "bird")
POINTS = ("upper_left", "lower_right")


class GraphBuilder:
    """Collects nodes and weights; every method returns the name of its output."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [output], name=f"node/{output}", **attributes)
        )
        return output

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def conv(
        self, x: str, c_in: int, c_out: int, size: int, stride: int = 1, group: int = 1
    ) -> str:
        shape = (c_out, c_in // group, size, size)
        scale = np.sqrt(2.0 / (shape[1] * size * size))
        weights = self.constant(self.random.normal(0, scale, shape))
        bias = self.constant(self.random.normal(0, 0.1, c_out))
        pad = size // 2
        return self.op(
            *("Conv", x, weights, bias),
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[pad] * 4,
            group=group,
        )

    def mish(self, x: str) -> str:
        return self.op("Mul", x, self.op("Tanh", self.op("Softplus", x)))

    def swish(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))


def make_model(
    *,
    height: int = 32,
    width: int = 64,
    seed: int = 0,
    channels: int = 16,
    name: str = "tiny",
    landmarks: bool = False,
) -> Model:
    """A detector of random weights for `height` x `width` images (multiples of 16).

    With `landmarks` it gives two points of each box, which are its corners (`POINTS`).
    """
    build = GraphBuilder(seed)
    floats = build.op("Cast", IMAGES, to=TensorProto.FLOAT)
    scaled = build.op("Mul", floats, build.constant(1 / 255))
    x = build.op("Transpose", scaled, perm=[0, 3, 1, 2])
    x = build.mish(build.conv(x, 3, channels, 3, stride=2))
    x = build.swish(build.conv(x, channels, channels, 3, stride=2, group=channels))
    skip = x = build.op("LeakyRelu", build.conv(x, channels, channels, 1, group=2), alpha=0.1)
    # Darknet pads at the end only: 2 x 2, stride 1, same size.
    x = build.op("MaxPool", x, kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1])
    x = build.mish(build.conv(x, channels, channels, 3, stride=2))
    x = build.op(
        *("Resize", x, "", build.constant([1, 1, 2, 2])),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    x = build.op("Concat", x, skip, axis=1)
    _decode(build, build.conv(x, 2 * channels, 4 + len(CLASSES), 1), height // 4, width // 4)
    if landmarks:
        shape = build.constant([0, height * width // 16, len(POINTS), 2], np.int64)
        build.op("Reshape", BOXES, shape, output=LANDMARKS)
    return _finish(build, height, width, name, landmarks)


def _decode(build: GraphBuilder, head: str, rows: int, columns: int) -> None:
    """One box per cell: its centre in the cell, its size up to the image's."""
    flat = build.op("Reshape", head, build.constant([0, 4 + len(CLASSES), -1], np.int64))
    table = build.op("Transpose", flat, perm=[0, 2, 1])
    squashed = build.op("Sigmoid", table)
    axis, last = build.constant([2], np.int64), build.constant([4 + len(CLASSES)], np.int64)
    begin, two, four = (build.constant([value], np.int64) for value in (0, 2, 4))
    build.op("Slice", squashed, four, last, axis, output=SCORES)
    offset = build.op("Slice", squashed, begin, two, axis)
    extent = build.op("Slice", squashed, two, four, axis)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(1, -1, 2)
    centre = build.op("Mul", build.op("Add", offset, build.constant(grid)), build.constant(4.0))
    half = build.op("Mul", extent, build.constant([[[columns * 2.0, rows * 2.0]]]))
    low, high = build.op("Sub", centre, half), build.op("Add", centre, half)
    build.op("Concat", low, high, output=BOXES, axis=2)


def _finish(
    build: GraphBuilder, height: int, width: int, name: str, landmarks: bool = False
) -> Model:
    points = helper.make_tensor_value_info(LANDMARKS, TensorProto.FLOAT, ["N", "A", len(POINTS), 2])
    graph = helper.make_graph(
        build.nodes,
        name,
        [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["N", height, width, 3])],
        [
            helper.make_tensor_value_info(BOXES, TensorProto.FLOAT, ["N", "A", 4]),
            helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["N", "A", len(CLASSES)]),
            *([points] if landmarks else []),
        ],
        build.weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    card = ModelCard(
        name=name,
        class_names=CLASSES,
        input_size=(height, width),
        landmarks=POINTS if landmarks else (),
    )
    return Model(proto, card)


def make_images(model: Model, count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Random images for a model: uint8 ``(count, H, W, 3)``."""
    height, width = model.card.input_size
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)
