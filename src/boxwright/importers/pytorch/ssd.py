"""SSD from state dicts: NVIDIA's with a ResNet, and torchvision's two.

A state dict has the weights and their names, but neither strides nor activations; those
are of the published networks, which their names and shapes tell apart:

* NVIDIA's SSD300 v1.1 (Liu et al. 2015, with a ResNet whose last stage is left out and whose
  third has no stride), of DeepLearningExamples;
* ``ssd300_vgg16`` and ``ssdlite320_mobilenet_v3_large`` of torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.card import Nms
from boxwright.graph.builder import GraphBuilder
from boxwright.graph.heads import Decoded, Priors, Raw, cells, decode
from boxwright.graph.pixels import PixelFormat, add_pixels
from boxwright.importers.pytorch.ssd_layers import Layers
from boxwright.importers.pytorch.statedict import StateDict
from boxwright.importers.pytorch.writer import Value
from boxwright.progress import ProgressCallback

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# The decoding of torchvision's BoxCoder bounds the exponent of a size.
_LIMIT = math.log(1000 / 16)
_STEPS_300 = (8.0, 16.0, 32.0, 64.0, 100.0, 300.0)
_RATIOS_300 = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))


@dataclass(frozen=True)
class Ssd:
    """One of the published networks.

    Attributes:
        family: Its name.
        size: Side of its input.
        mark: A tensor that only this one has.
        pixels: What it is fed.
        scales: Sides of the prior boxes of each level, as fractions of the input; one more
            than there are levels.
        ratios: Aspect ratios of each level, besides 1.
        steps: Distance of the prior boxes in pixels, where it is not the input's side
            divided by the level's.
        limit: Of :class:`~boxwright.graph.heads.Priors`.
        nms: How its candidates are suppressed.
        levels: Writes the network up to its feature maps.
        heads: Names of the modules that make boxes and classes of each feature map.
        by_anchor: Rows come prior box by prior box instead of cell by cell, and a value's
            channels stand side by side.
    """

    family: str
    size: int
    mark: str
    pixels: PixelFormat
    scales: tuple[float, ...]
    ratios: tuple[tuple[float, ...], ...]
    steps: tuple[float, ...] | None
    limit: float | None
    nms: Nms
    levels: Callable[[Layers, Value], list[Value]]
    heads: tuple[str, str]
    by_anchor: bool = False


def recognise_ssd(tensors: StateDict) -> Ssd | None:
    """Which of the networks the names are of."""
    return next((network for network in NETWORKS if network.mark in tensors), None)


def write_ssd(
    ssd: Ssd, tensors: StateDict, progress: ProgressCallback
) -> tuple[GraphBuilder, Decoded, int]:
    """The network as a graph that keeps the contract, and its number of classes.

    Raises:
        WeightsError: A tensor is missing, of another shape, or left over.
    """
    graph = GraphBuilder(ssd.family)
    graph.images(ssd.size, ssd.size)
    image = Value(add_pixels(graph, ssd.pixels), 3, ssd.size, ssd.size)
    layers = Layers(graph, tensors)
    maps = ssd.levels(layers, image)
    progress("import", 1, 2)
    priors, boxes, scores, classes = [], [], [], 0
    for i, x in enumerate(maps):
        count = 2 + 2 * len(ssd.ratios[i])
        priors.append(prior_boxes(ssd, i, (x.height, x.width)))
        raw_boxes = layers.predict(f"{ssd.heads[0]}.{i}", x)
        raw_scores = layers.predict(f"{ssd.heads[1]}.{i}", x)
        if raw_boxes.channels != 4 * count or raw_scores.channels % count:
            raise tensors.error(
                f"{ssd.heads[0]}.{i}",
                f"expected {count} prior boxes in each cell, got {raw_boxes.channels} and "
                f"{raw_scores.channels} channels",
            )
        found = raw_scores.channels // count
        if found < 2 or classes not in (0, found):
            raise tensors.error(f"{ssd.heads[1]}.{i}", f"it has {found} classes")
        classes = found
        boxes.append(_rows(graph, ssd, raw_boxes, 4))
        scores.append(_rows(graph, ssd, raw_scores, found))
    tensors.finish()
    axis = 2 if ssd.by_anchor else 1
    raw = Raw(
        boxes=(graph.concat(boxes, axis, "head/boxes"),),
        classes=(graph.concat(scores, axis, "head/classes"),),
    )
    head = Priors(
        classes=classes - 1, limit=ssd.limit, layout="columns" if ssd.by_anchor else "rows"
    )
    size = (ssd.size, ssd.size)
    decoded = decode(graph, head, raw, size, priors=np.concatenate(priors))
    rows = sum(len(level) for level in priors)
    graph.detections([decoded.boxes], [decoded.scores], classes=classes - 1, rows=rows)
    progress("import", 2, 2)
    return graph, decoded, classes - 1


def prior_boxes(ssd: Ssd, level: int, grid: tuple[int, int]) -> NDArray[np.float64]:
    """The prior boxes of one level, `cxcywh` in pixels (Liu et al. 2015, section 2.2).

    Two squares, the second as large as the mean of this level's and the next, and two
    boxes for each other aspect ratio; none larger than the input.
    """
    side, following = ssd.scales[level], ssd.scales[level + 1]
    shapes = [(side, side), (math.sqrt(side * following),) * 2]
    for ratio in ssd.ratios[level]:
        wide, narrow = side * math.sqrt(ratio), side / math.sqrt(ratio)
        shapes += [(wide, narrow), (narrow, wide)]
    extents = np.minimum(np.array(shapes), 1.0) * ssd.size
    steps = (ssd.steps[level],) * 2 if ssd.steps else (ssd.size / grid[1], ssd.size / grid[0])
    centres = (cells(*grid) + 0.5) * steps
    if ssd.by_anchor:
        extents, centres = np.repeat(extents, len(centres), 0), np.tile(centres, (len(extents), 1))
    else:
        centres, extents = np.repeat(centres, len(extents), 0), np.tile(extents, (len(centres), 1))
    return np.hstack([centres, extents])


def _rows(graph: GraphBuilder, ssd: Ssd, x: Value, values: int) -> str:
    if ssd.by_anchor:
        return graph.reshape(x.name, [0, values, -1], f"{x.name}/columns")
    pixels = graph.add("Transpose", [x.name], f"{x.name}/pixels", perm=[0, 2, 3, 1])
    return graph.reshape(pixels, [0, -1, values], f"{x.name}/rows")


def _resnet(layers: Layers, x: Value) -> list[Value]:
    """Three stages of a ResNet, and five blocks that halve what they get."""
    stem = "feature_extractor.feature_extractor"
    x = layers.conv(f"{stem}.0", x, stride=2, pad=3, norm=f"{stem}.1", act="Relu")
    x = layers.pool(x, 3, 2, pad=1, name=f"{stem}.3")
    for stage, stride in ((4, 1), (5, 2), (6, 1)):
        blocks = layers.tensors.children(f"{stem}.{stage}")
        for i in blocks:
            x = _residual(layers, f"{stem}.{stage}.{i}", x, stride if i == blocks[0] else 1)
    maps = [x]
    for i in range(5):
        name = f"additional_blocks.{i}"
        x = layers.conv(f"{name}.0", x, norm=f"{name}.1", act="Relu")
        stride, pad = (2, 1) if i < 3 else (1, 0)
        x = layers.conv(f"{name}.3", x, stride=stride, pad=pad, norm=f"{name}.4", act="Relu")
        maps.append(x)
    return maps


def _residual(layers: Layers, name: str, x: Value, stride: int) -> Value:
    """He et al. 2015, figure 5, with the stride in the 3x3 convolution."""
    deep = f"{name}.conv3.weight" in layers.tensors
    first, second = (1, stride) if deep else (stride, 1)
    pad = 0 if deep else 1
    y = layers.conv(f"{name}.conv1", x, stride=first, pad=pad, norm=f"{name}.bn1", act="Relu")
    act = "Relu" if deep else ""
    y = layers.conv(f"{name}.conv2", y, stride=second, pad=1, norm=f"{name}.bn2", act=act)
    if deep:
        y = layers.conv(f"{name}.conv3", y, norm=f"{name}.bn3")
    if f"{name}.downsample.0.weight" in layers.tensors:
        norm = f"{name}.downsample.1"
        x = layers.conv(f"{name}.downsample.0", x, stride=stride, norm=norm)
    return layers.activate(layers.add(x, y, f"{name}/add"), "Relu")


def _vgg(layers: Layers, x: Value) -> list[Value]:
    """VGG-16 with its last pooling and first two dense layers as dilated convolutions."""
    name = "backbone.features"
    for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21):
        if i in (5, 10, 17):
            # The third pools what is left over at the edges, too: 75 becomes 38.
            x = layers.pool(x, 2, 2, ceil=i == 17, name=f"{name}.{i - 1}")
        x = layers.conv(f"{name}.{i}", x, pad=1, act="Relu")
    maps = [layers.rescaled("backbone.scale_weight", x)]
    name = "backbone.extra"
    x = layers.pool(x, 2, 2, name=f"{name}.0.0")
    for i in (1, 3, 5):
        x = layers.conv(f"{name}.0.{i}", x, pad=1, act="Relu")
    x = layers.pool(x, 3, 1, pad=1, name=f"{name}.0.7.0")
    x = layers.conv(f"{name}.0.7.1", x, pad=6, dilation=6, act="Relu")
    x = layers.conv(f"{name}.0.7.3", x, act="Relu")
    maps.append(x)
    for i in range(1, 5):
        x = layers.conv(f"{name}.{i}.0", x, act="Relu")
        stride, pad = (2, 1) if i < 3 else (1, 0)
        x = layers.conv(f"{name}.{i}.2", x, stride=stride, pad=pad, act="Relu")
        maps.append(x)
    return maps


# Strides of MobileNetV3-Large's 15 blocks (Howard et al. 2019, table 1), and the first of
# them with hard-swish.
_MOBILE_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1)
_MOBILE_SWISH = 6
# The block that is cut in two behind its expansion, which is the first feature map.
_MOBILE_CUT = 12


def _mobilenet(layers: Layers, x: Value) -> list[Value]:
    """MobileNetV3-Large (eps of 0.001), and four blocks that halve what they get."""
    name = "backbone.features"
    x = layers.conv_norm(f"{name}.0.0", x, stride=2, act="HardSwish")
    for i in range(_MOBILE_CUT):
        x = _inverted(layers, f"{name}.0.{i + 1}", x, i)
    x = layers.conv_norm(f"{name}.0.{_MOBILE_CUT + 1}", x, act="HardSwish")
    maps = [x]
    stem = f"{name}.1.0"
    x = _mobile_parts(layers, stem, layers.tensors.children(stem), x, _MOBILE_CUT)
    for i in (1, 2):
        x = _inverted(layers, f"{name}.1.{i}", x, _MOBILE_CUT + i)
    maps.append(layers.conv_norm(f"{name}.1.3", x, act="HardSwish"))
    for i in range(4):
        x, extra = maps[-1], f"backbone.extra.{i}"
        x = layers.conv_norm(f"{extra}.0", x, act="Relu6")
        x = layers.conv_norm(f"{extra}.1", x, stride=2, act="Relu6")
        maps.append(layers.conv_norm(f"{extra}.2", x, act="Relu6"))
    return maps


def _inverted(layers: Layers, name: str, x: Value, index: int) -> Value:
    stem = f"{name}.block"
    y = _mobile_parts(layers, stem, layers.tensors.children(stem), x, index)
    if _MOBILE_STRIDES[index] == 1 and y.channels == x.channels:
        return layers.add(x, y, f"{name}/add")
    return y


def _mobile_parts(layers: Layers, stem: str, parts: Sequence[int], x: Value, index: int) -> Value:
    """Expansion, depthwise convolution, squeeze-and-excitation, projection; some may lack."""
    act = "HardSwish" if index >= _MOBILE_SWISH else "Relu"
    for part in parts:
        name = f"{stem}.{part}"
        if f"{name}.fc1.weight" in layers.tensors:
            x = layers.excite(name, x)
            continue
        depthwise = layers.tensors.shape(f"{name}.0.weight")[1:2] == (1,) and x.channels > 1
        stride = _MOBILE_STRIDES[index] if depthwise else 1
        x = layers.conv_norm(name, x, stride=stride, act="" if part == parts[-1] else act)
    return x


NETWORKS = (
    Ssd(
        family="ssd300_resnet",
        size=300,
        mark="feature_extractor.feature_extractor.0.weight",
        pixels=PixelFormat(**_IMAGENET),  # type: ignore[arg-type]
        scales=tuple(side / 300 for side in (21, 45, 99, 153, 207, 261, 315)),
        ratios=_RATIOS_300,
        steps=_STEPS_300,
        limit=None,
        nms=Nms("iou", iou_threshold=0.5),
        levels=_resnet,
        heads=("loc", "conf"),
        by_anchor=True,
    ),
    Ssd(
        family="ssd300_vgg16",
        size=300,
        mark="backbone.scale_weight",
        pixels=PixelFormat(mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3),
        scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        ratios=_RATIOS_300,
        steps=_STEPS_300,
        limit=_LIMIT,
        nms=Nms("iou", iou_threshold=0.45),
        levels=_vgg,
        heads=("head.regression_head.module_list", "head.classification_head.module_list"),
    ),
    Ssd(
        family="ssdlite320_mobilenet_v3_large",
        size=320,
        mark="backbone.features.0.0.0.weight",
        pixels=PixelFormat(mean=(0.5,), std=(0.5,)),
        scales=(*(0.2 + 0.75 * k / 5 for k in range(6)), 1.0),
        ratios=((2.0, 3.0),) * 6,
        steps=None,
        limit=_LIMIT,
        nms=Nms("iou", iou_threshold=0.55),
        levels=_mobilenet,
        heads=("head.regression_head.module_list", "head.classification_head.module_list"),
    ),
)
