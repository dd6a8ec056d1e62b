"""From a Darknet network and its weights to the layers of an ``INetworkDefinition``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.darknet.layers import (
    IMAGE,
    Activation,
    BatchNorm,
    Convolutional,
    GlobalAverage,
    Head,
    Identity,
    Inert,
    Layer,
    Pool,
    Reorg,
    Route,
    Scale,
    Shape,
    Shortcut,
    Upsample,
)
from boxwright.darknet.network import Network
from boxwright.darknet.onnx import LUMA
from boxwright.darknet.tensorrt.activations import ACTIVATIONS, activate
from boxwright.darknet.tensorrt.decode import decode
from boxwright.darknet.tensorrt.graph import NetworkGraph
from boxwright.darknet.weights import WeightsReader
from boxwright.model import BOXES, IMAGES, SCORES
from boxwright.progress import ProgressCallback, silent

Activated = Convolutional | Shortcut | Scale | Activation


@dataclass(frozen=True)
class Definition:
    """What must outlive :func:`define_network`.

    Attributes:
        weights: The arrays TensorRT refers to. Keep this object until the engine is built;
            TensorRT does not copy them before.
        heads: For each head's layer index the name of the tensor that enters it.
    """

    weights: tuple[NDArray[Any], ...]
    heads: dict[int, str]


def define_network(
    network: Any,
    darknet: Network,
    weights: WeightsReader,
    trt: Any,
    progress: ProgressCallback = silent,
) -> Definition:
    """Define `darknet` in an empty network, keeping Boxwright's contract.

    The input is ``images``, uint8 ``(N, H, W, 3)`` with a dynamic N: give the builder
    configuration an optimization profile for it. The outputs are ``boxes``, float32
    ``(N, A, 4)``, ``xyxy`` in pixels, and ``scores``, float32 ``(N, A, C)``. Batch
    normalisation is folded into the convolutions. Everything is float32. Layers bear the
    names that the nodes of the ONNX graph bear.

    Args:
        network: An empty ``INetworkDefinition`` with an explicit batch.
        darknet: The network.
        weights: Its weights, not read from yet.
        trt: The module `network` comes from: ``tensorrt`` from 8.6 on, or ``tensorrt_rtx``.
        progress: Called once for each layer.

    Raises:
        UnsupportedError: A layer this package does not define, with its file and line;
            raised before anything is added.
        BuildError: TensorRT refuses a layer.
        WeightsError: The weights hold values that are not finite numbers.
    """
    for layer in darknet.layers:
        _check(layer)
    definer = _Definer(network, darknet, weights, trt)
    for layer in darknet.layers:
        definer.define(layer)
        progress("define", layer.index + 1, len(darknet.layers))
    definer.finish()
    return Definition(tuple(definer.graph.kept), definer.heads)


def _check(layer: Layer) -> None:
    """Refuse what cannot be defined, before hundreds of layers are."""
    suffix = "; import it to ONNX instead"
    if type(layer) not in _DEFINERS:
        layer.section.unsupported(
            f"this layer is not defined through TensorRT's network API{suffix}"
        )
    if isinstance(layer, (Convolutional, Pool)) and layer.blur is not None:
        layer.section.unsupported(
            f"antialiasing is not defined through TensorRT's network API{suffix}", "antialiasing"
        )
    if isinstance(layer, Activated) and layer.activation not in ACTIVATIONS:
        layer.section.unsupported(
            f"activation {layer.activation} is not defined through TensorRT's network API; "
            f"defined are {', '.join(ACTIVATIONS)}{suffix}",
            "activation",
        )
    if isinstance(layer, Head) and layer.kind not in ("yolo", "region"):
        layer.section.unsupported(
            f"this head is not defined through TensorRT's network API{suffix}"
        )
    if isinstance(layer, Head) and layer.tree is not None:
        layer.section.unsupported(
            f"class trees are not defined through TensorRT's network API{suffix}", "tree"
        )


class _Definer:
    """Defines one layer after another, remembering each one's output tensor."""

    def __init__(self, network: Any, darknet: Network, weights: WeightsReader, trt: Any) -> None:
        self.darknet = darknet
        self.weights = weights
        self.trt = trt
        self.graph = NetworkGraph(network, trt)
        self.outputs: dict[int, Any] = {}
        self.heads: dict[int, str] = {}
        self.boxes: list[Any] = []
        self.scores: list[Any] = []
        self.kernels: dict[int, tuple[Any, Any]] = {}
        self.outputs[IMAGE] = self._preprocess()

    def define(self, layer: Layer) -> None:
        """Add one layer."""
        name = f"{layer.index:03d}_{layer.section.name}"
        inputs = [self.outputs.get(index) for index in layer.inputs]
        self.outputs[layer.index] = _DEFINERS[type(layer)](self, layer, inputs, name)

    def _preprocess(self) -> Any:
        """uint8 RGB pixels to planes from 0 to 1, or Darknet's grey."""
        graph, shape = self.graph, self.darknet.shape
        x = graph.input_pixels(IMAGES, (shape.height, shape.width, 3), "pre/float")
        if shape.channels == 1:
            luma = np.array(LUMA, np.float32).reshape(1, 1, 1, 3)
            x = graph.elementwise("PROD", x, graph.constant(luma, "pre/luma"), "pre/products")
            x = graph.reduce("SUM", x, [3], "pre/weighted")
            x = graph.elementwise("PROD", x, graph.scalar(1 / 256, 4), "pre/grey")
            x = graph.unary("FLOOR", x, "pre/whole")
        x = graph.elementwise("PROD", x, graph.scalar(1 / 255, 4), "pre/scale")
        return graph.shuffle(x, "pre/planes", perm=(0, 3, 1, 2))

    def finish(self) -> None:
        """Join the heads into the outputs."""
        for name, parts in ((BOXES, self.boxes), (SCORES, self.scores)):
            self.graph.output(self.graph.concatenation(parts, 1, f"decode/{name}"), name)

    def activate(self, layer: Activated, x: Any, name: str) -> Any:
        """The layer's activation."""
        return activate(self.graph, layer.activation, x, name)

    def shape_of(self, index: int) -> Shape:
        """Shape of a layer's output, or of the network's input."""
        return self.darknet.shape if index == IMAGE else self.darknet.layers[index].shape


