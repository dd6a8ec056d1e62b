"""A Darknet network and its weights as an ONNX graph that keeps Boxwright's contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.darknet.activations import apply
from boxwright.darknet.decode import decode
from boxwright.darknet.layers import (
    IMAGE,
    Activation,
    BatchNorm,
    Blur,
    Connected,
    Convolutional,
    Crop,
    GlobalAverage,
    Head,
    Identity,
    Inert,
    Layer,
    Local,
    MaxPoolDepth,
    Pool,
    Reorg,
    Route,
    Scale,
    Shape,
    Shortcut,
    Upsample,
)
from boxwright.darknet.network import Network
from boxwright.darknet.weights import WeightsReader
from boxwright.graph.builder import GraphBuilder
from boxwright.model import IMAGES
from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from onnx import ModelProto

Activated = Convolutional | Connected | Local | Shortcut | Scale | Activation

# stbi__compute_y in stb_image: how Darknet's decoder makes grey of RGB.
LUMA = (77.0, 150.0, 29.0)


def to_onnx(
    network: Network, weights: WeightsReader, progress: ProgressCallback = silent
) -> tuple[ModelProto, dict[int, str]]:
    """Build the graph.

    Every layer's tensors bear its index and section, such as ``030_convolutional``.

    Returns:
        The model, and for each head's layer index the name of the tensor that enters it.

    Raises:
        WeightsError: The weights hold values that are not finite numbers.
    """
    writer = _Writer(network, weights)
    for layer in network.layers:
        writer.write(layer)
        progress("import", layer.index + 1, len(network.layers))
    writer.finish()
    return writer.graph.model, writer.head_tensors


class _Writer:
    """Writes one layer after another, remembering each one's output tensor."""

    def __init__(self, network: Network, weights: WeightsReader) -> None:
        self.network = network
        self.weights = weights
        self.graph = GraphBuilder("darknet")
        self.outputs: dict[int, str] = {}
        self.head_tensors: dict[int, str] = {}
        self.boxes: list[str] = []
        self.scores: list[str] = []
        self.kernels: dict[int, tuple[str, str]] = {}
        self.outputs[IMAGE] = self._preprocess()

    def write(self, layer: Layer) -> None:
        """Add one layer."""
        name = f"{layer.index:03d}_{layer.section.name}"
        inputs = [self.outputs.get(index, "") for index in layer.inputs]
        self.outputs[layer.index] = _WRITERS[type(layer)](self, layer, inputs, name)

    def _preprocess(self) -> str:
        from onnx import TensorProto

        shape = self.network.shape
        self.graph.images(shape.height, shape.width)
        x = self.graph.add("Cast", [IMAGES], "pre/float", to=TensorProto.FLOAT)
        if shape.channels == 1:
            luma = self.graph.constant("pre/luma", np.array(LUMA, np.float32)[:, None])
            x = self.graph.add("MatMul", [x, luma], "pre/weighted")
            x = self.graph.add("Mul", [x, self.graph.scalar(1 / 256)], "pre/grey")
            x = self.graph.add("Floor", [x], "pre/whole")
        x = self.graph.add("Mul", [x, self.graph.scalar(1 / 255)], "pre/scale")
        return self.graph.add("Transpose", [x], "pre/planes", perm=[0, 3, 1, 2])

    def finish(self) -> None:
        """Join the heads into the outputs."""
        heads = self.network.heads
        self.graph.detections(
            self.boxes,
            self.scores,
            classes=heads[0].classes,
            rows=sum(head.rows for head in heads),
        )

    def activate(self, layer: Activated, x: str, name: str) -> str:
        """The layer's activation."""
        return apply(self.graph, layer.activation, x, name)

    def blur(self, x: str, blur: Blur | None, shape: Shape, name: str) -> str:
        """The low-pass filter of an antialiased layer."""
        if blur is None:
            return x
        taps = np.array([1, 2, 1] if blur.size == 3 else [1, 1], np.float32)
        kernel = np.outer(taps, taps) / taps.sum() ** 2
        weights = np.tile(kernel, (shape.channels, 1, 1, 1)).astype(np.float32)
        return self.graph.add(
            "Conv",
            [x, self.graph.constant(f"{name}/blur/weights", weights)],
            f"{name}/blur",
            kernel_shape=[blur.size, blur.size],
            strides=[blur.stride_y, blur.stride_x],
            pads=[blur.padding] * 4,
            group=shape.channels,
        )


