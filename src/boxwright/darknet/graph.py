"""A small builder of ONNX graphs: nodes, constants, and nothing that is not standard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

# Opset 17 is the highest that TensorRT 8.6's parser reads; IR 8 is the version that came
# with it, which every runtime of the last years loads.
OPSET = 17
IR_VERSION = 8


class GraphBuilder:
    """Collects nodes and initializers in the order they are added.

    A node has one output, and both bear the same name, so that a tensor in a report leads
    to its node and, by the ``012_convolutional`` in front of it, to its cfg section.
    """

    def __init__(self, name: str) -> None:
        from onnx import ModelProto

        from boxwright._version import __version__

        self.model: ModelProto = ModelProto(
            ir_version=IR_VERSION, producer_name="boxwright", producer_version=__version__
        )
        self.model.opset_import.add(domain="", version=OPSET)
        self.graph: GraphProto = self.model.graph
        self.graph.name = name
        self._constants: dict[str, str] = {}

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        from onnx import helper

        self.graph.node.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def split(self, x: str, sizes: list[int], axis: int, name: str) -> list[str]:
        """Cut `x` along `axis`; returns the parts' names."""
        from onnx import helper

        lengths = self.constant(f"{name}/sizes", np.array(sizes, np.int64))
        parts = [f"{name}/{i}" for i in range(len(sizes))]
        self.graph.node.append(helper.make_node("Split", [x, lengths], parts, name=name, axis=axis))
        return parts

    def reshape(self, x: str, shape: list[int], name: str) -> str:
        """Reshape `x`; 0 keeps an extent and -1 is worked out."""
        return self.add("Reshape", [x, self.constant(f"{name}/shape", _ints(shape))], name)

    def slice(self, x: str, start: int, end: int, axis: int, name: str) -> str:
        """The part of `x` from `start` up to `end` along `axis`."""
        parts = {"starts": start, "ends": end, "axes": axis}
        inputs = [self.constant(f"{name}/{key}", _ints([value])) for key, value in parts.items()]
        return self.add("Slice", [x, *inputs], name)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """An initializer; asked for again under the same name, it is the same one."""
        from onnx import helper

        if name not in self._constants:
            tensor = self.graph.initializer.add(
                name=name,
                data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
                dims=value.shape,
            )
            little = value.astype(value.dtype.newbyteorder("<"), copy=False)
            tensor.raw_data = little.tobytes()
            self._constants[name] = name
        return name

    def scalar(self, value: float) -> str:
        """A float32 scalar, kept once for each value."""
        return self.constant(f"scalar/{value!r}", np.array(value, np.float32))

    def input(self, name: str, element: int, shape: list[int | str]) -> str:
        """Declare a graph input."""
        self.graph.input.append(_value(name, element, shape))
        return name

    def output(self, name: str, element: int, shape: list[int | str]) -> None:
        """Declare a graph output."""
        self.graph.output.append(_value(name, element, shape))


def _ints(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _value(name: str, element: int, shape: list[int | str]) -> ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, element, shape)
