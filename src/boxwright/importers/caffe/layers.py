"""Which function converts which type of layer, and going through all of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

from boxwright.importers.caffe import affine, elementwise, pooling, priors, shaping
from boxwright.importers.caffe.network import Layer, Network
from boxwright.importers.caffe.writer import Blob, Writer
from boxwright.progress import ProgressCallback

Convert = Callable[[Writer, Layer], list[Blob]]

CONVERTERS: dict[str, Convert] = {
    "AbsVal": elementwise.plain("Abs"),
    "Axpy": elementwise.axpy,
    "BNLL": elementwise.plain("Softplus"),
    "BatchNorm": affine.batch_norm,
    "Bias": affine.bias,
    "Clip": elementwise.clip,
    "Concat": shaping.concat,
    "Convolution": affine.convolution,
    "ConvolutionDepthwise": affine.convolution,
    "Crop": shaping.crop,
    "Deconvolution": affine.convolution,
    "DepthwiseConvolution": affine.convolution,
    "Dropout": elementwise.dropout,
    "ELU": elementwise.elu,
    "Eltwise": elementwise.eltwise,
    "Exp": elementwise.exponential,
    "Flatten": shaping.flatten,
    "InnerProduct": affine.inner_product,
    "Interp": shaping.interp,
    "LRN": pooling.lrn,
    "Log": elementwise.logarithm,
    "MVN": pooling.mvn,
    "Normalize": pooling.normalize,
    "PReLU": elementwise.prelu,
    "Permute": shaping.permute,
    "Pooling": pooling.pooling,
    "Power": elementwise.power,
    "PriorBox": priors.prior_box,
    "ReLU": elementwise.relu,
    "ReLU6": elementwise.relu6,
    "Reduction": pooling.reduction,
    "Reshape": shaping.reshape,
    "Scale": affine.scale,
    "ShuffleChannel": shaping.shuffle_channel,
    "Sigmoid": elementwise.plain("Sigmoid"),
    "Slice": shaping.slice_,
    "Softmax": elementwise.softmax,
    "Split": shaping.split,
    "Swish": elementwise.swish,
    "TanH": elementwise.plain("Tanh"),
    "Upsample": shaping.upsample,
}


def write_layers(
    writer: Writer, network: Network, heads: frozenset[str], progress: ProgressCallback
) -> list[Layer]:
    """Convert all layers but those of the types `heads`.

    Returns:
        The layers of those types.

    Raises:
        CfgError: A layer is of an unknown type, or contradicts what it takes.
        WeightsError: Its blobs are missing or of another shape.
    """
    uses = _uses(network)
    left = []
    for layer in network.layers:
        if layer.kind in heads:
            left.append(layer)
            continue
        convert = CONVERTERS.get(layer.kind)
        if convert is None:
            layer.unsupported(f"layers of type {layer.kind[:40]!r} are not supported")
        blobs = convert(writer, layer)
        if len(blobs) != len(layer.tops):
            layer.fail(f"it gives {len(blobs)} tops, got names for {len(layer.tops)}")
        for number, (top, blob) in enumerate(zip(layer.tops, blobs, strict=True)):
            count = uses[layer.index, number]
            writer.blobs[top] = dataclasses.replace(blob, uses=count)
        progress("import", layer.index + 1, len(network.layers))
    return left


def _uses(network: Network) -> Counter[tuple[int, int]]:
    """How often each top is taken before its name stands for something else."""
    uses: Counter[tuple[int, int]] = Counter()
    made: dict[str, tuple[int, int]] = {}
    for layer in network.layers:
        uses.update(made[name] for name in layer.bottoms if name in made)
        made.update({top: (layer.index, number) for number, top in enumerate(layer.tops)})
    return uses


def outputs(network: Network) -> list[str]:
    """Names of the blobs that no layer takes, in the order they are made."""
    uses = _uses(network)
    last = {top: (layer.index, n) for layer in network.layers for n, top in enumerate(layer.tops)}
    return [top for top, place in sorted(last.items(), key=lambda item: item[1]) if not uses[place]]


def producers(network: Network) -> dict[str, str]:
    """The name of the layer that gives each blob its last value."""
    return {top: layer.name for layer in network.layers for top in layer.tops}