def _convolutional(definer: _Definer, layer: Convolutional, inputs: list[Any], name: str) -> Any:
    graph = definer.graph
    if layer.share is None:
        affine = definer.weights.convolutional(layer)
        definer.kernels[layer.index] = graph.weights(affine.weights), graph.weights(affine.biases)
    kernel, bias = definer.kernels[layer.index if layer.share is None else layer.share]
    extents = (layer.size, layer.size)
    convolution = graph.layer(
        "convolution_nd", f"{name}/conv", inputs[0], layer.filters, extents, kernel, bias
    )
    convolution.stride_nd = (layer.stride_y, layer.stride_x)
    convolution.padding_nd = (layer.padding * layer.dilation,) * 2
    convolution.dilation_nd = (layer.dilation,) * 2
    convolution.num_groups = layer.groups
    return definer.activate(layer, convolution.get_output(0), name)


def _batchnorm(definer: _Definer, layer: BatchNorm, inputs: list[Any], name: str) -> Any:
    """``x * factor + offset``, one of each for every channel: an ``IScaleLayer``."""
    affine = definer.weights.batchnorm(layer)
    graph, mode = definer.graph, definer.trt.ScaleMode.CHANNEL
    shift, scale = graph.weights(affine.biases), graph.weights(affine.weights)
    power = graph.weights(np.ones_like(affine.weights))
    return graph.layer("scale", f"{name}/affine", inputs[0], mode, shift, scale, power).get_output(
        0
    )


def _pool(definer: _Definer, layer: Pool, inputs: list[Any], name: str) -> Any:
    kinds = definer.trt.PoolingType
    kind = kinds.MAX if layer.kind == "max" else kinds.AVERAGE
    extents = (layer.size, layer.size)
    pool = definer.graph.layer("pooling_nd", f"{name}/pool", inputs[0], kind, extents)
    top, left, bottom, right = layer.pads
    pool.stride_nd = (layer.stride_y, layer.stride_x)
    pool.pre_padding, pool.post_padding = (top, left), (bottom, right)
    pool.average_count_excludes_padding = True
    return pool.get_output(0)


def _global_average(definer: _Definer, _layer: Layer, inputs: list[Any], name: str) -> Any:
    return definer.graph.reduce("AVG", inputs[0], [2, 3], f"{name}/mean")


