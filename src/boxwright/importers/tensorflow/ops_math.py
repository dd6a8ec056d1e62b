"""Activations, arithmetic, reductions and products of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from boxwright.importers.tensorflow.lowering import Lowering, Operation, Tensor, absent
from boxwright.importers.tensorflow.network import Node

# TensorFlow's name and ONNX's, where one number becomes one number.
_UNARY = {
    "Relu": "Relu",
    "Sigmoid": "Sigmoid",
    "Tanh": "Tanh",
    "Elu": "Elu",
    "Softplus": "Softplus",
    "Softsign": "Softsign",
    "Exp": "Exp",
    "Log": "Log",
    "Sqrt": "Sqrt",
    "Neg": "Neg",
    "Abs": "Abs",
    "Floor": "Floor",
    "Ceil": "Ceil",
    "Erf": "Erf",
}
_BINARY = {
    "Add": "Add",
    "AddV2": "Add",
    "BiasAdd": "Add",
    "Sub": "Sub",
    "Mul": "Mul",
    "RealDiv": "Div",
    "Div": "Div",
    "Maximum": "Max",
    "Minimum": "Min",
    "Pow": "Pow",
}
_REDUCTIONS = {"Mean": "ReduceMean", "Max": "ReduceMax", "Min": "ReduceMin", "Sum": "ReduceSum"}


def same(
    lo: Lowering, node: Node, operator: str, x: Tensor, *more: str, **attributes: Any
) -> Tensor:
    """An operator that acts on each number, in whatever layout they are."""
    inputs = [lo.get(x, x.layout), *more]
    return lo.emit(node, operator, inputs, x.shape, x.layout, **attributes)


def _fused(operator: str) -> Operation:
    def run(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
        return [same(lo, node, operator, x[0])]

    return run


def _clip(low: float, high: float) -> Operation:
    def run(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
        return [same(lo, node, "Clip", x[0], lo.graph.scalar(low), lo.graph.scalar(high))]

    return run


def _leaky(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    # TensorFlow's own default.
    alpha = node.attributes.get("alpha")
    return [same(lo, node, "LeakyRelu", x[0], alpha=0.2 if alpha is None else float(alpha))]


def _prelu(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    layout = lo.common(node, x)
    lo.floats(node, x[1], "slopes")
    inputs = [lo.get(tensor, layout) for tensor in x]
    return [lo.emit(node, "PRelu", inputs, x[0].shape, layout)]


def _identity(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    # A copy, for quantising the result must not change the input.
    return [Tensor(x[0].shape, x[0].dtype, x[0].data, dict(x[0].names))]


def _identities(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    return [_identity(lo, node, [tensor])[0] for tensor in x]


def _cast(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    target = np.dtype(node.attributes.get("DstT") or np.float32)
    if target.kind != "f":
        lo.network.fail(node, f"it makes {target} of what depends on the images")
    return _identity(lo, node, x)


def _binary(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    if node.attributes.get("data_format") not in (None, "", "NHWC"):
        lo.network.fail(node, f"its images are {node.attributes['data_format']}")
    a, b = x
    layout = lo.common(node, x)
    shape = np.broadcast_shapes(a.shape, b.shape)
    for this, other in ((a, b), (b, a)):
        # A constant with a row for each place in the first axis would have one per image.
        if this.data is not None and len(this.shape) == len(shape) and this.shape[:1] != (1,):
            lo.network.fail(node, f"a constant of {this.shape} acts on {other.shape}")
        if this.data is not None and len(other.shape) < len(this.shape):
            lo.network.fail(node, f"a constant of {this.shape} acts on {other.shape}")
    inputs = [_numbers(lo, tensor, layout) for tensor in x]
    return [lo.emit(node, _BINARY[node.kind], inputs, shape, layout)]


def _numbers(lo: Lowering, tensor: Tensor, layout: Any) -> str:
    """A tensor's name; of a constant, as float32 whatever it was."""
    if tensor.data is not None and tensor.data.dtype != np.float32:
        tensor = Tensor(tensor.shape, np.dtype(np.float32), tensor.data.astype(np.float32))
    return lo.get(tensor, layout)


