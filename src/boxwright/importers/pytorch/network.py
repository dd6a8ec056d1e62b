"""A whole detector of a checkpoint: its layers in order, and the head that ends them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.graph.builder import GraphBuilder
from boxwright.graph.heads import Anchors, Decoded, Distances, Raw, decode
from boxwright.graph.pixels import add_pixels
from boxwright.importers.families import FAMILIES
from boxwright.importers.pytorch.blocks import write_block, write_concat
from boxwright.importers.pytorch.modules import Module
from boxwright.importers.pytorch.records import Tensor
from boxwright.importers.pytorch.writer import Value, Writer
from boxwright.progress import ProgressCallback

Numbers = Callable[[Tensor], NDArray[np.float32]]

_MAX_LAYERS = 1_000
_MAX_LEVELS = 8
_MAX_ANCHORS = 32
_MAX_CLASSES = 65_536

# What the heads of other tasks are called, and what they do.
_OTHER_HEADS = {
    "Segment": "segments",
    "Classify": "classifies whole images",
    "Pose": "finds key points",
    "OBB": "finds rotated boxes",
    "v10Detect": "suppresses overlaps itself (YOLOv10)",
    "RTDETRDecoder": "is an RT-DETR",
    "WorldDetect": "takes words as well as images (YOLO-World)",
}


@dataclass(frozen=True)
class Network:
    """A detector.

    Attributes:
        module: What was saved.
        layers: All layers but the head.
        head: The head.
        family: ``yolov5`` (anchors) or ``yolov8`` (distances).
        classes: Number of classes.
        strides: Input pixels per cell, for each level.
        numbers: Reads a tensor.
    """

    module: Module
    layers: list[Module]
    head: Module
    family: str
    classes: int
    strides: tuple[int, ...]
    numbers: Numbers


def read_network(module: Module, numbers: Numbers) -> Network:
    """Look at a network as a whole.

    Raises:
        ImportFailedError: It is of another task, malformed, or of a kind that is not known.
    """
    layers = module.child("model").listed()
    if not 2 <= len(layers) <= _MAX_LAYERS:
        raise module.error(f"it has {len(layers)} layers")
    head = layers.pop()
    if head.kind in _OTHER_HEADS:
        raise head.error(
            f"this network {_OTHER_HEADS[head.kind]}; of such checkpoints, plain detectors are "
            "imported. Export it to ONNX with the program it was trained with"
        )
    if head.kind != "Detect" or not head.ours:
        raise head.error("the last layer should be a Detect")
    anchored = "m" in head.children()
    if anchored:
        head.check("nc no nl na grid anchor_grid stride anchors", "m", "anchors anchor_grid")
    else:
        known = (
            "nc no nl reg_max stride anchors strides dynamic shape legacy format max_det end2end"
        )
        head.check(known, "cv2 cv3 dfl")
        if head.get("end2end"):
            raise head.error("it suppresses overlaps itself, which is not known here")
    levels = head.whole("nl", 1, _MAX_LEVELS)
    return Network(
        module=module,
        layers=layers,
        head=head,
        family="yolov5" if anchored else "yolov8",
        classes=head.whole("nc", 1, _MAX_CLASSES),
        strides=_strides(head, module, levels, numbers),
        numbers=numbers,
    )


def _strides(head: Module, module: Module, levels: int, numbers: Numbers) -> tuple[int, ...]:
    value = head.get("stride", module.get("stride"))
    if not isinstance(value, Tensor) or value.shape != (levels,):
        raise head.error(f"it does not say the strides of its {levels} levels")
    floats = numbers(value).tolist()
    if any(stride not in range(1, 1025) for stride in floats):
        raise head.error(f"its strides are {floats}")
    return tuple(map(int, floats))


def write_network(
    network: Network, size: tuple[int, int], progress: ProgressCallback
) -> tuple[GraphBuilder, Decoded]:
    """The network as a graph that keeps the contract.

    Args:
        network: The network.
        size: ``(height, width)`` of its input.
        progress: Told how far it is.

    Raises:
        ImportFailedError: Something in it is not known, or does not fit.
    """
    graph = GraphBuilder(network.family)
    graph.images(*size)
    image = Value(add_pixels(graph, FAMILIES[network.family].pixels), 3, *size)
    writer = Writer(graph, network.numbers)
    values: list[Value] = []
    for i, layer in enumerate(network.layers):
        inputs = _inputs(layer, i, values, image)
        name = f"{i:03d}_{layer.kind}"
        if layer.kind == "Concat" and layer.ours:
            values.append(write_concat(writer, layer, inputs, name))
        elif len(inputs) == 1:
            values.append(write_block(writer, layer, inputs[0], name))
        else:
            raise layer.error(f"it takes {len(inputs)} inputs")
        progress("import", i + 1, len(network.layers) + 1)
    inputs = _inputs(network.head, len(network.layers), values, image)
    write_head = _write_anchored if network.family == "yolov5" else _write_distances
    decoded = write_head(writer, network, inputs, size)
    graph.detections(
        [decoded.boxes], [decoded.scores], classes=network.classes, rows=decoded.rows or "A"
    )
    progress("import", len(network.layers) + 1, len(network.layers) + 1)
    return graph, decoded


def _inputs(layer: Module, index: int, values: list[Value], image: Value) -> list[Value]:
    """What a layer takes: its ``f`` counts layers from the first, or back if negative."""
    source = layer.get("f")
    sources = source if isinstance(source, (list, tuple)) else [source]
    if not 1 <= len(sources) <= 64 or any(type(s) is not int for s in sources):
        raise layer.error("it does not say which layers it takes")
    found = []
    for number in sources:
        place = number if number >= 0 else index + number
        if index == 0 and place == -1:
            found.append(image)
        elif 0 <= place < index:
            found.append(values[place])
        else:
            raise layer.error(f"it takes layer {number}, which does not come before it")
    return found


def _check_levels(network: Network, inputs: list[Value], size: tuple[int, int]) -> None:
    if len(inputs) != len(network.strides):
        raise network.head.error(
            f"it takes {len(inputs)} levels but has {len(network.strides)} strides"
        )
    for x, stride in zip(inputs, network.strides, strict=True):
        if (x.height * stride, x.width * stride) != size:
            raise network.head.error(
                f"a level of {x.height}x{x.width} cells does not fit {size[0]}x{size[1]} pixels "
                f"(height x width) at stride {stride}; sides must be multiples of "
                f"{max(network.strides)}"
            )


def _write_anchored(
    writer: Writer, network: Network, inputs: list[Value], size: tuple[int, int]
) -> Decoded:
    head = network.head
    _check_levels(network, inputs, size)
    anchors = _anchors(network)
    convs = head.child("m").listed()
    if len(convs) != len(inputs):
        raise head.error(f"it has {len(convs)} convolutions for {len(inputs)} levels")
    names = []
    for i, (conv, x) in enumerate(zip(convs, inputs, strict=True)):
        raw = writer.conv(conv, None, x, f"{len(network.layers):03d}_Detect/m/{i}")
        wanted = len(anchors[i]) * (5 + network.classes)
        if raw.channels != wanted:
            raise conv.error(f"it should make {wanted} channels, not {raw.channels}")
        names.append(raw.name)
    record = Anchors(classes=network.classes, anchors=anchors, strides=network.strides)
    return decode(writer.graph, record, Raw(boxes=tuple(names)), size)


def _anchors(network: Network) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Anchors in input pixels; the checkpoint has them in cells."""
    head = network.head
    tensor = head.need("anchors", 3)
    count = head.whole("na", 1, _MAX_ANCHORS)
    if tensor.shape != (len(network.strides), count, 2):
        raise head.error(f"its anchors are of shape {list(tensor.shape)}")
    cells = network.numbers(tensor)
    if not (cells > 0).all():
        raise head.error("its anchors must be positive")
    pixels = cells * np.array(network.strides, np.float32)[:, None, None]
    return tuple(tuple((float(w), float(h)) for w, h in level) for level in pixels.tolist())


