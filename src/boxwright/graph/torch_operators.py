"""ONNX operators as the PyTorch calls that do the same (ONNX, "Operator Schemas", opset 17).

Each takes the ``torch`` module, so that it is imported by whoever needs it, the inputs and the
attributes of a node. Inputs that are constants of whole numbers come as numbers and lists of
them: shapes, axes and indices are arguments to PyTorch, not data. All of them can be
differentiated by the inputs that are tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from boxwright.graph.view import STANDARD

if TYPE_CHECKING:
    import onnx

Attributes = Mapping[str, Any]
Operator = Callable[[Any, Sequence[Any], Attributes], Any]


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name; text as `str`."""
    from onnx import helper

    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for name, value in found.items()
    }


def refusal(node: onnx.NodeProto) -> str | None:
    """Why a node cannot be run with what is here; ``None`` where it can."""
    if node.domain not in STANDARD or node.op_type not in OPERATORS:
        return f"the operator {node.op_type} is not known here"
    a = attributes_of(node)
    allowed = _ALLOWED.get(node.op_type, {})
    for name, values in allowed.items():
        if name in a and a[name] not in values:
            return f"{node.op_type} with {name} = {a[name]!r} is not known here"
    older = [name for name in _NOW_INPUTS.get(node.op_type, ()) if name in a]
    if older:
        return f"{node.op_type} with {older[0]} as an attribute is not known here"
    if node.op_type == "Split" and len(node.input) < 2:
        return "Split without the sizes of its parts is not known here"
    if node.op_type == "Pad" and any(node.input[3:]):
        return "Pad of some axes is not known here"
    if node.op_type in ("AveragePool", "MaxPool") and len(a.get("kernel_shape", (0, 0))) != 2:
        return f"{node.op_type} of {len(a['kernel_shape'])} axes is not known here"
    if node.op_type == "Resize" and not _resizes_as_pytorch(a):
        return "this way of resizing is not known here"
    return None


def constant_argument(values: Any) -> Any:
    """A constant of whole numbers as operators take it; ``None`` where it is data."""
    return values.tolist() if values.dtype.kind == "i" and values.itemsize >= 4 else None


def _windows(a: Attributes, x: Any) -> tuple[list[int], list[int], list[int]]:
    """Pads (all beginnings, then all ends), strides, dilations; with their defaults."""
    axes = x.ndim - 2
    return (
        list(a.get("pads", [0] * 2 * axes)),
        list(a.get("strides", [1] * axes)),
        list(a.get("dilations", [1] * axes)),
    )