def _route(definer: _Definer, layer: Route, inputs: list[Any], name: str) -> Any:
    graph, parts = definer.graph, []
    for position, (index, x) in enumerate(zip(layer.inputs, inputs, strict=True)):
        if layer.groups > 1:
            source = definer.shape_of(index)
            part = source._replace(channels=source.channels // layer.groups)
            start = layer.group_id * part.channels
            x = graph.slice(x, part, 1, start, f"{name}/group{position}")
        parts.append(x)
    return graph.concatenation(parts, 1, f"{name}/concat")


def _shortcut(definer: _Definer, layer: Shortcut, inputs: list[Any], name: str) -> Any:
    """``shortcut_multilayer_cpu``: sums over the leading channels that both have."""
    graph, own = definer.graph, layer.shape.channels
    factors = definer.weights.shortcut(layer) if layer.weights_per_layer else None
    total: Any = None
    for position, (x, channels) in enumerate(zip(inputs, (own, *layer.channels), strict=True)):
        shared = min(channels, own)
        if channels > own:
            x = graph.slice(x, layer.shape, 1, 0, f"{name}/leading{position}")
        if factors is not None:
            value = factors[position]
            factor = (value[:shared] if len(value) > 1 else value).reshape(1, -1, 1, 1)
            constant = graph.constant(factor, f"{name}/factor{position}")
            x = graph.elementwise("PROD", x, constant, f"{name}/weighted{position}")
        if total is None:
            total = x
            continue
        label = f"{name}/sum{position}" if len(inputs) > 2 else f"{name}/sum"
        total = _add_leading(graph, total, x, layer.shape, shared, label)
    return definer.activate(layer, total, name)


def _add_leading(
    graph: NetworkGraph, total: Any, x: Any, shape: Shape, shared: int, name: str
) -> Any:
    """Add `x` to the first `shared` channels of `total`."""
    if shared == shape.channels:
        return graph.elementwise("SUM", total, x, name)
    leading, rest = (shape._replace(channels=n) for n in (shared, shape.channels - shared))
    first = graph.slice(total, leading, 1, 0, f"{name}/channels/0")
    last = graph.slice(total, rest, 1, shared, f"{name}/channels/1")
    return graph.concatenation(
        [graph.elementwise("SUM", first, x, f"{name}/shared"), last], 1, name
    )


def _upsample(definer: _Definer, layer: Upsample, inputs: list[Any], name: str) -> Any:
    graph, trt, scale = definer.graph, definer.trt, layer.scale
    if layer.reverse:
        # The sum over a block is its mean times the block's size.
        extents = (layer.stride, layer.stride)
        arguments = (inputs[0], trt.PoolingType.AVERAGE, extents)
        mean = graph.layer("pooling_nd", f"{name}/mean", *arguments)
        mean.stride_nd = extents
        x, scale = mean.get_output(0), scale * layer.stride**2
    else:
        resize = graph.layer("resize", f"{name}/nearest", inputs[0])
        resize.scales = (1.0, 1.0, float(layer.stride), float(layer.stride))
        # TensorRT 8.6 calls this type ResizeMode as well, later ones only this.
        resize.resize_mode = trt.InterpolationMode.NEAREST
        resize.coordinate_transformation = trt.ResizeCoordinateTransformation.ASYMMETRIC
        resize.nearest_rounding = trt.ResizeRoundMode.FLOOR
        x = resize.get_output(0)
    if scale == 1:
        return x
    return graph.elementwise("PROD", x, graph.scalar(scale, 4), f"{name}/scaled")


def _reorg(definer: _Definer, layer: Reorg, inputs: list[Any], name: str) -> Any:
    """Blocks to channels or back.

    ``[reorg]`` reads its input as an image of other extents than it has (see
    ``boxwright.darknet.onnx``); ``[reorg3d]`` does as one expects.
    """
    source, stride = layer.input_shape, layer.stride
    outer = source.channels // (stride * stride)
    if layer.reverse:
        before = (0, stride, stride, outer, source.height, source.width)
        perm = (0, 3, 4, 1, 5, 2)
    else:
        rows, columns = source.height, source.width
        if layer.three_d:
            outer, rows, columns = source.channels, rows // stride, columns // stride
        before = (0, outer, rows, stride, columns, stride)
        perm = (0, 3, 5, 1, 2, 4)
    return definer.graph.shuffle(
        inputs[0], f"{name}/map", before=before, perm=perm, after=(0, *layer.shape)
    )


def _scale(definer: _Definer, layer: Scale, inputs: list[Any], name: str) -> Any:
    product = definer.graph.elementwise("PROD", inputs[1], inputs[0], f"{name}/product")
    return definer.activate(layer, product, name)


def _activation(definer: _Definer, layer: Activation, inputs: list[Any], name: str) -> Any:
    return definer.activate(layer, inputs[0], name)


def _pass_on(_definer: _Definer, _layer: Layer, inputs: list[Any], _name: str) -> Any:
    return inputs[0]


def _head(definer: _Definer, layer: Head, inputs: list[Any], _name: str) -> None:
    boxes, scores = decode(definer.graph, layer, inputs[0], definer.darknet.shape)
    definer.boxes.append(boxes)
    definer.scores.append(scores)
    definer.heads[layer.index] = inputs[0].name


def _inert(_definer: _Definer, _layer: Layer, _inputs: list[Any], _name: str) -> None:
    return None


# Each is called with the type of layer it stands behind, which a dict's type cannot say.
_DEFINERS: dict[type[Layer], Callable[[_Definer, Any, list[Any], str], Any]] = {
    Convolutional: _convolutional,
    BatchNorm: _batchnorm,
    Pool: _pool,
    GlobalAverage: _global_average,
    Route: _route,
    Shortcut: _shortcut,
    Upsample: _upsample,
    Reorg: _reorg,
    Scale: _scale,
    Activation: _activation,
    Identity: _pass_on,
    Inert: _inert,
    Head: _head,
}
