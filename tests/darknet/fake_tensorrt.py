"""TensorRT's network API without TensorRT: records the calls and computes them with numpy.

Written from NVIDIA's documentation of the layers, so that a network defined through the API
has a second opinion where no TensorRT runs. It is stricter than Python: a layer takes only
the attributes that its TensorRT class has, operands must have equal rank, and uint8 may
only be cast. Two dialects differ as TensorRT 8.6 and the later ones do.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.backends.reference import convolve

Array = NDArray[Any]

# The attributes a layer may be given, beyond its name: those used of the real classes.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "IActivationLayer": ("alpha", "beta"),
    "ICastLayer": (),
    "IConcatenationLayer": ("axis",),
    "IConstantLayer": (),
    "IConvolutionLayer": ("stride_nd", "padding_nd", "dilation_nd", "num_groups"),
    "IElementWiseLayer": (),
    "IIdentityLayer": (),
    "IPoolingLayer": (
        *("stride_nd", "pre_padding", "post_padding"),
        "average_count_excludes_padding",
    ),
    "IReduceLayer": (),
    "IResizeLayer": ("scales", "resize_mode", "coordinate_transformation", "nearest_rounding"),
    "IScaleLayer": (),
    "ISelectLayer": (),
    "IShapeLayer": (),
    "IShuffleLayer": ("first_transpose", "reshape_dims"),
    "ISliceLayer": (),
    "ISoftMaxLayer": ("axes",),
    "IUnaryLayer": (),
}

ENUMS: dict[str, tuple[str, ...]] = {
    "ActivationType": (
        *("RELU", "SIGMOID", "TANH", "LEAKY_RELU", "ELU", "SELU", "SOFTPLUS", "CLIP"),
        "HARD_SIGMOID",
    ),
    "ElementWiseOperation": ("SUM", "PROD", "SUB", "LESS"),
    "UnaryOperation": ("EXP", "FLOOR"),
    "ReduceOperation": ("SUM", "AVG"),
    "PoolingType": ("MAX", "AVERAGE"),
    "ScaleMode": ("CHANNEL",),
    "InterpolationMode": ("NEAREST", "LINEAR"),
    "ResizeCoordinateTransformation": ("ASYMMETRIC", "HALF_PIXEL"),
    "ResizeRoundMode": ("FLOOR", "HALF_DOWN"),
}


def fake_trt(version: int) -> Any:
    """A module to hand to ``define_network``; 8 has no int64."""
    kinds = ["FLOAT", "INT32", "BOOL", "UINT8", *(["INT64"] if version > 8 else [])]
    parts: dict[str, Any] = {name: enum.Enum(name, members) for name, members in ENUMS.items()}
    return SimpleNamespace(
        **parts,
        __name__="fake_tensorrt",
        __version__=str(version),
        DataType=enum.Enum("DataType", kinds),
        Weights=FakeWeights,
        Permutation=tuple,
    )


class FakeWeights:
    """As ``trt.Weights``: no copy, contiguous arrays of the types TensorRT has."""

    def __init__(self, values: Array) -> None:
        assert values.flags.c_contiguous
        assert values.dtype in (np.float32, np.int32, np.int64)
        self.values = values


@dataclass
class FakeTensor:
    name: str
    dtype: Any = None


class FakeLayer:
    """One call of ``add_*`` and what was set on its layer afterwards."""

    def __init__(self, kind: str, inputs: Sequence[Any], **facts: Any) -> None:
        allowed = ("name", "kind", "inputs", "facts", "output", *ATTRIBUTES[kind])
        object.__setattr__(self, "_allowed", allowed)
        self.kind, self.inputs, self.facts = kind, list(inputs), facts
        self.output, self.name = FakeTensor(""), ""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._allowed:
            raise AttributeError(f"{self.kind} has no {name}")
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        # Only reached for what was never set: TensorRT's defaults.
        return _DEFAULTS[name]

    def get_output(self, index: int) -> FakeTensor:
        assert index == 0
        return self.output

    def set_input(self, index: int, tensor: FakeTensor) -> None:
        self.inputs += [None] * (index + 1 - len(self.inputs))
        self.inputs[index] = tensor


_DEFAULTS = {
    "alpha": 0.0,
    "beta": 0.0,
    "axis": 0,
    "axes": 2,
    "stride_nd": (1, 1),
    "padding_nd": (0, 0),
    "dilation_nd": (1, 1),
    "num_groups": 1,
    "pre_padding": (0, 0),
    "post_padding": (0, 0),
    "average_count_excludes_padding": True,
    "first_transpose": None,
    "reshape_dims": None,
}


@dataclass
class FakeNetwork:
    """As ``INetworkDefinition``; :meth:`run` computes what TensorRT would."""

    trt: Any
    layers: list[FakeLayer] = field(default_factory=list)
    inputs: list[tuple[FakeTensor, tuple[int, ...]]] = field(default_factory=list)
    outputs: list[FakeTensor] = field(default_factory=list)

    def add_input(self, name: str, kind: Any, shape: tuple[int, ...]) -> FakeTensor:
        tensor = FakeTensor(name, kind)
        self.inputs.append((tensor, shape))
        return tensor

    def mark_output(self, tensor: FakeTensor) -> None:
        self.outputs.append(tensor)

    def _add(self, kind: str, *inputs: Any, **facts: Any) -> FakeLayer:
        layer = FakeLayer(kind, inputs, **facts)
        if kind == "IShapeLayer":
            kinds = self.trt.DataType.__members__
            layer.output.dtype = kinds.get("INT64", kinds["INT32"])
        self.layers.append(layer)
        return layer

    def add_activation(self, x: FakeTensor, type: Any) -> FakeLayer:  # noqa: A002
        return self._add("IActivationLayer", x, type=type)

    def add_cast(self, x: FakeTensor, to_type: Any) -> FakeLayer:
        return self._add("ICastLayer", x, to=to_type)

    def add_concatenation(self, inputs: list[FakeTensor]) -> FakeLayer:
        return self._add("IConcatenationLayer", *inputs)

    def add_constant(self, shape: tuple[int, ...], weights: FakeWeights) -> FakeLayer:
        return self._add("IConstantLayer", shape=shape, weights=weights)

    def add_convolution_nd(
        self,
        x: FakeTensor,
        maps: int,
        kernel_shape: tuple[int, int],
        kernel: FakeWeights,
        bias: FakeWeights,
    ) -> FakeLayer:
        return self._add(
            "IConvolutionLayer", x, maps=maps, shape=kernel_shape, kernel=kernel, bias=bias
        )

    def add_elementwise(self, a: FakeTensor, b: FakeTensor, op: Any) -> FakeLayer:
        return self._add("IElementWiseLayer", a, b, op=op)

    def add_identity(self, x: FakeTensor) -> FakeLayer:
        return self._add("IIdentityLayer", x)

    def add_pooling_nd(self, x: FakeTensor, type: Any, window: tuple[int, int]) -> FakeLayer:  # noqa: A002
        return self._add("IPoolingLayer", x, type=type, window=window)

    def add_reduce(self, x: FakeTensor, op: Any, axes: int, keep_dims: bool) -> FakeLayer:
        return self._add("IReduceLayer", x, op=op, axes=axes, keep=keep_dims)

    def add_resize(self, x: FakeTensor) -> FakeLayer:
        return self._add("IResizeLayer", x)

    def add_scale(
        self, x: FakeTensor, mode: Any, shift: FakeWeights, scale: FakeWeights, power: FakeWeights
    ) -> FakeLayer:
        return self._add("IScaleLayer", x, mode=mode, shift=shift, scale=scale, power=power)

    def add_select(self, condition: FakeTensor, a: FakeTensor, b: FakeTensor) -> FakeLayer:
        return self._add("ISelectLayer", condition, a, b)

    def add_shape(self, x: FakeTensor) -> FakeLayer:
        return self._add("IShapeLayer", x)

    def add_shuffle(self, x: FakeTensor) -> FakeLayer:
        return self._add("IShuffleLayer", x)

    def add_slice(
        self, x: FakeTensor, start: tuple[int, ...], shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> FakeLayer:
        return self._add("ISliceLayer", x, start=start, shape=shape, stride=stride)

    def add_softmax(self, x: FakeTensor) -> FakeLayer:
        return self._add("ISoftMaxLayer", x)

    def add_unary(self, x: FakeTensor, op: Any) -> FakeLayer:
        return self._add("IUnaryLayer", x, op=op)

    def run(self, feed: dict[str, Array]) -> dict[str, Array]:
        """The outputs for the given inputs, layer by layer."""
        values: dict[int, Array] = {}
        for tensor, shape in self.inputs:
            given = feed[tensor.name]
            assert all(want in (-1, got) for want, got in zip(shape, given.shape, strict=True))
            values[id(tensor)] = given
        for layer in self.layers:
            inputs = [None if tensor is None else values[id(tensor)] for tensor in layer.inputs]
            if layer.kind != "ICastLayer":
                assert all(x is None or x.dtype != np.uint8 for x in inputs), layer.name
            shape_type = np.int64 if "INT64" in self.trt.DataType.__members__ else np.int32
            with np.errstate(over="ignore"):
                result = _COMPUTE[layer.kind](layer, *inputs)
            values[id(layer.output)] = (
                result.astype(shape_type) if layer.kind == "IShapeLayer" else result
            )
        return {tensor.name: values[id(tensor)] for tensor in self.outputs}


def _activation(layer: FakeLayer, x: Array) -> Array:
    alpha, beta = np.float32(layer.alpha), np.float32(layer.beta)
    formulas: dict[str, Callable[[], Array]] = {
        "RELU": lambda: np.maximum(x, 0),
        "SIGMOID": lambda: 1 / (1 + np.exp(-x)),
        "TANH": lambda: np.tanh(x),
        "LEAKY_RELU": lambda: np.where(x >= 0, x, alpha * x),
        "ELU": lambda: np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0))),
        "SELU": lambda: beta * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        "SOFTPLUS": lambda: alpha * np.logaddexp(beta * x, np.float32(0)),
        "CLIP": lambda: np.clip(x, alpha, beta),
        "HARD_SIGMOID": lambda: np.clip(alpha * x + beta, 0, 1),
    }
    return formulas[layer.facts["type"].name]()


def _cast(layer: FakeLayer, x: Array) -> Array:
    assert layer.facts["to"].name == "FLOAT"
    return x.astype(np.float32)


def _concatenation(layer: FakeLayer, *parts: Array) -> Array:
    assert len({part.dtype for part in parts}) == 1
    return np.concatenate(parts, axis=layer.axis)


def _constant(layer: FakeLayer) -> Array:
    values: Array = layer.facts["weights"].values
    assert values.size == np.prod(layer.facts["shape"])
    return values.reshape(layer.facts["shape"])


def _convolution(layer: FakeLayer, x: Array) -> Array:
    facts = layer.facts
    shape = (facts["maps"], x.shape[1] // layer.num_groups, *facts["shape"])
    assert facts["bias"].values.size == facts["maps"]
    assert facts["kernel"].values.size == np.prod(shape)
    return convolve(
        x,
        facts["kernel"].values.reshape(shape),
        facts["bias"].values,
        strides=layer.stride_nd,
        pads=(*layer.padding_nd, *layer.padding_nd),
        dilations=layer.dilation_nd,
        group=layer.num_groups,
    )


def _elementwise(layer: FakeLayer, a: Array, b: Array) -> Array:
    assert a.ndim == b.ndim, layer.name
    assert a.dtype == b.dtype, layer.name
    operation: Any = {"SUM": np.add, "PROD": np.multiply, "SUB": np.subtract, "LESS": np.less}
    result: Array = operation[layer.facts["op"].name](a, b)
    return result


def _pooling(layer: FakeLayer, x: Array) -> Array:
    """Rounding down, the default mode; what is padded never counts."""
    (top, left), (bottom, right) = layer.pre_padding, layer.post_padding
    rows, columns = layer.facts["window"]
    assert max(top, bottom) < rows
    assert max(left, right) < columns
    maximum = layer.facts["type"].name == "MAX"
    pads = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = np.pad(x, pads, constant_values=np.float32(-np.inf) if maximum else np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), (2, 3))
    chosen = windows[:, :, :: layer.stride_nd[0], :: layer.stride_nd[1]]
    assert layer.average_count_excludes_padding
    result: Array = chosen.max((4, 5)) if maximum else np.nanmean(chosen, axis=(4, 5))
    return result.astype(np.float32)


def _reduce(layer: FakeLayer, x: Array) -> Array:
    axes = tuple(axis for axis in range(x.ndim) if layer.facts["axes"] >> axis & 1)
    reduction: Any = {"SUM": np.sum, "AVG": np.mean}[layer.facts["op"].name]
    result: Array = reduction(x, axis=axes, keepdims=layer.facts["keep"])
    return result


def _resize(layer: FakeLayer, x: Array) -> Array:
    assert layer.resize_mode.name == "NEAREST"
    assert layer.coordinate_transformation.name == "ASYMMETRIC"
    assert layer.nearest_rounding.name == "FLOOR"
    for axis, scale in enumerate(layer.scales):
        source = np.floor(np.arange(int(x.shape[axis] * scale)) / scale).astype(int)
        x = np.take(x, source, axis=axis)
    return x


def _scale(layer: FakeLayer, x: Array) -> Array:
    """``(x * scale + shift) ** power`` along axis 1."""
    assert layer.facts["mode"].name == "CHANNEL"
    shift, scale, power = (
        layer.facts[key].values.reshape(1, -1, 1, 1) for key in ("shift", "scale", "power")
    )
    assert shift.size == scale.size == power.size == x.shape[1]
    assert (power == 1).all()
    result: Array = x * scale + shift
    return result


def _select(_layer: FakeLayer, condition: Array, a: Array, b: Array) -> Array:
    assert condition.dtype == np.bool_
    assert condition.ndim == a.ndim == b.ndim
    return np.where(condition, a, b)


def _shuffle(layer: FakeLayer, x: Array) -> Array:
    if layer.first_transpose is not None:
        x = x.transpose(layer.first_transpose)
    if layer.reshape_dims is None:
        return x
    extents = [x.shape[i] if extent == 0 else extent for i, extent in enumerate(layer.reshape_dims)]
    return x.reshape(extents)


def _slice(layer: FakeLayer, x: Array, *rest: Array | None) -> Array:
    size = rest[1] if len(rest) > 1 else None
    shape = layer.facts["shape"] if size is None else tuple(int(extent) for extent in size)
    start, stride = layer.facts["start"], layer.facts["stride"]
    assert len(shape) == len(start) == len(stride) == x.ndim
    for at, extent, step, have in zip(start, shape, stride, x.shape, strict=True):
        assert at >= 0
        assert at + (extent - 1) * step < have, layer.name
    return x[
        tuple(
            slice(at, at + extent * step, step)
            for at, extent, step in zip(start, shape, stride, strict=True)
        )
    ]


def _softmax(layer: FakeLayer, x: Array) -> Array:
    (axis,) = (axis for axis in range(x.ndim) if layer.axes >> axis & 1)
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    result: Array = powers / powers.sum(axis=axis, keepdims=True)
    return result


def _unary(layer: FakeLayer, x: Array) -> Array:
    result: Array = {"EXP": np.exp, "FLOOR": np.floor}[layer.facts["op"].name](x)
    return result


_COMPUTE: dict[str, Callable[..., Array]] = {
    "IActivationLayer": _activation,
    "ICastLayer": _cast,
    "IConcatenationLayer": _concatenation,
    "IConstantLayer": _constant,
    "IConvolutionLayer": _convolution,
    "IElementWiseLayer": _elementwise,
    "IIdentityLayer": lambda _layer, x: x,
    "IPoolingLayer": _pooling,
    "IReduceLayer": _reduce,
    "IResizeLayer": _resize,
    "IScaleLayer": _scale,
    "ISelectLayer": _select,
    "IShapeLayer": lambda _layer, x: np.array(x.shape),
    "IShuffleLayer": _shuffle,
    "ISliceLayer": _slice,
    "ISoftMaxLayer": _softmax,
    "IUnaryLayer": _unary,
}