def _conv(torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    pads, strides, dilations = _windows(a, x[0])
    image, padding = _padded(torch, x[0], pads, 0.0)
    bias = x[2] if len(x) > 2 else None
    call = {3: "conv1d", 4: "conv2d", 5: "conv3d"}[x[0].ndim]
    run = getattr(torch.nn.functional, call)
    return run(image, x[1], bias, strides, padding, dilations, a.get("group", 1))


def _max_pool(torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    pads, strides, dilations = _windows(a, x[0])
    image, padding = _padded(torch, x[0], pads, float("-inf"))
    # PyTorch pads by half a window at most.
    if any(2 * p > k for p, k in zip(padding, a["kernel_shape"], strict=True)):
        image, padding = _padded(torch, x[0], pads, float("-inf"), always=True)
    pool = torch.nn.functional.max_pool2d
    return pool(image, a["kernel_shape"], strides, padding, dilations)


def _average_pool(torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    """Sums of values and of ones: without `count_include_pad`, only the image's own count."""
    pads, strides, _ = _windows(a, x[0])
    image, padding = _padded(torch, x[0], pads, 0.0, always=True)
    pool = torch.nn.functional.avg_pool2d
    window = (a["kernel_shape"], strides, padding)
    if a.get("count_include_pad", 0) or not any(pads):
        return pool(image, *window)
    ones, _ = _padded(torch, torch.ones_like(x[0][:1, :1]), pads, 0.0, always=True)
    return pool(image, *window) / pool(ones, *window)


def _padded(
    torch: Any, x: Any, pads: Sequence[int], value: float, *, always: bool = False
) -> tuple[Any, list[int]]:
    """What is left to pad by the operator itself: all of it where it is alike on both sides."""
    axes = len(pads) // 2
    begins, ends = list(pads[:axes]), list(pads[axes:])
    if begins == ends and not always:
        return x, begins
    # PyTorch wants the last axis first.
    flat = [extent for pair in zip(begins[::-1], ends[::-1], strict=True) for extent in pair]
    return torch.nn.functional.pad(x, flat, value=value), [0] * axes


def _slice(torch: Any, x: Sequence[Any], _a: Attributes) -> Any:
    result = x[0]
    axes = x[3] if len(x) > 3 and x[3] is not None else range(len(x[1]))
    steps = x[4] if len(x) > 4 and x[4] is not None else [1] * len(x[1])
    for start, end, axis, step in zip(x[1], x[2], axes, steps, strict=True):
        index = [slice(None)] * result.ndim
        if step > 0:
            index[axis] = slice(start, end, step)
            result = result[tuple(index)]
            continue
        # PyTorch has no negative steps: the same places, counted by Python.
        places = list(range(result.shape[axis])[slice(start, _end(end, result, axis), step)])
        result = _take(torch, result, places, axis)
    return result


def _end(end: int, x: Any, axis: int) -> int | None:
    """Python's word for "to the beginning" is none; ONNX's is a number below all of them."""
    return None if end < -int(x.shape[axis]) else end


def _take(torch: Any, x: Any, places: Any, axis: int) -> Any:
    # Not by way of x's own type, which may have no such large whole numbers.
    index = x.new_tensor(places, dtype=torch.int64) % x.shape[axis]
    taken = x.index_select(axis, index.reshape(-1))
    axis = axis % x.ndim
    return taken.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _reshape(_torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    keeps = not a.get("allowzero", 0)
    shape = [x[0].shape[i] if extent == 0 and keeps else extent for i, extent in enumerate(x[1])]
    return x[0].reshape(shape)


def _flatten(_torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    axis = a.get("axis", 1)
    # As many axes as there are is one more than can be counted from the end.
    axis = axis + x[0].ndim if axis < 0 else axis
    return x[0].reshape(math.prod(x[0].shape[:axis]), -1)


def _squeeze(_torch: Any, x: Sequence[Any], _a: Attributes) -> Any:
    return x[0].squeeze(tuple(x[1])) if len(x) > 1 and x[1] is not None else x[0].squeeze()


def _unsqueeze(_torch: Any, x: Sequence[Any], _a: Attributes) -> Any:
    result, rank = x[0], x[0].ndim + len(x[1])
    for axis in sorted(axis % rank for axis in x[1]):
        result = result.unsqueeze(axis)
    return result


def _resize(torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    interpolate = torch.nn.functional.interpolate
    way: dict[str, Any] = {"mode": "nearest"}
    if a.get("mode", "nearest") == "linear":
        corners = a.get("coordinate_transformation_mode", "half_pixel") == "align_corners"
        way = {"mode": "bilinear", "align_corners": corners}
    if len(x) > 3 and x[3] is not None:
        return interpolate(x[0], size=x[3][2:], **way)
    factors = [float(value) for value in x[2]][2:]
    extents = [math.floor(n * f) for n, f in zip(x[0].shape[2:], factors, strict=True)]
    return interpolate(x[0], size=extents, **way)


def _resizes_as_pytorch(a: Attributes) -> bool:
    """Of the many ways to resize, the two that PyTorch has (`interpolate`)."""
    if a.get("antialias", 0) or "axes" in a or a.get("exclude_outside", 0):
        return False
    mode = a.get("mode", "nearest")
    where = a.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        return where == "asymmetric" and a.get("nearest_mode") == "floor"
    return mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners")


def _pad(torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    value = float(x[2]) if len(x) > 2 and x[2] is not None else 0.0
    axes = len(x[1]) // 2
    pairs = zip(reversed(x[1][:axes]), reversed(x[1][axes:]), strict=True)
    return torch.nn.functional.pad(x[0], [extent for pair in pairs for extent in pair], value=value)


def _clip(_torch: Any, x: Sequence[Any], _a: Attributes) -> Any:
    low, high = ([*x[1:], None, None])[:2]
    return x[0].clamp(*(None if end is None else end.to(x[0].dtype) for end in (low, high)))


def _batch_normalization(torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    values, scale, bias, mean, variance = x
    run = torch.nn.functional.batch_norm
    return run(values, mean, variance, scale, bias, eps=a.get("epsilon", 1e-5))


def _gemm(_torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    left = x[0].mT if a.get("transA", 0) else x[0]
    right = x[1].mT if a.get("transB", 0) else x[1]
    product = (left @ right) * a.get("alpha", 1.0)
    return product + x[2] * a.get("beta", 1.0) if len(x) > 2 and x[2] is not None else product


def _split(torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    axis = a.get("axis", 0)
    return torch.split(x[0], x[1], dim=axis)


def _depth_to_space(torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    if a.get("mode", "DCR") == "CRD":
        return torch.nn.functional.pixel_shuffle(x[0], a["blocksize"])
    size = a["blocksize"]
    n, c, h, w = x[0].shape
    blocks = x[0].reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // size**2, h * size, w * size)


def _space_to_depth(_torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    size = a["blocksize"]
    n, c, h, w = x[0].shape
    blocks = x[0].reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * size**2, h // size, w // size)


def _prelu(torch: Any, x: Sequence[Any], _a: Attributes) -> Any:
    return torch.where(x[0] < 0, x[0] * x[1], x[0])


def _hard_sigmoid(_torch: Any, x: Sequence[Any], a: Attributes) -> Any:
    return (x[0] * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0, 1)


def _reduce(name: str) -> Operator:
    def run(torch: Any, x: Sequence[Any], a: Attributes) -> Any:
        axes = x[1] if len(x) > 1 and x[1] is not None else a.get("axes")
        axes = axes or list(range(x[0].ndim))
        return getattr(torch, name)(x[0], dim=axes, keepdim=bool(a.get("keepdims", 1)))

    return run


def _binary(name: str) -> Operator:
    return lambda torch, x, _a: getattr(torch, name)(x[0], x[1])


def _unary(name: str) -> Operator:
    return lambda torch, x, _a: getattr(torch, name)(x[0])


def _function(name: str) -> Operator:
    return lambda torch, x, _a: getattr(torch.nn.functional, name)(x[0])


OPERATORS: Mapping[str, Operator] = {
    "Add": _binary("add"),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": lambda _torch, x, _a: x[0].float(),
    "Clip": _clip,
    "Concat": lambda torch, x, a: torch.cat(list(x), dim=a["axis"]),
    "Conv": _conv,
    "DepthToSpace": _depth_to_space,
    "Div": _binary("div"),
    "Elu": lambda torch, x, a: torch.nn.functional.elu(x[0], a.get("alpha", 1.0)),
    "Exp": _unary("exp"),
    "Flatten": _flatten,
    "Floor": _unary("floor"),
    "Gather": lambda torch, x, a: _take(torch, x[0], x[1], a.get("axis", 0)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _torch, x, _a: x[0].mean(dim=(2, 3), keepdim=True),
    "GlobalMaxPool": lambda _torch, x, _a: x[0].amax(dim=(2, 3), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _function("hardswish"),
    "Identity": lambda _torch, x, _a: x[0],
    "LeakyRelu": lambda t, x, a: t.nn.functional.leaky_relu(x[0], a.get("alpha", 0.01)),
    "MatMul": _binary("matmul"),
    "MaxPool": _max_pool,
    "Mul": _binary("mul"),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _binary("pow"),
    "ReduceMax": _reduce("amax"),
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "Relu": _unary("relu"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _unary("sigmoid"),
    "Slice": _slice,
    "Softmax": lambda torch, x, a: torch.softmax(x[0], dim=a.get("axis", -1)),
    "Softplus": _function("softplus"),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _unary("sqrt"),
    "Squeeze": _squeeze,
    "Sub": _binary("sub"),
    "Tanh": _unary("tanh"),
    "Transpose": lambda _torch, x, a: x[0].permute(a.get("perm", list(range(x[0].ndim))[::-1])),
    "Unsqueeze": _unsqueeze,
}

_FLOAT = 1  # onnx.TensorProto.FLOAT
_ALLOWED: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "AveragePool": {"auto_pad": ("NOTSET",), "ceil_mode": (0,), "dilations": ([1, 1],)},
    "BatchNormalization": {"training_mode": (0,)},
    "Cast": {"to": (_FLOAT,)},
    "Conv": {"auto_pad": ("NOTSET",)},
    "MaxPool": {"auto_pad": ("NOTSET",), "ceil_mode": (0,), "storage_order": (0,)},
    "Pad": {"mode": ("constant",)},
    "ReduceMax": {"noop_with_empty_axes": (0,)},
    "ReduceMean": {"noop_with_empty_axes": (0,)},
    "ReduceSum": {"noop_with_empty_axes": (0,)},
}
# In opsets before 13 they were attributes of these.
_NOW_INPUTS: Mapping[str, tuple[str, ...]] = {
    "Clip": ("min", "max"),
    "Pad": ("pads", "value"),
    "Slice": ("starts", "ends", "axes"),
    "Split": ("split",),
    "Squeeze": ("axes",),
    "Unsqueeze": ("axes",),
}