def _convolutional(writer: _Writer, layer: Convolutional, inputs: list[str], name: str) -> str:
    graph = writer.graph
    if layer.share is None:
        affine = writer.weights.convolutional(layer)
        writer.kernels[layer.index] = (
            graph.constant(f"{name}/weights", affine.weights),
            graph.constant(f"{name}/biases", affine.biases),
        )
    kernel = writer.kernels[layer.index if layer.share is None else layer.share]
    x = graph.add(
        "Conv",
        [*inputs, *kernel],
        f"{name}/conv",
        kernel_shape=[layer.size, layer.size],
        strides=[layer.stride_y, layer.stride_x],
        pads=[layer.padding * layer.dilation] * 4,
        dilations=[layer.dilation] * 2,
        group=layer.groups,
    )
    x = writer.activate(layer, x, name)
    return writer.blur(x, layer.blur, layer.shape, name)


def _connected(writer: _Writer, layer: Connected, inputs: list[str], name: str) -> str:
    graph = writer.graph
    affine = writer.weights.connected(layer)
    flat = graph.reshape(inputs[0], [0, layer.input_shape.size], f"{name}/flat")
    weights = graph.constant(f"{name}/weights", affine.weights)
    biases = graph.constant(f"{name}/biases", affine.biases)
    x = graph.add("Gemm", [flat, weights, biases], f"{name}/gemm", transB=1)
    x = writer.activate(layer, x, name)
    return graph.reshape(x, [0, layer.shape.channels, 1, 1], f"{name}/map")


def _local(writer: _Writer, layer: Local, inputs: list[str], name: str) -> str:
    """Patches as ``(places, values, N)``, multiplied by each place's own matrix."""
    graph = writer.graph
    affine = writer.weights.local(layer)
    places, filters, kernel = affine.weights.shape
    # A convolution with one-hot kernels takes the patches out (opset 17 has no Im2Col).
    area = layer.size * layer.size
    one_hot = np.eye(area, dtype=np.float32).reshape(area, 1, layer.size, layer.size)
    channels = layer.input_shape.channels
    taps = graph.constant(f"{name}/taps", np.tile(one_hot, (channels, 1, 1, 1)))
    x = graph.add(
        "Conv",
        [inputs[0], taps],
        f"{name}/patches",
        kernel_shape=[layer.size, layer.size],
        strides=[layer.stride] * 2,
        pads=[layer.padding] * 4,
        group=channels,
    )
    x = graph.reshape(x, [0, kernel, places], f"{name}/columns")
    x = graph.add("Transpose", [x], f"{name}/places", perm=[2, 1, 0])
    x = graph.add(
        "MatMul", [graph.constant(f"{name}/weights", affine.weights), x], f"{name}/product"
    )
    x = graph.add("Transpose", [x], f"{name}/filters", perm=[2, 1, 0])
    x = graph.add("Add", [x, graph.constant(f"{name}/biases", affine.biases)], f"{name}/sum")
    x = graph.reshape(x, [0, filters, layer.shape.height, layer.shape.width], f"{name}/map")
    return writer.activate(layer, x, name)


def _batchnorm(writer: _Writer, layer: BatchNorm, inputs: list[str], name: str) -> str:
    affine = writer.weights.batchnorm(layer)
    factor = writer.graph.constant(f"{name}/factor", _per_channel(affine.weights))
    offset = writer.graph.constant(f"{name}/offset", _per_channel(affine.biases))
    scaled = writer.graph.add("Mul", [inputs[0], factor], f"{name}/scaled")
    return writer.graph.add("Add", [scaled, offset], f"{name}/shifted")


