"""Passes that write an operator as others."""

from __future__ import annotations

import string
from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from boxwright.errors import NotCurableError
from boxwright.graph.checks.operators import is_pool_of_taps
from boxwright.graph.legalise.container import at_least
from boxwright.graph.legalise.editing import Chain, Editor, legaliser
from boxwright.graph.view import STANDARD, attribute, input_name


@legaliser("upsample")
def upsample(edit: Editor) -> None:
    """Write Upsample as Resize with asymmetric coordinates, which is how it is defined."""
    if not any(node.op_type == "Upsample" for node in edit.graph.node):
        return
    scales = {node.output[0]: _upsample_scales(edit, node) for node in edit.graph.node
              if node.op_type == "Upsample"}  # fmt: skip
    # The converter rewrites them, too, but not where the opset has no Upsample any more.
    at_least(edit, 11)

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if node.output[0] not in scales or node.op_type not in ("Upsample", "Resize"):
            return None
        mode = attribute(node, "mode", "nearest")
        mode = {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode)
        chain = Chain(edit, node)
        # Before opset 13 the region may not be left out by an empty name in every reader.
        region = chain.constant(np.zeros(0), np.float32) if edit.view.opset < 13 else ""
        chain.op(
            "Resize", node.input[0], region, chain.constant(scales[node.output[0]], np.float32),
            output=node.output[0], mode=mode, coordinate_transformation_mode="asymmetric",
            **({"nearest_mode": "floor"} if mode == "nearest" else {}),
        )  # fmt: skip
        edit.note(node, f"a Resize now, {mode}, asymmetric")
        return chain.nodes

    edit.rewrite(replace)


def _upsample_scales(edit: Editor, node: onnx.NodeProto) -> list[float]:
    given = attribute(node, "scales")
    if given is None:
        values = edit.view.input_constant(node, 1)
        given = None if values is None else [float(value) for value in values]
    if not given:
        raise NotCurableError("its scales are computed")
    return [float(value) for value in given]


@legaliser("scatter")
def scatter(edit: Editor) -> None:
    """Call Scatter by its new name, ScatterElements."""
    if not any(node.op_type == "Scatter" for node in edit.graph.node):
        return
    at_least(edit, 11)
    for node in edit.graph.node:
        if node.op_type in ("Scatter", "ScatterElements"):
            node.op_type = "ScatterElements"
            edit.note(node, "Scatter -> ScatterElements")


@legaliser("pool-dilation")
def pool_dilation(edit: Editor) -> None:
    """Write a dilated MaxPool as the largest of slices, first along one axis, then the next.

    The largest of a window is the largest of its rows' largest, so every axis is done by
    itself: pad with the lowest float, then Max of one strided slice for each tap.
    """

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        dilations = attribute(node, "dilations") or []
        if node.op_type != "MaxPool" or all(d == 1 for d in dilations):
            return None
        rank = len(attribute(node, "kernel_shape"))
        kind = edit.view.types.get(node.input[0])
        if (
            attribute(node, "ceil_mode", 0)
            or any(node.output[1:])
            or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
            or kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
            or not is_pool_of_taps(edit.view, node)
        ):
            raise NotCurableError("it also rounds up, gives indices, is not of floats, or too wide")
        chain = Chain(edit, node)
        pads = attribute(node, "pads") or [0] * (2 * rank)
        strides = attribute(node, "strides") or [1] * rank
        x = _padded(chain, node.input[0], pads, rank, helper.tensor_dtype_to_np_dtype(kind))
        for axis, kernel in enumerate(attribute(node, "kernel_shape")):
            x = _largest(chain, x, axis + 2, kernel, int(dilations[axis]), int(strides[axis]),
                         node.output[0] if axis == rank - 1 else "")  # fmt: skip
        edit.note(node, f"{len(chain.nodes)} nodes now: slices and Max")
        return chain.nodes

    if any("Pool" in n.op_type and attribute(n, "dilations") for n in edit.graph.node):
        at_least(edit, 11)
    edit.rewrite(replace)


def _padded(chain: Chain, x: str, pads: list[int], rank: int, kind: np.dtype[np.generic]) -> str:
    if not any(pads):
        return x
    full = [0, 0, *pads[:rank], 0, 0, *pads[rank:]]
    lowest = np.finfo(np.float16 if kind == np.float16 else np.float32).min
    return chain.op("Pad", x, chain.constant(full, np.int64), chain.constant(lowest, kind))


def _largest(
    chain: Chain, x: str, axis: int, kernel: int, dilation: int, stride: int, output: str
) -> str:
    """Maximum over the taps of one axis; `x` is padded already."""
    axes, steps = chain.constant([axis], np.int64), chain.constant([stride], np.int64)
    reach = dilation * (kernel - 1)
    taps = []
    for tap in range(kernel):
        start, left = tap * dilation, tap * dilation - reach
        # Counted from the end, so that the extent need not be known; past it where nothing is left.
        end = left if left < 0 else np.iinfo(np.int32).max
        taps.append(
            chain.op(
                "Slice",
                x,
                chain.constant([start], np.int64),
                chain.constant([end], np.int64),
                axes,
                steps,
            )
        )
    return chain.op("Max", *taps, output=output)


