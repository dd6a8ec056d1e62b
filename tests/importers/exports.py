"""Small ONNX files in the forms that exporters of each family write, of random weights.

The batch of 1 stands in their shapes, as it does in real exports.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIZE = (64, 96)
CLASSES = 3
GRIDS = {8: (8, 12), 16: (4, 6), 32: (2, 3), 64: (1, 2)}
CELLS = 8 * 12 + 4 * 6 + 2 * 3


class Export:
    """Collects an export; methods return names of tensors."""

    def __init__(
        self, *, opset: int = 13, image: str = "images", seed: int = 0, pixel: float = 1.0
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.opset = opset
        self.image = image
        self.pixel = pixel
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.inputs = [helper.make_tensor_value_info(image, TensorProto.FLOAT, [1, 3, *SIZE])]
        self.metadata: dict[str, str] = {}
        self.domains = [helper.make_opsetid("", opset)]

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [output], name=f"{kind}_{output}", **attributes)
        )
        return output

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def level(self, stride: int, channels: int, *, spread: float = 1.0) -> str:
        """Maps ``(1, channels, H, W)`` of one convolution as large as its stride."""
        kernel = min(stride, 16)
        weights = self.random.normal(0, spread / kernel, (channels, 3, kernel, kernel))
        bias = self.random.normal(0, 0.3, channels)
        # Rounded up at the edge, as backbones do.
        rows, columns = GRIDS[stride]
        reach = ((rows - 1) * stride + kernel, (columns - 1) * stride + kernel)
        pads = [0, 0, max(reach[0] - SIZE[0], 0), max(reach[1] - SIZE[1], 0)]
        scaled = self.op("Mul", self.image, self.constant(self.pixel))
        centred = self.op("Sub", scaled, self.constant(0.3))
        return self.op(
            *("Conv", centred, self.constant(weights), self.constant(bias)),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=pads,
        )

    def columns(self, x: str, values: int, output: str = "") -> str:
        """``(1, values, H, W)`` to ``(1, values, H * W)``, the batch written out."""
        return self.op("Reshape", x, self.constant([1, values, -1], np.int64), output=output)

    def rows(self, x: str, values: int, output: str = "") -> str:
        return self.op("Transpose", self.columns(x, values), perm=[0, 2, 1], output=output)

    def joined(self, parts: list[str], axis: int, output: str = "") -> str:
        return self.op("Concat", *parts, axis=axis, output=output)

    def cut(self, x: str, start: int, end: int, axis: int) -> str:
        ints = [self.constant([value], np.int64) for value in (start, end, axis)]
        return self.op("Slice", x, *ints)

    def give(self, *names: str, element: int = TensorProto.FLOAT) -> None:
        for name in names:
            self.outputs.append(helper.make_tensor_value_info(name, element, None))

    def proto(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "main_graph", self.inputs, self.outputs, self.weights)
        proto = helper.make_model(
            graph, opset_imports=self.domains, ir_version=8, producer_name="pytorch"
        )
        for key, value in self.metadata.items():
            proto.metadata_props.add(key=key, value=value)
        return proto

    def save(self, path: Path) -> Path:
        path.write_bytes(self.proto().SerializeToString())
        return path


def ultralytics(export: Export, description: str = "Ultralytics YOLO11n model") -> Export:
    """The properties that its exporter writes."""
    export.metadata = {
        "description": description,
        "author": "Ultralytics",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "task": "detect",
        "stride": "32",
        "batch": "1",
        "imgsz": str(list(SIZE)),
        "names": "{0: 'cat', 1: 'dog', 2: \"cow's\"}",
    }
    return export


def picture(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
