"""TensorFlow Lite's operators and their options, under TensorFlow's names for them.

Each record of options is a table of ``schema.fbs``; here stands, for each kind, which of
its fields means what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from boxwright.importers.tensorflow.flatbuffer import Table

# BuiltinOperator of the schema, as TensorFlow names the same operation.
KINDS = {
    0: "Add",
    1: "AvgPool",
    2: "ConcatV2",
    3: "Conv2D",
    4: "DepthwiseConv2dNative",
    5: "DepthToSpace",
    6: "Dequantize",
    8: "Floor",
    9: "FullyConnected",
    11: "L2Normalization",
    14: "Sigmoid",
    17: "MaxPool",
    18: "Mul",
    19: "Relu",
    20: "ReluN1To1",
    21: "Relu6",
    22: "Reshape",
    23: "ResizeBilinear",
    25: "Softmax",
    26: "SpaceToDepth",
    28: "Tanh",
    34: "Pad",
    36: "GatherV2",
    37: "BatchToSpaceND",
    38: "SpaceToBatchND",
    39: "Transpose",
    40: "Mean",
    41: "Sub",
    42: "RealDiv",
    43: "Squeeze",
    45: "StridedSlice",
    47: "Exp",
    49: "Split",
    53: "Cast",
    54: "PRelu",
    55: "Maximum",
    57: "Minimum",
    59: "Neg",
    60: "PadV2",
    65: "Slice",
    67: "Conv2DBackpropInput",
    69: "Tile",
    70: "ExpandDims",
    73: "Log",
    74: "Sum",
    75: "Sqrt",
    76: "Rsqrt",
    77: "Shape",
    78: "Pow",
    82: "Max",
    83: "Pack",
    88: "Unpack",
    89: "Min",
    92: "Square",
    94: "Fill",
    96: "Range",
    97: "ResizeNearestNeighbor",
    98: "LeakyRelu",
    99: "SquaredDifference",
    100: "MirrorPad",
    101: "Abs",
    102: "SplitV",
    106: "AddN",
    111: "Elu",
    114: "Quantize",
    117: "HardSwish",
    126: "BatchMatMulV2",
    130: "BroadcastTo",
    150: "Gelu",
    152: "Relu0To1",
}

_ACTIVATIONS = {0: "", 1: "Relu", 2: "ReluN1To1", 3: "Relu6", 4: "Tanh", 5: "SignBit"}
_PADDINGS = {0: "SAME", 1: "VALID"}


def options_of(kind: str, table: Table | None) -> dict[str, Any]:
    """The settings of an operation; defaults where the file has none."""
    read = _READERS.get(kind)
    if read is None:
        return {}
    return read(_Options(table))


class _Options:
    """Fields of a table that may be missing altogether: then all have their defaults."""

    def __init__(self, table: Table | None) -> None:
        self._table = table

    def integer(self, field: int, default: int = 0) -> int:
        return default if self._table is None else self._table.integer(field, default)

    def byte(self, field: int) -> int:
        return 0 if self._table is None else self._table.integer(field, 0, "<b")

    def flag(self, field: int) -> bool:
        return self._table is not None and self._table.flag(field)

    def real(self, field: int, default: float = 0.0) -> float:
        return default if self._table is None else self._table.real(field, default)

    def integers(self, field: int) -> list[int]:
        return [] if self._table is None else [int(x) for x in self._table.numbers(field, "<i4")]

    def activation(self, field: int) -> str:
        code = self.byte(field)
        return _ACTIVATIONS.get(code, f"activation {code}")

    def padding(self, field: int) -> str:
        code = self.byte(field)
        return _PADDINGS.get(code, f"padding {code}")


def _convolution(o: _Options) -> dict[str, Any]:
    return {
        "padding": o.padding(0),
        "strides": (o.integer(2), o.integer(1)),
        "dilations": (o.integer(5, 1), o.integer(4, 1)),
        "activation": o.activation(3),
        "kernel": "OHWI",
    }


def _depthwise(o: _Options) -> dict[str, Any]:
    return {
        "padding": o.padding(0),
        "strides": (o.integer(2), o.integer(1)),
        "dilations": (o.integer(6, 1), o.integer(5, 1)),
        "activation": o.activation(4),
        "kernel": "1HWO",
    }


def _transposed(o: _Options) -> dict[str, Any]:
    return {
        "padding": o.padding(0),
        "strides": (o.integer(2), o.integer(1)),
        "activation": o.activation(3),
        "kernel": "OHWI",
    }


def _pool(o: _Options) -> dict[str, Any]:
    return {
        "padding": o.padding(0),
        "strides": (o.integer(2), o.integer(1)),
        "ksize": (o.integer(4), o.integer(3)),
        "activation": o.activation(5),
    }


def _activated(o: _Options) -> dict[str, Any]:
    return {"activation": o.activation(0)}


def _reducing(o: _Options) -> dict[str, Any]:
    return {"keep_dims": o.flag(0)}


def _strided(o: _Options) -> dict[str, Any]:
    masks = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    found: dict[str, Any] = {name: o.integer(i) for i, name in enumerate(masks)}
    return {**found, "offset": o.flag(5)}


_READERS: dict[str, Callable[[_Options], dict[str, Any]]] = {
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed,
    "MaxPool": _pool,
    "AvgPool": _pool,
    **dict.fromkeys(("Add", "Sub", "Mul", "RealDiv", "L2Normalization"), _activated),
    **dict.fromkeys(("Mean", "Sum", "Max", "Min"), _reducing),
    "FullyConnected": lambda o: {
        "activation": o.activation(0),
        "weights_format": o.byte(1),
        "keep_num_dims": o.flag(2),
    },
    "Softmax": lambda o: {"beta": o.real(0)},
    "ConcatV2": lambda o: {"axis": o.integer(0), "activation": o.activation(1)},
    "ResizeBilinear": lambda o: {"align_corners": o.flag(2), "half_pixel_centers": o.flag(3)},
    "ResizeNearestNeighbor": lambda o: {
        "align_corners": o.flag(0),
        "half_pixel_centers": o.flag(1),
    },
    "LeakyRelu": lambda o: {"alpha": o.real(0)},
    "Split": lambda o: {"num_split": o.integer(0)},
    "SplitV": lambda o: {"num_split": o.integer(0)},
    "StridedSlice": _strided,
    "Squeeze": lambda o: {"squeeze_dims": o.integers(0)},
    "Pack": lambda o: {"axis": o.integer(1)},
    "Unpack": lambda o: {"num": o.integer(0), "axis": o.integer(1)},
    "SpaceToDepth": lambda o: {"block_size": o.integer(0)},
    "DepthToSpace": lambda o: {"block_size": o.integer(0)},
    "GatherV2": lambda o: {"axis": o.integer(0), "batch_dims": o.integer(1)},
    "MirrorPad": lambda o: {"mode": {0: "REFLECT", 1: "SYMMETRIC"}.get(o.byte(0), "?")},
    "BatchMatMulV2": lambda o: {"adj_x": o.flag(0), "adj_y": o.flag(1)},
    "Gelu": lambda o: {"approximate": o.flag(0)},
}