@legaliser("explicit-padding")
def explicit_padding(edit: Editor) -> None:
    """Write the pads that auto_pad and output_shape stand for.

    The formulas are those of Conv, MaxPool and ConvTranspose in ONNX's operator reference.
    """
    for node in edit.graph.node:
        automatic = attribute(node, "auto_pad", "NOTSET")
        wanted = attribute(node, "output_shape")
        if automatic in ("NOTSET", "VALID") and not wanted:
            continue
        if node.op_type not in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"):
            continue
        sides = edit.view.shapes.get(node.input[0], ())[2:]
        kernel = attribute(node, "kernel_shape")
        if kernel is None:
            kernel = list(edit.view.shapes.get(node.input[1], ()))[2:]
        if not sides or None in sides or None in kernel:
            continue
        pads = _pads(node, [int(side or 0) for side in sides], kernel, automatic, wanted)
        for item in list(node.attribute):
            if item.name in ("auto_pad", "output_shape", "pads"):
                node.attribute.remove(item)
        node.attribute.append(helper.make_attribute("pads", pads))
        edit.note(node, f"{automatic if not wanted else 'output_shape'} -> pads {pads}")


def _pads(
    node: onnx.NodeProto, sides: list[int], kernel: list[int], automatic: str, wanted: list[int]
) -> list[int]:
    rank = len(sides)
    strides = attribute(node, "strides") or [1] * rank
    dilations = attribute(node, "dilations") or [1] * rank
    extra = attribute(node, "output_padding") or [0] * rank
    begin, end = [], []
    for side, size, stride, dilation, more, at in zip(
        sides, kernel, strides, dilations, extra, range(rank), strict=True
    ):
        window = (size - 1) * dilation + 1
        if node.op_type == "ConvTranspose":
            result = wanted[at - rank] if wanted else side * stride
            total = stride * (side - 1) + more + window - result
            if total < 0:
                raise NotCurableError("the output is larger than pads can make it")
        else:
            total = max((-(-side // stride) - 1) * stride + window - side, 0)
        # Where it is odd, SAME_UPPER puts the more at the end, everything else at the begin.
        less, most = total // 2, total - total // 2
        begin.append(less if automatic == "SAME_UPPER" else most)
        end.append(most if automatic == "SAME_UPPER" else less)
    return begin + end


@legaliser("einsum", 1e-6, "sums may be added up in another order")
def einsum(edit: Editor) -> None:
    """Write the ellipsis of an equation out in letters."""
    for node in edit.graph.node:
        if node.op_type != "Einsum":
            continue
        equation = str(attribute(node, "equation", "")).replace(" ", "")
        if "..." not in equation:
            continue
        left, arrow, right = equation.partition("->")
        terms = left.split(",")
        ranks = [len(edit.view.shapes.get(name, ())) for name in node.input]
        hidden = {
            rank - len(term.replace("...", ""))
            for rank, term in zip(ranks, terms, strict=True)
            if "..." in term
        }
        if len(hidden) != 1 or not arrow or min(hidden) < 0:
            raise NotCurableError("its ellipsis stands for different numbers of dimensions")
        free = [letter for letter in string.ascii_letters if letter not in equation]
        letters = "".join(free[: hidden.pop()])
        new = f"{left}->{right}".replace("...", letters)
        for item in node.attribute:
            if item.name == "equation":
                item.s = new.encode()
        edit.note(node, f"{equation} -> {new}")


@legaliser("decompose", 1e-5, "the same formula in smaller steps, each of which rounds")
def decompose(edit: Editor, only: frozenset[str] | None = None) -> None:
    """Write operators that few targets have as ones that all have.

    Args:
        edit: The model.
        only: Operators to write as others; ``None`` for all that can be.
    """

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        key = ("" if node.domain in STANDARD else node.domain, node.op_type)
        write = _FORMULAS.get(key)
        if write is None or (only is not None and node.op_type not in only):
            return None
        kind = edit.view.types.get(node.input[0])
        if kind is None:
            raise NotCurableError(f"the type of {node.input[0]!r} is not known")
        chain = Chain(edit, node)
        write(chain, node, helper.tensor_dtype_to_np_dtype(kind))
        edit.note(node, f"{len(chain.nodes)} nodes now: "
                  + ", ".join(dict.fromkeys(n.op_type for n in chain.nodes)))  # fmt: skip
        return chain.nodes

    edit.rewrite(replace)
    if edit.changes:
        used = {node.domain for node in edit.graph.node}
        for item in list(edit.proto.opset_import):
            if item.domain not in (*STANDARD, *used):
                edit.proto.opset_import.remove(item)


_Kind = np.dtype[np.generic]


def _mish(chain: Chain, node: onnx.NodeProto, kind: _Kind) -> None:
    x = node.input[0]
    chain.op("Mul", x, chain.op("Tanh", chain.op("Softplus", x)), output=node.output[0])


def _hard_swish(chain: Chain, node: onnx.NodeProto, kind: _Kind) -> None:
    x = node.input[0]
    gate = chain.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    chain.op("Mul", x, gate, output=node.output[0])


def _swish(chain: Chain, node: onnx.NodeProto, kind: _Kind) -> None:
    # QuickGelu's default is another one than Swish's.
    default = 1.702 if node.op_type == "QuickGelu" else 1.0
    x, alpha = node.input[0], attribute(node, "alpha", default)
    scaled = x if alpha == 1 else chain.op("Mul", x, chain.constant(alpha, kind))
    chain.op("Mul", x, chain.op("Sigmoid", scaled), output=node.output[0])


def _gelu(chain: Chain, node: onnx.NodeProto, kind: _Kind) -> None:
    x = node.input[0]
    if node.op_type in ("BiasGelu", "FastGelu") and input_name(node, 1):
        x = chain.op("Add", x, node.input[1])
    half, one = chain.constant(0.5, kind), chain.constant(1.0, kind)
    if node.op_type == "FastGelu" or attribute(node, "approximate", "none") == "tanh":
        cube = chain.op("Mul", chain.op("Mul", x, x), x)
        inner = chain.op("Add", x, chain.op("Mul", cube, chain.constant(0.044715, kind)))
        bent = chain.op("Tanh", chain.op("Mul", inner, chain.constant(np.sqrt(2 / np.pi), kind)))
    else:
        bent = chain.op("Erf", chain.op("Mul", x, chain.constant(np.sqrt(0.5), kind)))
    gate = chain.op("Mul", chain.op("Add", bent, one), half)
    chain.op("Mul", x, gate, output=node.output[0])


def _fused_conv(chain: Chain, node: onnx.NodeProto, kind: _Kind) -> None:
    activation = attribute(node, "activation", "")
    if activation not in ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "") or len(node.input) > 3:
        raise NotCurableError(f"FusedConv with {activation or 'a sum'} is not known")
    apart = ("activation", "activation_params")
    plain = {item.name: helper.get_attribute_value(item) for item in node.attribute
             if item.name not in apart}  # fmt: skip
    if not activation:
        chain.op("Conv", *node.input, output=node.output[0], **plain)
        return
    numbers = attribute(node, "activation_params") or []
    more = {"alpha": numbers[0]} if activation == "LeakyRelu" and numbers else {}
    chain.op(activation, chain.op("Conv", *node.input, **plain), output=node.output[0], **more)


def _group_normalization(chain: Chain, node: onnx.NodeProto, kind: _Kind) -> None:
    shape = chain.edit.view.shapes.get(node.input[0], ())
    groups = int(attribute(node, "num_groups"))
    if len(shape) < 3 or shape[1] is None or None in shape[2:]:
        raise NotCurableError("the shape of its input is not known")
    channels = int(shape[1])
    if groups < 1 or channels % groups:
        raise NotCurableError(f"{channels} channels are not {groups} groups")
    x = chain.op("Reshape", node.input[0], chain.constant([0, groups, -1], np.int64))
    ones, zeros = (chain.constant(np.full(groups, v), kind) for v in (1.0, 0.0))
    x = chain.op("InstanceNormalization", x, ones, zeros,
                 epsilon=float(attribute(node, "epsilon", 1e-5)))  # fmt: skip
    sides = [int(side or 0) for side in shape[2:]]
    x = chain.op("Reshape", x, chain.constant([0, channels, *sides], np.int64))
    per_channel = chain.constant([channels, *[1] * len(sides)], np.int64)
    if chain.edit.view.opset < 21:
        raise NotCurableError("before opset 21 its scale is one a group, which was a slip")
    scale, bias = (chain.op("Reshape", node.input[at], per_channel) for at in (1, 2))
    chain.op("Add", chain.op("Mul", x, scale), bias, output=node.output[0])


_FORMULAS: dict[tuple[str, str], Callable[[Chain, onnx.NodeProto, _Kind], None]] = {
    ("", "Mish"): _mish,
    ("", "HardSwish"): _hard_swish,
    ("", "Swish"): _swish,
    ("", "Gelu"): _gelu,
    ("", "GroupNormalization"): _group_normalization,
    ("com.microsoft", "QuickGelu"): _swish,
    ("com.microsoft", "Gelu"): _gelu,
    ("com.microsoft", "BiasGelu"): _gelu,
    ("com.microsoft", "FastGelu"): _gelu,
    ("com.microsoft", "FusedConv"): _fused_conv,
}
