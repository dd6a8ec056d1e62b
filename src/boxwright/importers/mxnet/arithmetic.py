"""Operators on elements, and what is made of many: sums, means, softmax."""

from __future__ import annotations

import math

import numpy as np

from boxwright.importers.mxnet.symbol import Node
from boxwright.importers.mxnet.values import Value, count, product
from boxwright.importers.mxnet.writer import Writer, axis_of, operator

_UNARY = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "softsign": "Softsign",
    "softrelu": "Softplus",
    "sqrt": "Sqrt",
    "exp": "Exp",
    "log": "Log",
    "abs": "Abs",
    "negative": "Neg",
    "_np_negative": "Neg",
    "reciprocal": "Reciprocal",
    "floor": "Floor",
    "ceil": "Ceil",
    "sign": "Sign",
    "erf": "Erf",
    "sin": "Sin",
    "cos": "Cos",
}

_BINARY = {
    "Add": ("elemwise_add", "_plus", "_Plus", "_add", "broadcast_add", "broadcast_plus"),
    "Sub": ("elemwise_sub", "_minus", "_Minus", "_sub", "broadcast_sub", "broadcast_minus"),
    "Mul": ("elemwise_mul", "_mul", "_Mul", "broadcast_mul"),
    "Div": ("elemwise_div", "_div", "_Div", "broadcast_div"),
    "Pow": ("_power", "_Power", "broadcast_power"),
    "Max": ("_maximum", "_Maximum", "broadcast_maximum"),
    "Min": ("_minimum", "_Minimum", "broadcast_minimum"),
}

# MXNet's comparisons give 1 and 0 of the inputs' type. The second word: negate the result.
_COMPARISONS = {
    "Greater": ("greater", False),
    "GreaterOrEqual": ("greater_equal", False),
    "Less": ("lesser", False),
    "LessOrEqual": ("lesser_equal", False),
    "Equal": ("equal", False),
    "Not": ("not_equal", True),
}

# Operator -> ONNX's operator, and whether the number comes first.
_SCALAR = {
    "_plus_scalar": ("Add", False),
    "_minus_scalar": ("Sub", False),
    "_rminus_scalar": ("Sub", True),
    "_mul_scalar": ("Mul", False),
    "_div_scalar": ("Div", False),
    "_rdiv_scalar": ("Div", True),
    "_power_scalar": ("Pow", False),
    "_rpower_scalar": ("Pow", True),
    "_maximum_scalar": ("Max", False),
    "_minimum_scalar": ("Min", False),
}
# Symbols written before 0.9 spell them so.
_OLD_SCALAR = {
    "_PlusScalar": "_plus_scalar",
    "_MinusScalar": "_minus_scalar",
    "_RMinusScalar": "_rminus_scalar",
    "_MulScalar": "_mul_scalar",
    "_DivScalar": "_div_scalar",
    "_RDivScalar": "_rdiv_scalar",
    "_PowerScalar": "_power_scalar",
    "_RPowerScalar": "_rpower_scalar",
    "_MaximumScalar": "_maximum_scalar",
    "_MinimumScalar": "_minimum_scalar",
}

_REDUCTIONS = {
    "sum": "ReduceSum",
    "sum_axis": "ReduceSum",
    "mean": "ReduceMean",
    "max": "ReduceMax",
    "max_axis": "ReduceMax",
    "min": "ReduceMin",
    "min_axis": "ReduceMin",
    "prod": "ReduceProd",
}

_BINARY_KIND = {name: kind for kind, names in _BINARY.items() for name in names}
_COMPARISON_KIND = {
    f"{prefix}{word}{suffix}": (kind, negate)
    for kind, (word, negate) in _COMPARISONS.items()
    for prefix, suffix in (("_", ""), ("broadcast_", ""), ("_", "_scalar"))
}


