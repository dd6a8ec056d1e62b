"""Operations on planes: convolutions, pooling, resizing, padding, normalisation.

Meanings are those of https://www.tensorflow.org/api_docs/python/tf/raw_ops and, for the
padding ``SAME``, of https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from boxwright.importers.tensorflow.lowering import Lowering, Operation, Tensor, absent
from boxwright.importers.tensorflow.network import Array, Node

# To OIHW, from the layouts that TensorFlow and TensorFlow Lite keep kernels in.
_KERNELS = {"HWIO": (3, 2, 0, 1), "OHWI": (0, 3, 1, 2), "1HWO": (3, 0, 1, 2)}


def _pair(value: Any, what: str) -> tuple[int, int]:
    """Height and width of a setting, given as these two or as all four of NHWC."""
    numbers = [int(x) for x in value]
    if len(numbers) == 4:
        if numbers[0] != 1 or numbers[3] != 1:
            raise ValueError(f"{what} are {numbers}")
        numbers = numbers[1:3]
    if len(numbers) != 2 or not all(1 <= x <= 1 << 14 for x in numbers):
        raise ValueError(f"{what} are {numbers}")
    return numbers[0], numbers[1]


def _check_layout(lo: Lowering, node: Node) -> None:
    layout = node.attributes.get("data_format") or "NHWC"
    if layout != "NHWC":
        lo.network.fail(node, f"its images are {layout}; NHWC is converted, so export it as that")


def _windows(
    lo: Lowering,
    node: Node,
    size: Sequence[int],
    reach: Sequence[int],
    strides: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Extents of the result and ONNX's pads: top, left, bottom, right."""
    padding = node.attributes.get("padding")
    begin, end, extents = [], [], []
    explicit = list(node.attributes.get("explicit_paddings") or [])
    for axis, (have, window, stride) in enumerate(zip(size, reach, strides, strict=True)):
        if padding == "SAME":
            total = max((math.ceil(have / stride) - 1) * stride + window - have, 0)
            first, last = total // 2, total - total // 2
        elif padding == "VALID":
            first = last = 0
        elif padding == "EXPLICIT" and len(explicit) == 8:
            first, last = (int(x) for x in explicit[2 + 2 * axis : 4 + 2 * axis])
        else:
            lo.network.fail(node, f"its padding is {padding!r}")
        begin.append(first)
        end.append(last)
        extents.append((have + first + last - window) // stride + 1)
    if min(begin + end) < 0:
        lo.network.fail(node, "its padding is negative")
    if min(extents) < 1:
        lo.network.fail(
            node, f"its window of {list(reach)} is larger than its input of {list(size)}"
        )
    return extents, begin + end


def _convolution(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    _check_layout(lo, node)
    image, kernel = x[0], lo.floats(node, x[1], "weights")
    layout = node.attributes.get("kernel", "HWIO")
    depthwise = node.kind == "DepthwiseConv2dNative"
    if len(image.shape) != 4 or kernel.ndim != 4:
        lo.network.fail(node, f"it works on {image.shape} and {kernel.shape}, not on four axes")
    channels = image.shape[3]

    def permute(data: Array) -> Array:
        if depthwise and layout == "HWIO":
            # HWCM: the results of one channel follow each other.
            data = data.reshape(*data.shape[:2], 1, -1)
        return data.transpose(_KERNELS[layout])

    filters, per_group, *window = permute(kernel).shape
    groups = channels // per_group
    if channels % per_group or filters % max(groups, 1) or (depthwise and per_group != 1):
        lo.network.fail(node, f"a kernel of {list(kernel.shape)} on {channels} channels")
    strides = _pair(node.attributes["strides"], "strides")
    dilations = _pair(node.attributes.get("dilations") or (1, 1), "dilations")
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    extents, pads = _windows(lo, node, image.shape[1:3], reach, strides)
    inputs = [lo.get(image, "planes"), lo.weights(node, 1, permute)]
    if len(x) > 2 and not absent(x[2]):
        bias = lo.floats(node, x[2], "bias").reshape(-1)
        if bias.shape != (filters,):
            lo.network.fail(node, f"a bias of {bias.size} for {filters} filters")
        inputs.append(lo.constant(f"{node.name}/bias", bias.astype(np.float32)))
    settings = {"kernel_shape": window, "strides": strides, "dilations": dilations, "pads": pads}
    shape = (image.shape[0], *extents, filters)
    return [lo.emit(node, "Conv", inputs, shape, "planes", group=groups, **settings)]


def _transposed(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    _check_layout(lo, node)
    size = lo.integers(node, x[0], "output size")
    image, kernel = x[2], lo.floats(node, x[1], "weights")
    if len(image.shape) != 4 or kernel.ndim != 4 or len(size) not in (2, 4):
        lo.network.fail(node, "it works on other than four axes")
    # TensorFlow's kernel is HWOI here, TensorFlow Lite's OHWI; ONNX wants IOHW.
    order = (3, 0, 1, 2) if node.attributes.get("kernel") == "OHWI" else (3, 2, 0, 1)
    inner, filters, *window = kernel.transpose(order).shape
    height, width = size[1:3] if len(size) == 4 else size
    strides = _pair(node.attributes["strides"], "strides")
    if _pair(node.attributes.get("dilations") or (1, 1), "dilations") != (1, 1):
        lo.network.fail(node, "it is dilated")
    # It is the gradient of the convolution from the larger to the smaller, whose padding it has.
    extents, pads = _windows(lo, node, (height, width), window, strides)
    if extents != list(image.shape[1:3]) or inner != image.shape[3]:
        lo.network.fail(node, f"its output of {height}x{width} does not fit {image.shape}")
    grown = [
        (e - 1) * s + k - p - q
        for e, s, k, p, q in zip(extents, strides, window, pads[:2], pads[2:], strict=True)
    ]
    more = [height - grown[0], width - grown[1]]
    kernels = lo.weights(node, 1, lambda data: data.transpose(order), axis=1)
    inputs = [lo.get(image, "planes"), kernels]
    if len(x) > 3 and not absent(x[3]):
        inputs.append(lo.constant(f"{node.name}/bias", lo.floats(node, x[3], "bias").reshape(-1)))
    shape = (image.shape[0], height, width, filters)
    settings = {"kernel_shape": window, "strides": strides, "pads": pads, "output_padding": more}
    return [lo.emit(node, "ConvTranspose", inputs, shape, "planes", **settings)]


def _pool(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    _check_layout(lo, node)
    (image,) = x
    if len(image.shape) != 4:
        lo.network.fail(node, f"it works on {image.shape}, not on four axes")
    window = _pair(node.attributes["ksize"], "window")
    strides = _pair(node.attributes["strides"], "strides")
    extents, pads = _windows(lo, node, image.shape[1:3], window, strides)
    operator = "MaxPool" if node.kind.startswith("Max") else "AveragePool"
    settings = {"kernel_shape": window, "strides": strides, "pads": pads}
    shape = (image.shape[0], *extents, image.shape[3])
    return [lo.emit(node, operator, [lo.get(image, "planes")], shape, "planes", **settings)]


def _resize(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    image, size = x[0], lo.integers(node, x[1], "size")
    if len(image.shape) != 4 or len(size) != 2 or not all(1 <= s <= 1 << 14 for s in size):
        lo.network.fail(node, f"it brings {image.shape} to {size}")
    corners = node.attributes.get("align_corners")
    middle = node.attributes.get("half_pixel_centers")
    settings: dict[str, Any] = {
        "coordinate_transformation_mode": "align_corners"
        if corners
        else "half_pixel"
        if middle
        else "asymmetric"
    }
    if node.kind == "ResizeBilinear":
        settings["mode"] = "linear"
    else:
        # Half a pixel further, floor is the nearest with halves rounded up; so is what
        # TensorFlow does where corners are aligned.
        rounding = "round_prefer_ceil" if corners or middle else "floor"
        settings |= {"mode": "nearest", "nearest_mode": rounding}
    factors = [_factor(have, want) for have, want in zip(image.shape[1:3], size, strict=True)]
    scales = lo.constant(f"{node.name}/scales", np.array([1, 1, *factors], np.float32))
    shape = (image.shape[0], *size, image.shape[3])
    inputs = [lo.get(image, "planes"), "", scales]
    return [lo.emit(node, "Resize", inputs, shape, "planes", **settings)]


def _factor(have: int, want: int) -> np.float32:
    """A float32 factor that makes exactly `want` of `have`, which ONNX rounds down."""
    factor = np.float32(want / have)
    if math.floor(have * float(factor)) < want:
        factor = np.nextafter(factor, np.float32(np.inf))
    return np.float32(factor)


def _pad(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    image, amounts = x[0], lo.integers(node, x[1], "padding")
    rank = len(image.shape)
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    if len(pairs) != rank or min(amounts, default=0) < 0 or pairs[0] != (0, 0):
        lo.network.fail(node, f"it pads {rank} axes by {amounts}")
    layout = image.layout if rank == 4 else "plain"
    order = (0, 3, 1, 2) if layout == "planes" else range(rank)
    pads = [pairs[axis][side] for side in (0, 1) for axis in order]
    mode = "constant"
    if node.kind == "MirrorPad":
        if node.attributes.get("mode") != "REFLECT":
            lo.network.fail(node, "it repeats the edge (SYMMETRIC), which ONNX cannot")
        mode = "reflect"
    inputs = [
        lo.get(image, layout),
        lo.constant(f"{node.name}/pads", np.array(pads, np.int64)),
    ]
    if node.kind == "PadV2":
        filler = lo.floats(node, x[2], "filler").reshape(())
        inputs.append(lo.constant(f"{node.name}/filler", filler.astype(np.float32)))
    shape = [extent + sum(pair) for extent, pair in zip(image.shape, pairs, strict=True)]
    return [lo.emit(node, "Pad", inputs, shape, layout, mode=mode)]


def _batch_norm(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    _check_layout(lo, node)
    if node.attributes.get("is_training", True):
        lo.network.fail(node, "it is in training mode: export the network for inference")
    image = x[0]
    if len(image.shape) != 4 or any(t.shape != (image.shape[3],) for t in x[1:5]):
        lo.network.fail(node, "its statistics do not fit its input")
    names = ("gamma", "beta", "mean", "variance")
    inputs = [lo.get(image, "planes")]
    for name, tensor in zip(names, x[1:5], strict=True):
        data = lo.floats(node, tensor, name).astype(np.float32)
        inputs.append(lo.constant(f"{node.name}/{name}", data))
    # TensorFlow's own default.
    epsilon = float(node.attributes.get("epsilon") or 1e-4)
    return [lo.emit(node, "BatchNormalization", inputs, image.shape, "planes", epsilon=epsilon)]


def _space_to_depth(lo: Lowering, node: Node, x: list[Tensor]) -> list[Tensor]:
    _check_layout(lo, node)
    image, block = x[0], int(node.attributes["block_size"])
    batch, height, width, channels = image.shape
    if not 2 <= block <= 64:
        lo.network.fail(node, f"its block has {block} pixels")
    planes = [lo.get(image, "planes")]
    if node.kind == "SpaceToDepth":
        if height % block or width % block:
            lo.network.fail(node, f"{height}x{width} are no multiples of {block}")
        # Both put the place in the block before the channel.
        shape = (batch, height // block, width // block, channels * block**2)
        return [lo.emit(node, "SpaceToDepth", planes, shape, "planes", blocksize=block)]
    if channels % block**2:
        lo.network.fail(node, f"{channels} channels are no multiple of {block**2}")
    shape = (batch, height * block, width * block, channels // block**2)
    return [lo.emit(node, "DepthToSpace", planes, shape, "planes", blocksize=block, mode="DCR")]


OPERATIONS: dict[str, Operation] = {
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _convolution,
    "Conv2DBackpropInput": _transposed,
    "MaxPool": _pool,
    "AvgPool": _pool,
    "ResizeBilinear": _resize,
    "ResizeNearestNeighbor": _resize,
    "Pad": _pad,
    "PadV2": _pad,
    "MirrorPad": _pad,
    "FusedBatchNorm": _batch_norm,
    "FusedBatchNormV2": _batch_norm,
    "FusedBatchNormV3": _batch_norm,
    "SpaceToDepth": _space_to_depth,
    "DepthToSpace": _space_to_depth,
}