def _write_distances(
    writer: Writer, network: Network, inputs: list[Value], size: tuple[int, int]
) -> Decoded:
    head = network.head
    _check_levels(network, inputs, size)
    bins = head.whole("reg_max", 1, 256)
    _check_bins(network, bins)
    branches: dict[str, list[str]] = {}
    for branch, wanted in (("cv2", 4 * bins), ("cv3", network.classes)):
        stems = head.child(branch).listed()
        if len(stems) != len(inputs):
            raise head.error(f"its {branch} has {len(stems)} parts for {len(inputs)} levels")
        for i, (stem, x) in enumerate(zip(stems, inputs, strict=True)):
            name = f"{len(network.layers):03d}_Detect/{branch}/{i}"
            raw = write_block(writer, stem, x, name)
            if raw.channels != wanted or (raw.height, raw.width) != (x.height, x.width):
                raise stem.error(f"it should make {wanted} channels, not {raw.channels}")
            branches.setdefault(branch, []).append(raw.name)
    record = Distances(classes=network.classes, strides=network.strides, bins=bins)
    raw_names = Raw(boxes=tuple(branches["cv2"]), classes=tuple(branches["cv3"]))
    return decode(writer.graph, record, raw_names, size)


def _check_bins(network: Network, bins: int) -> None:
    """The bins' values are kept as a convolution's weights: 0, 1, 2 and so on."""
    dfl = network.head.children().get("dfl")
    if bins == 1 and (dfl is None or dfl.kind == "Identity"):
        return
    if dfl is None or dfl.kind != "DFL":
        raise network.head.error("it has no DFL")
    dfl.check("c1", "conv")
    weight = dfl.child("conv").need("weight", 4)
    if weight.shape != (1, bins, 1, 1) or not np.array_equal(
        network.numbers(weight).ravel(), np.arange(bins)
    ):
        raise dfl.error(f"its weights should be 0 to {bins - 1}")