def _pool(writer: _Writer, layer: Pool, inputs: list[str], name: str) -> str:
    attributes = {"count_include_pad": 0} if layer.kind == "average" else {}
    x = writer.graph.add(
        "MaxPool" if layer.kind == "max" else "AveragePool",
        inputs,
        f"{name}/pool",
        kernel_shape=[layer.size, layer.size],
        strides=[layer.stride_y, layer.stride_x],
        pads=list(layer.pads),
        **attributes,
    )
    return writer.blur(x, layer.blur, layer.shape, name)


def _maxpool_depth(writer: _Writer, layer: MaxPoolDepth, inputs: list[str], name: str) -> str:
    """``forward_maxpool_depth``: output channel g is the maximum of g, g + out, g + 2 out..."""
    graph, x = writer.graph, inputs[0]
    channels, outputs = layer.input_shape.channels, layer.shape.channels
    missing = -channels % outputs
    if missing:
        pads = graph.constant(f"{name}/pads", np.array([0, 0, 0, 0, 0, missing, 0, 0], np.int64))
        lowest = graph.scalar(float(np.finfo(np.float32).min))
        x = graph.add("Pad", [x, pads, lowest], f"{name}/padded")
    extents = [layer.shape.height, layer.shape.width]
    x = graph.reshape(x, [0, -1, outputs, *extents], f"{name}/groups")
    return graph.add("ReduceMax", [x], f"{name}/max", axes=[1], keepdims=0)


def _global_average(writer: _Writer, _layer: Layer, inputs: list[str], name: str) -> str:
    return writer.graph.add("GlobalAveragePool", inputs, f"{name}/mean")


def _route(writer: _Writer, layer: Route, inputs: list[str], name: str) -> str:
    graph, parts = writer.graph, []
    for position, (index, x) in enumerate(zip(layer.inputs, inputs, strict=True)):
        if layer.groups > 1:
            channels = _shape_of(writer, index).channels // layer.groups
            start = layer.group_id * channels
            x = graph.slice(x, start, start + channels, 1, f"{name}/group{position}")
        parts.append(x)
    return graph.add("Concat", parts, f"{name}/concat", axis=1) if len(parts) > 1 else parts[0]


def _shortcut(writer: _Writer, layer: Shortcut, inputs: list[str], name: str) -> str:
    """``shortcut_multilayer_cpu``: sums over the leading channels that both have."""
    graph, own = writer.graph, layer.shape.channels
    factors: NDArray[np.float32] | None = None
    if layer.weights_per_layer:
        factors = writer.weights.shortcut(layer)
    parts = []
    for position, (x, channels) in enumerate(zip(inputs, (own, *layer.channels), strict=True)):
        if channels > own:
            x = graph.slice(x, 0, own, 1, f"{name}/leading{position}")
        if factors is not None:
            value = factors[position]
            factor = _per_channel(value[:channels] if len(value) > 1 else value)
            constant = graph.constant(f"{name}/factor{position}", factor)
            x = graph.add("Mul", [x, constant], f"{name}/weighted{position}")
        parts.append((x, min(channels, own)))
    total = parts[0][0]
    for position, (x, channels) in enumerate(parts[1:], start=1):
        label = f"{name}/sum{position}" if len(parts) > 2 else f"{name}/sum"
        if channels == own:
            total = graph.add("Add", [total, x], label)
            continue
        shared, rest = graph.split(total, [channels, own - channels], 1, f"{label}/channels")
        added = graph.add("Add", [shared, x], f"{label}/shared")
        total = graph.add("Concat", [added, rest], label, axis=1)
    return writer.activate(layer, total, name)


