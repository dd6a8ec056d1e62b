"""Operators a target has no conversion for, and those it converts with conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from boxwright.graph.checks.seen import Seen
from boxwright.graph.operators import OPENVINO_IN_PATTERNS, OPENVINO_MICROSOFT
from boxwright.graph.targets import Target
from boxwright.graph.view import STANDARD, Place, View, attribute, input_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Operators that the pass "decompose" writes as others, by domain.
DECOMPOSED = {
    ("", "Mish"), ("", "HardSwish"), ("", "Gelu"), ("", "Swish"), ("", "GroupNormalization"),
    ("com.microsoft", "Gelu"), ("com.microsoft", "QuickGelu"), ("com.microsoft", "FusedConv"),
    ("com.microsoft", "BiasGelu"), ("com.microsoft", "FastGelu"),
}  # fmt: skip

# Quantised arithmetic that is not Q/DQ around ordinary operators.
QOPERATORS = {"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}

# More than this many is what TensorRT's TopK takes (its builder's own message).
TOPK_MOST = 3840

# A wider or farther window than any network has is not written out tap by tap.
_MOST_TAPS = 64
_MOST_STEP = 1 << 16

# What RTX's parser knows by name and refuses, for a plugin it looks for is not there.
_RTX_PLUGINS = ("NonZero", "RoiAlign")


def unknown_operators(view: View, target: Target) -> Iterator[Seen]:
    """Operators without a conversion, one finding for each kind."""
    told: set[tuple[str, str]] = set()
    count = Counter((place.node.domain, place.node.op_type) for place in view.places)
    local = {(item.domain, item.name) for item in view.proto.functions}
    for place in view.places:
        domain = "" if place.node.domain in STANDARD else place.node.domain
        key = (domain, place.node.op_type)
        if key in told or key in local or _has_own_finding(place.node.op_type, target):
            continue
        told.add(key)
        number = count[place.node.domain, place.node.op_type]
        code = _judge(domain, place, target)
        if code:
            what = f"{domain + '.' if domain else ''}{key[1]}, {number} node(s)"
            yield Seen(code, what, place, curable=not place.depth)


def _has_own_finding(operator: str, target: Target) -> bool:
    if operator in ("Upsample", "Scatter"):
        return True
    if operator in OPENVINO_IN_PATTERNS or operator.startswith(("Sequence", "Optional")):
        # The finding "sequence" is about them; OpenVINO takes some and not others.
        return target.family != "openvino" or operator in OPENVINO_IN_PATTERNS
    if target.column == "rtx" and operator in _RTX_PLUGINS:
        return True
    return target.is_tensorrt and (operator in QOPERATORS or operator.startswith("QLinear"))


def _judge(domain: str, place: Place, target: Target) -> str | None:
    operator = place.node.op_type
    replaceable = (domain, operator) in DECOMPOSED and not place.depth
    if not domain:
        if target.is_uncertain(operator):
            return "operator-uncertain"
        if target.refuses(operator):
            return "operator-decomposed" if replaceable else "operator"
        if target.opset_is_enforced and not exists_in(operator, target.opsets[1]):
            return "operator-decomposed" if replaceable else "operator"
        return None if _is_standard(operator) or target.known_operators else "operator"
    if domain == "com.microsoft" and target.family == "onnxruntime":
        return None
    if domain == "com.microsoft" and target.family == "openvino":
        asks = operator == "QuickGelu" and target.column != "ov2026"
        if operator in OPENVINO_MICROSOFT and not asks:
            return None
    if target.known_operators is not None and operator in target.known_operators:
        return "custom-by-name"
    return "operator-decomposed" if replaceable else "custom-operator"


def _is_standard(operator: str) -> bool:
    return bool(onnx.defs.has(operator))


def exists_in(operator: str, opset: int) -> bool:
    """Whether an operator is part of an opset; ``True`` of opsets that ONNX does not know."""
    if opset > onnx.defs.onnx_opset_version():
        return True
    try:
        onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return False
    return True


def quantised_arithmetic(view: View, target: Target) -> Iterator[Seen]:
    """QLinearConv and its kin."""
    found = [p for p in view.places
             if p.node.op_type.startswith("QLinear") or p.node.op_type in QOPERATORS]  # fmt: skip
    if found:
        kinds = ", ".join(sorted({place.node.op_type for place in found}))
        yield Seen("qoperator", f"{kinds}: {len(found)} node(s)", found[0])


def deprecated(view: View, target: Target) -> Iterator[Seen]:
    """Upsample and Scatter."""
    for place in view.places:
        if place.node.domain not in STANDARD:
            continue
        if place.node.op_type == "Upsample":
            code = "upsample-removed" if view.opset >= 10 else "upsample"
            constant = len(place.node.input) < 2 or view.input_constant(place.node, 1) is not None
            yield Seen(code, f"mode {attribute(place.node, 'mode', 'nearest')}", place,
                       curable=constant and not place.depth)  # fmt: skip
        if place.node.op_type == "Scatter":
            yield Seen("scatter", "it is ScatterElements by now", place, curable=not place.depth)


def resize(view: View, target: Target) -> Iterator[Seen]:
    """Modes, coordinates and forms of Resize that not every target has."""
    for place in view.places:
        node = place.node
        if node.op_type != "Resize" or node.domain not in STANDARD:
            continue
        mode = attribute(node, "mode", "nearest")
        if mode == "cubic":
            yield Seen("resize-mode", "cubic interpolation", place)
        coordinates = attribute(node, "coordinate_transformation_mode", "half_pixel")
        if coordinates in ("tf_crop_and_resize", "half_pixel_symmetric"):
            same = plain_coordinates(view, node) is not None
            yield Seen("resize-coordinates", coordinates, place, curable=same and not place.depth)
        if attribute(node, "antialias", 0):
            factors = resize_factors(view, node)
            grows = factors is not None and all(f >= 1 for f in factors)
            what = "it only enlarges, where antialias does nothing" if grows else "it shrinks"
            yield Seen("resize-antialias", what, place, curable=grows and not place.depth)
        policy = attribute(node, "keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            same = aspect_sizes(view, node) is not None
            yield Seen("resize-aspect", f"keep_aspect_ratio_policy {policy}", place,
                       curable=same and not place.depth)  # fmt: skip
        axes, rank = attribute(node, "axes"), len(view.shapes.get(node.input[0], ()))
        # A parser that does not know axes reads them right where they are all, in order.
        if axes is not None and not (target.column == "8.6" and axes == list(range(rank))):
            given = view.input_constant(node, 2), view.input_constant(node, 3)
            constant = policy == "stretch" and any(i is not None and i.size for i in given)
            yield Seen("resize-axes", f"axes {axes}", place,
                       curable=bool(rank) and constant and not place.depth)  # fmt: skip
        scales = input_name(node, 2 if view.opset > 10 else 1)
        if scales and not place.depth and not view.is_known_from_shapes(scales):
            yield Seen("resize-computed", f"scales come from {scales!r}", place)


def plain_coordinates(view: View, node: onnx.NodeProto) -> str | None:
    """The ordinary coordinates that mean the same here; ``None`` where none do.

    ``half_pixel_symmetric`` differs from ``half_pixel`` only where the scaled length is not
    whole, and ``tf_crop_and_resize`` of the whole image is ``align_corners`` (the formulas
    are those of Resize in ONNX's operator reference).
    """
    shape = view.shapes.get(node.input[0])
    kind = attribute(node, "coordinate_transformation_mode")
    if shape is None:
        return None
    if kind == "tf_crop_and_resize":
        region = view.input_constant(node, 1)
        whole = [0.0] * len(shape) + [1.0] * len(shape)
        return "align_corners" if region is not None and region.tolist() == whole else None
    scales = view.input_constant(node, 2)
    if scales is None or len(scales) != len(shape) or None in shape:
        return "half_pixel" if view.input_constant(node, 3) is not None else None
    lengths = [float(extent or 0) * float(s) for extent, s in zip(shape, scales, strict=True)]
    return "half_pixel" if all(length.is_integer() for length in lengths) else None


def resize_factors(view: View, node: onnx.NodeProto) -> list[float] | None:
    """By how much each axis is scaled, where that is constant."""
    scales, sizes = view.input_constant(node, 2), view.input_constant(node, 3)
    if scales is not None and scales.size:
        numbers = scales.ndim == 1 and scales.dtype.kind == "f"
        return [float(s) for s in scales] if numbers else None
    shape = view.shapes.get(node.input[0])
    if sizes is None or shape is None or None in shape or len(sizes) != len(shape):
        return None
    return [float(size) / float(extent or 1) for size, extent in zip(sizes, shape, strict=True)]


def aspect_sizes(view: View, node: onnx.NodeProto) -> list[int] | None:
    """The sizes of every axis that keeping the aspect ratio comes to, if that is exact.

    One factor, the smallest (``not_larger``) or largest (``not_smaller``) of the ratios of
    sizes, holds for all axes (ONNX, Resize-18). Where it makes whole lengths, asking for
    these lengths gives the same factor again; where they are rounded it does not.
    """
    sizes = whole_numbers(view.input_constant(node, 3))
    extents = [int(extent or 0) for extent in view.shapes.get(node.input[0], ())]
    if not sizes or min(extents, default=0) < 1:
        return None
    axes = attribute(node, "axes") or list(range(len(extents)))
    if not isinstance(axes, list) or not all(isinstance(axis, int) for axis in axes):
        return None
    if len(sizes) != len(axes) or any(not -len(extents) <= axis < len(extents) for axis in axes):
        return None
    pick = min if attribute(node, "keep_aspect_ratio_policy") == "not_larger" else max
    factor = pick(Fraction(s, extents[a]) for s, a in zip(sizes, axes, strict=True))
    lengths = {axis % len(extents): factor * extents[axis] for axis in axes}
    if any(length.denominator != 1 for length in lengths.values()):
        return None
    return [int(lengths.get(axis, extent)) for axis, extent in enumerate(extents)]


def pad(view: View, target: Target) -> Iterator[Seen]:
    """Pad's old form, its modes, and pads that are computed."""
    for place in view.places:
        node = place.node
        if node.op_type != "Pad" or node.domain not in STANDARD:
            continue
        if view.opset < 11:
            yield Seen("pad-attribute", f"opset {view.opset}: pads are an attribute", place)
            continue
        pads = view.input_constant(node, 1)
        rank = len(view.shapes.get(node.input[0], ()))
        if pads is not None and pads.min(initial=0) < 0:
            yield Seen("pad-negative", f"pads {pads.tolist()}", place,
                       curable=cut(view, node) is not None and not place.depth)  # fmt: skip
        if attribute(node, "mode", "constant") == "wrap":
            flat = pads is not None and pads.min(initial=0) >= 0 and not input_name(node, 3)
            yield Seen("pad-mode", "mode wrap", place, curable=flat and not place.depth)
        if input_name(node, 3):
            axes = view.input_constant(node, 3)
            constant = axes is not None and pads is not None and rank > 0
            yield Seen("pad-axes", f"axes {axes.tolist()}" if axes is not None else "axes", place,
                       curable=constant and not place.depth)  # fmt: skip
        if pads is None and not place.depth and not view.is_known_from_shapes(input_name(node, 1)):
            yield Seen("pad-computed", f"pads come from {input_name(node, 1)!r}", place)


def full_pads(view: View, node: onnx.NodeProto) -> list[int] | None:
    """Pads before and then after every axis; ``None`` where they or the axes are not constant."""
    pads = whole_numbers(view.input_constant(node, 1))
    if pads is None or len(pads) % 2:
        return None
    if not input_name(node, 3):
        return pads
    axes = whole_numbers(view.input_constant(node, 3))
    rank = len(view.shapes.get(node.input[0], ()))
    if axes is None or not rank or len(pads) != 2 * len(axes):
        return None
    full = [0] * (2 * rank)
    for at, axis in enumerate(axes):
        full[axis % rank] = pads[at]
        full[axis % rank + rank] = pads[at + len(axes)]
    return full


def whole_numbers(values: NDArray[Any] | None) -> list[int] | None:
    """The values of a list of integers; ``None`` for anything else."""
    if values is None or values.ndim != 1 or values.dtype.kind not in "iu":
        return None
    return [int(value) for value in values]


def cut(view: View, node: onnx.NodeProto) -> list[int] | None:
    """The pads of a Pad that first cuts off and then adds, where these can be two steps.

    Only of constant values: what reflects or repeats could reflect what is cut off. An axis
    with both signs must be long enough to be cut first, so its length must be known.
    """
    pads, shape = full_pads(view, node), view.shapes.get(node.input[0])
    if pads is None or attribute(node, "mode", "constant") != "constant":
        return None
    rank = len(pads) // 2
    for axis, (before, after) in enumerate(zip(pads[:rank], pads[rank:], strict=True)):
        extent = shape[axis] if shape is not None and len(shape) == rank else None
        if min(before, after) < 0 < max(before, after) and extent is None:
            return None
        if extent is not None and extent + min(before, 0) + min(after, 0) <= 0:
            return None
    return pads


def selection(view: View, target: Target) -> Iterator[Seen]:
    """TopK of too many, shapes that depend on values, and operators that need plugins."""
    for place in view.places:
        node = place.node
        if node.op_type == "TopK" and node.domain in STANDARD:
            k = attribute(node, "k")
            constant = view.input_constant(node, 1)
            if constant is not None and constant.size and constant.dtype.kind in "iu":
                k = int(constant.reshape(-1)[0])
            if k is not None and k > TOPK_MOST:
                yield Seen("topk-large", f"K is {k}", place)
        if node.op_type in ("NonZero", "NonMaxSuppression"):
            yield Seen("data-dependent", f"{node.op_type}: as many rows as are found", place)
        if node.op_type == "NonMaxSuppression":
            yield Seen("data-dependent-refused", "NonMaxSuppression", place)
        if node.op_type == "RoiAlign":
            yield Seen("roi-align", "RoiAlign needs a plugin", place)
        if node.op_type in _RTX_PLUGINS:
            yield Seen("plugin-missing", f"{node.op_type} needs a plugin", place)


def windows(view: View, target: Target) -> Iterator[Seen]:
    """Pooling with dilation, and windows of four dimensions."""
    for place in view.places:
        node = place.node
        if "Pool" in node.op_type or node.op_type in ("Conv", "ConvTranspose"):
            kernel = attribute(node, "kernel_shape") or []
            if not isinstance(kernel, list):  # an operator that has no such attribute
                continue
            if not kernel and len(node.input) > 1:
                kernel = list(view.shapes.get(node.input[1], ()))[2:]
            if len(kernel) > 3:
                yield Seen("window-rank", f"{len(kernel)} dimensions", place)
        if "Pool" in node.op_type and any(d != 1 for d in attribute(node, "dilations") or ()):
            plain = (
                node.op_type == "MaxPool"
                and not place.depth
                and not attribute(node, "ceil_mode", 0)
                and attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
                and not any(node.output[1:])
                and is_pool_of_taps(view, node)
            )
            yield Seen("pool-dilation", f"dilations {attribute(node, 'dilations')}", place,
                       curable=plain)  # fmt: skip
        padding = attribute(node, "auto_pad", "NOTSET")
        if padding not in ("NOTSET", "VALID"):
            yield Seen("auto-pad", f"{padding}", place,
                       curable=not place.depth and _spatial(view, node) is not None)  # fmt: skip
        elif node.op_type == "ConvTranspose" and attribute(node, "output_shape"):
            yield Seen("output-shape", f"{attribute(node, 'output_shape')}", place,
                       curable=not place.depth and _spatial(view, node) is not None)  # fmt: skip


def is_pool_of_taps(view: View, node: onnx.NodeProto) -> bool:
    """Whether a pooling's numbers go together, and its window is one to write out tap by tap."""
    kernel = attribute(node, "kernel_shape") or []
    lists = [attribute(node, name) or kernel for name in ("dilations", "strides")]
    pads = attribute(node, "pads") or [0] * (2 * len(kernel))
    return (
        len(kernel) == len(view.shapes.get(node.input[0], ())) - 2
        and all(len(numbers) == len(kernel) for numbers in lists)
        and len(pads) == 2 * len(kernel)
        and all(1 <= taps <= _MOST_TAPS for taps in kernel)
        and all(1 <= number <= _MOST_STEP for numbers in lists for number in numbers)
        and all(0 <= number <= _MOST_STEP for number in pads)
    )


def _spatial(view: View, node: onnx.NodeProto) -> tuple[int, ...] | None:
    shape = view.shapes.get(node.input[0])
    if shape is None or None in shape[2:]:
        return None
    return tuple(int(extent or 0) for extent in shape[2:])


def scattering(view: View, target: Target) -> Iterator[Seen]:
    """Scatter with a reduction, GridSample of volumes."""
    for place in view.places:
        node = place.node
        reduction = attribute(node, "reduction", "none")
        if reduction != "none" and node.op_type == "ScatterND":
            yield Seen("scatter-reduction", f"reduction {reduction}", place)
        if reduction != "none" and node.op_type == "ScatterElements":
            yield Seen("scatter-elements-reduction", f"reduction {reduction}", place)
        if node.op_type == "GroupNormalization" and view.opset >= 21:
            yield Seen("group-normalization", "its scale is one a channel", place,
                       curable=not place.depth)  # fmt: skip
        if node.op_type == "GridSample" and len(view.shapes.get(node.input[0], ())) > 4:
            yield Seen("grid-sample-rank", "5 dimensions", place)


def einsum(view: View, target: Target) -> Iterator[Seen]:
    """Equations with ``...`` or a repeated letter in one term."""
    for place in view.places:
        if place.node.op_type != "Einsum":
            continue
        equation = str(attribute(place.node, "equation", "")).replace(" ", "")
        terms = equation.partition("->")[0].split(",")
        diagonal = any(len(set(t.replace(".", ""))) < len(t.replace(".", "")) for t in terms)
        if "..." in equation or diagonal:
            known = all(name in view.shapes for name in place.node.input)
            yield Seen("einsum", equation, place,
                       curable=known and not diagonal and not place.depth)  # fmt: skip


def computed(view: View, target: Target) -> Iterator[Seen]:
    """Axes and bounds that are not constant."""
    for place in view.places:
        node = place.node
        if place.depth or node.domain not in STANDARD:
            continue
        at = {"Slice": 3, "CumSum": 1, "Squeeze": 1, "Unsqueeze": 1}.get(node.op_type)
        if node.op_type.startswith("Reduce"):
            at = 1
        axes = input_name(node, at) if at is not None else ""
        if axes and not view.is_known_from_shapes(axes):
            code = {"Slice": "slice-axes-computed", "CumSum": "cumsum-axis-computed"}
            yield Seen(code.get(node.op_type, "axes-computed"), f"they come from {axes!r}", place)
        if node.op_type == "Range" and view.types.get(node.output[0]) == onnx.TensorProto.FLOAT:
            loose = [n for n in node.input if not view.is_known_from_shapes(n)]
            if loose:
                yield Seen("range-computed", f"its bounds come from {loose[0]!r}", place)
        if node.op_type == "EyeLike":
            shape = view.shapes.get(node.input[0])
            if shape is None or None in shape:
                yield Seen("eyelike-dynamic", "its shape is not known", place)


def training(view: View, target: Target) -> Iterator[Seen]:
    """Batch normalisation and Dropout as they are while training."""
    for place in view.places:
        node = place.node
        if node.domain not in STANDARD:
            continue
        if node.op_type == "BatchNormalization":
            # Before opset 14 the number of outputs says it (ONNX, BatchNormalization-9).
            many = view.opset < 14 and any(node.output[1:])
            if attribute(node, "training_mode", 0) or many:
                yield Seen("training", "it normalises by the batch at hand", place)
        if node.op_type == "Dropout" and view.opset >= 12:
            mode = view.input_constant(node, 2)
            if mode is not None and bool(np.any(mode)):
                yield Seen("dropout-training", "training_mode is set", place)


CHECKS = (
    unknown_operators,
    quantised_arithmetic,
    deprecated,
    resize,
    pad,
    selection,
    windows,
    scattering,
    einsum,
    computed,
    training,
)