def _add_all(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    layout = lo.common(node, x)
    if any(tensor.data is not None for tensor in x):
        lo.network.fail(node, "it adds constants")
    inputs = [lo.get(tensor, layout) for tensor in x]
    return [lo.emit(node, "Sum", inputs, x[0].shape, layout)]


def _square(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    name = lo.get(x[0], x[0].layout)
    return [same(lo, node, "Mul", x[0], name)]


def _rsqrt(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    return [same(lo, node, "Reciprocal", same(lo, node, "Sqrt", x[0]))]


def _squared_difference(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    difference = Node("Sub", node.name, node.inputs, node.outputs)
    return _square(lo, node, _binary(lo, difference, x))


def _hard_swish(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    # x * relu6(x + 3) / 6; ONNX's HardSigmoid is max(0, min(1, alpha x + beta)).
    gate = same(lo, node, "HardSigmoid", x[0], alpha=1 / 6, beta=0.5)
    return [same(lo, node, "Mul", x[0], lo.get(gate, x[0].layout))]


def _gelu(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    if node.attributes.get("approximate"):
        lo.network.fail(node, "its approximation by tanh is not converted")
    scaled = same(lo, node, "Mul", x[0], lo.graph.scalar(float(np.sqrt(0.5))))
    share = same(lo, node, "Add", same(lo, node, "Erf", scaled), lo.graph.scalar(1.0))
    half = same(lo, node, "Mul", x[0], lo.graph.scalar(0.5))
    return [same(lo, node, "Mul", half, lo.get(share, half.layout))]


def _reduce(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    image = x[0]
    axes = [lo.axis(node, image, a) for a in lo.integers(node, x[1], "axes")]
    keep = bool(node.attributes.get("keep_dims"))
    rank = len(image.shape)
    # Planes stay planes; what is left of them without height and width is plain.
    spatial = rank == 4 and set(axes) == {1, 2}
    layout = image.layout if rank == 4 and (keep or spatial) else "plain"
    shape = [1 if i in axes else e for i, e in enumerate(image.shape) if keep or i not in axes]
    places = sorted(lo.place(axis, layout) for axis in axes)
    inputs: list[str] = [lo.get(image, layout)]
    settings: dict[str, Any] = {"keepdims": int(keep)}
    if node.kind == "Sum":
        # The one reduction whose axes opset 17 has as an input.
        inputs.append(lo.constant(f"{node.name}/axes", np.array(places, np.int64)))
    else:
        settings["axes"] = places
    result = layout if keep else "plain"
    return [lo.emit(node, _REDUCTIONS[node.kind], inputs, shape, result, **settings)]


def _softmax(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    image = x[0]
    axis = lo.axis(node, image, -1)
    beta = node.attributes.get("beta")
    if beta is not None and beta != 1:
        image = same(lo, node, "Mul", image, lo.graph.scalar(float(beta)))
    place = lo.place(axis, image.layout)
    return [same(lo, node, "Softmax", image, axis=place)]


def _l2(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    image = x[0]
    axis = lo.place(lo.axis(node, image, -1), image.layout)
    return [same(lo, node, "LpNormalization", image, axis=axis, p=2)]


def _matmul(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    """Rows of numbers times a constant matrix."""
    rows, weights = x[:2]
    if rows.data is not None or weights.data is None:
        lo.network.fail(node, "both of its matrices, or only the second, depend on the images")
    full = node.kind == "FullyConnected"
    if node.attributes.get("transpose_a") or node.attributes.get("adj_x"):
        lo.network.fail(node, "it transposes what depends on the images")
    if full and node.attributes.get("weights_format"):
        lo.network.fail(node, "its weights are shuffled")
    turned = full or node.attributes.get("transpose_b") or node.attributes.get("adj_y")
    matrix = weights.data
    if matrix.ndim != 2:
        lo.network.fail(node, f"its weights have {matrix.ndim} axes, not two")
    inner, columns = matrix.shape[::-1] if turned else matrix.shape
    if full and not (node.attributes.get("keep_num_dims") and rows.shape[-1] == inner):
        rows = reshape(lo, node, rows, [-1, inner])
    if rows.shape[-1] != inner or len(rows.shape) < 2:
        lo.network.fail(node, f"{list(rows.shape)} does not fit weights of {list(matrix.shape)}")
    shape = (*rows.shape[:-1], columns)
    if turned and len(shape) == 2:
        # As it is stored, so that a quantised matrix keeps its scales.
        inputs = [lo.get(rows, "plain"), lo.weights(node, 1, lambda data: data)]
        if len(x) > 2 and not absent(x[2]):
            inputs.append(lo.constant(f"{node.name}/bias", lo.floats(node, x[2], "bias")))
        return [lo.emit(node, "Gemm", inputs, shape, "plain", transB=1)]
    values = (matrix.T if turned else matrix).astype(np.float32)
    inputs = [lo.get(rows, "plain"), lo.constant(f"{node.name}/weights", values)]
    product = lo.emit(node, "MatMul", inputs, shape, "plain")
    if len(x) > 2 and not absent(x[2]):
        bias = lo.constant(f"{node.name}/bias", lo.floats(node, x[2], "bias"))
        product = same(lo, node, "Add", product, bias)
    return [product]


def reshape(lo: Lowering, node: Node, x: Tensor, target: list[int]) -> Tensor:
    """A tensor in another shape; the batch stays outermost (see :mod:`.lowering`)."""
    total = int(np.prod(x.shape, dtype=np.int64))
    known = int(np.prod([e for e in target if e != -1], dtype=np.int64))
    if target.count(-1) > 1 or known < 1 or min(target, default=1) < -1 or total % known:
        lo.network.fail(node, f"it makes {target} of {list(x.shape)}")
    shape = [total // known if extent == -1 else extent for extent in target]
    if int(np.prod(shape, dtype=np.int64)) != total or not shape:
        lo.network.fail(node, f"it makes {target} of {list(x.shape)}")
    if tuple(shape) == x.shape:
        return Tensor(x.shape, x.dtype, x.data, dict(x.names))
    wanted = lo.constant(f"{node.name}/shape", np.array([-1, *shape[1:]], np.int64))
    return lo.emit(node, "Reshape", [lo.get(x, "plain"), wanted], shape, "plain")


OPERATIONS: dict[str, Operation] = {
    **{kind: _fused(operator) for kind, operator in _UNARY.items()},
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "Relu6": _clip(0.0, 6.0),
    "ReluN1To1": _clip(-1.0, 1.0),
    "Relu0To1": _clip(0.0, 1.0),
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "AddN": _add_all,
    "Square": _square,
    "Rsqrt": _rsqrt,
    "SquaredDifference": _squared_difference,
    "HardSwish": _hard_swish,
    "Gelu": _gelu,
    "Softmax": _softmax,
    "L2Normalization": _l2,
    "MatMul": _matmul,
    "FullyConnected": _matmul,
    "BatchMatMulV2": _matmul,
    "Cast": _cast,
    "IdentityN": _identities,
    **dict.fromkeys(
        ("Identity", "StopGradient", "Quantize", "Dequantize", "Snapshot", "PreventGradient"),
        _identity,
    ),
}