def _upsample(writer: _Writer, layer: Upsample, inputs: list[str], name: str) -> str:
    graph, stride, scale = writer.graph, layer.stride, layer.scale
    if layer.reverse:
        # The sum over a block is its mean times the block's size.
        extents = [stride, stride]
        x = graph.add("AveragePool", inputs, f"{name}/mean", kernel_shape=extents, strides=extents)
        scale *= stride * stride
    else:
        scales = graph.constant(f"{name}/scales", np.array([1, 1, stride, stride], np.float32))
        x = graph.add(
            "Resize",
            [inputs[0], "", scales],
            f"{name}/nearest",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    return x if scale == 1 else graph.add("Mul", [x, graph.scalar(scale)], f"{name}/scaled")


def _reorg(writer: _Writer, layer: Reorg, inputs: list[str], name: str) -> str:
    if layer.three_d:
        operator = "DepthToSpace" if layer.reverse else "SpaceToDepth"
        return writer.graph.add(operator, inputs, f"{name}/blocks", blocksize=layer.stride)
    return _reorg_shuffle(writer, layer, inputs[0], name)


def _reorg_shuffle(writer: _Writer, layer: Reorg, x: str, name: str) -> str:
    """``reorg_cpu`` in ``src/blas.c`` as ``[reorg]`` calls it: with the input's own extents.

    It takes the ``C x H x W`` input for an image of ``C/s² x sH x sW``, moves that one's
    blocks to channels, and what comes out, again ``C x H x W``, is read as the output
    shape. With ``reverse`` it does the opposite. The values are those of every network
    trained with it, so the oddity is part of YOLOv2.
    """
    graph, source, stride = writer.graph, layer.input_shape, layer.stride
    outer = source.channels // (stride * stride)
    if layer.reverse:
        blocks = [0, stride, stride, outer, source.height, source.width]
        perm = [0, 3, 4, 1, 5, 2]
    else:
        blocks = [0, outer, source.height, stride, source.width, stride]
        perm = [0, 3, 5, 1, 2, 4]
    x = graph.reshape(x, blocks, f"{name}/blocks")
    x = graph.add("Transpose", [x], f"{name}/moved", perm=perm)
    return graph.reshape(x, [0, *layer.shape], f"{name}/map")


def _scale(writer: _Writer, layer: Scale, inputs: list[str], name: str) -> str:
    product = writer.graph.add("Mul", [inputs[1], inputs[0]], f"{name}/product")
    return writer.activate(layer, product, name)


def _crop(writer: _Writer, layer: Crop, inputs: list[str], name: str) -> str:
    """``forward_crop_layer`` at inference."""
    graph, source, shape = writer.graph, layer.input_shape, layer.shape
    top, left = (source.height - shape.height) // 2, (source.width - shape.width) // 2
    x = graph.slice(inputs[0], top, top + shape.height, 2, f"{name}/rows")
    x = graph.slice(x, left, left + shape.width, 3, f"{name}/columns")
    if layer.noadjust:
        return x
    x = graph.add("Mul", [x, graph.scalar(2.0)], f"{name}/doubled")
    return graph.add("Sub", [x, graph.scalar(1.0)], f"{name}/centred")


def _activation(writer: _Writer, layer: Activation, inputs: list[str], name: str) -> str:
    return writer.activate(layer, inputs[0], name)


def _pass_on(_writer: _Writer, _layer: Layer, inputs: list[str], _name: str) -> str:
    return inputs[0]


def _head(writer: _Writer, layer: Head, inputs: list[str], _name: str) -> str:
    boxes, scores = decode(writer.graph, layer, inputs[0], writer.network.shape)
    writer.boxes.append(boxes)
    writer.scores.append(scores)
    writer.head_tensors[layer.index] = inputs[0]
    return ""


def _inert(_writer: _Writer, _layer: Layer, _inputs: list[str], _name: str) -> str:
    return ""


def _per_channel(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values.reshape(1, -1, 1, 1)


def _shape_of(writer: _Writer, index: int) -> Shape:
    return writer.network.shape if index == IMAGE else writer.network.layers[index].shape


# Each is called with the type of layer it stands behind, which a dict's type cannot say.
_WRITERS: dict[type[Layer], Callable[[_Writer, Any, list[str], str], str]] = {
    Convolutional: _convolutional,
    Connected: _connected,
    Local: _local,
    BatchNorm: _batchnorm,
    Pool: _pool,
    MaxPoolDepth: _maxpool_depth,
    GlobalAverage: _global_average,
    Route: _route,
    Shortcut: _shortcut,
    Upsample: _upsample,
    Reorg: _reorg,
    Scale: _scale,
    Crop: _crop,
    Activation: _activation,
    Identity: _pass_on,
    Inert: _inert,
    Head: _head,
}