@operator(*_UNARY)
def unary(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """One ONNX operator for one of MXNet's."""
    return _activated(writer, _UNARY[node.operator], inputs[0], node.name)


def _activated(writer: Writer, kind: str, x: Value, name: str) -> Value:
    return writer.op(kind, [x], name, x.shape)


@operator(
    *("identity", "_copy", "BlockGrad", "stop_gradient", "Dropout", "make_loss", "MakeLoss"),
    *("LinearRegressionOutput", "MAERegressionOutput", "IdentityAttachKLSparseReg"),
)
def identity(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Nothing at inference."""
    return inputs[0]


@operator("Cast", "cast", "amp_cast")
def cast(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Between kinds of float nothing; to whole numbers, what lies behind the point goes."""
    x = inputs[0]
    kind = node.settings.text("dtype", "")
    if kind in ("float16", "float32", "float64", "bfloat16"):
        return x
    if kind not in ("int8", "uint8", "int32", "int64"):
        raise node.settings.error(f"a cast to {kind!r} cannot be imported")
    size = writer.op(
        "Floor", [writer.op("Abs", [x], f"{node.name}/abs", x.shape)], f"{node.name}/floor", x.shape
    )
    sign = writer.op("Sign", [x], f"{node.name}/sign", x.shape)
    return writer.binary("Mul", size, sign, node.name)


@operator("square", "rsqrt", "log2", "log10", "log1p", "expm1", "hard_sigmoid")
def composed(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Functions that ONNX makes of two."""
    x, name = inputs[0], node.name
    if node.operator == "square":
        return writer.binary("Mul", x, x, name)
    if node.operator == "rsqrt":
        return _activated(writer, "Reciprocal", _activated(writer, "Sqrt", x, f"{name}/root"), name)
    if node.operator in ("log2", "log10"):
        logarithm = _activated(writer, "Log", x, f"{name}/log")
        return writer.scaled("Div", logarithm, math.log(float(node.operator[3:])), name)
    if node.operator == "log1p":
        return _activated(writer, "Log", writer.scaled("Add", x, 1.0, f"{name}/more"), name)
    if node.operator == "expm1":
        return writer.scaled("Sub", _activated(writer, "Exp", x, f"{name}/exp"), 1.0, name)
    alpha, beta = node.settings.number("alpha", 0.2), node.settings.number("beta", 0.5)
    return writer.op("HardSigmoid", [x], name, x.shape, alpha=alpha, beta=beta)


@operator("Activation")
def activation(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """By `act_type`."""
    x, name = inputs[0], node.name
    kind = node.settings.text(
        "act_type", "", ("relu", "sigmoid", "tanh", "softrelu", "softsign", "mish", "log_sigmoid")
    )
    if kind == "mish":
        inner = _activated(writer, "Softplus", x, f"{name}/softplus")
        return writer.binary("Mul", x, _activated(writer, "Tanh", inner, f"{name}/tanh"), name)
    if kind == "log_sigmoid":
        inner = _activated(writer, "Neg", x, f"{name}/negative")
        inner = _activated(writer, "Softplus", inner, f"{name}/softplus")
        return _activated(writer, "Neg", inner, name)
    return _activated(writer, _UNARY[kind], x, name)


@operator("LeakyReLU")
def leaky_relu(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """By `act_type`; the defaults are those of ``LeakyReLUParam``."""
    x, name, settings = inputs[0], node.name, node.settings
    kind = settings.text("act_type", "leaky", ("leaky", "prelu", "elu", "selu", "gelu", "rrelu"))
    slope = settings.number("slope", 0.25)
    if kind == "prelu":
        gamma = writer.parameter(node, inputs, 1, "gamma").array
        if gamma is None or gamma.size not in (1, x.shape[1] if len(x.shape) > 1 else 1):
            raise settings.error("its gamma must be one number, or one a channel")
        spread = (gamma.size, *[1] * max(len(x.shape) - 2, 0))
        return writer.op(
            "PRelu", [x, writer.floats(f"{name}/slope", gamma.reshape(spread))], name, x.shape
        )
    if kind == "elu":
        return writer.op("Elu", [x], name, x.shape, alpha=slope)
    if kind == "selu":
        return _activated(writer, "Selu", x, name)
    if kind == "gelu":
        inner = writer.scaled("Mul", x, math.sqrt(0.5), f"{name}/scaled")
        inner = _activated(writer, "Erf", inner, f"{name}/erf")
        inner = writer.scaled("Add", inner, 1.0, f"{name}/more")
        return writer.binary("Mul", writer.scaled("Mul", x, 0.5, f"{name}/half"), inner, name)
    if kind == "rrelu":  # random while training, the mean of its bounds afterwards
        slope = (settings.number("lower_bound", 0.125) + settings.number("upper_bound", 0.334)) / 2
    return writer.op("LeakyRelu", [x], name, x.shape, alpha=slope)


@operator(*_BINARY_KIND)
def binary(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Two tensors, element by element."""
    return writer.binary(_BINARY_KIND[node.operator], inputs[0], inputs[1], node.name)


@operator("add_n", "ElementWiseSum", "_sum", "elemwise_sum")
def add_many(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """The sum of several tensors."""
    total = inputs[0]
    for i, x in enumerate(inputs[1:], start=1):
        total = writer.binary("Add", total, x, node.name if x is inputs[-1] else f"{node.name}/{i}")
    return total


@operator(*_SCALAR, *_OLD_SCALAR)
def scalar(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """A tensor and a number."""
    kind, first = _SCALAR[_OLD_SCALAR.get(node.operator, node.operator)]
    x = inputs[0]
    number = writer.floats(f"{node.name}/number", node.settings.number("scalar", 1.0))
    return writer.op(kind, [number, x] if first else [x, number], node.name, x.shape)


@operator(*_COMPARISON_KIND)
def comparison(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """1 where it holds, else 0."""
    from onnx import TensorProto

    kind, negate = _COMPARISON_KIND[node.operator]
    name = node.name
    if node.operator.endswith("_scalar"):
        other = writer.floats(f"{name}/number", node.settings.number("scalar"))
    else:
        other = inputs[1]
    result = writer.binary("Equal" if negate else kind, inputs[0], other, f"{name}/holds")
    if negate:
        result = writer.op("Not", [result], f"{name}/not", result.shape)
    return writer.op("Cast", [result], name, result.shape, to=TensorProto.FLOAT)


@operator("where")
def where(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Of two tensors, by a third that is 0 or not."""
    condition, yes, no = inputs
    zero = writer.floats(f"{node.name}/zero", 0.0)
    equal = writer.op("Equal", [condition, zero], f"{node.name}/is_zero", condition.shape)
    shape = yes.shape if len(yes.shape) >= len(no.shape) else no.shape
    return writer.op("Where", [equal, no, yes], node.name, shape)


@operator("clip")
def clip(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Limited from below and above."""
    bounds = [
        writer.floats(f"{node.name}/{name}", node.settings.number(name))
        for name in ("a_min", "a_max")
    ]
    return writer.op("Clip", [inputs[0], *bounds], node.name, inputs[0].shape)


@operator(*_REDUCTIONS)
def reduction(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Over some axes; over all of an image, where none is given."""
    return _reduced(writer, node, inputs[0], _REDUCTIONS[node.operator], node.name)


@operator("norm")
def norm(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """The first or second norm."""
    order = node.settings.whole("ord", 2)
    if order not in (1, 2):
        raise node.settings.error(f"ord must be 1 or 2, got {order}")
    return _reduced(writer, node, inputs[0], f"ReduceL{order}", node.name)


def _reduced(writer: Writer, node: Node, x: Value, kind: str, name: str) -> Value:
    settings, rank = node.settings, len(x.shape)
    axes = sorted({axis_of(node, a, rank) for a in settings.wholes("axis", ())})
    if settings.truth("exclude"):
        axes = [axis for axis in range(rank) if axis not in axes]
    axes = axes or list(range(rank))
    if any(x.shape[axis] < 0 for axis in axes):
        raise settings.error("it mixes the images of a batch, which are to be independent")
    return reduce_axes(writer, kind, x, axes, name, keep=settings.truth("keepdims"))


def reduce_axes(
    writer: Writer, kind: str, x: Value, axes: list[int], name: str, *, keep: bool
) -> Value:
    """One value for all along `axes`."""
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keep or i not in axes)
    if kind == "ReduceSum":  # whose axes became an input first
        wanted = writer.integers(f"{name}/axes", axes)
        return writer.op(kind, [x, wanted], name, shape, keepdims=int(keep))
    return writer.op(kind, [x], name, shape, axes=axes, keepdims=int(keep))


@operator("L2Normalization")
def l2_normalization(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Divided by the root of the sum of squares, plus a little inside the root."""
    x, settings, name = inputs[0], node.settings, node.name
    mode = settings.text("mode", "instance", ("instance", "channel", "spatial"))
    rank = len(x.shape)
    axes = {"instance": range(1, rank), "channel": (1,), "spatial": range(2, rank)}[mode]
    squares = writer.binary("Mul", x, x, f"{name}/squares")
    total = reduce_axes(writer, "ReduceSum", squares, list(axes), f"{name}/sum", keep=True)
    total = writer.scaled("Add", total, settings.number("eps", 1e-10), f"{name}/more")
    return writer.binary("Div", x, _activated(writer, "Sqrt", total, f"{name}/root"), name)


@operator("softmax", "log_softmax")
def softmax(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Along one axis, by default the last."""
    x, settings = inputs[0], node.settings
    if settings.truth("use_length"):
        raise settings.error("use_length cannot be imported")
    axis = axis_of(node, settings.whole("axis", -1), len(x.shape))
    temperature = settings.number("temperature", 1.0)
    if temperature != 1.0:
        x = writer.scaled("Div", x, temperature, f"{node.name}/cooled")
    kind = "Softmax" if node.operator == "softmax" else "LogSoftmax"
    return writer.op(kind, [x], node.name, x.shape, axis=axis)


@operator("SoftmaxActivation", "SoftmaxOutput", "Softmax")
def softmax_output(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Over the channels, over the last axis, or over all of an image's values."""
    x, settings = inputs[0], node.settings
    last = len(x.shape) - 1
    if node.operator == "SoftmaxActivation":
        # "instance" says all of an image's values, and MXNet takes the last axis.
        mode = settings.text("mode", "instance", ("instance", "channel"))
        axis = 1 if mode == "channel" else last
        return writer.op("Softmax", [x], node.name, x.shape, axis=axis)
    if settings.truth("preserve_shape") or len(x.shape) == 2:
        return writer.op("Softmax", [x], node.name, x.shape, axis=last)
    if settings.truth("multi_output"):
        return writer.op("Softmax", [x], node.name, x.shape, axis=1)
    flat = writer.reshape(x, (x.shape[0], count(x.shape[1:])), f"{node.name}/flat")
    flat = writer.op("Softmax", [flat], f"{node.name}/softmax", flat.shape, axis=1)
    return writer.reshape(flat, x.shape, node.name)


@operator("LogisticRegressionOutput")
def logistic_output(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """Training's output layer; at inference a sigmoid."""
    return _activated(writer, "Sigmoid", inputs[0], node.name)


@operator("_arange", "_contrib_arange_like")
def arange(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """A constant row of numbers; as many as a tensor is long, for ``arange_like``."""
    settings = node.settings
    start, step = settings.number("start", 0.0), settings.number("step", 1.0)
    repeats = settings.whole("repeat", 1)
    shape: tuple[int, ...] | None = None
    if node.operator == "_arange":
        if settings.has("stop"):
            length = math.ceil((settings.number("stop") - start) / step)
        else:
            start, length = 0.0, math.ceil(start / step)
    elif settings.has("axis"):
        length = inputs[0].shape[axis_of(node, settings.whole("axis"), len(inputs[0].shape))]
    else:
        shape = inputs[0].shape
        length = product(shape)
    if not 0 < length <= 1 << 24 or not 0 < repeats <= 1 << 10:
        raise settings.error(f"a constant of {length} numbers cannot be made")
    row = np.repeat(start + step * np.arange(length), repeats)[: length if inputs else None]
    return writer.floats(node.name, row if shape is None else row.reshape(shape))


@operator("_zeros", "_ones", "_full")
def filled(writer: Writer, node: Node, inputs: list[Value]) -> Value:
    """A constant of one value."""
    shape = node.settings.wholes("shape")
    if not all(n > 0 for n in shape) or math.prod(shape) > 1 << 24:
        raise node.settings.error(f"a constant of shape {shape} cannot be made")
    value = {"_zeros": 0.0, "_ones": 1.0}.get(node.operator)
    number = node.settings.number("value") if value is None else value
    return writer.floats(node.name, np.full(shape, number))
